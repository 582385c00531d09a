"""What APOGÉE's database shows, into the ledger: the same memberships as the university's records say."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.apogee_database import ApogeeDatabase, apogee_database
from tests.support.builders import NOW, POLICY, UAI, names, received, recorder, told
from tests.support.snapshots import LIMITS, SCOPE, TAKEN_AT, YEAR, records, sent
from worker.domain.instants import Instant
from worker.domain.rules import Policy
from worker.domain.snapshots import Snapshot, SnapshotScope
from worker.domain.states import Status
from worker.ledger import Ledger, status
from worker.sandbox.university.generator import University
from worker.snapshots import AcceptanceCriteria
from worker.snapshots.reader import newest
from worker.sources.sql import SqlSource

STUDENT, ETAPE, MEMBER = "29900001", "XINFO1", {"XINFO1": frozenset({"29900001"})}


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    """One on SQLite: what a snapshot does to a ledger is tested elsewhere."""
    opened = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    yield opened
    opened.close()


@pytest.fixture
def apogee(ledger_url: str) -> Iterator[ApogeeDatabase]:
    """A database of each kind, with the student and the étape."""
    with apogee_database(ledger_url.replace("ledger.db", "apogee.db")) as database:
        database.describe()
        database.person()
        yield database


def read(source: SqlSource, scope: SnapshotScope, at: Instant) -> Snapshot:
    """Read a database, publish what it shows and accept it."""
    published = sent(source.read(scope), f"apogee-{at:.0f}", taken_at=at, scope=scope)
    years = scope.academic_years
    terms = AcceptanceCriteria(now=at + 60, accepted=None, uais=frozenset({UAI}), years=years, limits=LIMITS)
    return newest(lambda: records(published), dict, terms)


def snap(
    ledger: Ledger,
    source: SqlSource,
    *,
    at: Instant = TAKEN_AT,
    scope: SnapshotScope = SCOPE,
    policy: Policy = POLICY,
) -> dict[str, frozenset[str]]:
    """Record what a database shows, and give the memberships that are desired then."""
    recorder(ledger, policy).record_snapshot(read(source, scope, at), run=7, now=at + 60)
    return status.desired(ledger, "ecampus")


def source(apogee: ApogeeDatabase) -> SqlSource:
    return SqlSource("apogee", apogee.url, uai=UAI)


@pytest.mark.parametrize("seed", range(3))
def test_the_database_of_a_university_gives_the_memberships_that_its_records_say(
    ledger: Ledger, postgres_url: str, tmp_path: Path, seed: int
) -> None:
    living = University(seed=seed, students=300, etapes=25)
    for _ in living.september_day(400):
        pass
    both_years = SnapshotScope(uais=frozenset({UAI}), academic_years=frozenset({YEAR - 1, YEAR}))
    with apogee_database(postgres_url) as database:
        database.load(living)
        source = database.padded(tmp_path)
        assert snap(ledger, source, scope=both_years) == living.truth()
        labels = living.labels()
        assert names(ledger) == {code: f"{labels[code][2]}: {labels[code][0]}" for code in living.truth()}
        before = living.truth()
        living.depart(0.05)
        database.load(living)
        assert snap(ledger, source, at=TAKEN_AT + 3600, scope=both_years) == living.truth() != before


def test_leading_zeros_that_a_query_gives_are_kept(ledger: Ledger, postgres_url: str, tmp_path: Path) -> None:
    with apogee_database(postgres_url) as database:
        database.person(cod_etu=100)
        database.enrol()
        assert snap(ledger, database.padded(tmp_path)) == {ETAPE: frozenset({"00000100"})}


def test_an_enrolment_that_ends_leaves_a_student_who_has_another_one_of_the_etape(
    ledger: Ledger, apogee: ApogeeDatabase
) -> None:
    apogee.enrol(cod_vrs_vet=221)
    apogee.enrol(num_occ_iae=2, tem_iae_prm="N")
    apogee.enrol(cod_anu="2025", eta_iae="R")
    assert snap(ledger, source(apogee)) == MEMBER
    apogee.execute("UPDATE ins_adm_etp SET eta_iae = 'A' WHERE cod_vrs_vet = 221")
    assert snap(ledger, source(apogee), at=TAKEN_AT + 1) == MEMBER
    apogee.execute("UPDATE ins_adm_etp SET eta_iae = 'R' WHERE num_occ_iae = 2")
    assert snap(ledger, source(apogee), at=TAKEN_AT + 2) == {}


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE ins_adm_etp SET eta_iae = 'X'",
        "UPDATE ins_adm_etp SET eta_iae = NULL",
        "UPDATE individu SET cod_etu = NULL",
        "DELETE FROM individu",
    ],
)
def test_what_apogee_says_no_more_stays_as_it_was(ledger: Ledger, apogee: ApogeeDatabase, change: str) -> None:
    apogee.person(2, 29900002)
    apogee.enrol()
    apogee.enrol(cod_ind=2, cod_etp="OTHER")
    other = {"OTHER": frozenset({"29900002"})}
    assert snap(ledger, source(apogee)) == MEMBER | other
    apogee.execute(f"{change} WHERE cod_ind = 104233")
    assert snap(ledger, source(apogee), at=TAKEN_AT + 1) == MEMBER | other
    apogee.execute("DELETE FROM ins_adm_etp WHERE cod_ind = 104233")
    assert snap(ledger, source(apogee), at=TAKEN_AT + 2) == other


def test_a_student_with_another_number_is_a_member_under_that_one_alone(ledger: Ledger, apogee: ApogeeDatabase) -> None:
    apogee.enrol()
    assert snap(ledger, source(apogee)) == MEMBER
    apogee.execute("UPDATE individu SET cod_etu = 29900009")
    assert snap(ledger, source(apogee), at=TAKEN_AT + 1) == {ETAPE: frozenset({"29900009"})}


def test_an_enrolment_made_after_the_reading_began_stays_although_it_was_not_read(
    ledger: Ledger, apogee: ApogeeDatabase
) -> None:
    apogee.enrol(cod_etp="OTHER")
    late = told(changed_at=TAKEN_AT + 1800)
    recorder(ledger).record(received(late), now=NOW)
    assert snap(ledger, source(apogee)) == MEMBER | {"OTHER": frozenset({STUDENT})}


def test_payments_count_as_they_do_for_messages(ledger: Ledger, apogee: ApogeeDatabase) -> None:
    for person, paid in enumerate(["P", "A", "C", None], 1):
        apogee.person(person, 29900010 + person)
        apogee.enrol(cod_ind=person, eta_pmt_iae=paid)
    assert snap(ledger, source(apogee)) == {ETAPE: frozenset({"29900011", "29900013", "29900014"})}


def test_only_the_statuses_of_the_settings_count(ledger: Ledger, apogee: ApogeeDatabase) -> None:
    apogee.enrol(eta_iae="C")
    assert snap(ledger, source(apogee)) == {}
    early = replace(POLICY, statuses=frozenset({Status.ACTIVE, Status.PENDING}))
    recorder(ledger, early).apply_policy(now=NOW)
    assert snap(ledger, source(apogee), at=TAKEN_AT + 1, policy=early) == MEMBER
