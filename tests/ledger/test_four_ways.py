"""The same university through every way in desires the same memberships, byte for byte."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import orjson
import pytest

from schemas import SnapshotRow
from tests.ledger.test_fold import parsed
from tests.support.apogee_database import apogee_database
from tests.support.builders import NOW, UAI, recorder
from tests.support.debezium import Capture, as_numbers
from tests.support.servers.postgres import Postgres
from tests.support.servers.slapd import Slapd
from tests.support.snapshots import LIMITS, records, sent
from tests.support.supann import ldif
from worker.domain.changes import NumberChange, Received
from worker.domain.snapshots import SnapshotScope
from worker.formats import Debezium
from worker.ledger import Ledger, status
from worker.runtime.sources import source
from worker.sandbox.university.generator import University
from worker.settings.root import Settings
from worker.snapshots import AcceptanceCriteria
from worker.snapshots.reader import newest

SCOPE = SnapshotScope(uais=frozenset({UAI}), academic_years=frozenset({2026}))
CHANGES = 400


def university() -> University:
    """Give a university before the day that everybody lives."""
    return University(seed=12, students=500, etapes=40)


def after_the_day() -> University:
    living = university()
    for _ in living.september_day(CHANGES):
        pass
    return living


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    yield opened
    opened.close()


def desired(ledger: Ledger) -> bytes:
    """Give what is desired, as bytes. NUMBER has no leading zeros, so they are taken away from all."""
    return written(status.desired(ledger, "ecampus"))


def written(members: Mapping[str, frozenset[str]]) -> bytes:
    return orjson.dumps({etape: sorted(numbers) for etape, numbers in sorted(as_numbers(members).items()) if numbers})


def record(ledger: Ledger, said: Iterable[Received]) -> None:
    batch = list(said)
    for start in range(0, len(batch), 200):
        recorder(ledger).record(batch[start : start + 200], now=NOW)


def snap(ledger: Ledger, rows: Iterable[SnapshotRow]) -> None:
    """Publish a snapshot of these rows, accept and record it."""
    messages = [*records(sent(rows, "night", taken_at=NOW, scope=SCOPE))]
    terms = AcceptanceCriteria(now=NOW + 60, accepted=None, uais=SCOPE.uais, years=SCOPE.academic_years, limits=LIMITS)
    recorder(ledger).record_snapshot(newest(lambda: messages, dict, terms), run=1, now=NOW + 60)


def settings(**source: object) -> Settings:
    return Settings(
        uais=SCOPE.uais,
        active_years=SCOPE.academic_years,
        platforms={"ecampus": {"mode": "manual"}},
        sources={"it": source},
    )


def test_a_university_has_its_memberships_through_messages(ledger: Ledger) -> None:
    living = university()
    changes = parsed([*living.initial(), *living.september_day(CHANGES)])
    record(ledger, (Received(change=change, published_at=NOW) for change in changes))
    assert desired(ledger) == written(after_the_day().truth())


def test_a_university_has_its_memberships_through_change_capture(ledger: Ledger) -> None:
    living = university()
    capture, reader = Capture(living), Debezium(UAI)
    events = [*capture.initial(), *capture.day(living.september_day(CHANGES))]
    changes = (
        change for event in events for change in reader.read(value=event.value, headers=(), origin="apogee[0]@0")
    )
    record(ledger, (Received(change=change, published_at=NOW) for change in changes))
    assert desired(ledger) == written(after_the_day().truth())


def test_a_university_has_its_memberships_through_the_directory(ledger: Ledger, slapd: Slapd) -> None:
    base = slapd.branch(ldif(after_the_day(), "{base}"))
    directory = source(settings(**slapd.settings(base).model_dump()), "it")
    snap(ledger, directory.read(SCOPE))
    assert desired(ledger) == written(after_the_day().truth())


def test_a_university_has_its_memberships_through_the_database_of_apogee(ledger: Ledger, postgres: Postgres) -> None:
    with postgres.database() as url, apogee_database(url) as apogee:
        apogee.load(after_the_day())
        snap(ledger, source(settings(kind="sql", url=url), "it").read(SCOPE))
    assert desired(ledger) == written(after_the_day().truth())


def test_a_university_has_its_memberships_through_a_file_and_messages_of_merges(ledger: Ledger, tmp_path: Path) -> None:
    merges = (change for change in parsed([*university().september_day(CHANGES)]) if isinstance(change, NumberChange))
    record(ledger, (Received(change=change, published_at=NOW) for change in merges))
    file = tmp_path / "enrolments.jsonl"
    rows = after_the_day().snapshot_rows()
    file.write_bytes(b"".join(row + b"\n" for row in rows if orjson.loads(row)["academic_year"] == 2026))
    snap(ledger, source(settings(kind="file", path=file), "it").read(SCOPE))
    assert desired(ledger) == written(after_the_day().truth())
