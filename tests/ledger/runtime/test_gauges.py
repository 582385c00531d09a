"""What the metrics say of the ledger: what is late, what waits for others, the last night."""

from dataclasses import replace

import pytest
from prometheus_client import REGISTRY

from tests.support import scenes
from tests.support.builders import ETAPE, NOW, POLICY, STUDENT, recorder, told, workbook
from tests.support.scenes import DAY, HOUR, Scene, Setup
from worker import telemetry
from worker.domain.cohorts import Gap
from worker.domain.errors import Refusal, SnapshotFault
from worker.domain.report import ForeignChange, ForeignEvent, GuardReport, PlatformReport, Report
from worker.domain.rules import Mapper
from worker.domain.states import Action, Blockage, Channel, Drift, Reason, RunState, Status
from worker.ledger import Ledger, Recorder, decisions, deletions, status
from worker.ledger.runs import Runs
from worker.runtime import gauges


def metric(name: str, **labels: str) -> float | None:
    return REGISTRY.get_sample_value(f"cohorts_{name}", labels)


def refresh(scene: Scene, at: float | None = None) -> None:
    gauges.refresh(scene.ledger, {"ecampus": True}, scene.now if at is None else at)


def late() -> tuple[float | None, float | None]:
    """Return how many changes have waited for over five minutes, and for over a day."""
    five, day = (metric("late_changes", platform="ecampus", le=le) for le in ("300.0", "86400.0"))
    return five, day


def oldest() -> float | None:
    return metric("oldest_gap_timestamp_seconds", platform="ecampus")


def test_the_bounds_of_late_changes_are_those_of_the_histogram_letter_by_letter() -> None:
    telemetry.APPLIED_SECONDS.labels("ecampus", "add", Channel.MESSAGE)
    bounds = {s.labels["le"] for m in telemetry.APPLIED_SECONDS.collect() for s in m.samples if "le" in s.labels}
    assert {str(seconds) for seconds in status.PROMISES} <= bounds


def test_a_change_that_moodle_could_hold_and_does_not_is_late_after_five_minutes_and_after_a_day(
    ledger: Ledger,
) -> None:
    scene = Scene(ledger)
    scene.tell(told())
    for waited, expected in ((0, (0, 0)), (300, (0, 0)), (301, (1, 0)), (DAY + 1, (1, 1))):
        refresh(scene, NOW + waited)
        assert late() == expected
        assert oldest() == NOW
    scene.settle()
    refresh(scene, NOW + DAY + 2)
    assert late() == (0, 0)
    assert oldest() is None


def test_a_call_without_an_answer_makes_a_change_late_all_the_same(ledger: Ledger) -> None:
    scene = Scene(ledger)
    scene.tell(told())
    scene.park(Reason.TIMEOUT, observed=None)
    refresh(scene, NOW + 301)
    assert late() == (1, 0)
    assert metric("gap_reasons", platform="ecampus", reason="timeout") == 1


@pytest.mark.parametrize(
    "setup",
    [
        scenes.looked_up_and_not_found,
        scenes.only_observed,
        scenes.a_cohort_made_by_hand,
        scenes.a_class_leaves,
        scenes.approved,
        scenes.one_of_many_new_cohorts,
        scenes.a_new_cohort_that_was_rejected,
    ],
    ids=lambda setup: setup.__name__,
)
def test_what_waits_for_others_is_not_late(ledger: Ledger, setup: Setup) -> None:
    scene = Scene(ledger)
    setup(scene)
    refresh(scene, scene.now + HOUR)
    assert late() == (0, 0)
    assert oldest() is None


def test_merges_that_are_held_are_counted_until_a_person_decides(ledger: Ledger) -> None:
    scene = Scene(ledger)
    refresh(scene)
    assert metric("held_merges") == 0
    scenes.number_of_two_persons(scene)
    refresh(scene)
    assert metric("held_merges") == 1
    recorder(ledger).decide_merge(STUDENT, None, Action.REJECT, by="scol", now=scene.now)
    refresh(scene)
    assert metric("held_merges") == 0


def test_cohorts_that_the_guard_holds_are_counted_until_a_person_decides(ledger: Ledger) -> None:
    scene = Scene(ledger)
    scenes.one_of_many_new_cohorts(scene)
    refresh(scene)
    assert metric("held_cohorts", platform="ecampus", change="creation") == 1
    assert metric("held_cohorts", platform="ecampus", change="rename") == 0
    assert metric("gaps", platform="ecampus", state="cohort_held") == 1
    scenes.a_new_cohort_that_was_rejected(scene)
    refresh(scene)
    assert metric("held_cohorts", platform="ecampus", change="creation") == 0
    assert metric("gaps", platform="ecampus", state="cohort_held") == 1


def test_what_a_setting_or_the_night_has_changed_is_watched_and_is_not_what_a_message_was_promised(
    ledger: Ledger,
) -> None:
    scene = Scene(ledger)
    scene.tell(told())
    scene.settle()
    scene.now += HOUR
    scene.image()  # which doesn't hold the student
    refresh(scene, scene.now + HOUR)
    assert late() == (0, 0)
    assert oldest() == scene.now


def test_who_stays_for_the_grace_of_a_closed_year_is_not_a_gap_that_is_too_old(ledger: Ledger) -> None:
    scene = Scene(ledger)
    scene.tell(told())
    scene.settle()
    scene.now += HOUR
    closed = Mapper(replace(POLICY, active_years=frozenset({2027})))
    Recorder(ledger, closed, coalesce=0, removal_delay=0, grace=30 * DAY).apply_policy(now=scene.now)
    refresh(scene, scene.now + 29 * DAY)
    assert oldest() is None
    refresh(scene, scene.now + 31 * DAY)
    assert oldest() == scene.now + 30 * DAY


def test_the_oldest_held_removal_is_told_until_a_person_decides(ledger: Ledger) -> None:
    scene = Scene(ledger)
    scenes.a_class_leaves(scene)
    refresh(scene)
    assert metric("oldest_held_timestamp_seconds", platform="ecampus") == NOW + HOUR
    assert metric("gaps", platform="ecampus", state="held") == 12
    decisions.approve(ledger, scenes.plan_hash(scene), by="cemu", now=scene.now)
    refresh(scene)
    assert metric("oldest_held_timestamp_seconds", platform="ecampus") is None


@pytest.mark.parametrize(
    ("setup", "why"),
    [
        (scenes.a_cohort_made_by_hand, "foreign"),
        (scenes.a_cohort_that_the_database_takes_for_another_etapes, "colliding"),
        (scenes.creation_refused, "refused"),
    ],
)
def test_cohorts_that_wait_for_a_person_are_counted_by_reason_for_as_long_as_somebody_belongs_to_them(
    ledger: Ledger, setup: Setup, why: str
) -> None:
    scene = Scene(ledger)
    setup(scene)
    refresh(scene)
    assert {kind.value: metric("blocked_cohorts", platform="ecampus", why=kind) for kind in Blockage} == dict.fromkeys(
        Blockage, 0
    ) | {why: 1}
    scene.now += HOUR
    scene.tell(told(version=2, changed_at=scene.now, status=Status.RESIGNED))
    refresh(scene)
    assert metric("blocked_cohorts", platform="ecampus", why=why) == 0


def test_deleted_cohorts_are_counted_until_a_person_acknowledges_them(ledger: Ledger) -> None:
    scene = Scene(ledger)
    scenes.deleted_and_made_again(scene)
    refresh(scene)
    assert metric("deleted_cohorts", platform="ecampus") == 1
    deletions.acknowledge(ledger, "ecampus", ["*"], by="cemu", now=scene.now)
    refresh(scene)
    assert metric("deleted_cohorts", platform="ecampus") == 0


def test_a_reason_that_is_over_is_shown_no_more(ledger: Ledger) -> None:
    scene = Scene(ledger)
    scene.tell(told())
    scene.park("strange_error")
    refresh(scene)
    assert metric("gap_reasons", platform="ecampus", reason="strange_error") == 1
    scene.now += HOUR
    scene.settle()
    refresh(scene)
    assert metric("gap_reasons", platform="ecampus", reason="strange_error") is None
    assert metric("gap_reasons", platform="ecampus", reason="no_account") == 0


# The channel of a change


def gap(scene: Scene) -> Gap:
    """Claim the only gap, or the first of its cohort."""
    return workbook(scene.ledger).claim(scene.now + DAY / 2, limit=100).gaps[0]


def set_by_a_setting(scene: Scene) -> None:
    scene.tell(told())
    scene.settle()
    Recorder(
        scene.ledger, Mapper(replace(POLICY, exclude_etapes=("X*",))), coalesce=0, removal_delay=0
    ).apply_policy(now=scene.now)  # fmt: skip


def found_at_night(scene: Scene) -> None:
    scene.image(told())


@pytest.mark.parametrize(
    ("setup", "channel"),
    [
        (scenes.enrolled_and_due, Channel.MESSAGE),
        (scenes.removal_timed_out, Channel.MESSAGE),
        (scenes.looked_up_and_not_found, Channel.PARKED),
        (scenes.only_observed, Channel.PARKED),
        (scenes.approved, Channel.APPROVED),
        (scenes.undone, Channel.DECISION),
        (set_by_a_setting, Channel.DECISION),
        (found_at_night, Channel.NIGHT),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_a_change_is_measured_by_the_channel_it_came_by(ledger: Ledger, setup: Setup, channel: Channel) -> None:
    scene = Scene(ledger)
    setup(scene)
    assert gap(scene).channel is channel


# The night


def night(run: int, *, cohorts: int = 40) -> PlatformReport:
    return PlatformReport(
        name="ecampus",
        mode="automatic",
        read=True,
        cohorts=cohorts,
        members=900,
        drift={Drift.MISSING: 3},
        strangers=2,
        added=3,
        removed=run,
        foreign=7,
        foreign_changes=(
            ForeignChange(moodle_id=5, idnumber="CLUB", what=ForeignEvent.MEMBERS, journalled=0),
        ),
        guard=GuardReport(
            enabled=True, memberships=900, removed=1, pending=2, held=30, platform_limit=45,
            worst_cohort=ETAPE, worst_percent=25.0,
        ),
    )  # fmt: skip


def end(ledger: Ledger, state: RunState, at: float, **more: object) -> None:
    runs = Runs(ledger, "here:1:a", lease=900, is_dead=lambda _: False)
    number = runs.begin(at - 60)
    assert number is not None
    runs.end(replace(Report(run=number, state=state, night=None, started_at=at - 60, ended_at=at), **more))  # type: ignore[arg-type] # fields of a report


def test_what_a_nightly_job_has_recorded_is_told_by_whoever_is_asked_after_it(ledger: Ledger) -> None:
    scene = Scene(ledger)
    scene.image(told())
    unread = PlatformReport(name="sante", mode="automatic", error="Moodle did not answer", left=9)
    nothing_to_read_with = PlatformReport(name="prelude", mode="manual")
    end(ledger, RunState.PARTIAL, NOW + HOUR, platforms=(night(4), unread, nothing_to_read_with))
    refresh(scene)
    assert metric("reconciliation_ended_timestamp_seconds", state="partial") == NOW + HOUR
    assert metric("reconciliation_duration_seconds", state="partial") == 60
    assert metric("snapshot_taken_timestamp_seconds", system="apogee") == NOW
    assert metric("snapshot_rows", year="2026") == 1
    assert metric("snapshot_refusals") == 0
    assert metric("reconciliation_read", platform="ecampus") == 1
    assert metric("reconciliation_read", platform="sante") == 0
    assert metric("reconciliation_read", platform="prelude") is None
    assert metric("reconciliation_left", platform="ecampus") == 0
    assert metric("reconciliation_left", platform="sante") == 9
    assert metric("reconciliation_left", platform="prelude") is None
    for name, labels, value in (
        ("reconciliation_cohorts", {"kind": "ours"}, 40),
        ("reconciliation_cohorts", {"kind": "others"}, 7),
        ("reconciliation_members", {}, 900),
        ("reconciliation_strangers", {}, 2),
        ("reconciliation_drift", {"kind": "missing"}, 3),
        ("reconciliation_drift", {"kind": "extra"}, 0),
        ("reconciliation_changes", {"action": "add"}, 3),
        ("reconciliation_changes", {"action": "remove"}, 4),
        ("reconciliation_foreign_changes", {}, 1),
        ("guard_removals", {"state": "held"}, 30),
        ("guard_removals", {"state": "removed"}, 1),
        ("guard_limit_removals", {}, 45),
        ("guard_worst_cohort_ratio", {}, 0.25),
    ):
        assert metric(name, platform="ecampus", **labels) == value, name
        assert metric(name, platform="sante", **labels) is None, name


def test_a_refused_snapshot_is_told_beside_what_the_last_good_night_found(ledger: Ledger) -> None:
    scene = Scene(ledger)
    end(ledger, RunState.DONE, NOW, platforms=(night(4),))
    faults = (SnapshotFault.SHRUNK, SnapshotFault.OLD)
    refusals = tuple(Refusal(snapshot_id="S", fault=fault, sentence="why") for fault in faults)
    end(ledger, RunState.REFUSED, NOW + DAY, refusals=refusals)
    refresh(scene)
    assert metric("snapshot_refusals") == 2
    assert metric("reconciliation_ended_timestamp_seconds", state="refused") == NOW + DAY
    assert metric("reconciliation_ended_timestamp_seconds", state="done") == NOW
    assert metric("reconciliation_cohorts", platform="ecampus", kind="ours") == 40
    end(ledger, RunState.DONE, NOW + 2 * DAY, platforms=(night(5, cohorts=41),))
    refresh(scene)
    assert metric("snapshot_refusals") == 0
    assert metric("reconciliation_cohorts", platform="ecampus", kind="ours") == 41
    assert metric("reconciliation_changes", platform="ecampus", action="remove") == 5


def test_before_the_first_night_there_is_no_metric_of_one(ledger: Ledger) -> None:
    scene = Scene(ledger)
    scene.tell(told(student_id=STUDENT))
    refresh(scene)
    assert metric("reconciliation_ended_timestamp_seconds", state="done") is None
