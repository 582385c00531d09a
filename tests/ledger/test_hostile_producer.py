"""What a hostile or broken producer sends is undone by what is true and comes later."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.ledger.test_runs import SCOPE
from tests.support.builders import ETAPE, FOREIGN_UAI, NOW, STUDENT, UAI, memberships, merged, numbered, recorder, told
from tests.support.scenes import Scene
from worker.domain.changes import EnrolmentChange, PersonEnrolled
from worker.domain.errors import InvalidMessage
from worker.domain.snapshots import Snapshot, SnapshotScope
from worker.domain.states import Status
from worker.formats.cloudevents import MOST_AHEAD_SECONDS, arrived
from worker.ledger import Ledger
from worker.ledger.enrolments import accepted_snapshots
from worker.ledger.snapshots import MOST_SCOPES

HIGHEST = 2**63 - 1
HOUR = 3600.0


def is_desired(ledger: Ledger) -> bool:
    return bool(memberships(ledger)[ETAPE, STUDENT].desired)


def snapshot(ledger: Ledger, at: float, *rows: EnrolmentChange) -> None:
    taken = Snapshot(id=f"S{at:.0f}", taken_at=at, system="apogee", scope=SCOPE, rows=list(rows))
    recorder(ledger).record_snapshot(taken, run=1, now=at)


def test_hostile_highest_version_is_forgotten_by_the_next_snapshot(ledger: Ledger) -> None:
    scene = Scene(ledger)
    scene.tell(told(version=HIGHEST, status=Status.RESIGNED))
    scene.tell(told(version=2, changed_at=NOW + 1))
    assert (ETAPE, STUDENT) not in memberships(ledger)
    snapshot(ledger, NOW + HOUR, told(version=0, changed_at=NOW + HOUR))
    assert is_desired(ledger)
    scene.now = NOW + 2 * HOUR
    scene.tell(told(version=3, changed_at=NOW + 2 * HOUR, status=Status.RESIGNED))
    assert not is_desired(ledger)
    scene.tell(told(version=4, changed_at=NOW + 2 * HOUR))
    assert is_desired(ledger)


def test_versions_that_begin_anew_are_heard_after_the_next_snapshot(ledger: Ledger) -> None:
    scene = Scene(ledger)
    scene.tell(told(version=9_000_000))
    snapshot(ledger, NOW + HOUR, told(version=0, changed_at=NOW + HOUR))
    scene.now = NOW + 2 * HOUR
    scene.tell(told(version=1, changed_at=NOW + 2 * HOUR, status=Status.CANCELLED))
    assert not is_desired(ledger)


def test_what_was_so_before_a_snapshot_stays_too_late_whatever_its_version(ledger: Ledger) -> None:
    scene = Scene(ledger)
    scene.tell(told(version=5))
    snapshot(ledger, NOW + HOUR, told(version=0, changed_at=NOW + HOUR))
    for version in (4, 6, HIGHEST):
        scene.tell(told(version=version, changed_at=NOW + HOUR - 1, status=Status.RESIGNED))
    assert is_desired(ledger)


ANY = (told(), PersonEnrolled(person=1, enrolment=told()), merged("1", "2"), numbered(1, "2", version=1, at=NOW))


@given(st.sampled_from(ANY), st.floats(0, MOST_AHEAD_SECONDS))
def test_hostile_times_ahead_count_as_the_publication(change: EnrolmentChange, ahead: float) -> None:
    found = arrived(change, NOW - ahead)
    dated = found.enrolment if isinstance(found, PersonEnrolled) else found
    assert dated.changed_at == NOW - ahead  # type: ignore[union-attr] # not a tombstone


@given(st.sampled_from(ANY), st.floats(0, 1e9))
def test_a_time_in_the_past_stays_what_it_is(change: EnrolmentChange, since: float) -> None:
    assert arrived(change, NOW + since) == change


@pytest.mark.parametrize("change", ANY)
def test_a_time_of_another_day_is_refused(change: EnrolmentChange) -> None:
    with pytest.raises(InvalidMessage, match="time: in_the_future"):
        arrived(change, NOW - MOST_AHEAD_SECONDS - 1)


def test_what_is_known_within_a_scope_is_counted_whatever_its_form(ledger: Ledger) -> None:
    scene = Scene(ledger)
    scene.tell(
        told(enrolment_id="1", etape="L1"), told(enrolment_id="2", etape="L2"), told(enrolment_id="3", etape="M1"),
        told(enrolment_id="1", etape="L1", system="supann"), told(enrolment_id="4", academic_year=2025, etape="L1"),
        told(enrolment_id="5", etape="L1", uai=FOREIGN_UAI), told(enrolment_id="6", status=Status.DELETED),
        told(enrolment_id="7", etape="L1", status=Status.RESIGNED),
        told(enrolment_id="8", etape="L1", changed_at=NOW + 9),
    )  # fmt: skip
    here = SnapshotScope(uais=frozenset({UAI}), academic_years=frozenset({2026}))
    known = recorder(ledger).enrolled
    assert known(here, NOW) == {2026: 4}
    assert known(replace(here, etapes=("*",)), NOW) == {2026: 4}
    assert known(replace(here, etapes=("L*",)), NOW + 9) == {2026: 4}
    assert known(replace(here, academic_years=frozenset({2025, 2026})), NOW) == {2025: 1, 2026: 4}
    assert known(replace(here, uais=frozenset({"0000000X"})), NOW) == {}


def test_hostile_scopes_of_many_forms_are_forgotten_except_the_newest(ledger: Ledger) -> None:
    told_to = recorder(ledger)
    for rank in range(MOST_SCOPES + 5):
        scope = replace(SCOPE, etapes=(f"Z{rank}*",))
        taken = Snapshot(id=f"S{rank}", taken_at=NOW + rank, system="apogee", scope=scope, rows=[])
        told_to.record_snapshot(taken, run=1, now=NOW + rank)
    with ledger.read() as connection:
        remembered = accepted_snapshots(connection)
    assert [each.id for each in remembered] == [f"S{rank}" for rank in reversed(range(5, MOST_SCOPES + 5))]
