"""Reconciliations: one at a time, one a night, whatever dies; and what is kept of each."""

from dataclasses import replace

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from tests.support.builders import ETAPE, NOW, STUDENT, UAI, content, memberships, received, recorder, told
from tests.support.scenes import DAY, Scene
from worker.domain.errors import Refusal, RunInProgress, SnapshotFault
from worker.domain.instants import Instant
from worker.domain.report import (
    REPORTS,
    CohortReport,
    ForeignChange,
    ForeignEvent,
    GuardReport,
    PlatformReport,
    Report,
    SnapshotReport,
)
from worker.domain.snapshots import AcceptedSnapshot, Snapshot, SnapshotScope
from worker.domain.states import Drift, RunState, Status
from worker.ledger import Ledger, runs, status
from worker.ledger.runs import End, Run, Runs
from worker.ledger.schema import cohort, membership

LEASE = 900.0
HOUR = 3600.0
NIGHT = "2026-11-25"
SCOPE = SnapshotScope(uais=frozenset({UAI}), academic_years=frozenset({2026}))


def process(ledger: Ledger, holder: str = "here:1:a", *, dead: str = "") -> Runs:
    """Be a process, to which the one of this name is seen to be dead."""
    return Runs(ledger, holder, lease=LEASE, is_dead=lambda holder: holder == dead)


def begun(of: Runs, now: Instant = NOW, night: str | None = None) -> int:
    number = of.begin(now, night=night)
    assert number is not None
    return number


def ended(number: int, state: RunState = RunState.DONE, *, at: Instant = NOW + 60, night: str | None = None) -> Report:
    return Report(run=number, state=state, night=night, started_at=NOW, ended_at=at)


def states(ledger: Ledger) -> list[RunState]:
    """Give the states of all runs, the first one first."""
    return [run.state for run in runs.listed(ledger, most=99)][::-1]


# One at a time


def test_runs_are_numbered_and_listed_newest_first(ledger: Ledger) -> None:
    mine = process(ledger)
    first = begun(mine)
    mine.end(ended(first))
    second = begun(mine, NOW + DAY, NIGHT)
    assert second > first
    assert runs.listed(ledger, most=9) == [
        Run(id=second, night=NIGHT, state=RunState.RUNNING, started_at=NOW + DAY, ended_at=None),
        Run(id=first, night=None, state=RunState.DONE, started_at=NOW, ended_at=NOW + 60),
    ]
    assert [run.id for run in runs.listed(ledger, most=1)] == [second]


def test_while_a_run_is_going_on_no_other_begins_and_the_refusal_says_for_how_long(ledger: Ledger) -> None:
    number = begun(process(ledger))
    before = content(ledger)
    with pytest.raises(RunInProgress) as refused:
        process(ledger, "there:2:b").begin(NOW + 100)
    assert str(refused.value) == (
        f"reconciliation {number} has been running for 100 s; wait for its end (`cohorts runs`); "
        "if its process died, its lease expires in 800 s"
    )
    assert process(ledger, "there:2:b").begin(NOW + 100, night=NIGHT) is None, "a night waits for its turn in silence"
    assert content(ledger) == before


def test_a_run_that_says_that_it_is_alive_is_left_alone(ledger: Ledger) -> None:
    mine, other = process(ledger), process(ledger, "there:2:b")
    number = begun(mine)
    mine.renew(number, NOW + 800)
    with pytest.raises(RunInProgress):
        other.begin(NOW + 800 + LEASE - 1)
    assert begun(other, NOW + 800 + LEASE) == number + 1
    assert states(ledger) == [RunState.ABANDONED, RunState.RUNNING]


def test_a_run_that_was_given_up_cannot_go_on(ledger: Ledger) -> None:
    mine = process(ledger)
    number = begun(mine)
    begun(process(ledger, "there:2:b"), NOW + LEASE)
    with pytest.raises(RunInProgress, match=f"reconciliation {number}: its lease expired and it was given up"):
        mine.renew(number, NOW + LEASE)


def test_a_run_that_is_over_cannot_go_on(ledger: Ledger) -> None:
    mine = process(ledger)
    number = begun(mine)
    mine.end(ended(number))
    with pytest.raises(RunInProgress):
        mine.renew(number, NOW + 61)


def test_a_run_whose_process_is_seen_to_be_dead_is_given_up_at_once(ledger: Ledger) -> None:
    begun(process(ledger, "here:1:a"))
    begun(process(ledger, "here:2:b", dead="here:1:a"), NOW + 1)
    given_up = runs.listed(ledger, most=9)[1]
    assert (given_up.state, given_up.ended_at) == (RunState.ABANDONED, NOW + 1)


def test_dead_runs_are_given_up_even_if_the_night_has_had_its_run(ledger: Ledger) -> None:
    mine = process(ledger)
    mine.end(ended(begun(mine, NOW, NIGHT), night=NIGHT))
    begun(mine, NOW + 100)
    assert process(ledger, "there:2:b").begin(NOW + 100 + LEASE, night=NIGHT) is None
    assert states(ledger) == [RunState.DONE, RunState.ABANDONED]


# One a night


def test_a_partial_night_is_made_again_a_few_times(ledger: Ledger) -> None:
    mine, now = process(ledger), NOW
    for tried in range(1, runs.NIGHT_TRIES + 1):
        mine.end(ended(begun(mine, now, NIGHT), RunState.PARTIAL, at=now + 60, night=NIGHT))
        now += 60 + runs.PARTIAL_RETRY_SECONDS
        assert runs.is_over(ledger, NIGHT, now - 1)
        assert mine.begin(now - 1, night=NIGHT) is None
        assert runs.is_over(ledger, NIGHT, now) is (tried == runs.NIGHT_TRIES)
    assert mine.begin(now, night=NIGHT) is None


def test_a_partial_night_that_was_made_again_and_done_is_over(ledger: Ledger) -> None:
    mine, again = process(ledger), NOW + 60 + runs.PARTIAL_RETRY_SECONDS
    mine.end(ended(begun(mine, NOW, NIGHT), RunState.PARTIAL, at=NOW + 60, night=NIGHT))
    mine.end(ended(begun(mine, again, NIGHT), at=again + 60, night=NIGHT))
    assert runs.is_over(ledger, NIGHT, again + HOUR)


@pytest.mark.parametrize("state", [RunState.DONE, RunState.REFUSED])
def test_a_night_has_one_run(ledger: Ledger, state: RunState) -> None:
    mine = process(ledger)
    assert not runs.is_over(ledger, NIGHT, NOW + HOUR)
    number = begun(mine, NOW, NIGHT)
    assert not runs.is_over(ledger, NIGHT, NOW + HOUR)
    mine.end(ended(number, state, night=NIGHT))
    assert runs.is_over(ledger, NIGHT, NOW + HOUR)
    assert process(ledger, "there:2:b").begin(NOW + 100, night=NIGHT) is None
    assert not runs.is_over(ledger, "2026-11-26", NOW + HOUR)
    assert begun(mine, NOW + DAY, "2026-11-26") > number


def test_a_run_that_somebody_asks_for_is_not_that_of_the_night(ledger: Ledger) -> None:
    mine = process(ledger)
    mine.end(ended(begun(mine)))
    assert mine.begin(NOW + 100, night=NIGHT) is not None


def test_a_night_that_failed_can_be_had_again(ledger: Ledger) -> None:
    mine = process(ledger)
    mine.end(ended(begun(mine, NOW, NIGHT), RunState.FAILED, night=NIGHT))
    assert not runs.is_over(ledger, NIGHT, NOW + HOUR)
    again = begun(mine, NOW + 100, NIGHT)
    mine.end(ended(again, night=NIGHT))
    assert runs.is_over(ledger, NIGHT, NOW + HOUR)


def test_a_night_whose_process_died_can_be_had_again(ledger: Ledger) -> None:
    begun(process(ledger), NOW, NIGHT)
    other = process(ledger, "there:2:b")
    assert other.begin(NOW + LEASE - 1, night=NIGHT) is None
    assert other.begin(NOW + LEASE, night=NIGHT) is not None


def test_a_run_that_was_given_up_and_goes_on_records_no_snapshot_and_stays_given_up(ledger: Ledger) -> None:
    members(ledger)
    zombie = process(ledger)
    number = begun(zombie)
    newer = begun(process(ledger, "there:2:b"), NOW + LEASE)
    with pytest.raises(RunInProgress, match="its lease expired"):
        absent(ledger, number)
    zombie.end(ended(number))
    assert states(ledger) == [RunState.ABANDONED, RunState.RUNNING]
    assert status.desired(ledger, "ecampus") == {ETAPE: {STUDENT}}
    absent(ledger, newer)
    assert status.desired(ledger, "ecampus") == {}


# What a dying run leaves behind


def members(ledger: Ledger) -> Scene:
    """Have one member on Moodle, and one gap that a run has found."""
    scene = Scene(ledger)
    scene.tell(told())
    scene.settle()
    return scene


def absent(ledger: Ledger, number: int) -> None:
    """Have a run find that nobody is enrolled any more."""
    taken = Snapshot(id="S1", taken_at=NOW + 10, system="apogee", scope=SCOPE, rows=[])
    recorder(ledger).record_snapshot(taken, run=number, now=NOW + 20)


def test_a_run_waits_for_the_gaps_that_it_made_and_the_next_one_for_those_that_it_left(ledger: Ledger) -> None:
    scene = members(ledger)
    first = begun(process(ledger))
    absent(ledger, first)
    assert runs.open_gaps(ledger, first, ["ecampus"], NOW, since=NOW) == {"ecampus": 1}
    assert runs.open_gaps(ledger, first, ["sante"], NOW, since=NOW) == {"sante": 0}
    second = begun(process(ledger, "there:2:b"), NOW + LEASE)
    assert runs.open_gaps(ledger, second, ["ecampus"], NOW, since=NOW) == {"ecampus": 1}
    scene.now = NOW + LEASE
    scene.settle()
    assert runs.open_gaps(ledger, second, ["ecampus"], NOW, since=NOW) == {"ecampus": 0}
    assert runs.applied(ledger, "ecampus", second) == {ETAPE: {"remove": 1}}
    assert runs.applied(ledger, "ecampus", first) == {}


def test_gaps_that_wait_for_a_person_or_an_account_are_waited_for_by_nobody(ledger: Ledger) -> None:
    members(ledger)
    number = begun(process(ledger))
    absent(ledger, number)
    for waiting in ({"held": "cohort"}, {"held": None, "reason": "no_account"}):
        with ledger.write() as connection:
            connection.execute(sa.update(membership).values(**waiting))
        assert runs.open_gaps(ledger, number, ["ecampus"], NOW, since=NOW) == {"ecampus": 0}
    with ledger.write() as connection:
        connection.execute(sa.update(membership).values(reason="timeout"))
    assert runs.open_gaps(ledger, number, ["ecampus"], NOW, since=NOW) == {"ecampus": 1}
    with ledger.write() as connection:
        connection.execute(sa.update(cohort).values(state="foreign"))
    assert runs.open_gaps(ledger, number, ["ecampus"], NOW, since=NOW) == {"ecampus": 0}


def test_the_gaps_of_messages_count_once_they_should_have_been_closed(ledger: Ledger) -> None:
    scene = members(ledger)
    scene.tell(told(version=2, status=Status.RESIGNED))
    number = begun(process(ledger))
    assert memberships(ledger)[ETAPE, STUDENT].run is None
    assert runs.open_gaps(ledger, number, ["ecampus"], NOW - 1, since=NOW - 1) == {"ecampus": 0}  # it came later
    assert runs.open_gaps(ledger, number, ["ecampus"], NOW, since=NOW) == {"ecampus": 1}
    with ledger.write() as connection:
        connection.execute(sa.update(membership).values(next_attempt_at=NOW + 9 * HOUR))
    assert runs.open_gaps(ledger, number, ["ecampus"], NOW, since=NOW) == {"ecampus": 0}  # a delay of ours
    with ledger.write() as connection:
        connection.execute(sa.update(membership).values(reason="dmlwriteexception"))
    assert runs.open_gaps(ledger, number, ["ecampus"], NOW + HOUR, since=NOW + HOUR) == {"ecampus": 1}
    with ledger.write() as connection:
        connection.execute(sa.update(membership).values(since=NOW + 2 * HOUR))
    assert runs.open_gaps(ledger, number, ["ecampus"], NOW + HOUR, since=NOW + HOUR) == {"ecampus": 0}


@pytest.mark.parametrize(("state", "left"), [(RunState.FAILED, True), (RunState.DONE, False), (RunState.PARTIAL, True)])
def test_a_snapshot_whose_run_failed_is_left_for_the_next_one(ledger: Ledger, state: RunState, *, left: bool) -> None:
    mine = process(ledger)
    number = begun(mine)
    absent(ledger, number)
    accepted = recorder(ledger).last_snapshot()
    assert accepted is not None
    mine.end(ended(number, state))
    assert runs.left_over(ledger, accepted, NOW + 100) is left
    assert not runs.left_over(ledger, accepted, accepted.taken_at + DAY), "the day that it was good for is over"
    mine.end(ended(begun(mine, NOW + 200), at=NOW + 300))
    assert not runs.left_over(ledger, accepted, NOW + 400)


def test_a_snapshot_that_no_run_accepted_is_left_by_none(ledger: Ledger) -> None:
    unknown = AcceptedSnapshot(id="S9", taken_at=NOW, system="apogee", scope=SCOPE, rows_by_year={})
    assert not runs.left_over(ledger, unknown, NOW)


# Reports

WHOLE = Report(
    run=1,
    state=RunState.PARTIAL,
    night=NIGHT,
    started_at=NOW,
    ended_at=NOW + 61.5,
    snapshot=SnapshotReport(
        id="S1",
        taken_at=NOW - 3600,
        system="apogee",
        rows=3,
        rows_by_year={2025: 1, 2026: 2},
        unknown=4,
        applied=1,
        ended=2,
        memberships=3,
    ),
    refusals=(Refusal(snapshot_id="S2", fault=SnapshotFault.INCOMPLETE, sentence="partition 1 has no end of it"),),
    error="…",
    platforms=(
        PlatformReport(
            name="ecampus",
            mode="automatic",
            read=True,
            cohorts=1,
            members=5,
            drift={Drift.EXTRA: 2, Drift.GONE_ACCOUNT: 1},
            guard=GuardReport(
                enabled=True,
                memberships=5,
                removed=1,
                pending=2,
                held=3,
                platform_limit=10,
                worst_cohort="L1DROI",
                worst_percent=100 / 3,
            ),
            foreign=1,
            foreign_changes=(ForeignChange(moodle_id=7, idnumber="CHORALE", what=ForeignEvent.MEMBERS, journalled=0),),
            details=(CohortReport(idnumber="L1DROI", added=1, drift={Drift.EXTRA: 2}),),
        ),
        PlatformReport(name="sante", mode="automatic", error="sante: 503"),
    ),
)


def test_a_report_is_kept_as_it_was(ledger: Ledger) -> None:
    mine = process(ledger)
    number = begun(mine, NOW, NIGHT)
    kept = replace(WHOLE, run=number)
    mine.end(kept)
    assert runs.report(ledger, number) == kept
    (listed,) = runs.listed(ledger, most=9)
    assert (listed.state, listed.ended_at) == (RunState.PARTIAL, NOW + 61.5)


INSTANTS = st.floats(0, 4e9)
DRIFT = st.dictionaries(st.sampled_from(Drift), st.integers(0))
ROWS = st.dictionaries(st.integers(2000, 2100), st.integers(0))
PLATFORMS = st.builds(
    PlatformReport,
    error=...,
    drift=DRIFT,
    guard=st.none() | st.builds(GuardReport, worst_percent=st.floats(0, 100)),
    foreign_changes=...,
    details=st.lists(st.builds(CohortReport, drift=DRIFT)).map(tuple),
)


@given(
    st.builds(
        Report,
        started_at=INSTANTS,
        ended_at=st.none() | INSTANTS,
        snapshot=st.none() | st.builds(SnapshotReport, taken_at=INSTANTS, rows_by_year=ROWS),
        refusals=...,
        error=...,
        platforms=st.lists(PLATFORMS, max_size=3).map(tuple),
    )
)
def test_a_report_goes_to_json_and_back(report: Report) -> None:
    assert REPORTS.validate_json(REPORTS.dump_json(report)) == report


def test_the_last_report_is_that_of_the_last_run_that_ended(ledger: Ledger) -> None:
    assert runs.report(ledger) is None
    assert runs.last_ends(ledger) == {}
    mine = process(ledger)
    first = begun(mine)
    assert runs.report(ledger, first) is None
    mine.end(ended(first))
    second = begun(mine, NOW + 100)
    mine.end(ended(second, RunState.FAILED, at=NOW + 200))
    begun(mine, NOW + 300)
    last = runs.report(ledger)
    assert last is not None
    assert (last.run, last.state) == (second, RunState.FAILED)
    assert runs.report(ledger, first) == ended(first)
    assert runs.report(ledger, 99) is None
    assert runs.last_ends(ledger) == {
        RunState.DONE: End(id=first, started_at=NOW, ended_at=NOW + 60),
        RunState.FAILED: End(id=second, started_at=NOW + 100, ended_at=NOW + 200),
    }


def test_what_was_done_since_is_counted_by_cohort(ledger: Ledger) -> None:
    scene = members(ledger)
    with ledger.read() as connection:
        moodle_id = connection.execute(sa.select(cohort.c.moodle_id)).scalar_one()
    scene.now += 100
    recorder(ledger).record(received(told(version=2, status=Status.RESIGNED)), now=scene.now)
    scene.settle()
    assert runs.journalled(ledger, "ecampus", NOW, [moodle_id]) == {moodle_id: 3}, "created, added and removed"
    assert runs.journalled(ledger, "ecampus", NOW + 100, [moodle_id]) == {moodle_id: 1}
    assert runs.journalled(ledger, "ecampus", NOW + 101, [moodle_id]) == {}
    assert runs.journalled(ledger, "sante", NOW, [moodle_id]) == {}
    assert runs.journalled(ledger, "ecampus", NOW, []) == {}
