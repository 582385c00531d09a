"""The messages of each of the two topics: a reader refuses those of the other topic.

A new type is one more member of a union below; mypy then asks for its key here and for its reader in the worker.
"""

from typing import Annotated, get_args

from pydantic import ConfigDict, Field, TypeAdapter

from schemas.enrolment import EnrolmentDeleted, EnrolmentState, EtapeDescribed, StudentRekeyed
from schemas.envelope import Envelope
from schemas.snapshot import SnapshotBegin, SnapshotEnd, SnapshotEnrolment, SnapshotUnknown

_Message = EnrolmentState | EnrolmentDeleted | StudentRekeyed | EtapeDescribed
_SnapshotMessage = SnapshotBegin | SnapshotEnrolment | SnapshotUnknown | SnapshotEnd
Event = Annotated[_Message, Field(discriminator="type")]
SnapshotEvent = Annotated[_SnapshotMessage, Field(discriminator="type")]
_HIDDEN = ConfigDict(hide_input_in_errors=True, defer_build=True)

EVENTS: TypeAdapter[_Message] = TypeAdapter(Event, config=_HIDDEN)
"""Reads any message of the enrolments' topic: `EVENTS.validate_json(bytes)`."""

SNAPSHOT_EVENTS: TypeAdapter[_SnapshotMessage] = TypeAdapter(SnapshotEvent, config=_HIDDEN)
"""Reads any message of the snapshots' topic."""


def _by_type(union: object) -> dict[str, type[Envelope]]:
    return {get_args(model.model_fields["type"].annotation)[0]: model for model in get_args(union)}


MODELS = _by_type(_Message)
"""The model of each `type` on the enrolments' topic."""

SNAPSHOT_MODELS = _by_type(_SnapshotMessage)
"""The model of each `type` on the snapshots' topic."""


def message_key(event: Event) -> str:
    """Return the key of the Kafka message: messages that must stay in order share a partition.

    It is the student (for a merge, the number that remains); for the description of an étape, its code.
    """
    match event:
        case EnrolmentState() | EnrolmentDeleted():
            return event.data.student.student_id
        case StudentRekeyed():
            return event.data.student_id
        case EtapeDescribed():
            return event.data.etape.code
