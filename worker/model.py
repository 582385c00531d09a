"""The values that the parts exchange. Frozen, keyword-only, without behaviour that needs a clock or I/O.

Instants are seconds since the epoch (UTC) as float, so that SQLite and PostgreSQL store and compare them alike.
"""

from dataclasses import dataclass
from enum import StrEnum

Instant = float


class Status(StrEnum):
    """What the source says of an enrolment. `DELETED` is the row that no longer exists at the source."""

    ACTIVE = "active"
    PENDING = "pending"
    CANCELLED = "cancelled"
    RESIGNED = "resigned"
    DELETED = "deleted"


class Payment(StrEnum):
    """Whether the enrolment's fees are paid, as far as the source knows."""

    PAID = "paid"
    DUE = "due"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrolmentChange:
    """The state of one enrolment at one source, as a message carries it (never a delta).

    `version` orders the facts of one enrolment from one source; `changed_at` orders those of different sources.
    `origin` says where it was read, e.g. `enrolments[3]@1042`.
    A deleted enrolment may know neither its étape nor its year.
    """

    uai: str
    enrolment_id: str
    system: str
    version: int
    changed_at: Instant
    student_id: str
    status: Status
    origin: str
    academic_year: int | None = None
    login: str | None = None
    etape: str | None = None
    etape_version: str | None = None
    etape_label: str | None = None
    component: str | None = None
    component_label: str | None = None
    payment: Payment = Payment.UNKNOWN


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentRekeyed:
    """Two student numbers of one person were merged: `previous` lives on as `student_id`."""

    uai: str
    previous_student_id: str
    student_id: str
    changed_at: Instant
    origin: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EtapeDescribed:
    """The label and the component of an étape, for the names of its cohorts."""

    uai: str
    etape: str
    changed_at: Instant
    origin: str
    etape_version: str | None = None
    label: str | None = None
    component: str | None = None
    component_label: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tombstone:
    """A message without a value: acknowledged, and without effect.

    It names a student, not an enrolment, and has no version: nobody is unenrolled on its word. A deleted enrolment
    is said by `enrolment.deleted`.
    """

    origin: str


Change = EnrolmentChange | StudentRekeyed | EtapeDescribed | Tombstone
