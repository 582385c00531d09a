"""The newest acceptable snapshot of a topic, or why there is none."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Annotated

from pydantic import BaseModel, Field, ValidationError

import schemas
from worker import kafka
from worker.domain.changes import EnrolmentChange
from worker.domain.errors import InvalidMessage, PositionLost, Refusal, SnapshotFault, SnapshotRefused
from worker.domain.instants import Instant
from worker.domain.snapshots import AcceptedSnapshot, Snapshot, SnapshotScope, Unknown
from worker.formats import cloudevents
from worker.kafka import Properties, Record
from worker.snapshots.validation import (
    AcceptanceCriteria,
    AcceptanceLimits,
    Candidate,
    Contents,
    Fault,
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
) -> Snapshot:
    """Read the topic to its end and give its newest snapshot that can be accepted.

    It is whole, agrees with itself, is newer than the one `accepted` last and within the limits, and speaks of no
    other university than `uais` and of one of `years` at least. A newer one that is refused doesn't hide it.
    Memory holds the rows of one snapshot (60 MB for 50,000), and some 150 bytes for each row of others that may still
    be accepted.

    Raises SnapshotRefused, which says why of each, and BrokerError when the topic can't be read.
    """
    terms = AcceptanceCriteria(now=now, accepted=accepted, uais=uais, years=years, limits=limits)
    try:
        return newest(
            lambda: kafka.read_to_end({**AT_THE_END, **properties}, topic),
            lambda: kafka.first_offsets(properties, topic),
            terms,
        )
    except PositionLost as error:
        raise _refused_all(SnapshotFault.FORGOTTEN, f"{error}: the topic must keep its messages for longer") from None


def newest(
    records: Callable[[], Iterable[Record]], first_offsets: Callable[[], Mapping[int, int]], terms: AcceptanceCriteria
) -> Snapshot:
    """Judge each snapshot of a topic by itself, newest first; `first_offsets` is asked once `records` have been read.

    Only rows of the newest one are kept. When it turns out to be unacceptable, and an older one does not, the topic is
    read again for the rows of that one.
    """
    refusals: dict[str, Refusal] = {}
    wanted: schemas.SnapshotBeginData | None = None
    while True:
        reader = _Reader(terms, wanted, refused=refusals)
        for record in records():
            reader.read(record)
        first, wanted = first_offsets(), None
        for seen in sorted(reader.seen.values(), key=_taken_at, reverse=True):
            if seen.id in refusals:
                continue
            image = reader.image_of(seen)
            if found := fault(seen, terms, first) or (image and image.fault(terms)):
                refusals[seen.id] = seen.refusal(found)
            elif image is None:
                wanted = seen.announced
                break
            else:
                return image.snapshot(passed_over=tuple(refusals.values()), ignored=reader.ignored)
        if wanted is None:
            raise _refused(tuple(refusals.values()))


def _refused(refusals: Sequence[Refusal]) -> SnapshotRefused:
    if not refusals:
        return _refused_all(SnapshotFault.ABSENT, "there is no snapshot on the topic")
    said = "\n".join(map(str, refusals[:MOST_REFUSALS]))
    more = f"\nand {len(refusals) - MOST_REFUSALS} older ones" if len(refusals) > MOST_REFUSALS else ""
    return SnapshotRefused(f"no snapshot can be accepted:\n{said}{more}", refusals=refusals)


def _refused_all(kind: SnapshotFault, sentence: str) -> SnapshotRefused:
    return SnapshotRefused(sentence, refusals=[Refusal(snapshot_id="", fault=kind, sentence=sentence)])


def _taken_at(seen: Candidate) -> Instant:
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
    """What is looked at of each row; all of it is, by the contract, where its rows are kept.

    Rows are the only messages that are numbered.
    """

    data: _NumberedRow


def _numbered(document: bytes) -> _NumberedRow | None:
    try:
        return _Row.model_validate_json(document).data
    except ValidationError:
        return None


_said = itemgetter(*(index for index, name in enumerate(EnrolmentChange._fields) if name != "origin"))
"""All that a row tells."""


class _Image:
    """The rows of one snapshot, as they come."""

    def __init__(self, seen: Candidate, begin: schemas.SnapshotBeginData) -> None:
        self.seen = seen
        self.name = seen.id.encode()
        """As most messages write it, so that those of others are known without a look at all of them."""
        self.begin = begin
        self.messages = 0
        self.taken_at = begin.taken_at.timestamp()
        self.scope = SnapshotScope(
            uais=frozenset(begin.scope.uais),
            academic_years=frozenset(begin.scope.academic_years),
            etapes=tuple(sorted({*begin.scope.etapes})) if begin.scope.etapes else None,
        )
        self.contents = Contents(self.scope, begin.system)
        self.rows: list[EnrolmentChange] = []
        self.unknown: list[schemas.UnknownRow] = []

    def tell(self, event: schemas.SnapshotEvent, partition: int) -> None:
        """Keep a row; of those that tell one enrolment, the first."""
        self.messages += 1
        if isinstance(event, schemas.SnapshotUnknown):
            self.unknown.append(event.data.unknown)
        elif isinstance(event, schemas.SnapshotEnrolment):
            enrolment = event.data.enrolment
            origin = f"snapshot {self.seen.id}[{partition}]#{event.data.row}"
            row = cloudevents.enrolment(
                enrolment, version=enrolment.version or 0, changed_at=self.taken_at, origin=origin
            )
            if self.contents.add(enrolment, hash(_said(row))):
                self.rows.append(row)

    def fault(self, terms: AcceptanceCriteria) -> Fault | None:
        """Find what is wrong with the rows."""
        return self.contents.fault() or self.contents.shrinkage(terms.accepted, terms.limits)

    def snapshot(self, *, passed_over: Sequence[Refusal], ignored: int) -> Snapshot:
        """Give what is accepted."""
        students = (row.student_id for row in self.unknown)
        enrolments = (row.enrolment_id for row in self.unknown)
        return Snapshot(
            id=self.seen.id,
            taken_at=self.taken_at,
            system=self.begin.system,
            scope=self.scope,
            rows=self.rows,
            unknown=Unknown(
                students=frozenset(student for student in students if student is not None),
                enrolments=frozenset(enrolment for enrolment in enrolments if enrolment is not None),
            ),
            passed_over=passed_over,
            ignored=ignored,
        )


class _Reader:
    """What the topic holds, by snapshot, and the rows of the newest that may be accepted, or of the one `wanted`."""

    def __init__(
        self, terms: AcceptanceCriteria, wanted: schemas.SnapshotBeginData | None, *, refused: Iterable[str]
    ) -> None:
        self.seen: dict[str, Candidate] = {}
        self._terms = terms
        self._refused = {*refused}  # also by what they announce: their rows needn't be looked at
        self.ignored = 0
        self._wanted = wanted
        self._image = _Image(self._of(wanted.snapshot_id), wanted) if wanted else None

    def read(self, record: Record) -> None:
        """Take note of a message; one that can't be read counts against the snapshot whose id it bears."""
        if record.value is None:
            self.ignored += 1
            return
        try:
            document = cloudevents.structured(record.value, dict(record.headers))
        except InvalidMessage:
            self.ignored += 1
            return
        names_kept = self._image is not None and self._image.name in document
        row: _NumberedRow | schemas.SnapshotEnrolmentData | schemas.SnapshotUnknownData | None
        row = None if names_kept else _numbered(document)
        event = self._event(record, document) if row is None else None
        match event:
            case schemas.SnapshotBegin(data=data):
                self._begin(record, data)
            case schemas.SnapshotEnd(data=data):
                self._of(data.snapshot_id).end(record.partition, data)
            case schemas.SnapshotEnrolment(data=data) | schemas.SnapshotUnknown(data=data):
                row = data
        if row is None:
            return
        seen = self._of(row.snapshot_id)
        if seen.id in self._refused or not seen.row(record.partition, row.row, record.value):
            return
        if self._image is not None and self._image.seen is seen:
            event = event or self._event(record, document)  # JSON may write the same name in other ways
            if event is not None:
                self._image.tell(event, record.partition)

    def _begin(self, record: Record, data: schemas.SnapshotBeginData) -> None:
        seen = self._of(data.snapshot_id)
        seen.begin(record.partition, record.offset, data)
        if announced_fault(data, self._terms):
            self._refused.add(seen.id)
        elif self._wanted is None and (self._image is None or data.taken_at > self._image.begin.taken_at):
            self._image = _Image(seen, data)

    def _event(self, record: Record, document: bytes) -> schemas.SnapshotEvent | None:
        """Give what a message is by the contract; None, and a note of it, when it breaks that."""
        try:
            return schemas.SNAPSHOT_EVENTS.validate_json(document)
        except ValidationError as error:
            try:
                claim = _Claim.model_validate_json(document)
            except ValidationError:
                self.ignored += 1
            else:
                said = [f"{field}: {kind}" for field, kind in schemas.problems(error)]
                self._of(claim.data.snapshot_id).unreadable(record.origin, said)
            return None

    def _of(self, snapshot_id: str) -> Candidate:
        if snapshot_id not in self.seen:
            self.seen[snapshot_id] = Candidate(snapshot_id)
        return self.seen[snapshot_id]

    def image_of(self, seen: Candidate) -> _Image | None:
        """Give a snapshot's rows, if all were kept: not those of an older one, nor what came before its begin."""
        image = self._image
        if image is None or image.seen is not seen or image.begin != seen.announced:
            return None
        return image if image.messages == sum(map(len, seen.rows.values())) else None
