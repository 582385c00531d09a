"""Messages about enrolments: *inscriptions administratives à une étape*, their students and their étapes.

Each carries a state, never a delta: any of them may be lost, repeated or late, and the next one repairs it.
"""

from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from schemas.envelope import Code16, Code32, Code100, Code128, Contract, Envelope, Label255

Uai = Annotated[str, Field(pattern="^[0-9]{7}[A-Z]$")]
System = Literal["apogee", "supann", "pegase"]
AcademicYear = Annotated[int, Field(strict=True, ge=2000, le=2100)]
Version = Annotated[int, Field(strict=True, ge=0, le=2**63 - 1)]


class Source(Contract):
    """Where a fact is recorded."""

    system: System
    """The system that holds the record: APOGÉE, a SupAnn directory, or PEGASE."""
    uai: Uai
    """UAI of the establishment: seven digits and a capital letter, e.g. `0141408E`."""


class StudentKey(Contract):
    """A student, by number only."""

    student_id: Code32
    """Code étudiant (APOGÉE `COD_ETU`, SupAnn `supannEtuId`): text, leading zeros kept.

    Neither `COD_IND` nor INE."""


class Student(StudentKey):
    """A student, by number and, where the source knows it, by login."""

    login: Code100 | None = None
    """Login at the university (e.g. SupAnn `supannAliasLogin`), for platforms that match by username."""


class Component(Contract):
    """A faculty, institute or school."""

    code: Code32
    """APOGÉE `COD_CMP`, or the directory's code without its label, e.g. `U99`."""
    label: Label255 | None = None
    """APOGÉE `COMPOSANTE.LIB_CMP`."""


class EtapeKey(Contract):
    """A year of a diploma, by its code."""

    code: Code32
    """APOGÉE `COD_ETP` (or PEGASE's code), without its version, e.g. `XINFO1`."""
    version: Code16 | None = None
    """Version of the étape (APOGÉE `COD_VRS_VET`), as text, e.g. `101`."""


class Etape(EtapeKey):
    """A year of a diploma, with the labels for its cohort's name, where the source knows them (a directory doesn't)."""

    label: Label255 | None = None
    """APOGÉE `VERSION_ETAPE.LIB_WEB_VET`, else `ETAPE.LIB_ETP`."""
    component: Component | None = None
    """The component that teaches it."""


class DescribedEtape(Etape):
    """The description of a year of a diploma: a label, a component, or both."""

    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [
                {"required": ["label"], "properties": {"label": {"type": "string"}}},
                {"required": ["component"], "properties": {"component": {"type": "object"}}},
            ]
        }
    )

    @model_validator(mode="after")
    def _describes(self) -> Self:
        if self.label is None and self.component is None:
            raise PydanticCustomError("nothing_described", "neither a label nor a component")
        return self


class EnrolmentData(Contract):
    """The whole state of one enrolment at one source, without its version."""

    enrolment_id: Code128
    """Identifies the enrolment at its source, for ever, e.g. the key of APOGÉE's `INS_ADM_ETP` joined by colons."""
    academic_year: AcademicYear
    """The year in which the academic year starts (APOGÉE `COD_ANU`): 2026 is 2026-2027."""
    student: Student
    """Who is enrolled."""
    etape: Etape
    """What the student is enrolled in."""
    status: Literal["active", "pending", "cancelled", "resigned"]
    """State of the enrolment (APOGÉE `ETA_IAE`): E is active, C pending, A cancelled, R resigned."""
    payment: Literal["paid", "due", "unknown"] = "unknown"
    """Fees (APOGÉE `ETA_PMT_IAE`): P is paid, A due, anything else unknown."""
    source: Source
    """Where the enrolment is recorded."""


class EnrolmentStateData(EnrolmentData):
    """The whole state of one enrolment at one source."""

    version: Version
    """Grows with every change of this enrolment at this source (SCN, modification time, counter), in 63 bits.

    Producers in JavaScript: beyond 2**53 a number is no longer exact.
    """


class EnrolmentDeletedData(Contract):
    """An enrolment whose record no longer exists at its source; a cancelled one is a state."""

    enrolment_id: Code128
    """The id of its states."""
    student: StudentKey
    """Who was enrolled; gives the key of the message."""
    academic_year: AcademicYear | None = None
    """The year in which the academic year starts, if still known."""
    source: Source
    """Where the enrolment was recorded."""
    version: Version
    """Greater than that of every earlier state of this enrolment at this source."""


class StudentRekeyedData(Contract):
    """Two numbers of one person were merged."""

    previous_student_id: Code32
    """The number that is no longer used. A later snapshot with enrolments under it ends the merge."""
    student_id: Code32
    """The number that remains; gives the key of the message."""
    source: Source
    """Where the merge was recorded."""

    @model_validator(mode="after")
    def _differ(self) -> Self:
        if self.previous_student_id == self.student_id:
            raise PydanticCustomError("same_student", "the two student numbers are the same")
        return self


class EtapeDescribedData(Contract):
    """The label or the component of an étape, for the names of its cohorts."""

    etape: DescribedEtape
    """The étape and its description."""
    source: Source
    """Where the étape is recorded."""


class EnrolmentState(Envelope):
    """An enrolment was created or changed, or its state is sent again."""

    type: Literal["fr.etape-cohorts.enrolment.state.v1"]
    """Type of the message: the state of an enrolment."""
    data: EnrolmentStateData
    """The enrolment."""


class EnrolmentDeleted(Envelope):
    """The record of an enrolment was deleted."""

    type: Literal["fr.etape-cohorts.enrolment.deleted.v1"]
    """Type of the message: an enrolment no longer exists."""
    data: EnrolmentDeletedData
    """The enrolment."""


class StudentRekeyed(Envelope):
    """The number of a student changed."""

    type: Literal["fr.etape-cohorts.student.rekeyed.v1"]
    """Type of the message: two student numbers are one person."""
    data: StudentRekeyedData
    """The two numbers."""


class EtapeDescribed(Envelope):
    """An étape was created, renamed or moved to another component."""

    type: Literal["fr.etape-cohorts.etape.described.v1"]
    """Type of the message: the description of an étape."""
    data: EtapeDescribedData
    """The étape."""
