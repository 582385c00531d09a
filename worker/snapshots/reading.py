"""The newest acceptable snapshot of a topic, or why there is none."""

import struct
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import IO, Annotated

from pydantic import BaseModel, Field, ValidationError

import schemas
from worker import broker, messages
from worker.broker import Properties, Record
from worker.errors import InvalidMessage, PositionLost, Refusal, SnapshotFault, SnapshotRefused
from worker.model import AcceptedSnapshot, EnrolmentChange, Instant, Snapshot, SnapshotScope, Unknown
from worker.snapshots.judge import Contents, Found, Limits, Seen, Terms, announced_fault, fault, unreadable_fault

MOST_REFUSALS = 5
# By default librdkafka reads 64 MiB ahead (most of all that we need), pauses for a second when that is full, and waits
# for half a second at the end of each partition.
READ_AHEAD: Properties = {
    "queued.max.messages.kbytes": 16_384,
    "fetch.queue.backoff.ms": 10,
    "fetch.wait.max.ms": 50,
}


def latest(
    properties: Properties,
    topic: str,
    *,
    now: Instant,
    accepted: AcceptedSnapshot | None,
    uais: frozenset[str],
    years: frozenset[int],
    limits: Limits,
) -> Snapshot:
    """Read the topic to its end and give its newest snapshot that can be accepted.

    It is whole, agrees with itself, is newer than the one `accepted` last and within the limits, and speaks of no
    other university than `uais` and of one of `years` at least. A newer one that is refused doesn't hide it.
    Memory holds the rows of one snapshot (60 MB for 50,000), and some 150 bytes for each row of others that may still
    be accepted: their content waits in a temporary file.

    Raises SnapshotRefused, which says why of each, and BrokerError when the topic can't be read.
    """
    terms = Terms(now=now, accepted=accepted, uais=uais, years=years, limits=limits)
    records = broker.read_to_end({**READ_AHEAD, **properties}, topic)
    try:
        return newest(records, lambda: broker.first_offsets(properties, topic), terms)
    except PositionLost as error:
        raise _refused_all(SnapshotFault.FORGOTTEN, f"{error}: the topic must keep its messages for longer") from None


def newest(records: Iterable[Record], first_offsets: Callable[[], Mapping[int, int]], terms: Terms) -> Snapshot:
    """Judge each snapshot of a topic by itself, newest first; `first_offsets` is asked once all has been read."""
    with tempfile.TemporaryFile() as file:
        reader = _Reader(file, terms)
        for record in records:
            reader.read(record)
        first = first_offsets()
        refusals: list[Refusal] = []
        for seen in sorted(reader.seen.values(), key=_taken_at, reverse=True):
            found: Snapshot | Found | None = fault(seen, terms, first)
            if not found and seen.announced:
                found = reader.open(seen, seen.announced, passed_over=tuple(refusals))
            if isinstance(found, Snapshot):
                return found
            if found:
                refusals.append(seen.refusal(found))
    if not refusals:
        raise _refused_all(SnapshotFault.ABSENT, "there is no snapshot on the topic")
    said = "\n".join(map(str, refusals[:MOST_REFUSALS]))
    more = f"\nand {len(refusals) - MOST_REFUSALS} older ones" if len(refusals) > MOST_REFUSALS else ""
    raise SnapshotRefused(f"no snapshot can be accepted:\n{said}{more}", refusals=refusals)


def _refused_all(kind: SnapshotFault, sentence: str) -> SnapshotRefused:
    return SnapshotRefused(sentence, refusals=[Refusal(snapshot_id="", fault=kind, sentence=sentence)])


def _taken_at(seen: Seen) -> Instant:
    """Order snapshots; one whose begin is nowhere to be seen comes last."""
    return seen.announced.taken_at.timestamp() if seen.announced else 0.0


class _ClaimedId(BaseModel):
    snapshot_id: schemas.SnapshotId


class _Claim(BaseModel):
    """The least of a message: other fields don't matter."""

    data: _ClaimedId


class _NumberedRow(_ClaimedId):
    row: Annotated[int, Field(strict=True, ge=0)]


class _Row(BaseModel):
    """What is looked at of each row; all of it is, by the contract, once its snapshot turns out to be whole.

    Rows are the only messages that are numbered.
    """

    data: _NumberedRow


class _Reader:
    """What the topic holds, by snapshot, and a file for the rows of those that may still be accepted."""

    def __init__(self, file: IO[bytes], terms: Terms) -> None:
        self.seen: dict[str, Seen] = {}
        self._ignored = 0
        self._rows = _Rows(file)
        self._terms = terms
        self._refused: set[str] = set()  # by what they announce: their rows needn't be kept

    def read(self, record: Record) -> None:
        """Take note of a message; one that can't be read counts against the snapshot whose id it bears."""
        if record.value is None:
            self._ignored += 1
            return
        try:
            document = messages.structured(record.value, dict(record.headers))
        except InvalidMessage:
            self._ignored += 1
            return
        try:
            row = _Row.model_validate_json(document)
        except ValidationError:
            self._other(record, document)
        else:
            seen = self._of(row.data.snapshot_id)
            if seen.id not in self._refused and seen.row(record.partition, row.data.row, record.value):
                self._rows.write(seen.id, record, document)

    def _other(self, record: Record, document: bytes) -> None:
        """Take note of a begin or an end, or of what can't be read."""
        try:
            event = schemas.SNAPSHOT_EVENTS.validate_json(document)
        except ValidationError as error:
            self._invalid(document, record.origin, error)
            return
        seen = self._of(event.data.snapshot_id)
        match event:
            case schemas.SnapshotBegin(data=data):
                seen.begin(record.partition, record.offset, data)
                if announced_fault(data, self._terms):
                    self._refused.add(seen.id)
            case schemas.SnapshotEnd(data=data):
                seen.end(record.partition, data)

    def _invalid(self, document: bytes, origin: str, error: ValidationError) -> None:
        try:
            claim = _Claim.model_validate_json(document)
        except ValidationError:
            self._ignored += 1
        else:
            said = [f"{field}: {kind}" for field, kind in schemas.problems(error)]
            self._of(claim.data.snapshot_id).unreadable(origin, said)

    def _of(self, snapshot_id: str) -> Seen:
        if snapshot_id not in self.seen:
            self.seen[snapshot_id] = Seen(snapshot_id)
        return self.seen[snapshot_id]

    def open(self, seen: Seen, begin: schemas.SnapshotBeginData, passed_over: Sequence[Refusal]) -> Snapshot | Found:
        """Give a snapshot that is whole, unless its rows show a fault."""
        taken_at = begin.taken_at.timestamp()
        scope = SnapshotScope(
            uais=frozenset(begin.scope.uais),
            academic_years=frozenset(begin.scope.academic_years),
            etapes=tuple(sorted({*begin.scope.etapes})) if begin.scope.etapes else None,
        )
        contents = Contents(scope, begin.system)
        unknown: list[schemas.UnknownRow] = []
        rows = tuple(self._told(seen, taken_at, contents, unknown))
        if (
            found := unreadable_fault(seen)
            or contents.fault()
            or contents.shrinkage(self._terms.accepted, self._terms.limits)
        ):
            return found
        return Snapshot(
            id=seen.id,
            taken_at=taken_at,
            system=begin.system,
            scope=scope,
            rows=rows,
            unknown=Unknown(
                students=frozenset(row.student_id for row in unknown if row.student_id is not None),
                enrolments=frozenset(row.enrolment_id for row in unknown if row.enrolment_id is not None),
            ),
            passed_over=passed_over,
            ignored=self._ignored,
        )

    def _told(
        self, seen: Seen, taken_at: Instant, contents: Contents, unknown: list[schemas.UnknownRow]
    ) -> Iterator[EnrolmentChange]:
        """Give the enrolments of a snapshot, each once, and let its contents be looked at on the way."""
        for partition, origin, document in self._rows.of(seen.id):
            try:
                event = schemas.SNAPSHOT_EVENTS.validate_json(document)
            except ValidationError as error:
                self._invalid(document, origin, error)
                continue
            if isinstance(event, schemas.SnapshotUnknown):
                unknown.append(event.data.unknown)
            elif isinstance(event, schemas.SnapshotEnrolment) and contents.add(event.data.enrolment):
                yield messages.enrolment(
                    event.data.enrolment,
                    version=event.data.enrolment.version or 0,
                    changed_at=taken_at,
                    origin=f"snapshot {seen.id}[{partition}]#{event.data.row}",
                )


class _Rows:
    """The messages of rows, in a file, in the order in which they came."""

    _HEADER = struct.Struct("<IIII")  # number of the snapshot, partition, lengths of the origin and of the message

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._numbers: dict[str, int] = {}

    def write(self, snapshot_id: str, record: Record, document: bytes) -> None:
        number = self._numbers.setdefault(snapshot_id, len(self._numbers))
        origin = record.origin.encode()
        header = self._HEADER.pack(number, record.partition, len(origin), len(document))
        self._file.write(header + origin + document)

    def of(self, snapshot_id: str) -> Iterator[tuple[int, str, bytes]]:
        """Give the partition, the origin and the message of each row of a snapshot."""
        wanted = self._numbers.get(snapshot_id)
        self._file.seek(0)
        while header := self._file.read(self._HEADER.size):
            number, partition, *lengths = self._HEADER.unpack(header)
            origin, document = map(self._file.read, lengths)
            if number == wanted:
                yield partition, origin.decode(), document
