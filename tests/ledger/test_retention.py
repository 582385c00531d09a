"""What the ledger forgets, and that nobody's place depends on it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from tests.support import scenes
from tests.support.builders import (
    ETAPE,
    NOW,
    POLICY,
    STUDENT,
    UAI,
    memberships,
    merged,
    numbered,
    recorder,
    told,
    workbook,
)
from tests.support.scenes import DAY, FORMER, HOUR, OTHER, Scene, Setup
from worker.domain.accounts import FoundAccount
from worker.domain.changes import (
    EnrolmentChange,
    EtapeChange,
    NumberChange,
    PersonEnrolled,
    Received,
)
from worker.domain.directory import KnownEntry
from worker.domain.errors import DecisionRefused, StudentPresent
from worker.domain.guard import Guard
from worker.domain.report import Report
from worker.domain.rules import Policy
from worker.domain.snapshots import Snapshot, SnapshotScope, Unknown
from worker.domain.states import Action, RunState, Status
from worker.formats import cloudevents
from worker.ledger import Ledger, decisions, guard, retention, runs, status
from worker.ledger.directory_state import DirectoryState
from worker.ledger.retention import ERASED, Removed
from worker.ledger.runs import Runs
from worker.ledger.schema import enrolment, journal, membership, merge, metadata, person, proposal, snapshot
from worker.ledger.status import read_status
from worker.sandbox.university.generator import University
from worker.sandbox.university.records import Message

YEAR = 366 * DAY
LATER = NOW + 4 * YEAR
CLOSED = replace(POLICY, active_years=frozenset({2030}))
"""The policy at that time."""
LOGIN, MATHS = "exemple", "2026:104233:XMATH1:101:1"
NOTHING = Removed(numbers=0, enrolments=0, memberships=0, accounts=0, journal=0, proposals=0)


def traces(ledger: Ledger, *words: str) -> list[str]:
    """Give the columns of any table whose text or number holds one of the words."""
    with ledger.read() as connection:
        return [
            f"{table.name}.{name}"
            for table in metadata.sorted_tables
            for row in connection.execute(sa.select(table)).mappings()
            for name, value in row.items()
            if any(word in str(value) for word in words)
        ]


def purge(ledger: Ledger, *, at: float = LATER, policy: Policy = CLOSED, dry_run: bool = False) -> Removed:
    """Forget what is older than a year."""
    return retention.purge(ledger, policy, journal_before=at - YEAR, gone_before=at - YEAR, dry_run=dry_run)


def lasting(ledger: Ledger) -> set[tuple[Any, ...]]:
    """Give every membership that is desired, or that Moodle may show, with all that a gap or a decision waits for."""
    there = sa.or_(membership.c.desired, membership.c.observed.is_distinct_from(sa.false()))
    with ledger.read() as connection:
        return {tuple(row) for row in connection.execute(sa.select(membership).where(there))}


def rows(ledger: Ledger, table: sa.Table) -> list[Any]:
    with ledger.read() as connection:
        return list(connection.execute(sa.select(table).order_by(*table.primary_key)).all())


def image(scene: Scene, unknown: Unknown) -> None:
    """Accept a snapshot that could not tell something, of étapes that nobody is in."""
    scope = SnapshotScope(uais=frozenset({UAI}), academic_years=frozenset({2026}), etapes=("NOWHERE",))
    taken = Snapshot(id="night", taken_at=scene.now, system="apogee", scope=scope, rows=[], unknown=unknown)
    recorder(scene.ledger).record_snapshot(taken, run=1, now=scene.now)


def show(scene: Scene, *numbers: str) -> str:
    """Be shown the removals of these students."""
    with scene.ledger.write() as connection:
        pairs = connection.execute(sa.select(membership.c.cohort_id, membership.c.student_id)).all()
        name = decisions.show(connection, "ecampus", [(of, who) for of, who in pairs if who in numbers], scene.now)
    assert name is not None
    return name


def entry(uuid: str, number: str, *, gone: bool = False, rows: str = "[]") -> KnownEntry:
    """Give an entry of a watched directory, as it was told last."""
    return KnownEntry(uuid=uuid, csn="20260901000000Z", terms="", student_id=number, rows=rows, version=1, gone=gone)


def departed(scene: Scene) -> None:
    """Have a student with two numbers, a login and every kind of trace leave, and another stay."""
    maths = told(student_id=FORMER, enrolment_id=MATHS, etape="XMATH1")
    stays = told(student_id=OTHER, enrolment_id="9", login="autre")
    scene.tell(
        told(login=LOGIN),
        maths,
        stays,
        merged(FORMER, STUDENT),
        numbered(104233, STUDENT, version=1),
        numbered(7, OTHER, version=1),
    )
    DirectoryState(scene.ledger, "ldap").write([entry("A", STUDENT, gone=True), entry("B", OTHER), entry("C", FORMER)])
    scene.settle()
    accounts = {STUDENT: int(STUDENT), LOGIN: int(STUDENT), OTHER: int(OTHER)}
    found = {key: FoundAccount(user_id=user_id) for key, user_id in accounts.items()}
    workbook(scene.ledger).accounts.remember(found, NOW)
    image(scene, Unknown(students=frozenset({STUDENT, "29900077"}), enrolments=frozenset({told().enrolment_id})))
    scene.now += HOUR
    over: dict[str, Any] = {"version": 2, "changed_at": scene.now, "status": Status.RESIGNED}
    scene.tell(told(**over), maths._replace(**over))
    decisions.approve(scene.ledger, show(scene, STUDENT), by="cemu", now=scene.now)
    scene.settle()
    assert lasting(scene.ledger) == lasting_of(scene.ledger, OTHER)


def lasting_of(ledger: Ledger, number: str) -> set[tuple[Any, ...]]:
    return {row for row in lasting(ledger) if number in row}


# Purging


def test_of_a_student_gone_for_longer_than_the_period_nothing_is_left_in_any_table(ledger: Ledger) -> None:
    scene = Scene(ledger)
    departed(scene)
    assert {of.partition(".")[0] for of in traces(ledger, STUDENT, FORMER, LOGIN)} == {
        "enrolment", "student", "person", "merge", "watched", "membership", "account", "journal", "proposal",
        "snapshot",
    }  # fmt: skip
    removed = purge(ledger)
    assert (removed.numbers, removed.enrolments, removed.memberships) == (2, 2, 2)
    assert (removed.accounts, removed.proposals) == (2, 1)
    assert traces(ledger, STUDENT, FORMER, LOGIN) == []
    assert memberships(ledger).keys() == {(ETAPE, OTHER)}
    assert status.logins(ledger) == {OTHER: "autre"}
    assert "account.key" in traces(ledger, OTHER)


def test_nothing_is_forgotten_before_the_period_is_over(ledger: Ledger) -> None:
    scene = Scene(ledger)
    departed(scene)
    tables = [table for table in metadata.sorted_tables if table.name != "account"]  # a cache
    before = [rows(ledger, table) for table in tables]
    assert purge(ledger, at=NOW + YEAR).numbers == 0
    assert [rows(ledger, table) for table in tables] == before


def test_a_dry_run_counts_the_same_and_changes_nothing(ledger: Ledger) -> None:
    departed(Scene(ledger))
    before = [rows(ledger, table) for table in metadata.sorted_tables]
    counted = purge(ledger, dry_run=True)
    assert [rows(ledger, table) for table in metadata.sorted_tables] == before
    assert purge(ledger) == counted
    assert purge(ledger) == NOTHING


@pytest.mark.parametrize("status", [Status.ACTIVE, Status.PENDING])
def test_an_enrolment_that_is_not_over_keeps_a_student_however_old_it_is(ledger: Ledger, status: Status) -> None:
    scene = Scene(ledger)
    scene.policy = replace(POLICY, exclude_etapes=(ETAPE,))  # it leads nowhere, today
    scene.tell(told(status=status))
    assert purge(ledger, policy=scene.policy).numbers == 0
    assert len(rows(ledger, enrolment)) == 1


def test_a_student_of_a_closed_year_is_kept_for_the_period_after_its_end(ledger: Ledger) -> None:
    scene = Scene(ledger)
    scene.policy = replace(POLICY, exclude_etapes=(ETAPE,))
    scene.tell(told())
    september_2027 = 1_819_756_800.0  # the first, at midnight
    assert purge(ledger, at=september_2027 + YEAR - DAY).numbers == 0
    assert purge(ledger, at=september_2027 + YEAR + DAY).numbers == 1


def test_a_merged_number_stays_with_its_survivor(ledger: Ledger) -> None:
    scene = Scene(ledger)
    scene.tell(told(), merged(FORMER, STUDENT))
    scene.settle()
    assert purge(ledger, policy=POLICY).numbers == 0
    assert traces(ledger, FORMER) != []


def test_a_student_of_whom_a_recent_snapshot_could_not_tell_is_kept(ledger: Ledger) -> None:
    scene = Scene(ledger)
    departed(scene)
    scene.now = LATER - DAY
    image(scene, Unknown(enrolments=frozenset({MATHS})))
    assert purge(ledger).numbers == 0
    assert traces(ledger, FORMER) != []


def test_a_student_whom_a_watched_directory_still_enrols_is_kept(ledger: Ledger) -> None:
    scene = Scene(ledger)
    departed(scene)
    said = f'[{{"student": {{"student_id": "{FORMER}"}}}}]'
    DirectoryState(ledger, "ldap").write([entry("C", FORMER, rows=said)])
    assert purge(ledger).numbers == 0
    DirectoryState(ledger, "ldap").write([entry("C", FORMER, rows=said, gone=True)])
    assert purge(ledger).numbers == 2
    assert traces(ledger, FORMER) == []


def test_what_was_overruled_by_a_student_who_is_gone_does_not_become_the_last_word(ledger: Ledger) -> None:
    scene = Scene(ledger)
    scene.tell(told(student_id=OTHER, enrolment_id="9", changed_at=NOW - YEAR))
    scene.tell(told(student_id=STUDENT, enrolment_id="9", system="supann", status=Status.RESIGNED))
    before = status.desired(ledger, "ecampus")
    assert before == {}
    removed = purge(ledger, policy=POLICY)
    assert removed.numbers > 0
    recorder(ledger, replace(POLICY, exclude_etapes=("NONE",))).apply_policy(now=LATER)
    assert status.desired(ledger, "ecampus") == before


@pytest.mark.parametrize(
    "setup",
    [
        scenes.a_member, scenes.ended(Status.RESIGNED), scenes.resigned_and_removed, scenes.deleted_at_the_source,
        scenes.merged_after_having_joined, scenes.merged_and_reversed, scenes.another_source_names_another_student,
        scenes.the_enrolment_was_given_another_number, scenes.looked_up_and_not_found, scenes.an_adopted_cohort,
        scenes.a_cohort_made_by_hand, scenes.only_observed, scenes.a_class_leaves, scenes.approved,
        scenes.approved_and_removed, scenes.rejected, scenes.rejected_and_enrolled_again, scenes.undone,
        scenes.removal_timed_out, scenes.in_a_call_now, scenes.a_year_that_was_closed, scenes.absent_from_the_snapshot,
        scenes.drifted(desired=True), scenes.drifted(desired=False),
    ],
    ids=lambda setup: getattr(setup, "__qualname__", "").partition(".")[0],
)  # fmt: skip
def test_purging_changes_no_desired_state_and_no_gap(ledger: Ledger, setup: Setup) -> None:
    scene = Scene(ledger)
    setup(scene)
    before, stood = lasting(ledger), read_status(ledger, ["ecampus"], scene.now).platforms
    purge(ledger, at=scene.now + 4 * YEAR, policy=scene.policy)
    assert lasting(ledger) == before
    assert read_status(ledger, ["ecampus"], scene.now).platforms == stood
    desired = status.desired(ledger, "ecampus")
    recorder(ledger, replace(scene.policy, exclude_etapes=("NONE",))).apply_policy(now=scene.now)
    assert status.desired(ledger, "ecampus") == desired


def told_by(message: Message, origin: str) -> Received:
    change = cloudevents.parse(value=message.payload(), origin=origin)
    assert isinstance(change, EnrolmentChange | EtapeChange | NumberChange)
    return Received(change=change, published_at=change.changed_at)


@pytest.mark.parametrize("seed", range(3))
def test_a_university_forgets_those_who_left_and_nobody_else_and_a_replay_brings_nobody_back(
    ledger: Ledger, seed: int
) -> None:
    university = University(seed=seed, students=150, etapes=15)
    policy = replace(POLICY, active_years=frozenset({university.year}))
    stream = [*university.initial(), *university.september_day(150)]
    batch = [told_by(message, f"enrolments[0]@{offset}") for offset, message in enumerate(stream)]
    scene = Scene(ledger)
    scene.policy = policy
    scene.now = max(item.published_at for item in batch)
    writer = recorder(ledger, policy)
    for start in range(0, len(batch), 50):
        writer.record(batch[start : start + 50], now=scene.now)
        if start % 200 == 0:
            scene.settle()  # so that some had their place before they left
    scene.settle()
    before = lasting(ledger)
    removed = purge(ledger, at=scene.now + YEAR + DAY, policy=policy)
    assert removed.numbers > 0
    assert lasting(ledger) == before
    wanted = status.desired(ledger, "ecampus")
    assert wanted == university.truth()
    known = {row.student_id for row in rows(ledger, enrolment)}
    assert {number for numbers in wanted.values() for number in numbers} <= known
    for start in range(0, len(batch), 50):  # the topic, from its beginning
        writer.record(batch[start : start + 50], now=scene.now + YEAR + 2 * DAY)
    assert status.desired(ledger, "ecampus") == wanted
    assert purge(ledger, at=scene.now + YEAR + 3 * DAY, policy=policy).numbers == removed.numbers
    assert {row.student_id for row in rows(ledger, enrolment)} == known


def test_the_journal_of_an_open_gap_and_of_a_kept_decision_stays(ledger: Ledger) -> None:
    scene = Scene(ledger)
    scenes.rejected(scene)
    scene.tell(told(student_id=OTHER, enrolment_id="9"))
    scene.settle()
    scene.now += HOUR
    scene.tell(told(student_id=OTHER, enrolment_id="9", version=2, changed_at=scene.now, status=Status.RESIGNED))
    purge(ledger, policy=scene.policy)
    left = rows(ledger, journal)
    assert {row.action for row in left} == {Action.ADD, Action.REJECT}
    assert (OTHER in {row.student_id for row in left}) is True
    assert [row.verdict for row in rows(ledger, proposal)] == ["reject"]


def test_reports_go_and_the_last_of_each_end_stays_so_that_numbers_are_not_used_again(ledger: Ledger) -> None:
    book = Runs(ledger, "host:1:a", lease=60, is_dead=lambda _: False)
    for day, state in enumerate([RunState.DONE, RunState.DONE, RunState.REFUSED, RunState.REFUSED]):
        at = NOW + day * DAY
        number = book.begin(at)
        assert number is not None
        book.end(Report(run=number, state=state, night=None, started_at=at, ended_at=at + 60))
    ends = runs.last_ends(ledger)
    assert purge(ledger).runs == 2
    assert [each.id for each in runs.listed(ledger, most=9)] == [4, 2]
    assert runs.last_ends(ledger) == ends
    assert book.begin(LATER) == 5


def test_accepted_snapshots_are_remembered_and_whom_they_could_not_tell_is_not(ledger: Ledger) -> None:
    scene = Scene(ledger)
    image(scene, Unknown(students=frozenset({STUDENT}), enrolments=frozenset({MATHS})))
    purge(ledger)
    assert traces(ledger, STUDENT, MATHS) == []
    [row] = rows(ledger, snapshot)
    assert (row.id, row.taken_at) == ("night", NOW)


@pytest.mark.parametrize(("status", "left"), [(Status.ACTIVE, 1), (Status.RESIGNED, 0)])
def test_an_enrolment_that_waits_for_a_number_goes_when_it_is_over(ledger: Ledger, status: Status, left: int) -> None:
    scene = Scene(ledger)
    scene.tell(PersonEnrolled(person=8, enrolment=told(student_id="", status=status)))
    assert purge(ledger, policy=POLICY).enrolments == 1 - left
    assert len(rows(ledger, enrolment)) == left


def test_a_person_who_never_had_a_number_goes_when_that_was_said_long_ago(ledger: Ledger) -> None:
    scene = Scene(ledger)
    scene.tell(numbered(1, "", version=1), numbered(2, "", version=2), numbered(2, FORMER, version=1))
    scene.tell(told(student_id=FORMER))
    purge(ledger, policy=POLICY)
    assert {row.cod_ind for row in rows(ledger, person)} == {2}


def test_a_number_that_another_person_has_by_now_goes_with_that_person(ledger: Ledger) -> None:
    scene = Scene(ledger)
    scene.tell(numbered(1, "60", version=1), numbered(1, "61", version=2), numbered(2, "60", version=3))
    erase(ledger, "60")
    assert [(row.cod_ind, row.student_id) for row in rows(ledger, person)] == [(1, "61")]
    assert rows(ledger, merge) == []


# Erasing


def erase(ledger: Ledger, number: str, *, at: float = NOW + DAY, dry_run: bool = False) -> Removed:
    return retention.erase(ledger, POLICY, number, now=at, dry_run=dry_run)


@pytest.mark.parametrize("number", [STUDENT, FORMER])
def test_a_person_is_erased_by_any_of_their_numbers_and_what_was_counted_of_them_stays(
    ledger: Ledger, number: str
) -> None:
    scene = Scene(ledger)
    departed(scene)
    entries = len(rows(ledger, journal))
    with ledger.read() as connection:
        seen = guard.judged(connection, "ecampus", Guard(), scene.now)
    counted = erase(ledger, number, dry_run=True)
    assert traces(ledger, STUDENT) != []
    assert erase(ledger, number) == counted
    assert (counted.numbers, counted.enrolments, counted.memberships) == (2, 2, 2)
    assert traces(ledger, STUDENT, FORMER, LOGIN, told().enrolment_id, MATHS) == []
    left = rows(ledger, journal)
    assert len(left) == entries
    assert {row.student_id for row in left} == {ERASED, OTHER, None}
    assert all(row.user_id is row.origin is None for row in left if row.student_id == ERASED)
    with ledger.read() as connection:
        assert guard.judged(connection, "ecampus", Guard(), scene.now) == seen
    assert memberships(ledger).keys() == {(ETAPE, OTHER)}
    assert erase(ledger, number) == NOTHING


def test_nothing_of_an_erased_person_is_left_in_the_file(tmp_path: Path) -> None:
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    departed(Scene(ledger))
    erase(ledger, STUDENT)
    written = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert OTHER.encode() in written
    assert [word for word in (STUDENT, FORMER, LOGIN) if word.encode() in written] == []
    ledger.close()


@pytest.mark.parametrize(
    ("setup", "sentence"),
    [
        (scenes.a_member, "academic year 2026"),
        (scenes.ended(Status.RESIGNED), "in 1 cohorts"),
        (scenes.a_class_leaves, "in 1 cohorts"),
        (scenes.removal_timed_out, "in 1 cohorts"),
    ],
    ids=["enrolled", "leaving", "held", "unsure"],
)
def test_who_is_enrolled_or_in_a_cohort_is_not_erased(ledger: Ledger, setup: Setup, sentence: str) -> None:
    scene = Scene(ledger)
    setup(scene)
    before = [rows(ledger, table) for table in metadata.sorted_tables]
    with pytest.raises(StudentPresent, match=sentence) as refused:
        erase(ledger, STUDENT, at=scene.now)
    assert STUDENT not in str(refused.value)
    assert [rows(ledger, table) for table in metadata.sorted_tables] == before


@pytest.mark.parametrize("decided", [scenes.rejected, scenes.undone])
def test_whom_only_a_decision_has_kept_leaves_when_they_are_to_be_erased(ledger: Ledger, decided: Setup) -> None:
    scene = Scene(ledger)
    decided(scene)
    scene.settle()
    others = lasting(ledger) - lasting_of(ledger, STUDENT)
    with pytest.raises(StudentPresent, match=r"in 1 cohorts \(1 of them by a decision, which would end now"):
        erase(ledger, STUDENT, at=scene.now, dry_run=True)
    assert STUDENT in status.desired(ledger, "ecampus")[ETAPE]
    with pytest.raises(StudentPresent, match="which has ended now"):
        erase(ledger, STUDENT, at=scene.now)
    assert STUDENT not in status.desired(ledger, "ecampus")[ETAPE]
    scene.settle(guard=Guard())
    assert STUDENT not in status.observed(ledger, "ecampus")[ETAPE]
    erase(ledger, STUDENT, at=scene.now)
    assert traces(ledger, STUDENT) == []
    assert lasting(ledger) == others


def test_an_approval_of_removals_of_somebody_who_was_erased_is_refused(ledger: Ledger) -> None:
    scene = Scene(ledger)
    scene.tell(told(), told(student_id=OTHER, enrolment_id="9"))
    scene.settle()
    scene.now += HOUR
    gone: dict[str, Any] = {"version": 2, "changed_at": scene.now, "status": Status.RESIGNED}
    scene.tell(told(**gone), told(student_id=OTHER, enrolment_id="9", **gone))
    name = show(scene, STUDENT, OTHER)
    scene.settle()
    erase(ledger, STUDENT)
    assert traces(ledger, STUDENT) == []
    with pytest.raises(DecisionRefused, match=f"no longer to be made \\({ETAPE}\\)"):
        decisions.approve(ledger, name, by="cemu", now=scene.now)


def test_who_was_erased_comes_back_only_with_newer_word_of_the_source(ledger: Ledger) -> None:
    scene = Scene(ledger)
    departed(scene)
    scene.now += HOUR
    scene.image(told(student_id=OTHER, enrolment_id="9"))
    erase(ledger, STUDENT)
    scene.tell(told(version=9))  # a replay, of what was so before the snapshot
    assert traces(ledger, STUDENT) == []
    scene.now += HOUR
    scene.tell(told(version=10, changed_at=scene.now))
    assert STUDENT in status.desired(ledger, "ecampus")[ETAPE]
