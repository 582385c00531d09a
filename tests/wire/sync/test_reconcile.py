"""The night: a real ledger, the real reading and converging, a sandbox Moodle over HTTP; time is a number."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from threading import Barrier, Event

import pytest
import sqlalchemy as sa

from tests.support.world import (
    ADD,
    COALESCE,
    HOUR,
    LEASE,
    REMOVAL_DELAY,
    REMOVE,
    TIMEOUT,
    TOKEN,
    UAI,
    YEAR,
    Build,
    World,
    platform,
)
from worker.domain.changes import EnrolmentChange
from worker.domain.errors import DecisionRefused, Refusal, RunInProgress, SnapshotFault, SnapshotRefused
from worker.domain.guard import Guard, GuardLimits
from worker.domain.report import PlatformReport, Report
from worker.domain.rules import Mode
from worker.domain.snapshots import AcceptedSnapshot, Snapshot, SnapshotScope
from worker.domain.states import Drift, Payment, PlatformState, RunState, Status
from worker.ledger import decisions, proposals, runs, schema, status
from worker.ledger.runs import Runs
from worker.moodle import MoodleReader
from worker.sandbox.moodle.server import Fault
from worker.settings.platforms import Strangers
from worker.sync.platform_run import ReconciledPlatform
from worker.sync.reconcile import Reconciliation

GUARDED = Guard(limits=GuardLimits(cohort_percent=20, platform_percent=50, floor=1))
SCOPE = SnapshotScope(uais=frozenset({UAI}), academic_years=frozenset({YEAR}))


def row(
    student: str, etape: str, status: Status = Status.ACTIVE, *, at: float, academic_year: int = YEAR
) -> EnrolmentChange:
    return EnrolmentChange(
        uai=UAI,
        enrolment_id=f"{student}-{etape}",
        system="apogee",
        version=0,
        changed_at=at,
        student_id=student,
        status=status,
        academic_year=academic_year,
        etape=etape,
        payment=Payment.PAID,
        origin="snapshot S[0]#0",
    )


def image(world: World, *absent: tuple[str, str]) -> Snapshot:
    """Take a snapshot of the world now, without these enrolments: they have vanished from the source."""
    there = {key: active for key, active in world.enrolled.items() if key not in absent}
    for key in absent:
        world.enrolled[key] = False
    return Snapshot(
        id=f"S{world.now:.0f}",
        taken_at=world.now,
        system="apogee",
        scope=SCOPE,
        rows=[
            row(student, etape, Status.ACTIVE if active else Status.RESIGNED, at=world.now)
            for (student, etape), active in there.items()
        ],
    )


def night(
    world: World,
    snapshot: Snapshot | SnapshotRefused | None = None,
    *,
    first: Callable[[], object] = lambda: None,
    meanwhile: Callable[[], None] = lambda: None,
    strangers: Strangers = Strangers.KEEP,
    wait: float = 3600.0,
    name: str | None = None,
    holder: str = "night:1:a",
) -> Report:
    """Reconcile; `first` happens before the snapshot is there, `meanwhile` once gaps are waited for."""

    def latest(_now: float, _accepted: AcceptedSnapshot | None) -> Snapshot:
        first()
        if isinstance(snapshot, SnapshotRefused):
            raise snapshot
        assert snapshot is not None
        return snapshot

    def pause(seconds: float) -> bool:
        meanwhile()
        world.wait(seconds)
        return False

    found = Reconciliation(
        world.ledger,
        world.recorder,
        [
            ReconciledPlatform(
                policy=policy,
                guard=world.guard,
                reader=MoodleReader(world.transports[policy.name]),
                remove_unmatched=strangers is Strangers.REMOVE,
            )
            for policy in world.platforms
        ],
        Runs(world.ledger, holder, lease=900, is_dead=lambda holder: holder.endswith(":dead")),
        latest=None if snapshot is None else latest,
        wait_seconds=wait,
        pause=pause,
        clock=lambda: world.now,
    ).run(name)
    assert found is not None
    assert runs.report(world.ledger, found.run) == found
    return found


def enrolled(world: World, students: int = 5, etape: str = "L1DROI") -> World:
    """Enrol students s1 to sN, and let them become members."""
    for number in range(1, students + 1):
        world.enrol(f"s{number}", etape)
    world.wait(COALESCE)
    world.now += 3600
    return world


def of(report: Report, name: str = "ecampus") -> PlatformReport:
    (found,) = [each for each in report.platforms if each.name == name]
    return found


def drift(report: Report) -> dict[Drift, int]:
    return {kind: number for kind, number in of(report).drift.items() if number}


# --- The snapshot ---


def test_a_night_without_news_changes_nothing(world: World) -> None:
    enrolled(world)
    before = world.members()
    report = night(world, image(world))
    assert report.state is RunState.DONE
    assert report.snapshot is not None
    assert (report.snapshot.applied, report.snapshot.ended, report.snapshot.memberships) == (0, 0, 0)
    assert drift(report) == {}
    assert world.members() == before
    assert (of(report).cohorts, of(report).members) == (1, 5)
    assert of(report).details == ()


def test_a_student_who_vanished_from_the_source_leaves_and_one_whose_message_was_lost_joins(world: World) -> None:
    enrolled(world, 4)
    world.enrolled["s5", "L1DROI"] = True  # and no message said so
    report = night(world, image(world, ("s1", "L1DROI")))
    assert world.members() == world.truth() == {"L1DROI": {"s2", "s3", "s4", "s5"}}
    assert report.snapshot is not None
    assert (report.snapshot.applied, report.snapshot.ended, report.snapshot.memberships) == (1, 1, 2)
    assert (of(report).added, of(report).removed) == (1, 1)


def test_what_was_learnt_after_the_snapshot_was_taken_stays(world: World) -> None:
    enrolled(world, 3)
    snapshot = image(world)
    world.now += 60
    world.enrol("s4", "L1DROI")  # the snapshot does not hold it
    world.resign("s1", "L1DROI")  # the snapshot holds it
    world.now += 60
    night(world, snapshot)
    world.wait(REMOVAL_DELAY)
    assert world.members() == world.truth() == {"L1DROI": {"s2", "s3", "s4"}}


def test_a_message_that_is_older_than_the_snapshot_comes_too_late(world: World) -> None:
    enrolled(world, 2)
    old = world.now - 10
    night(world, image(world, ("s1", "L1DROI")))
    world.say(row("s1", "L1DROI", at=old)._replace(version=1000))
    world.say(row("s3", "L1DROI", at=old)._replace(version=1000))  # never heard of, and absent from the snapshot
    world.a_minute_later()
    assert world.members() == {"L1DROI": {"s2"}}


def test_changes_that_arrive_during_a_reconciliation_are_never_reverted(world: World) -> None:
    enrolled(world, 3)
    snapshot = image(world, ("s1", "L1DROI"))
    happened: list[str] = []

    def meanwhile() -> None:
        if not happened:
            happened.append("once")
            world.now += 1
            world.enrol("s1", "L1DROI")
            world.enrol("s4", "L1DROI")
            world.resign("s2", "L1DROI")

    night(world, snapshot, meanwhile=meanwhile)
    world.wait(REMOVAL_DELAY)
    assert world.members() == world.truth() == {"L1DROI": {"s1", "s3", "s4"}}
    assert ("L1DROI", "s1") not in world.applied("remove")


def test_a_refused_snapshot_changes_nothing(world: World) -> None:
    enrolled(world)
    world.moodle.remove_member(world.cohort_id("L1DROI"), world.moodle.user_ids["s1"])
    calls = len(world.moodle.calls)
    why = Refusal(snapshot_id="S1", fault=SnapshotFault.INCOMPLETE, sentence="partition 1 has no end of it")
    report = night(world, SnapshotRefused("no snapshot can be accepted", refusals=[why]))
    assert report.state is RunState.REFUSED
    assert report.refusals == (why,)
    assert not any(call.writes for call in world.moodle.calls[calls:])
    assert world.gaps() == {}


def test_moodle_is_read_while_the_snapshot_is(world: World) -> None:
    enrolled(world)
    world.moodle.remove_member(world.cohort_id("L1DROI"), world.moodle.user_ids["s1"])
    meeting = Barrier(2, timeout=10)

    @contextmanager
    def meet(function: str) -> Iterator[None]:
        if function == "core_cohort_get_cohort_members":
            world.transports["ecampus"].around = lambda _: nullcontext()
            meeting.wait()
        yield

    with world.around(meet):
        report = night(world, image(world), first=meeting.wait)
    assert drift(report) == {Drift.MISSING: 1}


def test_what_a_message_ends_or_begins_between_the_two_readings_is_neither_drift_nor_undone(world: World) -> None:
    enrolled(world)
    world.resign("s1", "L1DROI")
    world.now += REMOVAL_DELAY
    snapshot, moodle_was_read = image(world), Event()

    @contextmanager
    def tell(function: str) -> Iterator[None]:
        yield
        if function == "core_cohort_get_cohort_members":
            world.transports["ecampus"].around = lambda _: nullcontext()
            moodle_was_read.set()

    def live_on() -> None:
        assert moodle_was_read.wait(10)
        world.now += 1
        world.accounts("s9")
        world.enrol("s9", "L1DROI")
        world.now += COALESCE
        world.turns()
        assert world.members() == world.truth()

    with world.around(tell):
        report = night(world, snapshot, first=live_on)
    world.wait(REMOVAL_DELAY)
    assert drift(report) == {}
    assert world.members() == world.truth() == {"L1DROI": {"s2", "s3", "s4", "s5", "s9"}}
    assert world.applied("add").count(("L1DROI", "s9")) == 1


@pytest.mark.parametrize(("function", "action"), [(ADD, "add"), (REMOVE, "remove")])
def test_what_a_call_did_whose_answer_was_lost_is_journalled_once_moodle_shows_it(
    world: World, function: str, action: str
) -> None:
    enrolled(world)
    if function == ADD:
        world.accounts("s6")
        world.enrol("s6", "L1DROI")
    else:
        world.resign("s5", "L1DROI")
    before = world.applied(action)
    with world.faults(function, Fault.APPLIED_THEN_EMPTY):
        world.wait(REMOVAL_DELAY)
    assert world.applied(action) == before
    world.now += TIMEOUT + LEASE  # nobody converges meanwhile
    report = night(world, wait=0)
    assert drift(report) == {}
    assert world.gaps() == {}
    (one,) = set(world.applied(action)) - {*before}
    assert one == ("L1DROI", "s6" if function == ADD else "s5")
    with world.ledger.read() as connection:
        entry = connection.execute(sa.select(schema.journal).order_by(schema.journal.c.id.desc())).first()
    assert entry is not None
    assert (entry.cause, entry.user_id is None, entry.run) == ("active" if function == ADD else "resigned", False, None)


# --- What Moodle really holds ---


def test_a_member_whom_somebody_removed_by_hand_is_put_back(world: World) -> None:
    enrolled(world)
    world.moodle.remove_member(world.cohort_id("L1DROI"), world.moodle.user_ids["s1"])
    report = night(world)
    assert drift(report) == {Drift.MISSING: 1}
    assert world.members() == world.truth()
    assert of(report).added == 1


def test_a_student_whom_somebody_added_by_hand_is_removed(world: World) -> None:
    enrolled(world, 4)
    world.enrol("s5", "M1PHY")
    world.wait(COALESCE)
    world.moodle.add_member(world.cohort_id("L1DROI"), world.moodle.user_ids["s5"])
    world.now += 3600
    report = night(world)
    assert drift(report) == {Drift.EXTRA: 1}
    assert world.members() == world.truth()
    assert of(report).removed == 1


def test_the_account_of_a_former_number_is_removed_as_that_of_the_student_it_became(world: World) -> None:
    enrolled(world, 2)
    enrolled(world, 1, "M1PHY")
    world.accounts("former")
    world.merge("former", "s2")
    world.moodle.add_member(world.cohort_id("M1PHY"), world.moodle.user_ids["former"])
    report = night(world)
    assert (drift(report), of(report).strangers) == ({Drift.EXTRA: 1}, 0)
    assert world.applied("remove") == [("M1PHY", "s2")]
    assert world.members() == world.truth()


def test_a_login_is_of_the_student_who_bears_it_and_no_more_of_one_who_was_merged(build: Build) -> None:
    world = build(platform(account_template="{login}"))
    world.accounts("dupont", "durand", "martin")
    for student, etape, login in (("old", "L1DROI", "dupont"), ("new", "L1DROI", "durand"), ("s3", "M1PHY", "martin")):
        world.enrol(student, etape, login=login)
    world.merge("old", "new")
    world.enrol("other", "L1DROI", login="dupont")
    world.wait(COALESCE)
    world.moodle.add_member(world.cohort_id("M1PHY"), world.moodle.user_ids["dupont"])
    world.now += 3600
    night(world)
    assert world.applied("remove") == [("M1PHY", "other")]
    assert world.members() == {"L1DROI": {"dupont", "durand"}, "M1PHY": {"martin"}}


def test_a_stranger_is_reported_and_kept(world: World) -> None:
    enrolled(world)
    world.accounts("a.teacher")
    world.moodle.add_member(world.cohort_id("L1DROI"), world.moodle.user_ids["a.teacher"])
    report = night(world)
    assert of(report).strangers == 1
    assert "a.teacher" in world.members()["L1DROI"]
    calls = len(world.moodle.calls)
    assert of(night(world)).strangers == 1
    asked = [call.function for call in world.moodle.calls[calls:]]
    assert asked.count("core_user_get_users_by_field") == 1  # the confirmation of all that are remembered


def test_strangers_are_removed_where_the_settings_say_so(world: World) -> None:
    enrolled(world)
    world.accounts("a.teacher")
    world.moodle.add_member(world.cohort_id("L1DROI"), world.moodle.user_ids["a.teacher"])
    report = night(world, strangers=Strangers.REMOVE)
    assert of(report).strangers_removed
    assert world.members() == world.truth()
    assert len(world.applied("remove")) == 1
    decisions.undo(world.ledger, str(report.run), by="eve", now=world.now)
    world.a_minute_later()
    assert world.members() == {"L1DROI": world.truth()["L1DROI"] | {"a.teacher"}}


def test_a_member_whose_account_was_deleted_is_parked_until_there_is_another(world: World) -> None:
    enrolled(world)
    world.moodle.delete_user(world.moodle.user_ids["s1"])
    report = night(world)
    assert drift(report) == {Drift.GONE_ACCOUNT: 1}
    assert of(report).parked == 1
    world.accounts("s1")
    world.days_later(1)
    assert world.members() == world.truth()


@pytest.mark.parametrize("error", [SnapshotRefused("nothing newer"), RunInProgress("given up")])
def test_a_night_without_a_snapshot_names_the_cohorts_that_somebody_deleted(
    world: World, error: SnapshotRefused | RunInProgress
) -> None:
    world.enrol("s1", "L1DROI")
    world.a_minute_later()
    world.moodle.delete_cohort(world.cohort_id("L1DROI"))
    night(world, image(world))

    def fail() -> None:
        raise error

    with suppress(RunInProgress):
        night(world, image(world), first=fail)
    report = runs.report(world.ledger)
    assert report is not None
    assert report.state in {RunState.REFUSED, RunState.FAILED}
    (platform_,) = report.platforms
    assert (platform_.read, [cohort.idnumber for cohort in platform_.deleted]) == (False, ["L1DROI"])


def test_a_cohort_that_somebody_deleted_is_made_and_filled_again(world: World) -> None:
    enrolled(world)
    world.moodle.delete_cohort(world.cohort_id("L1DROI"))
    report = night(world)
    assert drift(report)[Drift.VANISHED] == 1
    assert world.members() == world.truth()


def test_a_name_that_somebody_changed_stays_and_an_idnumber_is_put_back(world: World) -> None:
    enrolled(world)
    world.describe("L1DROI", "Licence 1 Droit")
    world.a_minute_later()
    world.moodle.edit_cohort(world.cohort_id("L1DROI"), name="Les juristes", idnumber="JURISTES")
    report = night(world)
    world.a_minute_later()
    assert drift(report) == {Drift.RENAMED: 1}
    assert world.cohort_name("L1DROI") == "Les juristes"
    world.describe("L1DROI", "Licence 1 de droit")
    world.a_minute_later()
    assert world.cohort_name("L1DROI") == "Les juristes"


def test_a_student_who_is_in_the_cohort_already_needs_no_call(world: World) -> None:
    enrolled(world, 4)
    world.enrol("s5", "L1DROI")
    world.moodle.add_member(world.cohort_id("L1DROI"), world.moodle.user_ids["s5"])
    writes = len([call for call in world.moodle.calls if call.writes])
    assert drift(night(world)) == {}
    world.a_minute_later()
    assert len([call for call in world.moodle.calls if call.writes]) == writes
    assert world.gaps() == {}


def test_a_parked_student_whose_account_has_appeared_joins_in_the_night(world: World) -> None:
    enrolled(world)
    world.enrol("s9", "L1DROI")
    world.days_later(2)  # the next look-up is a day away
    world.accounts("s9")
    night(world)
    world.a_minute_later()
    assert "s9" in world.members()["L1DROI"]


def night_in_which_we_rename_what_was_just_read(world: World) -> Report:
    @contextmanager
    def converge_after_the_cohorts(function: str) -> Iterator[None]:
        yield
        if function == "core_cohort_get_cohort_members":
            world.transports["ecampus"].around = lambda _: nullcontext()
            world.now += 60
            world.turns()

    with world.around(converge_after_the_cohorts):
        return night(world)


def test_a_cohort_that_we_rename_while_moodle_is_being_read_was_not_renamed_by_somebody(world: World) -> None:
    enrolled(world)
    world.describe("L1DROI", "Licence 1 Droit")
    report = night_in_which_we_rename_what_was_just_read(world)
    assert world.cohort_name("L1DROI") == "UFR Droit: Licence 1 Droit"
    assert drift(report) == {}
    world.describe("L1DROI", "Licence 1 de droit")
    world.a_minute_later()
    assert world.cohort_name("L1DROI") == "UFR Droit: Licence 1 de droit"


def test_a_cohort_that_gets_the_new_code_of_its_etape_meanwhile_was_not_renamed_by_somebody(world: World) -> None:
    enrolled(world)
    world.restart(aliases={"L1DROI": "L1DRO2"})
    before = world.members()["L1DROI"]
    report = night_in_which_we_rename_what_was_just_read(world)
    assert drift(report) == {}
    assert world.members() == {"L1DRO2": before}


def test_a_name_is_seen_to_be_somebody_s_while_the_cohort_is_being_written(world: World) -> None:
    enrolled(world)
    world.moodle.edit_cohort(world.cohort_id("L1DROI"), name="Les juristes", idnumber="JURISTES")
    with world.ledger.write() as connection:
        connection.execute(sa.update(schema.cohort).values(lease_holder="another", lease_until=world.now + 90))
    assert drift(night(world)) == {Drift.RENAMED: 1}


def test_a_removal_made_while_moodle_is_being_read_is_newer_than_the_reading(world: World) -> None:
    enrolled(world)
    world.resign("s1", "L1DROI")
    world.now += REMOVAL_DELAY

    @contextmanager
    def converge_after_the_members(function: str) -> Iterator[None]:
        yield
        if function == "core_cohort_get_cohort_members":
            world.transports["ecampus"].around = lambda _: nullcontext()
            world.now += 1
            world.turns()

    with world.around(converge_after_the_members):
        report = night(world)
    assert drift(report) == {}
    assert world.members() == world.truth()
    assert world.applied("remove") == [("L1DROI", "s1")]


# --- Platforms, runs ---


def test_a_platform_that_is_down_fails_for_itself_alone(build: Build) -> None:
    world = build(platform(), platform("collegium"))
    for moodle in world.moodles.values():
        moodle.add_users((f"s{number}", "") for number in range(1, 6))
    enrolled(world)
    world.moodles["collegium"].fault = Fault.PHP_DOWN
    world.moodle.remove_member(world.cohort_id("L1DROI"), world.moodle.user_ids["s1"])
    report = night(world)
    assert report.state is RunState.PARTIAL
    assert of(report, "collegium").error is not None
    assert world.members("ecampus") == world.truth()


def test_a_platform_that_is_only_observed_is_read_and_not_written(build: Build) -> None:
    world = build(platform(mode=Mode.OBSERVE))
    world.accounts("s1")
    world.enrol("s1", "L1DROI")
    world.a_minute_later()
    report = night(world)
    assert report.state is RunState.DONE
    assert of(report).parked == 1
    assert world.members() == {}


def test_cohorts_that_are_not_ours_are_proved_untouched_on_manual_platforms_too(build: Build) -> None:
    world = build(platform(), platform("prelude", Mode.MANUAL))
    world.accounts(*(f"s{number}" for number in range(1, 6)))
    enrolled(world)
    theirs = world.moodle.create_cohort(name="Chorale", idnumber="")
    world.moodles["prelude"].create_cohort(name="Prelude", idnumber="L1DROI")
    world.moodle.add_member(theirs, world.moodle.user_ids["s1"])
    world.moodle.remove_member(world.cohort_id("L1DROI"), world.moodle.user_ids["s2"])

    def meanwhile() -> None:
        world.moodle.add_member(theirs, world.moodle.user_ids["s3"])

    report = night(world, meanwhile=meanwhile)
    assert (of(report).foreign, of(report, "prelude").foreign) == (1, 1)
    assert [(change.moodle_id, change.journalled) for change in of(report).foreign_changes] == [(theirs, 0)]
    assert of(report, "prelude").foreign_changes == ()
    assert not [call for call in world.moodles["prelude"].calls if call.writes]


def test_a_cohort_that_we_create_while_moodle_is_being_read_is_not_somebody_s(world: World) -> None:
    enrolled(world)
    world.moodle.create_cohort(name="Chorale", idnumber="")

    @contextmanager
    def create_before_the_answer(_function: str) -> Iterator[None]:
        world.transports["ecampus"].around = lambda _: nullcontext()
        world.enrol("s1", "M1PHY")
        world.wait(COALESCE)
        yield

    with world.around(create_before_the_answer):
        report = night(world)
    assert world.members()["M1PHY"] == {"s1"}
    assert (of(report).foreign, of(report).foreign_changes) == (1, ())


def test_a_cohort_that_we_are_just_creating_when_all_is_looked_at_again_is_not_somebody_s(world: World) -> None:
    enrolled(world)
    world.moodle.create_cohort(name="Chorale", idnumber="")
    world.moodle.remove_member(world.cohort_id("L1DROI"), world.moodle.user_ids["s1"])

    def meanwhile() -> None:
        ours = f"Tenue par étape cohorts. [{world.ledger.instance}/ecampus]"  # and the answer is not in the ledger yet
        world.moodle.create_cohort(name="M1PHY", idnumber="M1PHY", description=ours)

    assert of(night(world, meanwhile=meanwhile)).foreign_changes == ()


def test_two_reconciliations_never_run_at_once_and_a_dead_one_is_given_up(world: World) -> None:
    enrolled(world)
    held = Runs(world.ledger, "night:2:alive", lease=900, is_dead=lambda _: False)
    held.begin(world.now)
    with pytest.raises(RunInProgress, match="reconciliation 1 has been running for 0 s"):
        night(world)
    world.now += 901
    assert night(world).run == 2
    assert [run.state for run in runs.listed(world.ledger, most=9)] == [RunState.DONE, RunState.ABANDONED]


def test_a_run_whose_process_is_seen_to_be_dead_is_given_up_at_once(world: World) -> None:
    enrolled(world)
    Runs(world.ledger, "night:2:dead", lease=900, is_dead=lambda _: False).begin(world.now)
    assert night(world).state is RunState.DONE


def test_what_a_run_that_failed_half_way_had_begun_is_finished_by_the_next(world: World) -> None:
    enrolled(world, 4)
    snapshot = image(world, ("s1", "L1DROI"))

    def fail() -> None:
        raise ConnectionError

    with pytest.raises(ConnectionError):
        night(world, snapshot, meanwhile=fail)
    why = Refusal(snapshot_id=snapshot.id, fault=SnapshotFault.NOT_NEWER, sentence="it was accepted already")
    report = night(world, SnapshotRefused("nothing newer", refusals=[why]))
    assert report.state is RunState.DONE
    assert report.snapshot is not None
    assert (report.snapshot.id, report.snapshot.rows, report.snapshot.memberships) == (snapshot.id, 3, 0)
    assert report.refusals == ()
    assert of(report).removed == 1
    assert world.members() == world.truth() == {"L1DROI": {"s2", "s3", "s4"}}
    assert night(world, SnapshotRefused("nothing newer", refusals=[why])).state is RunState.REFUSED


def test_a_snapshot_of_yesterday_is_not_taken_up_from_a_run_that_failed(world: World) -> None:
    enrolled(world)
    snapshot = image(world, ("s1", "L1DROI"))

    def fail() -> None:
        raise ConnectionError

    with pytest.raises(ConnectionError):
        night(world, snapshot, meanwhile=fail)
    world.now += 24 * HOUR
    why = Refusal(snapshot_id=snapshot.id, fault=SnapshotFault.NOT_NEWER, sentence="it was accepted already")
    assert night(world, SnapshotRefused("nothing newer", refusals=[why])).state is RunState.REFUSED


def test_gaps_that_an_earlier_run_had_to_leave_are_waited_for(build: Build) -> None:
    world = build(platform(), platform("collegium"))
    for moodle in world.moodles.values():
        moodle.add_users((f"s{number}", "") for number in range(1, 6))
    enrolled(world)
    snapshot = image(world, ("s1", "L1DROI"))
    world.moodles["collegium"].fault = Fault.PHP_DOWN
    assert night(world, snapshot).state is RunState.PARTIAL
    world.moodles["collegium"].fault = None
    report = night(world)
    assert report.state is RunState.DONE
    assert of(report, "collegium").removed == 1
    assert world.members("collegium") == world.truth()


def test_a_night_has_one_run(world: World) -> None:
    enrolled(world)
    night(world, name="2026-11-25")
    again = Runs(world.ledger, "night:3:b", lease=900, is_dead=lambda _: False)
    assert again.begin(world.now, night="2026-11-25") is None
    assert again.begin(world.now, night="2026-11-26") is not None


# --- The guard and what a person decides ---


@pytest.fixture
def guarded(build: Build) -> World:
    """Twenty members of one cohort, of which at most four may leave without a person's approval; five of another."""
    world = build(guard=GUARDED)
    world.accounts(*(f"s{number}" for number in range(1, 31)))
    enrolled(world, 20)
    for number in range(21, 26):
        world.enrol(f"s{number}", "M1PHY")
    world.wait(COALESCE)
    world.now += 3600
    return world


def held(world: World) -> proposals.PlannedCohort:
    """What is held, as it is shown to a person."""
    with world.ledger.write() as connection:
        found = proposals.planned(connection, "ecampus", world.guard, world.now)
        (cohort,) = [cohort for cohort in found.cohorts if cohort.held is not None]
        decisions.show(connection, "ecampus", cohort.pairs, world.now)
    return cohort


def departed(world: World, last: int) -> Report:
    report = night(world, image(world, *((f"s{number}", "L1DROI") for number in range(1, last + 1))))
    world.wait(REMOVAL_DELAY)
    return report


def test_a_few_departures_pass_and_the_guard_says_what_it_saw(guarded: World) -> None:
    report = departed(guarded, 4)
    assert guarded.members() == guarded.truth()
    guard = of(report).guard
    assert guard is not None
    assert (guard.memberships, guard.removed, guard.held) == (25, 4, 0)
    assert (guard.worst_cohort, guard.worst_percent) == ("L1DROI", 20.0)


def test_too_many_departures_are_held_while_everything_else_goes_on(guarded: World) -> None:
    guarded.enrolled["s30", "L1DROI"] = True
    guarded.resign("s21", "M1PHY")
    guarded.now += 1
    report = departed(guarded, 5)
    assert of(report).held == 5
    members = guarded.members()
    assert members["L1DROI"] == {f"s{number}" for number in [*range(1, 21), 30]}
    assert members["M1PHY"] == {"s22", "s23", "s24", "s25"}
    assert guarded.gaps() == {"held": 5}
    guarded.days_later(3)
    assert guarded.gaps() == {"held": 5}  # they wait for a person, not for time


def test_messages_are_guarded_as_snapshots_are(guarded: World) -> None:
    for number in range(1, 10):
        guarded.resign(f"s{number}", "L1DROI")
    guarded.wait(REMOVAL_DELAY)
    assert guarded.gaps() == {"held": 9}


def test_departures_one_by_one_are_counted_over_a_day(guarded: World) -> None:
    for number in range(1, 7):
        guarded.resign(f"s{number}", "L1DROI")
        guarded.wait(REMOVAL_DELAY)
    assert len(guarded.applied("remove")) == 4
    assert guarded.gaps() == {"held": 2}


def test_many_small_departures_are_held_by_the_limit_of_the_platform(build: Build) -> None:
    guard = Guard(limits=GuardLimits(cohort_percent=50, platform_percent=10, floor=1))
    world = build(guard=guard)
    world.accounts(*(f"s{number}" for number in range(1, 21)))
    for number in range(1, 21):
        world.enrol(f"s{number}", f"E{number % 5}")
    world.wait(COALESCE)
    world.now += 3600
    report = night(world, image(world, *((f"s{number}", f"E{number}") for number in range(1, 4))))
    world.wait(REMOVAL_DELAY)
    assert of(report).held == 3
    assert world.applied("remove") == []  # seen whole, before any of them


def test_approving_lets_exactly_what_was_shown_be_done(guarded: World) -> None:
    departed(guarded, 5)
    cohort = held(guarded)
    assert cohort.hash is not None
    decisions.approve(guarded.ledger, cohort.hash, by="eve", now=guarded.now)
    guarded.resign("s6", "L1DROI")  # by itself: what was approved doesn't count
    guarded.wait(REMOVAL_DELAY)
    assert guarded.members() == guarded.truth()
    decision = [entry for entry in journal(guarded) if entry[0] == "approve"]
    assert decision == [("approve", "5 members, by eve")]


def journal(world: World) -> list[tuple[str, str]]:
    with world.ledger.read() as connection:
        rows = connection.execute(sa.select(schema.journal).order_by(schema.journal.c.id))
        return [(row.action, row.detail) for row in rows if row.action in {"approve", "reject", "undo"}]


def test_an_approval_of_something_else_is_refused_and_says_what_changed(guarded: World) -> None:
    departed(guarded, 5)
    cohort = held(guarded)
    guarded.resign("s6", "L1DROI")
    guarded.enrol("s1", "L1DROI")
    assert cohort.hash is not None
    with pytest.raises(DecisionRefused, match=r"1 more \(L1DROI\), 1 no longer to be made \(L1DROI\)"):
        decisions.approve(guarded.ledger, cohort.hash, by="eve", now=guarded.now)
    with pytest.raises(DecisionRefused, match="nothing was shown under this hash"):
        decisions.approve(guarded.ledger, "00000000", by="eve", now=guarded.now)
    guarded.wait(REMOVAL_DELAY)
    assert guarded.applied("remove") == [("L1DROI", "s6")], "one, by another source"


def test_an_approval_expires(guarded: World) -> None:
    departed(guarded, 5)
    cohort = held(guarded)
    guarded.moodle.fault = Fault.PHP_DOWN
    assert cohort.hash is not None
    decisions.approve(guarded.ledger, cohort.hash, by="eve", now=guarded.now)
    guarded.wait(25 * 3600)
    guarded.moodle.fault = None
    guarded.days_later(1)
    assert guarded.gaps() == {"held": 5}
    assert guarded.applied("remove") == []


def test_rejecting_keeps_the_members_until_their_enrolments_change_again(guarded: World) -> None:
    departed(guarded, 5)
    cohort = held(guarded)
    assert cohort.hash is not None
    decisions.reject(guarded.ledger, cohort.hash, by="eve", now=guarded.now)
    guarded.now += 3600
    night(guarded, image(guarded))  # says again that they are absent: that is known
    guarded.wait(REMOVAL_DELAY)
    assert guarded.gaps() == {}
    assert {f"s{number}" for number in range(1, 6)} <= guarded.members()["L1DROI"]
    guarded.enrol("s1", "L1DROI")
    guarded.a_minute_later()
    guarded.resign("s1", "L1DROI")
    guarded.wait(REMOVAL_DELAY)
    assert "s1" not in guarded.members()["L1DROI"]


def test_undoing_a_run_puts_back_whom_it_removed_and_the_next_minute_does_not_undo_that(guarded: World) -> None:
    report = departed(guarded, 3)
    assert len(guarded.members()["L1DROI"]) == 17
    decision = decisions.undo(guarded.ledger, str(report.run), by="eve", now=guarded.now)
    assert decision.memberships == 3
    guarded.a_minute_later()
    guarded.restart()
    guarded.days_later(2)
    assert len(guarded.members()["L1DROI"]) == 20
    guarded.enrol("s1", "M1PHY")  # a message about something else
    guarded.wait(REMOVAL_DELAY)
    assert len(guarded.members()["L1DROI"]) == 20


def test_after_an_undo_a_newer_snapshot_or_message_has_the_last_word(guarded: World) -> None:
    report = departed(guarded, 3)
    decisions.undo(guarded.ledger, str(report.run), by="eve", now=guarded.now)
    guarded.a_minute_later()
    guarded.resign("s1", "L1DROI")
    guarded.wait(REMOVAL_DELAY)
    assert "s1" not in guarded.members()["L1DROI"]
    assert "s2" in guarded.members()["L1DROI"]
    guarded.now += 25 * 3600
    night(guarded, image(guarded))
    guarded.wait(REMOVAL_DELAY)
    assert guarded.members() == guarded.truth()


def test_an_approved_plan_is_undone_by_its_hash(guarded: World) -> None:
    departed(guarded, 8)
    cohort = held(guarded)
    assert cohort.hash is not None
    decisions.approve(guarded.ledger, cohort.hash, by="eve", now=guarded.now)
    guarded.a_minute_later()
    assert len(guarded.members()["L1DROI"]) == 12
    decisions.undo(guarded.ledger, cohort.hash, by="eve", now=guarded.now)
    guarded.a_minute_later()
    assert len(guarded.members()["L1DROI"]) == 20
    with pytest.raises(DecisionRefused, match="nothing to undo"):
        decisions.undo(guarded.ledger, cohort.hash, by="eve", now=guarded.now)


def test_a_guard_that_is_off_holds_nothing_and_says_so(build: Build) -> None:
    world = build(guard=Guard(enabled=False))
    world.accounts(*(f"s{number}" for number in range(1, 21)))
    enrolled(world, 20)
    report = departed(world, 15)
    assert world.members() == world.truth()
    guard = of(report).guard
    assert guard is not None
    assert not guard.enabled
    assert world.status().state is PlatformState.UP
    assert TOKEN not in str(report)
    assert status.applied(world.ledger, "ecampus", "remove")


def test_whom_a_snapshot_confirms_after_an_undo_is_desired_because_it_says_so(guarded: World) -> None:
    report = departed(guarded, 3)
    decisions.undo(guarded.ledger, str(report.run), by="eve", now=guarded.now)
    guarded.a_minute_later()
    guarded.enrolled["s1", "L1DROI"] = True
    guarded.now += 3600
    night(guarded, image(guarded))
    of_s1 = sa.select(schema.membership).where(schema.membership.c.student_id == "s1")
    with guarded.ledger.read() as connection:
        row = connection.execute(of_s1).one()
    assert (row.desired, row.cause, row.kept) == (True, "active", None)
