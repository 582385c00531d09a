"""A snapshot overrules what was known at its instant, absence included, and nothing that was learnt later.

The last part is a model that knows the true order of everything: whatever comes late, twice or never, it desires the
same as the ledger.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from random import Random

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.builders import (
    ETAPE,
    FOREIGN_UAI,
    NOW,
    POLICY,
    STUDENT,
    UAI,
    content,
    deleted,
    described,
    memberships,
    merged,
    names,
    received,
    recorder,
    told,
)
from tests.support.properties import MANY
from worker.domain.changes import Change, EnrolmentChange, Received
from worker.domain.instants import Instant
from worker.domain.rules import CohortTemplate, Mode, PlatformPolicy, Policy
from worker.domain.snapshots import AcceptedSnapshot, Snapshot, SnapshotScope, Unknown
from worker.domain.states import Payment, Status
from worker.ledger import Ledger, status
from worker.ledger.recorder import SnapshotCounts
from worker.ledger.schema import enrolment, journal, metadata, snapshot

OTHER, THIRD = "29900002", "29900003"
SCOPE = SnapshotScope(uais=frozenset({UAI}), academic_years=frozenset({2026}))
TAKEN_AT = NOW + 100
RUN = 7
MEMBER = {ETAPE: frozenset({STUDENT})}


def image(
    *rows: EnrolmentChange,
    at: Instant = TAKEN_AT,
    scope: SnapshotScope = SCOPE,
    system: str = "apogee",
    name: str | None = None,
    unknown: Unknown = Unknown(),  # noqa: B008 - frozen
) -> Snapshot:
    """Take a snapshot that holds these enrolments, as the reader gives it."""
    name = name or f"S{at:.0f}"
    numbered = [
        row._replace(system=system, version=0, changed_at=at, origin=f"snapshot {name}[0]#{number}")
        for number, row in enumerate(rows)
    ]
    return Snapshot(id=name, taken_at=at, system=system, scope=scope, rows=numbered, unknown=unknown)


def record(ledger: Ledger, *changes: Change | Snapshot, policy: Policy = POLICY) -> None:
    """Record messages and snapshots, each in a transaction of its own."""
    for what in changes:
        if isinstance(what, Snapshot):
            snap(ledger, what, policy=policy)
        else:
            recorder(ledger, policy).record([Received(change=what, published_at=NOW)], now=NOW)


def snap(ledger: Ledger, taken: Snapshot, *, policy: Policy = POLICY, run: int = RUN) -> SnapshotCounts:
    return recorder(ledger, policy).record_snapshot(taken, run=run, now=taken.taken_at + 60)


def desired(ledger: Ledger) -> dict[str, frozenset[str]]:
    return status.desired(ledger, "ecampus")


def facts(ledger: Ledger) -> dict[tuple[str, str], str]:
    """Return the status of each enrolment, by its id and system."""
    with ledger.read() as connection:
        rows = connection.execute(sa.select(enrolment)).all()
    return {(row.enrolment_id, row.system): row.status for row in rows}


# Its rows

PER_COMPONENT = PlatformPolicy(
    name="ecampus", mode=Mode.AUTOMATIC, templates=(CohortTemplate(idnumber="C-{component}", name="{component}"),)
)
FACULTIES = replace(POLICY, platforms=(PER_COMPONENT,))


def causes(ledger: Ledger) -> dict[str, tuple[bool, str, str]]:
    """Return by cohort whether the student is to be in it, and why."""
    return {cohort: (row.desired, row.cause, row.origin) for (cohort, _), row in memberships(ledger).items()}


@pytest.mark.parametrize("known", [(), (told(enrolment_id="2", etape="XMED1", component="OLD"),)])
def test_a_cohort_of_several_etapes_is_joined_because_of_a_row_and_left_because_of_absence(
    ledger: Ledger, known: Sequence[EnrolmentChange]
) -> None:
    record(ledger, told(), *known, policy=FACULTIES)
    record(ledger, image(told(enrolment_id="2", etape="XMED1", component="MED")), policy=FACULTIES)
    assert causes(ledger)["C-MED"] == (True, Status.ACTIVE, f"snapshot S{TAKEN_AT:.0f}[0]#0")
    assert causes(ledger)["C-U99"] == (False, Status.ABSENT, f"snapshot S{TAKEN_AT:.0f}")


LEFT = told(version=2, status=Status.RESIGNED, origin="left")
JOINED = told(enrolment_id="2", etape="XMED1", component="MED", origin="joined")


@pytest.mark.parametrize("batch", [(LEFT, JOINED), (JOINED, LEFT)])
def test_a_cohort_of_several_etapes_is_joined_and_left_because_of_the_message_about_it(
    ledger: Ledger, batch: Sequence[EnrolmentChange]
) -> None:
    record(ledger, told(), policy=FACULTIES)
    recorder(ledger, FACULTIES).record(received(*batch), now=NOW)
    assert causes(ledger)["C-MED"] == (True, Status.ACTIVE, "joined")
    assert causes(ledger)["C-U99"] == (False, Status.RESIGNED, "left")


def test_a_row_of_which_no_message_told_makes_a_membership(ledger: Ledger) -> None:
    assert snap(ledger, image(told())) == SnapshotCounts(applied=1, ended=0, memberships=1)
    assert desired(ledger) == MEMBER


def test_a_row_overrules_every_older_fact(ledger: Ledger) -> None:
    record(ledger, told(version=900, status=Status.RESIGNED), told(enrolment_id="2", etape="OLD"))
    assert snap(ledger, image(told(), told(enrolment_id="2", etape="NEW"))) == SnapshotCounts(
        applied=2, ended=0, memberships=3
    )
    assert desired(ledger) == {ETAPE: frozenset({STUDENT}), "NEW": frozenset({STUDENT})}


def test_a_row_that_is_not_valid_ends_a_membership(ledger: Ledger) -> None:
    record(ledger, told(), image(told(status=Status.CANCELLED)))
    assert desired(ledger) == {}
    record(ledger, image(told(payment=Payment.DUE), at=TAKEN_AT + 1))
    assert desired(ledger) == {}
    record(ledger, image(told(), at=TAKEN_AT + 2))
    assert desired(ledger) == MEMBER


def test_a_row_of_another_student_takes_the_enrolment_from_the_first(ledger: Ledger) -> None:
    record(ledger, told(), image(told(student_id=OTHER)))
    assert desired(ledger) == {ETAPE: frozenset({OTHER})}


def test_a_row_brings_back_what_an_older_message_deleted(ledger: Ledger) -> None:
    record(ledger, told(), deleted(version=2), image(told()))
    assert desired(ledger) == MEMBER


def test_a_row_of_a_number_that_was_merged_since_is_the_survivor_s(ledger: Ledger) -> None:
    record(ledger, image(told()), merged(STUDENT, OTHER, at=TAKEN_AT + 1))
    assert desired(ledger) == {ETAPE: frozenset({OTHER})}


def test_a_row_of_a_number_that_was_merged_before_ends_that(ledger: Ledger) -> None:
    record(ledger, merged(STUDENT, OTHER), image(told()))
    assert desired(ledger) == MEMBER


def test_rows_tell_labels_and_logins_too(ledger: Ledger) -> None:
    row = told(etape_label="Licence 1", component_label="UFR des Sciences", login="exemple")
    record(ledger, image(row))
    assert names(ledger) == {ETAPE: "UFR des Sciences: Licence 1"}
    assert status.logins(ledger) == {STUDENT: "exemple"}


def test_labels_and_logins_that_were_learnt_later_stay(ledger: Ledger) -> None:
    later = TAKEN_AT + 1
    record(ledger, told(version=2, changed_at=later, login="new"))
    record(ledger, described("L1", etape_version="101", at=later, component="U99", component_label="Sciences"))
    record(ledger, image(told(login="old", etape_label="Licence 1", component_label="UFR")))
    assert status.logins(ledger) == {STUDENT: "new"}
    assert names(ledger) == {ETAPE: "Sciences: L1"}


# Absence


def test_an_enrolment_absent_from_a_snapshot_has_ended(ledger: Ledger) -> None:
    record(ledger, told(), told(enrolment_id="2", student_id=OTHER))
    assert snap(ledger, image(told(enrolment_id="2", student_id=OTHER))) == SnapshotCounts(
        applied=0, ended=1, memberships=1
    )
    assert desired(ledger) == {ETAPE: frozenset({OTHER})}
    assert facts(ledger)[told().enrolment_id, "apogee"] == Status.ABSENT


def test_an_absent_enrolment_may_come_back_by_a_later_message_or_snapshot(ledger: Ledger) -> None:
    record(ledger, told(), image(), told(version=2, changed_at=TAKEN_AT + 1))
    assert desired(ledger) == MEMBER
    record(ledger, image(at=TAKEN_AT + 2), image(told(), at=TAKEN_AT + 3))
    assert desired(ledger) == MEMBER


def test_absence_ends_what_any_system_said(ledger: Ledger) -> None:
    record(ledger, told(system="apogee"), told(system="supann", changed_at=NOW + 50))
    record(ledger, image(told(enrolment_id="2", student_id=OTHER)))
    assert desired(ledger) == {ETAPE: frozenset({OTHER})}
    assert set(facts(ledger).values()) == {Status.ABSENT, Status.ACTIVE}


ELSEWHERE = {
    "another year": told(academic_year=2025),
    "another university": told(uai=FOREIGN_UAI),
    "another étape": told(etape="XDROI1"),
}


@pytest.mark.parametrize("where", ELSEWHERE)
def test_an_enrolment_outside_the_scope_of_a_snapshot_goes_on(ledger: Ledger, where: str) -> None:
    outside = ELSEWHERE[where]
    policy = replace(POLICY, uais=frozenset({UAI, FOREIGN_UAI}), active_years=frozenset({2025, 2026}))
    assert outside.etape is not None
    record(ledger, outside, told(enrolment_id="2", student_id=OTHER), policy=policy)
    narrow = replace(SCOPE, etapes=("XINFO*", "XMATH?"))
    record(ledger, image(scope=narrow), policy=policy)
    assert desired(ledger) == {outside.etape: frozenset({STUDENT})}


def test_a_glob_says_which_etapes_a_snapshot_is_complete_for(ledger: Ledger) -> None:
    codes = ["XINFO1", "XINFO22", "XMATH1", "XMATH22", "YINFO1"]
    record(ledger, *(told(enrolment_id=code, etape=code) for code in codes))
    record(ledger, image(scope=replace(SCOPE, etapes=("XINFO*", "XMATH?"))))
    assert desired(ledger).keys() == {"XMATH22", "YINFO1"}


def test_a_deletion_that_does_not_say_its_etape_comes_too_late_for_a_part_that_holds_the_enrolment(
    ledger: Ledger,
) -> None:
    record(ledger, image(told(), scope=replace(SCOPE, etapes=(ETAPE,))), deleted(version=9, changed_at=TAKEN_AT - 1))
    assert desired(ledger) == MEMBER


def test_an_enrolment_whose_etape_nobody_told_is_only_absent_from_a_whole_snapshot(ledger: Ledger) -> None:
    bare = told()._replace(etape=None)
    record(ledger, bare, image(scope=replace(SCOPE, etapes=("*",))))
    assert set(facts(ledger).values()) == {Status.ACTIVE}
    record(ledger, image(at=TAKEN_AT + 1))
    assert set(facts(ledger).values()) == {Status.ABSENT}


UNKNOWN = [
    pytest.param(Unknown(students=frozenset({OTHER})), id="student"),
    pytest.param(Unknown(enrolments=frozenset({"2"})), id="enrolment"),
]


@pytest.mark.parametrize("unknown", UNKNOWN)
def test_what_the_source_could_not_tell_stays_as_it_was(ledger: Ledger, unknown: Unknown) -> None:
    record(ledger, told(), told(enrolment_id="2", student_id=OTHER), told(enrolment_id="3", student_id=THIRD))
    assert snap(ledger, image(told(), unknown=unknown)) == SnapshotCounts(applied=0, ended=1, memberships=1)
    assert desired(ledger) == {ETAPE: frozenset({STUDENT, OTHER})}


@pytest.mark.parametrize("unknown", UNKNOWN)
def test_a_late_message_about_what_the_source_could_not_tell_is_news(ledger: Ledger, unknown: Unknown) -> None:
    late = TAKEN_AT - 1
    record(ledger, image(told(), unknown=unknown))
    record(ledger, told(enrolment_id="2", student_id=OTHER, changed_at=late))
    record(ledger, told(enrolment_id="3", student_id=THIRD, changed_at=late))
    assert desired(ledger) == {ETAPE: frozenset({STUDENT, OTHER})}


def test_the_last_snapshot_is_remembered_with_what_it_could_not_tell(ledger: Ledger) -> None:
    unknown = Unknown(students=frozenset({OTHER, THIRD}), enrolments=frozenset({"2"}))
    snap(ledger, image(told(), unknown=unknown))
    last = recorder(ledger).last_snapshot()
    assert last is not None
    assert last.unknown == unknown


def test_what_was_deleted_is_not_said_to_be_absent(ledger: Ledger) -> None:
    record(ledger, told(), deleted(version=2), deleted(enrolment_id="2"))
    before = facts(ledger)
    assert snap(ledger, image()) == SnapshotCounts(applied=0, ended=0, memberships=0)
    assert facts(ledger) == before


# What was learnt after it was taken

LATER = TAKEN_AT + 1


@pytest.mark.parametrize("told_before", [True, False])
def test_nothing_learnt_after_a_snapshot_was_taken_is_touched(ledger: Ledger, *, told_before: bool) -> None:
    later = [
        told(version=2, changed_at=LATER, status=Status.RESIGNED),
        told(enrolment_id="2", student_id=OTHER, version=2, changed_at=LATER),
        deleted(enrolment_id="3", student_id=THIRD, version=2, changed_at=LATER),
        told(enrolment_id="4", system="supann", student_id=THIRD, changed_at=LATER, etape="XDROI1"),
    ]
    taken = image(told(), told(enrolment_id="3", student_id=THIRD), told(enrolment_id="4", etape="XMATH1"))
    record(ledger, told(), told(enrolment_id="3", student_id=THIRD))
    changes: list[Change | Snapshot] = [*later, taken] if told_before else [taken, *later]
    record(ledger, *changes)
    assert desired(ledger) == {ETAPE: frozenset({OTHER}), "XDROI1": frozenset({THIRD})}


def test_a_fact_of_the_instant_of_a_snapshot_is_overruled(ledger: Ledger) -> None:
    record(ledger, told(changed_at=TAKEN_AT), told(enrolment_id="2", student_id=OTHER, changed_at=TAKEN_AT))
    record(ledger, image(told(status=Status.RESIGNED)))
    assert desired(ledger) == {}


def test_a_later_fact_that_moved_out_of_the_scope_is_not_overwritten(ledger: Ledger) -> None:
    policy = replace(POLICY, active_years=frozenset({2026, 2027}))
    moved = told(version=2, changed_at=LATER, academic_year=2027, etape="XINFO2")
    record(ledger, told(), moved, image(told()), policy=policy)
    assert desired(ledger) == {"XINFO2": frozenset({STUDENT})}


# What comes late


@pytest.mark.parametrize("at", [NOW, TAKEN_AT])
@pytest.mark.parametrize("system", ["apogee", "supann"])
def test_a_message_that_is_no_newer_than_a_snapshot_comes_too_late(ledger: Ledger, system: str, at: Instant) -> None:
    taken = image(told(status=Status.RESIGNED), told(enrolment_id="3", student_id=THIRD))
    record(ledger, told(enrolment_id="3", student_id=THIRD), taken)
    before = content(ledger)
    late = [
        told(system=system, version=9, changed_at=at),
        told(system=system, version=9, changed_at=at, enrolment_id="2", student_id=OTHER),
        deleted(system=system, version=9, changed_at=at, enrolment_id="3", student_id=THIRD),
        told(system=system, version=9, changed_at=at, enrolment_id="3", student_id=THIRD, status=Status.CANCELLED),
    ]
    counts = recorder(ledger).record(received(*late), now=LATER)
    assert (counts.applied, counts.stale, counts.memberships) == (0, 4, 0)
    assert content(ledger) == before


def test_late_messages_about_what_no_snapshot_covers_are_news(ledger: Ledger) -> None:
    policy = replace(POLICY, active_years=frozenset({2025, 2026}))
    record(ledger, image(scope=replace(SCOPE, etapes=("XINFO*",))), policy=policy)
    record(ledger, told(etape="XDROI1"), told(enrolment_id="2", academic_year=2025), policy=policy)
    assert desired(ledger) == {"XDROI1": frozenset({STUDENT}), ETAPE: frozenset({STUDENT})}


def test_a_snapshot_of_other_etapes_does_not_make_one_forget_what_the_first_covers(ledger: Ledger) -> None:
    record(ledger, image(scope=replace(SCOPE, etapes=("XINFO*",))))
    record(ledger, image(scope=replace(SCOPE, etapes=("XDROI*",)), at=LATER))
    record(ledger, told(version=5), told(enrolment_id="2", etape="XDROI1", version=5))
    assert desired(ledger) == {}


@pytest.mark.parametrize("known", ["apogee", "supann"])
def test_a_late_deletion_that_knows_neither_year_nor_etape_changes_nothing(ledger: Ledger, known: str) -> None:
    record(ledger, told(system=known), image(told(), system=known))
    record(ledger, deleted(version=9, changed_at=TAKEN_AT - 1))
    assert desired(ledger) == MEMBER


def test_a_newer_deletion_that_knows_neither_year_nor_etape_ends_the_enrolment(ledger: Ledger) -> None:
    record(ledger, image(told()), deleted(version=9, changed_at=LATER))
    assert desired(ledger) == {}


# Several systems


def test_the_snapshot_of_one_system_overrules_what_another_said_before(ledger: Ledger) -> None:
    record(ledger, told(system="apogee"), told(system="supann", changed_at=NOW + 50, status=Status.RESIGNED))
    record(ledger, image(told(), system="apogee"))
    assert desired(ledger) == MEMBER
    record(ledger, told(system="supann", version=2, changed_at=LATER, status=Status.RESIGNED))
    assert desired(ledger) == {}
    record(ledger, image(told(), system="supann", at=LATER + 1))
    assert desired(ledger) == MEMBER


def test_a_later_message_of_another_system_than_the_snapshot_is_followed(ledger: Ledger) -> None:
    record(ledger, told(system="supann"), image(told(), system="supann"))
    record(ledger, told(system="apogee", changed_at=LATER, status=Status.CANCELLED))
    assert desired(ledger) == {}
    record(ledger, told(system="supann", version=2, changed_at=LATER - 0.5))
    assert desired(ledger) == {}


# What follows from it


def test_a_change_carries_the_run_that_found_it_and_gives_way_to_fresh_ones(ledger: Ledger) -> None:
    fresh = told(enrolment_id="2", student_id=OTHER, etape="XDROI1")
    record(ledger, told(), fresh)
    snap(ledger, image(fresh, told(enrolment_id="3", student_id=THIRD)), run=12)
    rows = {
        key: (row.desired, row.run, row.priority, row.cause, row.origin, row.since)
        for key, row in memberships(ledger).items()
    }
    name = f"S{TAKEN_AT:.0f}"
    assert rows == {
        (ETAPE, STUDENT): (False, 12, 1, "absent", f"snapshot {name}", TAKEN_AT),
        (ETAPE, THIRD): (True, 12, 1, "active", f"snapshot {name}[0]#1", TAKEN_AT),
        ("XDROI1", OTHER): (True, None, 0, "active", fresh.origin, NOW),
    }
    with ledger.read() as connection:
        assert connection.execute(sa.select(journal)).all() == [], "nothing has been applied yet"


def test_a_message_takes_over_what_a_run_has_found(ledger: Ledger) -> None:
    record(ledger, told(), image(), told(version=2, changed_at=LATER))
    row = memberships(ledger)[ETAPE, STUDENT]
    assert (row.desired, row.run, row.priority) == (True, None, 0)


_SINCE = {"label_at", "label_origin", "component_at", "login_at"}


def untold(ledger: Ledger) -> Mapping[str, object]:
    """Everything in the ledger but the snapshots, and since when labels and logins have been known to be so."""
    with ledger.read() as connection:
        return {
            table.name: sorted(
                (tuple(row) for row in connection.execute(sa.select(*(c for c in table.c if c.name not in _SINCE)))),
                key=repr,
            )
            for table in metadata.sorted_tables
            if table is not snapshot
        }


@pytest.mark.parametrize("system", ["apogee", "supann"])
def test_a_second_snapshot_that_says_the_same_changes_nothing(ledger: Ledger, system: str) -> None:
    record(
        ledger,
        told(login="exemple"),
        told(enrolment_id="2", student_id=OTHER, status=Status.CANCELLED),
        told(enrolment_id="3", student_id=THIRD),
        deleted(enrolment_id="4"),
        merged(THIRD, OTHER),
        told(enrolment_id="5", academic_year=2025),
    )
    rows = [
        told(login="exemple", etape_label="Licence 1", component_label="UFR des Sciences"),
        told(enrolment_id="2", student_id=OTHER),
        told(enrolment_id="6", etape="XDROI1", status=Status.PENDING),
    ]
    record(ledger, image(*rows, system=system))
    before = untold(ledger)
    for later in (1, 86_400):
        assert snap(ledger, image(*rows, system=system, at=TAKEN_AT + later), run=8) == SnapshotCounts(
            applied=0, ended=0, memberships=0
        )
        assert untold(ledger) == before


def test_a_snapshot_that_says_what_is_known_is_the_source_of_nothing(ledger: Ledger) -> None:
    record(ledger, told(), told(enrolment_id="2", student_id=OTHER))
    before = untold(ledger)
    assert snap(ledger, image(told(), told(enrolment_id="2", student_id=OTHER))) == SnapshotCounts(
        applied=0, ended=0, memberships=0
    )
    assert untold(ledger) == before


@pytest.mark.parametrize("table", ["enrolment", "membership", "snapshot"])
def test_an_error_in_the_middle_leaves_nothing_of_a_snapshot(ledger: Ledger, table: str) -> None:
    record(ledger, told())
    before = content(ledger)

    def fail(_c: object, _cursor: object, statement: str, *_: object) -> None:
        if statement.startswith((f"INSERT INTO {table} ", f"UPDATE {table} ")):
            raise InterruptedError

    sa.event.listen(ledger.engine, "after_cursor_execute", fail)
    with pytest.raises(InterruptedError):
        snap(ledger, image(told(enrolment_id="2", student_id=OTHER)))
    sa.event.remove(ledger.engine, "after_cursor_execute", fail)
    assert content(ledger) == before
    assert recorder(ledger).last_snapshot() is None


# Which was accepted last


def test_without_a_snapshot_there_is_no_last_one(ledger: Ledger) -> None:
    assert recorder(ledger).last_snapshot() is None


def test_the_last_snapshot_is_remembered_with_its_rows_by_year(ledger: Ledger) -> None:
    scope = SnapshotScope(
        uais=frozenset({UAI, FOREIGN_UAI}), academic_years=frozenset({2025, 2026}), etapes=("X*", "Y")
    )
    rows = [told(), told(enrolment_id="2"), told(enrolment_id="3", academic_year=2025)]
    record(ledger, image(*rows, scope=scope, name="nightly-1"))
    assert recorder(ledger).last_snapshot() == AcceptedSnapshot(
        id="nightly-1", taken_at=TAKEN_AT, system="apogee", scope=scope, rows_by_year={2025: 1, 2026: 2}
    )


def test_the_newest_snapshot_is_the_last_whatever_its_scope(ledger: Ledger) -> None:
    record(ledger, image(told()), image(at=LATER, scope=replace(SCOPE, etapes=("X",)), name="part"))
    last = recorder(ledger).last_snapshot()
    assert last is not None
    assert (last.id, last.taken_at) == ("part", LATER)


def test_of_one_scope_only_the_last_snapshot_is_kept(ledger: Ledger) -> None:
    record(ledger, *(image(told(), at=TAKEN_AT + day * 86_400) for day in range(3)))
    with ledger.read() as connection:
        assert len(connection.execute(sa.select(snapshot)).all()) == 1


def test_the_name_of_a_snapshot_may_be_used_again_for_another_scope(ledger: Ledger) -> None:
    record(ledger, image(told(), name="nightly"))
    wider = replace(SCOPE, academic_years=frozenset({2026, 2027}))
    record(ledger, image(told(), at=LATER, scope=wider, name="nightly"))
    last = recorder(ledger).last_snapshot()
    assert last is not None
    assert last.scope == wider


# A source that lives, some of whose messages come late, twice or never


@dataclass(frozen=True)
class Truth:
    """What a source holds of one enrolment from an instant on; `row` is None when it holds nothing of it."""

    at: Instant
    row: EnrolmentChange | None


Lives = dict[str, list[Truth]]
"""By enrolment id, in order of time."""


@dataclass(frozen=True)
class Story:
    """What happened: messages that were delivered, in any order, and snapshots in the order of time."""

    messages: list[EnrolmentChange]
    snapshots: list[Snapshot]


def of(lives: Lives, at: Instant, scope: SnapshotScope) -> list[EnrolmentChange]:
    """Look at the source at an instant, through a scope."""
    rows = []
    for states in lives.values():
        row = [state.row for state in states if state.at <= at][-1:]
        rows += [row for row in row if row is not None and covers(scope, row)]
    return rows


def covers(scope: SnapshotScope, row: EnrolmentChange) -> bool:
    return scope.covers(uai=row.uai, academic_year=row.academic_year, etape=row.etape)


def truth_as_told(story: Story) -> dict[str, frozenset[str]]:
    """Know the true order: fold what was told of each enrolment by the instant at which it was so."""
    changes: list[tuple[Instant, EnrolmentChange | Snapshot]] = [(told.changed_at, told) for told in story.messages]
    changes += [(taken.taken_at, taken) for taken in story.snapshots]
    known: dict[str, EnrolmentChange] = {}
    for _, what in sorted(changes, key=itemgetter(0)):
        if isinstance(what, Snapshot):
            known = {eid: row for eid, row in known.items() if not covers(what.scope, row)}
            known |= {row.enrolment_id: row for row in what.rows}
        else:
            known[what.enrolment_id] = what
    members: dict[str, set[str]] = {}
    for row in known.values():
        if row.status is Status.ACTIVE and row.etape is not None:
            members.setdefault(row.etape, set()).add(row.student_id)
    return {etape: frozenset(students) for etape, students in members.items()}


BOTH_YEARS = replace(POLICY, active_years=frozenset({2025, 2026}))
SCOPES = [
    SCOPE,
    replace(SCOPE, academic_years=frozenset({2025, 2026})),
    replace(SCOPE, etapes=("A", "B*")),
    replace(SCOPE, academic_years=frozenset({2025, 2026}), etapes=("C",)),
]
WHOLE = replace(SCOPE, academic_years=frozenset({2025, 2026}))
SYSTEMS = {"apogee": 0.0, "supann": 0.25}
"""Each speaks of what is so at instants of its own, so that no two of them say different things of the same one."""


@st.composite
def living(draw: st.DrawFn, *, moving: bool) -> Lives:
    """Draw what becomes of some enrolments; `moving` ones may change étape and year, and so leave a part's scope."""
    lives: Lives = {}
    for eid in ("e1", "e2", "e3"):
        places = st.tuples(st.sampled_from(["A", "B1", "C"]), st.sampled_from([2025, 2026]))
        place = draw(places)
        states = []
        for at in sorted(draw(st.sets(st.integers(1, 8), max_size=5))):
            etape, year = draw(places) if moving else place
            row = told(
                enrolment_id=eid,
                student_id=draw(st.sampled_from("123")),
                status=draw(st.sampled_from([Status.ACTIVE, Status.ACTIVE, Status.CANCELLED])),
                etape=etape,
                academic_year=year,
            )
            states.append(Truth(NOW + at, draw(st.sampled_from([row, row, row, None]))))
        lives[eid] = states
    return lives


def announced(lives: Lives, system: str) -> Iterator[EnrolmentChange]:
    """Repeat every change, as a system does that learns of it a moment later and counts its versions."""
    for eid, states in lives.items():
        whose = "1"
        for version, state in enumerate(states, start=1):
            at = state.at + SYSTEMS[system]
            if state.row is not None:
                whose = state.row.student_id
                yield state.row._replace(system=system, version=version, changed_at=at)
            else:
                yield deleted(enrolment_id=eid, student_id=whose, system=system, version=version, changed_at=at)


@st.composite
def stories(draw: st.DrawFn, *, moving: bool, scopes: Sequence[SnapshotScope]) -> Story:
    lives = draw(living(moving=moving))
    messages = [message for system in SYSTEMS for message in announced(lives, system)]
    delivered = [message for message in messages if draw(st.integers(0, 3))]
    instants = sorted(draw(st.sets(st.integers(0, 8), min_size=1, max_size=2)))
    snapshots = []
    for at in instants:
        system, scope = draw(st.sampled_from([*SYSTEMS])), draw(st.sampled_from(scopes))
        taken_at = NOW + at + 0.5
        snapshots.append(image(*of(lives, taken_at, scope), at=taken_at, system=system, scope=scope))
    return Story(messages=delivered, snapshots=snapshots)


def tell(ledger: Ledger, story: Story, random: Random) -> None:
    """Record it in any order, but for that of the snapshots, and some of it twice."""
    arriving: list[EnrolmentChange | None] = [
        *story.messages,
        *random.sample(story.messages, random.randint(0, len(story.messages))),
    ]
    arriving += [None] * len(story.snapshots)
    random.shuffle(arriving)
    pending = iter(story.snapshots)
    batch: list[EnrolmentChange] = []
    for what in [*arriving, None]:
        if what is not None:
            batch.append(what)
        if batch and (what is None or random.random() < 0.3):
            recorder(ledger, BOTH_YEARS).record(received(*batch), now=NOW + 100)
            batch = []
        if what is None and (taken := next(pending, None)) is not None:
            snap(ledger, taken, policy=BOTH_YEARS)


def check(ledger: Ledger, story: Story, random: Random) -> None:
    with ledger.write() as connection:
        for table in reversed(metadata.sorted_tables):
            connection.execute(sa.delete(table))
    tell(ledger, story, random)
    assert desired(ledger) == truth_as_told(story)
    derived = {key: row.desired for key, row in memberships(ledger).items()}
    recorder(ledger, replace(BOTH_YEARS, aliases={"UNUSED": "NEW"})).apply_policy(now=NOW + 200)
    assert {key: row.desired for key, row in memberships(ledger).items()} == derived, "nobody was forgotten"


@pytest.fixture(scope="module")
def sqlite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    ledger = Ledger(f"sqlite:///{tmp_path_factory.mktemp('snapshots') / 'ledger.db'}")
    yield ledger
    ledger.close()


RANDOMS = st.randoms(use_true_random=False)


@given(stories(moving=True, scopes=[WHOLE]), RANDOMS)
@settings(max_examples=MANY, deadline=None)
def test_whole_snapshots_and_any_messages_around_them_desire_what_the_true_order_says(
    sqlite: Ledger, story: Story, random: Random
) -> None:
    check(sqlite, story, random)


@given(stories(moving=False, scopes=SCOPES), RANDOMS)
@settings(max_examples=MANY, deadline=None)
def test_partial_snapshots_and_any_messages_around_them_desire_what_the_true_order_says(
    sqlite: Ledger, story: Story, random: Random
) -> None:
    check(sqlite, story, random)


@given(stories(moving=False, scopes=SCOPES), RANDOMS)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_snapshots_and_messages_on_postgresql_desire_what_the_true_order_says(
    postgres_url: str, story: Story, random: Random
) -> None:
    ledger = Ledger(postgres_url)
    try:
        check(ledger, story, random)
    finally:
        ledger.close()
