"""The newest acceptable snapshot of a topic, or why there is none.

The topic is read twice. The first reading judges every snapshot by its announcement, its counts and its digests, and
keeps none of its rows. The second one reads the rows of the newest snapshot that passed, and checks them against the
contract; when they are refused, the rows of the next older one are read.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Annotated, cast

from pydantic import BaseModel, Field, ValidationError

import schemas
from worker import kafka
from worker.domain.changes import EnrolmentChange
from worker.domain.errors import InvalidMessage, PositionLost, Refusal, SnapshotFault, SnapshotRefused
from worker.domain.instants import Instant
from worker.domain.snapshots import AcceptedSnapshot, Snapshot, SnapshotScope, Unknown
from worker.formats import cloudevents
from worker.kafka import Headers, Properties, Record
from worker.snapshots.validation import (
    AcceptanceCriteria,
    AcceptanceLimits,
    Contents,
    Fault,
    Known,
    SnapshotCandidate,
    announced_fault,
    fault,
)

MOST_REFUSALS = 5
AT_THE_END: Properties = {"fetch.wait.max.ms": 50}
"""By default librdkafka waits for half a second at the end of each partition."""


def latest(
    properties: Properties,
    topic: str,
    *,
    now: Instant,
    accepted: AcceptedSnapshot | None,
    uais: frozenset[str],
    years: frozenset[int],
    limits: AcceptanceLimits,
    known: Known,
) -> Snapshot:
    """Read the topic to its end and return its newest acceptable snapshot.

    Such a snapshot is whole and consistent, newer than `accepted` and within the limits; it covers no university
    besides `uais` and at least one of `years`. A newer one that is refused doesn't hide it.
    Memory holds the rows of one snapshot (60 MB for 50,000), and some 150 bytes for each row of every snapshot that
    isn't ruled out by its announcement (twice that for the one whose rows are read).

    Raises SnapshotRefused with the reason for each, and BrokerError when the topic can't be read.
    """
    criteria = AcceptanceCriteria(now=now, accepted=accepted, uais=uais, years=years, limits=limits, known=known)
    try:
        return newest(
            lambda: kafka.read_to_end({**AT_THE_END, **properties}, topic),
            lambda: kafka.first_offsets(properties, topic),
            criteria,
        )
    except PositionLost as error:
        raise _refused_all(SnapshotFault.FORGOTTEN, f"{error}: the topic must keep its messages for longer") from None


def newest(
    records: Callable[[], Iterable[Record]],
    first_offsets: Callable[[], Mapping[int, int]],
    criteria: AcceptanceCriteria,
) -> Snapshot:
    """Return the newest acceptable snapshot among `records`, which are read once more for each candidate.

    `first_offsets` is called after each reading. Raises SnapshotRefused when there is no such snapshot.
    """
    survey = _Survey(criteria)
    for record in records():
        survey.read(record)
    first = first_offsets()
    refusals: list[Refusal] = []
    for candidate in survey.newest_first():
        found = fault(candidate, criteria, first)
        if found is None:
            begin = cast("schemas.SnapshotBeginData", candidate.announced)  # without one there is a fault
            selected = _Selected(begin)
            for record in records():
                selected.read(record)
            found = selected.fault(criteria, first_offsets())
            if found is None:
                return selected.snapshot(passed_over=refusals, ignored=survey.ignored)
        refusals.append(candidate.refusal(found))
    raise _refused(refusals)


def _refused(refusals: Sequence[Refusal]) -> SnapshotRefused:
    if not refusals:
        return _refused_all(SnapshotFault.ABSENT, "there is no snapshot on the topic")
    sentences = "\n".join(map(str, refusals[:MOST_REFUSALS]))
    more = f"\nand {len(refusals) - MOST_REFUSALS} older ones" if len(refusals) > MOST_REFUSALS else ""
    return SnapshotRefused(f"no snapshot can be accepted:\n{sentences}{more}", refusals=refusals)


def _refused_all(kind: SnapshotFault, sentence: str) -> SnapshotRefused:
    return SnapshotRefused(sentence, refusals=[Refusal(snapshot_id="", fault=kind, sentence=sentence)])


class _ClaimedId(BaseModel):
    snapshot_id: schemas.SnapshotId


class _Claim(BaseModel):
    """The snapshot that a message claims to belong to, whatever else it holds."""

    data: _ClaimedId


class _NumberedRow(_ClaimedId):
    row: Annotated[int, Field(strict=True, ge=0)]


class _Row(BaseModel):
    """What the first reading checks of a row. Rows are the only messages that are numbered."""

    data: _NumberedRow


def _numbered(document: bytes) -> _NumberedRow | None:
    try:
        return _Row.model_validate_json(document).data
    except ValidationError:
        return None


def _claimed_id(document: bytes) -> str | None:
    try:
        return _Claim.model_validate_json(document).data.snapshot_id
    except ValidationError:
        return None


def _document(value: bytes, headers: Headers) -> bytes | None:
    """Return a message as one JSON document, or None where it is none."""
    try:
        return cloudevents.structured(value, dict(headers))
    except InvalidMessage:
        return None


def _problems(error: ValidationError) -> Sequence[str]:
    return [f"{field}: {kind}" for field, kind in schemas.problems(error)]


class _Survey:
    """The first reading: a candidate for each snapshot that the topic holds a message of."""

    def __init__(self, criteria: AcceptanceCriteria) -> None:
        self.ignored = 0
        """Messages that belong to no snapshot."""
        self._criteria = criteria
        self._candidates: dict[str, SnapshotCandidate] = {}
        self._ruled_out: set[str] = set()
        """Snapshots whose announcement is refused: their rows are neither counted nor hashed."""

    def read(self, record: Record) -> None:
        """Note a message; one that can't be read counts against the snapshot whose id it bears."""
        if record.value is None or (document := _document(record.value, record.headers)) is None:
            self.ignored += 1
        elif row := _numbered(document):
            if row.snapshot_id not in self._ruled_out:
                self._candidate(row.snapshot_id).row(record.partition, row.row, record.value)
        else:
            self._read_unnumbered(record, document)

    def _read_unnumbered(self, record: Record, document: bytes) -> None:
        try:
            event = schemas.SNAPSHOT_EVENTS.validate_json(document)
        except ValidationError as error:
            snapshot_id = _claimed_id(document)
            if snapshot_id is None:
                self.ignored += 1
            else:
                self._candidate(snapshot_id).unreadable(record.origin, _problems(error))
            return
        candidate = self._candidate(event.data.snapshot_id)
        _note_limits(candidate, record, event)
        if isinstance(event, schemas.SnapshotBegin) and announced_fault(event.data, self._criteria):
            self._ruled_out.add(candidate.id)

    def newest_first(self) -> Sequence[SnapshotCandidate]:
        """Return the candidates in the order in which they are judged; those without a begin come last."""
        return sorted(self._candidates.values(), key=_taken_at, reverse=True)

    def _candidate(self, snapshot_id: str) -> SnapshotCandidate:
        if snapshot_id not in self._candidates:
            self._candidates[snapshot_id] = SnapshotCandidate(snapshot_id)
        return self._candidates[snapshot_id]


def _taken_at(candidate: SnapshotCandidate) -> Instant:
    return candidate.announced.taken_at.timestamp() if candidate.announced else 0.0


def _note_limits(candidate: SnapshotCandidate, record: Record, event: schemas.SnapshotEvent) -> None:
    """Note on a candidate where it begins or ends."""
    match event:
        case schemas.SnapshotBegin(data=data):
            candidate.begin(record.partition, record.offset, data)
        case schemas.SnapshotEnd(data=data):
            candidate.end(record.partition, data)


_facts = itemgetter(*(index for index, name in enumerate(EnrolmentChange._fields) if name != "origin"))
"""All that a row states."""


class _Selected:
    """The second reading: one snapshot, its messages checked against the contract, and its rows.

    It is judged afresh: the topic may have lost or gained messages since the first reading.
    """

    def __init__(self, begin: schemas.SnapshotBeginData) -> None:
        self._begin = begin
        self._candidate = SnapshotCandidate(begin.snapshot_id)
        self._candidate.announced = begin
        self._name = begin.snapshot_id.encode()
        self._taken_at = begin.taken_at.timestamp()
        self._scope = SnapshotScope(
            uais=frozenset(begin.scope.uais),
            academic_years=frozenset(begin.scope.academic_years),
            etapes=tuple(sorted({*begin.scope.etapes})) if begin.scope.etapes else None,
        )
        self._contents = Contents(self._scope, begin.system)
        self._rows: list[EnrolmentChange] = []
        self._unknown: list[schemas.UnknownRow] = []

    def read(self, record: Record) -> None:
        """Note a message if it belongs to this snapshot."""
        if record.value is None or (document := _document(record.value, record.headers)) is None:
            return
        if not self._may_name(document):
            return
        try:
            event = schemas.SNAPSHOT_EVENTS.validate_json(document)
        except ValidationError as error:
            if _claimed_id(document) == self._candidate.id:
                self._candidate.unreadable(record.origin, _problems(error))
            return
        if event.data.snapshot_id != self._candidate.id:
            return
        match event:
            case schemas.SnapshotEnrolment(data=data) | schemas.SnapshotUnknown(data=data):
                if self._candidate.row(record.partition, data.row, record.value):
                    self._add(data, record.partition)
            case _:
                _note_limits(self._candidate, record, event)

    def _may_name(self, document: bytes) -> bool:
        """Return whether a message may be of this snapshot: JSON writes its id as it is, or with a backslash."""
        return self._name in document or b"\\" in document

    def _add(self, data: schemas.SnapshotEnrolmentData | schemas.SnapshotUnknownData, partition: int) -> None:
        """Keep a row; of those about one enrolment, the first."""
        if isinstance(data, schemas.SnapshotUnknownData):
            self._unknown.append(data.unknown)
            return
        row = cloudevents.enrolment(
            data.enrolment,
            version=data.enrolment.version or 0,
            changed_at=self._taken_at,
            origin=f"snapshot {data.snapshot_id}[{partition}]#{data.row}",
        )
        if self._contents.add(data.enrolment, hash(_facts(row))):
            self._rows.append(row)

    def fault(self, criteria: AcceptanceCriteria, first_offsets: Mapping[int, int]) -> Fault | None:
        """Return why the snapshot or its rows are refused."""
        return (
            fault(self._candidate, criteria, first_offsets)
            or self._contents.fault()
            or self._contents.shrinkage(criteria, self._taken_at)
        )

    def snapshot(self, *, passed_over: Sequence[Refusal], ignored: int) -> Snapshot:
        """Return what is accepted."""
        students = (row.student_id for row in self._unknown)
        enrolments = (row.enrolment_id for row in self._unknown)
        return Snapshot(
            id=self._candidate.id,
            taken_at=self._taken_at,
            system=self._begin.system,
            scope=self._scope,
            rows=self._rows,
            unknown=Unknown(
                students=frozenset(student for student in students if student is not None),
                enrolments=frozenset(enrolment for enrolment in enrolments if enrolment is not None),
            ),
            passed_over=tuple(passed_over),
            ignored=ignored,
        )
