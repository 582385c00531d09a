"""Bytes of a topic -> a change, or `InvalidMessage`. Pure: no I/O, no clock.

| form of the message | how it is known |
| --- | --- |
| CloudEvents, structured | `content-type: application/cloudevents+json`, or no `ce_` header |
| CloudEvents, binary | `ce_` headers; the value is `data` |
| either, framed by a Confluent serializer | the value starts with 0x00 and four bytes, the id of a schema |
| tombstone | no value, whatever the headers; an empty value is not a tombstone |

Other headers are ignored: `__value_schema_id` (Confluent's other framing), and `__connect.errors.*`, so that
a dead letter that is replayed reads as the message it was. Where JSON repeats a key, the last one counts.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import orjson
from pydantic import ValidationError

import schemas
from worker.domain.changes import Change, EnrolmentChange, EtapeChange, NumberChange, PersonEnrolled, Tombstone
from worker.domain.errors import InvalidMessage, Problem
from worker.domain.instants import Instant
from worker.domain.states import Payment, Status

_STRUCTURED = b"application/cloudevents+json"
STRUCTURED_HEADERS = (("content-type", _STRUCTURED),)
"""Headers of the messages that we send: the structured form."""
_JSON = (b"", b"application/json")
_MAGIC = b"\x00"
MOST_AHEAD_SECONDS = 86_400.0
"""How far the clock of a source may be ahead of the publication."""
_FRAME = 5  # the magic byte and the id of the schema
_STATUSES = {status.value: status for status in Status}  # calling the class takes longer, for each message
_PAYMENTS = {payment.value: payment for payment in Payment}
Headers = Iterable[tuple[str, bytes | None]]


class Format(Protocol):
    """How the messages of a topic are read."""

    def read(self, *, value: bytes | None, headers: Headers, origin: str) -> Sequence[Change]:
        """Read one message, which may hold no change; raises InvalidMessage as `parse` does."""

    def letter(self, value: bytes | None) -> bytes | None:
        """Return what a dead letter keeps of a message."""


class Native:
    """The contract of `schemas`."""

    def read(self, *, value: bytes | None, headers: Headers, origin: str) -> Sequence[Change]:
        """Read one message."""
        return (parse(value=value, headers=headers, origin=origin),)

    def letter(self, value: bytes | None) -> bytes | None:
        """Return all of it: the contract has no field for what must not be kept."""
        return value


def parse(*, value: bytes | None, headers: Headers = (), origin: str) -> Change:
    """Read one message; `origin` says where it was, e.g. `enrolments[3]@1042`.

    Raises InvalidMessage, which names fields and types of error and holds no value of the message. It is
    raised outside the handlers: a ValidationError as its context would bring values into a traceback.
    """
    if value is None:
        return Tombstone(origin=origin)
    try:
        event = schemas.EVENTS.validate_json(structured(value, dict(headers)))
    except ValidationError as error:
        problems = schemas.problems(error)
    else:
        return _change(event, origin)
    raise InvalidMessage(*(Problem(field, kind) for field, kind in problems))


def arrived(change: Change, published_at: Instant) -> Change:
    """Return a change as it counts: nothing is known of a time after its publication.

    A source whose clock is ahead, or that lies, would otherwise overrule snapshots and messages that come later.
    Raises InvalidMessage when it is dated more than a day ahead: then the clock is wrong beyond repair.
    """
    if isinstance(change, Tombstone):
        return change
    if isinstance(change, PersonEnrolled):
        return replace(change, enrolment=_arrived(change.enrolment, published_at))
    if isinstance(change, EnrolmentChange):
        return _arrived(change, published_at)
    return replace(change, changed_at=_counts(change.changed_at, published_at))


def _arrived(enrolment: EnrolmentChange, published_at: Instant) -> EnrolmentChange:
    counts = _counts(enrolment.changed_at, published_at)
    return enrolment if counts == enrolment.changed_at else enrolment._replace(changed_at=counts)


def _counts(changed_at: Instant, published_at: Instant) -> Instant:
    if changed_at > published_at + MOST_AHEAD_SECONDS:
        raise InvalidMessage(Problem("time", "in_the_future"))
    return min(changed_at, published_at)


def structured(value: bytes, headers: Mapping[str, bytes | None]) -> bytes:
    """Return a message as one CloudEvents JSON document, whatever form it came in; raises InvalidMessage."""
    document = unframed(value)
    media_type = (headers.get("content-type") or b"").partition(b";")[0].strip().lower()
    if media_type == _STRUCTURED:
        return document
    if media_type not in _JSON:
        raise InvalidMessage(Problem("content-type", "unsupported_media_type"))
    attributes = {name[3:]: raw for name, raw in headers.items() if name.startswith("ce_") and raw is not None}
    return _joined(attributes, document) if attributes else document


def unframed(value: bytes) -> bytes:
    """Remove what a Confluent serializer puts before the JSON."""
    return value[_FRAME:] if value.startswith(_MAGIC) else value


def _joined(attributes: Mapping[str, bytes], data: bytes) -> bytes:
    try:
        envelope = orjson.dumps({name: raw.decode() for name, raw in attributes.items()})
        orjson.loads(data)  # whole by itself, so that it cannot close the envelope and write its own
    except UnicodeDecodeError:
        problem = Problem("headers", "string_unicode")
    except orjson.JSONDecodeError:
        problem = Problem("value", "json_invalid")
    else:
        return envelope[:-1] + b',"data":' + data + b"}"
    raise InvalidMessage(problem)


def enrolment(data: schemas.EnrolmentData, *, version: int, changed_at: Instant, origin: str) -> EnrolmentChange:
    """Return the state of an enrolment, from a message or a snapshot, as a change."""
    component = data.etape.component
    return EnrolmentChange(
        uai=data.source.uai,
        enrolment_id=data.enrolment_id,
        system=data.source.system,
        version=version,
        changed_at=changed_at,
        student_id=data.student.student_id,
        status=_STATUSES[data.status],
        origin=origin,
        academic_year=data.academic_year,
        login=data.student.login,
        etape=data.etape.code,
        etape_version=data.etape.version,
        etape_label=data.etape.label,
        component=component.code if component else None,
        component_label=component.label if component else None,
        payment=_PAYMENTS[data.payment],
    )


def _change(event: schemas.Event, origin: str) -> Change:
    match event:
        case schemas.EnrolmentState(data=data):
            return enrolment(data, version=data.version, changed_at=event.time.timestamp(), origin=origin)
        case schemas.EnrolmentDeleted(data=data):
            return EnrolmentChange(
                uai=data.source.uai,
                enrolment_id=data.enrolment_id,
                system=data.source.system,
                version=data.version,
                changed_at=event.time.timestamp(),
                student_id=data.student.student_id,
                status=Status.DELETED,
                origin=origin,
                academic_year=data.academic_year,
            )
        case schemas.StudentRekeyed(data=data):
            return NumberChange(
                uai=data.source.uai,
                previous_student_id=data.previous_student_id,
                student_id=data.student_id,
                changed_at=event.time.timestamp(),
                origin=origin,
            )
        case schemas.EtapeDescribed(data=data):
            component = data.etape.component
            return EtapeChange(
                uai=data.source.uai,
                etape=data.etape.code,
                changed_at=event.time.timestamp(),
                origin=origin,
                etape_version=data.etape.version,
                etape_label=data.etape.label,
                component=component.code if component else None,
                component_label=component.label if component else None,
            )
