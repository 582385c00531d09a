"""The newest acceptable snapshot of a topic, or why there is none."""

import tempfile
from collections.abc import Iterator
from typing import IO

from pydantic import BaseModel, ValidationError

import schemas
from worker import messages
from worker.broker import Properties, Record, first_offsets, read_to_end
from worker.errors import InvalidMessage, PositionLost, Refusal, SnapshotFault, SnapshotRefused
from worker.model import AcceptedSnapshot, EnrolmentChange, Instant, Snapshot, SnapshotScope
from worker.snapshots.judge import Contents, Limits, Place, Seen, Terms, announced_fault, fault

MOST_REFUSALS = 5


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
    other university than `uais` and of no other year than `years`. A newer one that is refused doesn't hide it.
    Memory holds the rows of one snapshot; those that are still to be judged wait in a temporary file.

    Raises SnapshotRefused, which says why of each, and BrokerError when the topic can't be read.
    """
    terms = Terms(now=now, accepted=accepted, uais=uais, years=years, limits=limits)
    with tempfile.TemporaryFile() as file:
        reader = _Reader(file, terms)
        try:
            for record in read_to_end(properties, topic):
                reader.read(record)
        except PositionLost as error:
            raise SnapshotRefused(f"{error}: it must keep its messages for longer") from None
        return _newest(reader, terms, first_offsets(properties, topic), topic)


def _newest(reader: "_Reader", terms: Terms, first: dict[int, int], topic: str) -> Snapshot:
    refusals: list[Refusal] = []
    known = sorted(reader.seen.values(), key=_taken_at, reverse=True)
    for seen in known:
        found = fault(seen, terms, first)
        if found is None and seen.announced is not None:
            scope = scope_of(seen.announced.scope)
            contents = Contents(scope, seen.announced.system)
            rows = tuple(reader.rows(seen, seen.announced, contents))
            found = contents.fault() or contents.shrinkage(terms.accepted, terms.limits)
            if found is None:
                return Snapshot(
                    id=seen.id,
                    taken_at=seen.announced.taken_at.timestamp(),
                    system=seen.announced.system,
                    scope=scope,
                    rows=rows,
                    passed_over=tuple(refusals),
                    ignored=reader.ignored,
                )
        if found is not None:
            refusals.append(seen.refusal(found))
    if not refusals:
        sentence = f"{topic} holds no snapshot"
        raise SnapshotRefused(
            sentence, refusals=[Refusal(snapshot_id="", fault=SnapshotFault.ABSENT, sentence=sentence)]
        )
    said = "\n".join(map(str, refusals[:MOST_REFUSALS]))
    more = f"\nand {len(refusals) - MOST_REFUSALS} older ones" if len(refusals) > MOST_REFUSALS else ""
    raise SnapshotRefused(f"no snapshot of {topic} can be accepted:\n{said}{more}", refusals=refusals)


def scope_of(data: schemas.Scope) -> SnapshotScope:
    """Give the scope that a message announces."""
    return SnapshotScope(uais=frozenset(data.uais), academic_years=frozenset(data.academic_years), etapes=data.etapes)


class _ClaimedId(BaseModel):
    snapshot_id: schemas.SnapshotId


class _Claim(BaseModel):
    """The least of a message: other fields don't matter."""

    data: _ClaimedId


class _Reader:
    """What the topic holds, by snapshot, and a file for the rows of those that may still be accepted."""

    def __init__(self, file: IO[bytes], terms: Terms) -> None:
        self.seen: dict[str, Seen] = {}
        self.ignored = 0
        self._file = file
        self._end = 0
        self._terms = terms
        self._refused: set[str] = set()  # by what they announce: their rows needn't be kept

    def read(self, record: Record) -> None:
        """Take note of a message; one that can't be read counts against the snapshot whose id it bears."""
        if record.value is None:
            self.ignored += 1
            return
        try:
            document = messages.structured(record.value, dict(record.headers))
        except InvalidMessage:
            self.ignored += 1
            return
        try:
            event = schemas.SNAPSHOT_EVENTS.validate_json(document)
        except ValidationError as error:
            self._invalid(document, schemas.problems(error))
        else:
            self._note(event, record, document)

    def _note(self, event: schemas.SnapshotEvent, record: Record, document: bytes) -> None:
        seen = self._of(event.data.snapshot_id)
        match event:
            case schemas.SnapshotBegin(data=data):
                seen.begin(record.partition, record.offset, data)
                if announced_fault(data, self._terms):
                    self._refused.add(seen.id)
            case schemas.SnapshotEnrolment(data=data) if seen.id not in self._refused:
                place = Place(self._end, len(document))
                if seen.row(record.partition, data.row, record.value or b"", place):
                    self._end += self._file.write(document)
            case schemas.SnapshotEnd(data=data):
                seen.end(record.partition, data)

    def _invalid(self, document: bytes, problems: tuple[tuple[str, str], ...]) -> None:
        if claimed := _claimed(document):
            self._of(claimed).invalid.update(f"{field}: {kind}" for field, kind in problems)
        else:
            self.ignored += 1

    def _of(self, snapshot_id: str) -> Seen:
        return self.seen.setdefault(snapshot_id, Seen(snapshot_id))

    def rows(self, seen: Seen, announced: schemas.SnapshotBeginData, contents: Contents) -> Iterator[EnrolmentChange]:
        """Give the rows of a snapshot, each enrolment once, and let its contents be looked at on the way."""
        taken_at = announced.taken_at.timestamp()
        for partition, rows in sorted(seen.rows.items()):
            for number, (_, place) in sorted(rows.items()):
                self._file.seek(place.start)
                event = schemas.SNAPSHOT_EVENTS.validate_json(self._file.read(place.length))
                if isinstance(event, schemas.SnapshotEnrolment) and contents.add(event.data.enrolment):
                    yield messages.enrolment(
                        event.data.enrolment,
                        version=event.data.enrolment.version or 0,
                        changed_at=taken_at,
                        origin=f"snapshot {seen.id}[{partition}]#{number}",
                    )


def _taken_at(seen: Seen) -> Instant:
    """Order snapshots; one whose begin is nowhere to be seen comes last."""
    return seen.announced.taken_at.timestamp() if seen.announced else 0.0


def _claimed(document: bytes) -> str | None:
    """Give the id of the snapshot under which something unreadable goes, if it has one."""
    try:
        return _Claim.model_validate_json(document).data.snapshot_id
    except ValidationError:
        return None
