"""What opens a gap, what hurries it, and what a deleted cohort makes of it: the same however it became known."""

from collections.abc import Callable

import pytest
import sqlalchemy as sa

from tests.support.builders import ETAPE, STUDENT, memberships, told, workbook
from tests.support.scenes import DAY, HOUR, OTHER, Scene, a_member, account_of, ended, plan_hash
from worker.domain.cohorts import Gap, is_unmatched, unmatched_key
from worker.domain.guard import Guard, GuardLimits
from worker.domain.states import OF_ACCOUNTS, Action, Cause, Channel, CohortState, Reason, Status
from worker.ledger import Ledger, decisions, status
from worker.ledger.gaps import DRIFT, FRESH
from worker.ledger.schema import cohort, journal

UNGUARDED = Guard(enabled=False)
STRICT = Guard(limits=GuardLimits(cohort_percent=0, platform_percent=0, floor=0))


def due(scene: Scene, guard: Guard = UNGUARDED) -> list[Gap]:
    """Return the gaps that would be closed now."""
    queue = workbook(scene.ledger, guard=guard)
    gaps = [*queue.claim(scene.now, limit=10).gaps]
    queue.release()
    return gaps


# What hurries a parked gap: that the account, or another name for it, has become known.


def a_login_is_told(scene: Scene) -> None:
    scene.tell(told(version=2, changed_at=scene.now, login="exemple"))


def a_lane_finds_the_account(scene: Scene) -> None:
    workbook(scene.ledger).retry_now([STUDENT], scene.now)


def the_night_finds_the_account(scene: Scene) -> None:
    scene.look({ETAPE: []}, [STUDENT])


FINDINGS = [a_login_is_told, a_lane_finds_the_account, the_night_finds_the_account]


def parked(ledger: Ledger, reason: str) -> Scene:
    """Have a student wait for that reason, in a cohort that is there."""
    scene = Scene(ledger)
    scene.tell(told())
    with ledger.write() as connection:
        connection.execute(
            sa.update(cohort).values(
                state=CohortState.OWNED, moodle_id=1, moodle_name="n", moodle_idnumber=ETAPE, name_is_ours=False
            )
        )
    scene.park(reason)
    scene.now += 60
    assert due(scene) == []
    return scene


@pytest.mark.parametrize("reason", sorted(OF_ACCOUNTS))
@pytest.mark.parametrize("finding", FINDINGS)
def test_who_waits_for_an_account_is_tried_as_soon_as_one_is_known(
    ledger: Ledger, reason: Reason, finding: Callable[[Scene], None]
) -> None:
    scene = parked(ledger, reason)
    finding(scene)
    assert [gap.student_id for gap in due(scene)] == [STUDENT]


@pytest.mark.parametrize("reason", [*sorted({*Reason} - OF_ACCOUNTS), "errorcode"])
@pytest.mark.parametrize("finding", FINDINGS)
def test_what_waits_for_something_else_is_not_hurried_by_an_account(
    ledger: Ledger, reason: str, finding: Callable[[Scene], None]
) -> None:
    scene = parked(ledger, reason)
    finding(scene)
    assert due(scene) == []


def test_an_account_that_the_night_finds_is_tried_in_a_cohort_that_is_still_to_be_created(ledger: Ledger) -> None:
    scene = Scene(ledger)
    scene.tell(told())
    scene.park(Reason.NO_ACCOUNT)
    scene.now += 60
    scene.look({}, [STUDENT])
    assert [gap.student_id for gap in due(scene)] == [STUDENT]


# A cohort that somebody deleted


def a_lane_misses_the_cohort(scene: Scene) -> None:
    queue = workbook(scene.ledger)
    [found] = queue.claim(scene.now, limit=10).cohorts.values()
    queue.vanished(found, scene.now)
    queue.release()


def the_night_misses_the_cohort(scene: Scene) -> None:
    scene.look({}, [STUDENT, OTHER])


@pytest.mark.parametrize("missing", [a_lane_misses_the_cohort, the_night_misses_the_cohort])
def test_a_deleted_cohort_is_filled_again_and_promises_count_from_when_it_was_missed(
    ledger: Ledger, missing: Callable[[Scene], None]
) -> None:
    scene = Scene(ledger)
    a_member(scene)
    scene.now += 30 * DAY
    scene.tell(told(student_id=OTHER, enrolment_id="9", changed_at=scene.now))
    announced = scene.now
    scene.park("errorcode")
    scene.change_cohort(wanted_name="Another name")  # so that a lane looks at it
    scene.now += 60
    missing(scene)
    rows = memberships(ledger)
    lost, waiting = rows[ETAPE, STUDENT], rows[ETAPE, OTHER]
    assert (lost.cause, lost.since, lost.due_by, lost.priority) == (Cause.DRIFT, scene.now, scene.now + DAY, DRIFT)
    assert (waiting.cause, waiting.since, waiting.due_by, waiting.priority) == (
        "active", announced, announced + DAY, FRESH
    )  # fmt: skip
    assert [gap.channel for gap in due(scene)] == [Channel.MESSAGE, Channel.NIGHT], "both are tried at once"
    assert (lost.observed, waiting.observed) == (False, False)
    scene.now += HOUR
    assert status.read_status(ledger, ["ecampus"], scene.now).platforms[0].late[300] == 1, "what a message announced"


@pytest.mark.parametrize("missing", [a_lane_misses_the_cohort, the_night_misses_the_cohort])
def test_nobody_is_left_to_be_removed_from_a_deleted_cohort(ledger: Ledger, missing: Callable[[Scene], None]) -> None:
    scene = Scene(ledger)
    ended(Status.RESIGNED)(scene)
    assert due(scene, STRICT) == []
    decisions.approve(ledger, plan_hash(scene), by="cemu", now=scene.now)
    missing(scene)
    row = memberships(ledger)[ETAPE, STUDENT]
    assert (row.observed, row.held, row.approved, row.approved_until) == (False, None, None, None)
    assert due(scene) == []


# An approval is for one removal


def test_an_approved_removal_that_somebody_makes_by_hand_approves_no_other(ledger: Ledger) -> None:
    scene = Scene(ledger)
    ended(Status.RESIGNED)(scene)
    assert due(scene, STRICT) == []
    decisions.approve(ledger, plan_hash(scene), by="cemu", now=scene.now)
    scene.now += HOUR
    scene.look({ETAPE: []}, [STUDENT])
    scene.now += HOUR
    scene.look({ETAPE: [int(STUDENT)]}, [STUDENT])
    assert due(scene, STRICT) == []
    assert memberships(ledger)[ETAPE, STUDENT].held


# Unmatched members: the account is in `user_id`, whatever happens to the membership.

GUEST = 77


def a_guest(ledger: Ledger) -> Scene:
    """Have the night find a member whom we can't tie to a student, and who is to be removed."""
    scene = Scene(ledger)
    a_member(scene)
    scene.now += HOUR
    found = look_at(scene, int(STUDENT), GUEST)
    assert found == 1
    return scene


def look_at(scene: Scene, *members: int, at: float | None = None, remove: bool = True) -> int:
    """Have the night find these members; returns how many of them are unmatched."""
    return scene.look({ETAPE: members}, [STUDENT], at=at, remove_unmatched=remove).unmatched[ETAPE]


def guest(scene: Scene) -> sa.Row[tuple[object, ...]]:
    return memberships(scene.ledger)[ETAPE, unmatched_key(GUEST)]


def is_removed(scene: Scene) -> None:
    scene.settle()
    assert guest(scene).observed is False


def is_removed_by_hand(scene: Scene) -> None:
    scene.now += HOUR
    look_at(scene, int(STUDENT))
    assert guest(scene).observed is False


def is_held(scene: Scene) -> None:
    assert due(scene, STRICT) == []
    assert guest(scene).held


def times_out(scene: Scene) -> None:
    scene.park(Reason.TIMEOUT, observed=None)


def is_refused(scene: Scene) -> None:
    scene.park("errorcode", observed=True)


def is_in_flight(scene: Scene) -> None:
    queue = workbook(scene.ledger, guard=UNGUARDED)
    queue.mark_in_flight([(gap, account_of(gap)) for gap in queue.claim(scene.now, limit=10).gaps], scene.now)
    queue.release()


def has_no_account_any_more(scene: Scene) -> None:
    queue = workbook(scene.ledger, guard=UNGUARDED)
    queue.settle(closed=queue.claim(scene.now, limit=10).gaps, now=scene.now)
    queue.release()


def loses_the_cohort(scene: Scene) -> None:
    scene.now += HOUR
    scene.look({}, [STUDENT])


def is_seen_after_a_lost_answer(scene: Scene) -> None:
    is_in_flight(scene)
    is_removed_by_hand(scene)


STATES = [
    is_removed, is_removed_by_hand, is_held, times_out, is_refused, is_in_flight, has_no_account_any_more,
    loses_the_cohort, is_seen_after_a_lost_answer,
]  # fmt: skip


@pytest.mark.parametrize("happens", STATES)
def test_the_account_of_an_unmatched_member_stays_known(ledger: Ledger, happens: Callable[[Scene], None]) -> None:
    scene = a_guest(ledger)
    [gap] = due(scene)
    assert (gap.user_id, gap.is_unmatched, gap.desired) == (GUEST, True, False)
    happens(scene)
    assert guest(scene).user_id == GUEST


def test_undoing_the_removal_of_an_unmatched_member_puts_the_account_back(ledger: Ledger) -> None:
    scene = a_guest(ledger)
    scene.settle()
    decisions.undo(ledger, "9", by="cemu", now=scene.now)
    [gap] = due(scene)
    assert (gap.user_id, gap.desired) == (GUEST, True)
    scene.settle()
    assert look_at(scene, int(STUDENT), GUEST) == 0
    assert (guest(scene).desired, guest(scene).user_id, due(scene)) == (True, GUEST, [])
    with ledger.read() as connection:
        done = connection.execute(sa.select(journal.c.action).where(journal.c.user_id == GUEST).order_by(journal.c.id))
        assert [row.action for row in done] == [Action.REMOVE, Action.ADD]


@pytest.mark.parametrize("remove", [True, False])
def test_an_unmatched_member_who_is_back_is_judged_by_the_settings_of_today(ledger: Ledger, *, remove: bool) -> None:
    scene = a_guest(ledger)
    scene.settle()
    scene.now += HOUR
    assert look_at(scene, int(STUDENT), GUEST, remove=remove) == 1
    assert [gap.user_id for gap in due(scene)] == ([GUEST] if remove else [])


def test_a_reading_that_began_before_an_unmatched_member_was_removed_does_not_bring_them_back(ledger: Ledger) -> None:
    scene = a_guest(ledger)
    began = scene.now
    scene.now += 60
    scene.settle()
    scene.now += 60
    assert look_at(scene, int(STUDENT), GUEST, at=began) == 0
    assert (guest(scene).observed, due(scene)) == (False, [])


def test_a_key_of_an_account_is_no_number_of_a_student() -> None:
    assert is_unmatched(unmatched_key(GUEST))
    assert not is_unmatched(STUDENT)
