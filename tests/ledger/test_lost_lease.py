"""A worker comes round with the outcome of a call when others have taken its cohort over, and gone on with it."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.builders import STUDENT, told, workbook
from tests.ledger.scenes import Scene, a_member
from worker.errors import LeaseLost
from worker.ledger import Ledger
from worker.ledger.work import Applied, Parked
from worker.model import Gap, Status
from worker.plan import Guard

LEASE = 60.0  # seconds; that of `workbook`
UNGUARDED = Guard(enabled=False)
OUTCOMES: dict[str, Callable[[Gap], Any]] = {
    "applied": lambda gap: Applied(gap=gap, user_id=31),
    "closed": lambda gap: gap,
    "parked": lambda gap: Parked(gap=gap, reason="errorcode", retry_at=0, observed=False),
}


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_who_is_a_member_and_is_to_leave_is_not_taken_for_one_who_has_left(ledger: Ledger, outcome: str) -> None:
    scene = Scene(ledger)
    a_member(scene)
    scene.tell(told(version=9, status=Status.RESIGNED))
    late = workbook(ledger, "late", guard=UNGUARDED)
    [gap] = late.claim(scene.now, limit=10).gaps
    scene.now += LEASE
    scene.settle()
    scene.tell(told(version=10))
    scene.settle()
    scene.tell(told(version=11, status=Status.RESIGNED))
    with pytest.raises(LeaseLost):
        late.settle(**{outcome: [OUTCOMES[outcome](gap)]}, now=scene.now)
    assert [left.student_id for left in workbook(ledger, guard=UNGUARDED).claim(scene.now, limit=10).gaps] == [STUDENT]
