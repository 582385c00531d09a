"""A worker comes round with the outcome of a call when others have taken its cohort over, and gone on with it."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.support.builders import ETAPE, STUDENT, memberships, told, workbook
from tests.support.scenes import Scene, a_member
from worker.domain.cohorts import Gap
from worker.domain.errors import LeaseLost
from worker.domain.guard import Guard
from worker.domain.states import Status
from worker.ledger import Ledger
from worker.ledger.work_queue import Applied, Parked, WorkQueue

LEASE = 60.0  # seconds; that of `workbook`
UNGUARDED = Guard(enabled=False)
OUTCOMES: dict[str, Callable[[Gap], Any]] = {
    "applied": lambda gap: Applied(gap=gap, user_id=31),
    "closed": lambda gap: gap,
    "parked": lambda gap: Parked(gap=gap, reason="errorcode", retry_at=0, observed=False),
}


def overtaken(scene: Scene) -> tuple[WorkQueue, Gap]:
    """Have a worker come late with a removal that others have made, of a student who came back and leaves again."""
    a_member(scene)
    scene.tell(told(version=9, status=Status.RESIGNED))
    late = workbook(scene.ledger, "late", guard=UNGUARDED)
    [gap] = late.claim(scene.now, limit=10).gaps
    scene.now += LEASE
    scene.settle()
    scene.tell(told(version=10))
    scene.settle()
    scene.tell(told(version=11, status=Status.RESIGNED))
    return late, gap


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_who_is_a_member_and_is_to_leave_is_not_taken_for_one_who_has_left(ledger: Ledger, outcome: str) -> None:
    scene = Scene(ledger)
    late, gap = overtaken(scene)
    with pytest.raises(LeaseLost):
        late.settle(**{outcome: [OUTCOMES[outcome](gap)]}, now=scene.now)
    assert [left.student_id for left in workbook(ledger, guard=UNGUARDED).claim(scene.now, limit=10).gaps] == [STUDENT]


def test_what_a_late_call_has_done_is_not_taken_from_a_reading_that_began_before_it(ledger: Ledger) -> None:
    scene = Scene(ledger)
    late, gap = overtaken(scene)
    with pytest.raises(LeaseLost):
        late.settle(applied=[Applied(gap=gap, user_id=31)], now=scene.now + 1)
    row = memberships(ledger)[ETAPE, STUDENT]
    assert (row.observed, row.observed_at) == (None, scene.now + 1)
