"""The messages that exist.

A new type is one more member of `_Message`; mypy then asks for its key here and for its reader in the worker.
"""

from typing import Annotated, get_args

from pydantic import ConfigDict, Field, TypeAdapter

from schemas.enrolment import EnrolmentDeleted, EnrolmentState, EtapeDescribed, StudentRekeyed
from schemas.envelope import Envelope

_Message = EnrolmentState | EnrolmentDeleted | StudentRekeyed | EtapeDescribed
Event = Annotated[_Message, Field(discriminator="type")]

EVENTS: TypeAdapter[_Message] = TypeAdapter(Event, config=ConfigDict(hide_input_in_errors=True))
"""Reads any message: `EVENTS.validate_json(bytes)`."""

MODELS: dict[str, type[Envelope]] = {
    get_args(model.model_fields["type"].annotation)[0]: model for model in get_args(_Message)
}
"""The model of each `type`."""


def message_key(event: Event) -> str:
    """Give the key of the Kafka message, so that what must stay in order shares a partition.

    It is the student (for a merge, the number that lives on); for the description of an étape, its code.
    """
    match event:
        case EnrolmentState() | EnrolmentDeleted():
            return event.data.student.student_id
        case StudentRekeyed():
            return event.data.student_id
        case EtapeDescribed():
            return event.data.etape.code
