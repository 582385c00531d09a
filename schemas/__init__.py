"""The message contract of étape cohorts, for those who produce messages and for the worker that reads them.

    event = EnrolmentState(specversion="1.0", type="fr.etape-cohorts.enrolment.state.v1", ..., data=...)
    produce(key=message_key(event), value=event.model_dump_json(exclude_none=True))

To check what another program wrote: `EVENTS.validate_json(value)`, and `problems(error)` of its
`ValidationError`.
"""

from schemas.catalogue import EVENTS, MODELS, Event, message_key
from schemas.enrolment import (
    Component,
    DescribedEtape,
    EnrolmentDeleted,
    EnrolmentDeletedData,
    EnrolmentState,
    EnrolmentStateData,
    Etape,
    EtapeDescribed,
    EtapeDescribedData,
    Source,
    Student,
    StudentKey,
    StudentRekeyed,
    StudentRekeyedData,
)
from schemas.envelope import problems

__all__ = [
    "EVENTS",
    "MODELS",
    "Component",
    "DescribedEtape",
    "EnrolmentDeleted",
    "EnrolmentDeletedData",
    "EnrolmentState",
    "EnrolmentStateData",
    "Etape",
    "EtapeDescribed",
    "EtapeDescribedData",
    "Event",
    "Source",
    "Student",
    "StudentKey",
    "StudentRekeyed",
    "StudentRekeyedData",
    "message_key",
    "problems",
]
