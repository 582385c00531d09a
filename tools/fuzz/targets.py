"""What must hold for each kind of input: a target takes the bytes of a case, and raises if something doesn't hold."""

import atexit
from collections import Counter
from collections.abc import Callable
from functools import cache
from io import BytesIO
from tempfile import TemporaryDirectory
from zoneinfo import ZoneInfo

from tests.support.builders import NOW, POLICY, UAI, recorder
from tests.support.snapshots import LIMITS
from tools.fuzz.moodle import moodle
from worker import explain
from worker.domain.changes import EnrolmentChange, PersonNumbered, Received
from worker.domain.directory import KnownEntry
from worker.domain.errors import CohortsError, InvalidMessage, SnapshotRefused, SourceIncomplete
from worker.domain.states import Language
from worker.formats import Debezium
from worker.formats.cloudevents import Format, Headers, Native, arrived
from worker.kafka import Record
from worker.ledger import Ledger, student_view
from worker.runtime.sources import supann_form
from worker.settings.sources import LdapSourceSettings
from worker.snapshots import AcceptanceCriteria
from worker.snapshots.reader import newest
from worker.sources import files
from worker.sources.directory import recognised
from worker.sources.supann import Supann
from worker.sources.tables import CsvForm
from worker.sources.watch import changes

ZONE = ZoneInfo("Europe/Paris")
CRITERIA = AcceptanceCriteria(now=NOW, accepted=None, uais=frozenset({UAI}), years=frozenset({2026}), limits=LIMITS)
TABLE = CsvForm(constants={"system": "apogee", "uai": UAI}, words={"status": {"E": "active"}})


def message(case: bytes) -> tuple[bytes | None, Headers]:
    """Read a case: lines of headers, an empty line, the value; without an empty line, a tombstone."""
    head, separator, value = case.partition(b"\n\n")
    lines = (line.partition(b":") for line in head.splitlines())
    headers = tuple((name.decode(errors="replace"), text.strip()) for name, _, text in lines)
    return value if separator else None, headers


def _check_text(error: CohortsError) -> None:
    """Check that the error has a text, which nothing in the input can forge."""
    assert str(error)
    assert str(error).replace("\n", "").isprintable()


def messages(case: bytes) -> None:
    """Read a message of the contract: a change that can be recorded and explained, or a dead letter."""
    value, headers = message(case)
    _read(Native(), value, headers)


def debezium(case: bytes) -> None:
    """Read a message of change capture: any number of changes that can be recorded, or a dead letter."""
    _read(Debezium(UAI), case, ())


def _read(form: Format, value: bytes | None, headers: Headers) -> None:
    letter = form.letter(value)
    assert letter is None or len(letter) <= max(100, 2 * len(value or b""))
    try:
        read = [arrived(change, NOW) for change in form.read(value=value, headers=headers, origin="enrolments[0]@1")]
    except InvalidMessage as error:
        _check_text(error)
        return
    counts = recorder(_ledger()).record([Received(change=change, published_at=NOW) for change in read], now=NOW)
    assert counts.applied + counts.stale + counts.waiting + counts.tombstone >= len(read)
    for change in read:
        if isinstance(change, EnrolmentChange | PersonNumbered):
            _explained(_ledger(), change.student_id)


def _explained(ledger: Ledger, student: str) -> None:
    explanation = explain.explain(student_view.read(ledger, POLICY, student), POLICY, now=NOW)
    for language in Language:
        assert explain.render(explanation, language, ZONE)


@cache
def _ledger() -> Ledger:
    """Open a ledger for as long as the process lasts: earlier cases must not matter."""
    directory = TemporaryDirectory(prefix="cohorts-fuzz-")
    ledger = Ledger(f"sqlite:///{directory.name}/ledger.db")
    atexit.register(directory.cleanup)
    atexit.register(ledger.close)
    return ledger


def entries(case: bytes) -> None:
    """Read an entry of a directory, an `attribute: value` per line: its student is known, unknown or counted."""
    lines = [line.partition(b":") for line in case.split(b"\n") if line.strip()]
    attributes: dict[str, tuple[str, ...]] = {}
    for name, _, text in lines:
        attribute = name.decode(errors="replace").strip().lower()
        attributes[attribute] = (*attributes.get(attribute, ()), str(text.strip(), "utf-8", "surrogateescape"))
    for composite in ("supannEtuInscription", ""):
        chosen = LdapSourceSettings(
            kind="ldap", uri="ldaps://ldap.example.fr", base="dc=example,dc=fr",
            composite=composite, etape_separator="_", component_prefix="HS_",
        )  # fmt: skip
        form = supann_form(chosen, uai=UAI, uais=frozenset({UAI}))
        facts = Supann(form).read(attributes)
        assert len(facts.rows) + len(facts.unknown) + len(facts.left_out) or "supannetuid" in attributes
        try:
            known = recognised(attributes)
            changes.instant(known.csn)
        except SourceIncomplete as error:
            _check_text(error)
            continue
        entry = KnownEntry(
            uuid=known.uuid, csn=known.csn, terms="", version=0,
            student_id=facts.rows[0].student.student_id if facts.rows else None, rows=changes.written(facts.rows),
        )  # fmt: skip
        new = changes.compare({}, {"1": entry}, highest=1, at=NOW, years=frozenset({2026}))
        assert len(new.changes) == len(facts.rows)
        for change in new.changes:
            key, payload = changes.message("directory", change)
            assert key.decode() == facts.rows[0].student.student_id
            Native().read(value=payload, headers=(), origin="enrolments[0]@1")


def rows(case: bytes) -> None:
    """Read a file of rows: every line is a row, or the file is refused."""
    for form in (CsvForm(), TABLE):
        try:
            read = list(files.read(BytesIO(case), form))
        except SourceIncomplete as error:
            _check_text(error)
            continue
        if b'"' not in case and b"\r" not in case:  # no cell spans several lines
            lines = [line for line in case.removeprefix(b"\xef\xbb\xbf").split(b"\n") if line]
            trailers = sum(line.startswith(b"#rows") for line in lines)
            assert len(read) == max(0, len(lines) - 1 - trailers)


def snapshots(case: bytes) -> None:
    """Read a topic, a partition and a message per line: a snapshot, or the reasons why there is none."""
    records = []
    offsets: Counter[int] = Counter()
    for line in case.split(b"\n"):
        number, _, value = line.partition(b" ")
        partition = int(number) if number in {b"0", b"1", b"2"} else 0
        records.append(
            Record(
                topic="snapshots", partition=partition, offset=offsets[partition], key=None, value=value, headers=(),
                timestamp=NOW,
            )
        )  # fmt: skip
        offsets[partition] += 1
    try:
        snapshot = newest(lambda: records, dict, CRITERIA)
    except SnapshotRefused as refused:
        _check_text(refused)
        return
    read = len(snapshot.rows) + len(snapshot.unknown.students) + len(snapshot.unknown.enrolments)
    assert 0 < read <= len(records)


TARGETS: dict[str, Callable[[bytes], None]] = {
    "messages": messages,
    "debezium": debezium,
    "entries": entries,
    "rows": rows,
    "snapshots": snapshots,
    "moodle": moodle,
}
