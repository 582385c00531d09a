"""Messages of a snapshot: all enrolments of a scope, as one source held them at one instant.

`begin` and `end` are in every partition of the topic; rows lie between them, numbered from 0 in each partition. A
snapshot counts only when every partition is whole: an enrolment absent from it, within its scope, has ended.

The digest of a partition is the sum, modulo 2**256, of the SHA-256 of the value of each row's message, byte for byte
as the topic holds it, each row once. To send a snapshot again, send the same bytes or use another id.
"""

from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from schemas.enrolment import AcademicYear, EnrolmentData, System, Uai, Version
from schemas.envelope import Code32, Code128, Contract, Envelope, Time

SnapshotId = Annotated[str, Field(max_length=100, pattern="^[A-Za-z0-9][A-Za-z0-9:._+-]*$")]
Count = Annotated[int, Field(strict=True, ge=0, le=10_000_000)]


class EnrolmentRow(EnrolmentData):
    """The state of one enrolment in a snapshot."""

    version: Version | None = None
    """As in `enrolment.state`, where the source has one: a file or a directory may not.

    It orders nothing here: a snapshot takes precedence by the instant at which it was taken."""


class UnknownRow(Contract):
    """Something that the source doesn't know: an unknown word, an ambiguous entry, a missing number.

    Nothing ends by absence here: what was known of the student, or of the enrolment, stays as it was.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [
                {"required": ["student_id"], "properties": {"student_id": {"type": "string"}}},
                {"required": ["enrolment_id"], "properties": {"enrolment_id": {"type": "string"}}},
            ]
        }
    )

    student_id: Code32 | None = None
    """The student, when all of their enrolments are unknown."""
    enrolment_id: Code128 | None = None
    """The enrolment, when only that one is."""
    reason: Annotated[str, Field(max_length=40, pattern="^[a-z][a-z_]*$")]
    """Why, in a word that can be counted, e.g. `ambiguous_year`."""

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.student_id is None) == (self.enrolment_id is None):
            raise PydanticCustomError("not_one_of_both", "either a student or an enrolment")
        return self


SnapshotRow = EnrolmentRow | UnknownRow


class Scope(Contract):
    """What a snapshot is complete for: within it, absence means that the enrolment is over."""

    uais: Annotated[tuple[Uai, ...], Field(min_length=1)]
    """Codes UAI of the establishments."""
    academic_years: Annotated[tuple[AcademicYear, ...], Field(min_length=1)]
    """The years in which the academic years start."""
    etapes: Annotated[tuple[Code32, ...], Field(min_length=1, max_length=2_000)] | None = None
    """Étape codes (globs: `*`, `?`, `[XY]`); every étape when absent."""


class _SnapshotPart(Contract):
    snapshot_id: SnapshotId
    """Identifies the snapshot: the same in all its messages, never used for another. Only codes: it appears in logs."""


class SnapshotBeginData(_SnapshotPart):
    """The announcement of a snapshot; the same in every partition."""

    taken_at: Time
    """When the source was read: the instant that the snapshot shows. If the reading took a while, its start."""
    partitions: Annotated[int, Field(strict=True, ge=1, le=10_000)]
    """Number of partitions over which the snapshot is spread, numbered from 0."""
    system: System
    """The system that was read; every row has it in its source."""
    scope: Scope
    """What the snapshot is complete for; every row lies within."""


class SnapshotEnrolmentData(_SnapshotPart):
    """A row of a snapshot."""

    row: Count
    """Number of the row within its partition, from 0, without gaps."""
    enrolment: EnrolmentRow
    """The enrolment. Two rows of the same enrolment must be equal."""


class SnapshotUnknownData(_SnapshotPart):
    """A row of a snapshot about something that the source doesn't know."""

    row: Count
    """Number of the row within its partition; rows of both kinds are numbered together."""
    unknown: UnknownRow
    """The student or the enrolment that is unknown."""


class SnapshotEndData(_SnapshotPart):
    """The count of rows in this partition."""

    rows: Count
    """Rows of the snapshot in this partition."""
    digest: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    """Digest of the rows in this partition, 256 bits in hexadecimal: see the description of the topic."""
    total: Count
    """Rows of the snapshot in all partitions together."""


class SnapshotBegin(Envelope):
    """A snapshot begins in this partition."""

    type: Literal["fr.etape-cohorts.snapshot.begin.v1"]
    """Type of the message: rows of a snapshot follow."""
    data: SnapshotBeginData
    """The snapshot."""


class SnapshotEnrolment(Envelope):
    """An enrolment in a snapshot."""

    type: Literal["fr.etape-cohorts.snapshot.enrolment.v1"]
    """Type of the message: a row, with the state of an enrolment."""
    data: SnapshotEnrolmentData
    """The row."""


class SnapshotUnknown(Envelope):
    """A student, or an enrolment, unknown to the source: they stay as they were."""

    type: Literal["fr.etape-cohorts.snapshot.unknown.v1"]
    """Type of the message: a row, about something unknown."""
    data: SnapshotUnknownData
    """The row."""


class SnapshotEnd(Envelope):
    """A snapshot is complete in this partition."""

    type: Literal["fr.etape-cohorts.snapshot.end.v1"]
    """Type of the message: no more rows of the snapshot follow."""
    data: SnapshotEndData
    """The counts."""
