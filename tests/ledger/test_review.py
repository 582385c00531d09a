"""What a person looks at before a decision: looking keeps no writer waiting, and what was shown can be decided on."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import sqlalchemy as sa

from tests.support.builders import ETAPE, POLICY, recorder, told
from tests.support.scenes import DAY, OTHER, Scene
from worker.domain.errors import DecisionRefused
from worker.domain.guard import Guard, GuardLimits
from worker.domain.states import Action, Status
from worker.ledger import Ledger, decisions, proposals, retention, status
from worker.ledger.proposals import Pair, PlannedPlatform
from worker.ledger.schema import proposal
from worker.sync.review import Review, matching

STRICT = Guard(limits=GuardLimits(cohort_percent=0, platform_percent=100, floor=0))
LEAVING, LEAVING_MATHS, MATHS = "29900003", "29900004", "XMATH1"
Surround = Callable[[Callable[[], AbstractContextManager[object]]], None]


@pytest.fixture
def scene(ledger: Ledger) -> Scene:
    """Two students who leave a cohort each, and one who stays."""
    found = Scene(ledger)
    leaving, maths = told(student_id=LEAVING, enrolment_id="3"), told(student_id=LEAVING_MATHS, enrolment_id="4")
    maths = maths._replace(etape=MATHS)
    found.tell(leaving, maths, told(student_id=OTHER, enrolment_id="9"))
    found.settle()
    found.now += DAY
    over: dict[str, Any] = {"version": 2, "changed_at": found.now, "status": Status.RESIGNED}
    found.tell(leaving._replace(**over), maths._replace(**over))
    return found


@pytest.fixture
def review(scene: Scene) -> Review:
    return Review(scene.ledger, {"ecampus": STRICT}, clock=lambda: scene.now)


def shown(ledger: Ledger) -> dict[str, str]:
    """Return what was shown: the removals, as they are kept, by their hash."""
    with ledger.read() as connection:
        return {row.hash: row.removals for row in connection.execute(sa.select(proposal))}


@pytest.fixture
def while_planning(monkeypatch: pytest.MonkeyPatch) -> Surround:
    """Have every plan computed within what another does, in the transaction that reads for it."""

    def surround(other: Callable[[], AbstractContextManager[object]]) -> None:
        compute = proposals.planned

        def planned(connection: sa.Connection, platform: str, guard: Guard, now: float) -> PlannedPlatform:
            with other():
                return compute(connection, platform, guard, now)

        monkeypatch.setattr(proposals, "planned", planned)

    return surround


def test_a_plan_is_computed_while_another_is_the_only_writer(
    scene: Scene, review: Review, while_planning: Surround
) -> None:
    while_planning(scene.ledger.write)
    [platform] = review.plan()
    assert [cohort.idnumber for cohort in platform.cohorts] == [ETAPE, MATHS]
    assert [cohort.idnumber for cohort in review.held().cohorts] == [ETAPE, MATHS]
    assert len(shown(scene.ledger)) == 3, "each cohort's removals, and all of them"


def test_where_nobody_leaves_nothing_is_written(ledger: Ledger) -> None:
    review = Review(ledger, {"ecampus": STRICT})
    with ledger.write():
        [platform] = review.plan()
        assert platform.hash is None
        assert review.held().hash is None
    assert shown(ledger) == {}


def test_what_a_plan_or_the_held_removals_show_can_be_decided_on(scene: Scene, review: Review) -> None:
    [platform] = review.plan()
    first, maths = platform.cohorts
    assert set(shown(scene.ledger)) == {first.hash, maths.hash, platform.hash}
    held = review.held()
    assert held.hash == platform.hash, "a hash names removals, whatever shows them"
    assert first.hash is not None
    assert review.approve(first.hash, by="eve").cohorts == (f"ecampus/{ETAPE}",)
    assert maths.hash is not None
    assert review.reject(maths.hash, by="eve").cohorts == (f"ecampus/{MATHS}",)
    assert review.held().cohorts == ()
    scene.settle(guard=STRICT)
    assert status.applied(scene.ledger, "ecampus", Action.REMOVE) == [(ETAPE, LEAVING)]
    assert review.undo(first.hash, by="eve").memberships == 1


def test_what_changed_while_the_plan_was_computed_is_decided_on_only_once_it_was_shown(
    scene: Scene, review: Review, while_planning: Surround
) -> None:
    over = told(student_id=OTHER, enrolment_id="9", version=2, changed_at=scene.now, status=Status.RESIGNED)

    @contextmanager
    def leaving() -> Iterator[None]:
        yield
        scene.tell(over)

    while_planning(leaving)
    earlier = matching(review.plan()[0], ETAPE)[0]
    assert earlier.hash in shown(scene.ledger)
    assert earlier.hash is not None
    with pytest.raises(DecisionRefused, match="the removals have changed since they were shown: 1 more"):
        review.approve(earlier.hash, by="eve")
    [later] = matching(review.plan()[0], ETAPE)
    assert later.hash is not None
    assert review.approve(later.hash, by="eve").memberships == 2


def test_of_somebody_erased_after_the_plan_was_computed_nothing_is_noted(scene: Scene) -> None:
    class Slow(Review):
        def _show(self, removals: Iterable[tuple[str, Sequence[Pair]]]) -> None:
            scene.settle()
            retention.erase(scene.ledger, POLICY, LEAVING, now=scene.now)
            super()._show(removals)

    [platform] = Slow(scene.ledger, {"ecampus": STRICT}, clock=lambda: scene.now).plan()
    [first] = matching(platform, ETAPE)
    assert first.pairs == [(first.cohort_id, LEAVING)]
    assert first.hash is not None
    assert all(LEAVING not in removals for removals in shown(scene.ledger).values())
    with pytest.raises(DecisionRefused, match="nothing was shown under this hash"):
        decisions.approve(scene.ledger, first.hash, by="eve", now=scene.now)


def test_a_rehearsal_is_not_kept_and_cannot_be_decided_on(scene: Scene, review: Review) -> None:
    [platform] = review.rehearse(partial(recorder, policy=replace(POLICY, active_years=frozenset({2027}))))
    [first] = matching(platform, ETAPE)
    assert {student for _, student in first.pairs} == {LEAVING, OTHER}
    assert shown(scene.ledger) == {}
    assert first.hash is not None
    with pytest.raises(DecisionRefused, match="nothing was shown under this hash"):
        review.approve(first.hash, by="eve")


def test_a_rehearsal_waits_for_no_writer(scene: Scene, review: Review) -> None:
    with scene.ledger.write():
        [platform] = review.rehearse(partial(recorder, policy=replace(POLICY, active_years=frozenset({2027}))))
    assert platform.cohorts


def test_cohorts_of_a_plan_are_chosen_by_a_glob(review: Review) -> None:
    [platform] = review.plan()
    assert matching(platform, None) == list(platform.cohorts)
    assert [cohort.idnumber for cohort in matching(platform, "XMA*")] == [MATHS]
    assert matching(platform, "L1*") == []
