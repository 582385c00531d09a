"""The message contract of étape cohorts, for producers of messages and for the worker that reads them.

    event = EnrolmentState(specversion="1.0", type="fr.etape-cohorts.enrolment.state.v1", ..., data=...)
    produce(key=message_key(event), value=event.model_dump_json(exclude_none=True))

To validate what another program wrote: `EVENTS.validate_json(value)`, and `problems(error)` of its
`ValidationError`.
"""

from schemas.catalogue import EVENTS, MODELS, SNAPSHOT_EVENTS, SNAPSHOT_MODELS, Event, SnapshotEvent, message_key
from schemas.enrolment import (
    Component,
    DescribedEtape,
    EnrolmentData,
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
from schemas.snapshot import (
    EnrolmentRow,
    Scope,
    SnapshotBegin,
    SnapshotBeginData,
    SnapshotEnd,
    SnapshotEndData,
    SnapshotEnrolment,
    SnapshotEnrolmentData,
    SnapshotId,
    SnapshotRow,
    SnapshotUnknown,
    SnapshotUnknownData,
    UnknownRow,
)

__all__ = [
    "EVENTS",
    "MODELS",
    "SNAPSHOT_EVENTS",
    "SNAPSHOT_MODELS",
    "Component",
    "DescribedEtape",
    "EnrolmentData",
    "EnrolmentDeleted",
    "EnrolmentDeletedData",
    "EnrolmentRow",
    "EnrolmentState",
    "EnrolmentStateData",
    "Etape",
    "EtapeDescribed",
    "EtapeDescribedData",
    "Event",
    "Scope",
    "SnapshotBegin",
    "SnapshotBeginData",
    "SnapshotEnd",
    "SnapshotEndData",
    "SnapshotEnrolment",
    "SnapshotEnrolmentData",
    "SnapshotEvent",
    "SnapshotId",
    "SnapshotRow",
    "SnapshotUnknown",
    "SnapshotUnknownData",
    "Source",
    "Student",
    "StudentKey",
    "StudentRekeyed",
    "StudentRekeyedData",
    "UnknownRow",
    "message_key",
    "problems",
]
