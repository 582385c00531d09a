"""What messages say, parsed: the changes that the ledger records."""

from dataclasses import dataclass
from typing import NamedTuple

from worker.domain.instants import Instant
from worker.domain.states import Payment, Status


class EnrolmentChange(NamedTuple):
    """The state of one enrolment at one source, as a message carries it (never a delta).

    A tuple, always made by keywords: each message makes one, and a frozen dataclass takes three times as long.
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
    sequence: str = ""
    """Orders what a source says under one version and at one instant, as text; empty where it says one thing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PersonEnrolled:
    """An enrolment that names a person, by APOGÉE's COD_IND, instead of a student.

    `enrolment` lacks nothing but its student number, which is empty until `PersonNumbered` has told it.
    """

    person: int
    enrolment: EnrolmentChange


@dataclass(frozen=True, slots=True, kw_only=True)
class PersonNumbered:
    """The student number (COD_ETU) of a person (COD_IND)."""

    uai: str
    person: int
    student_id: str
    version: int
    sequence: str
    changed_at: Instant
    origin: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberChange:
    """Two student numbers of one person were merged: `previous` lives on as `student_id`."""

    uai: str
    previous_student_id: str
    student_id: str
    changed_at: Instant
    origin: str


BELOW_ALL_VERSIONS = ""
"""The version of a label that an étape has for want of one of any version's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EtapeChange:
    """The label and the component of an étape, for the names of its cohorts.

    The label of the highest version rules. Without a version it is above them all, and under `BELOW_ALL_VERSIONS`
    below.
    """

    uai: str
    etape: str
    changed_at: Instant
    origin: str
    etape_version: str | None = None
    etape_label: str | None = None
    component: str | None = None
    component_label: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ComponentChange:
    """The label of a component, for the names of cohorts."""

    uai: str
    component: str
    component_label: str
    changed_at: Instant
    origin: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Tombstone:
    """A message without a value: acknowledged, and without effect.

    It names a student, not an enrolment, and has no version: nobody is unenrolled on its word. A deleted enrolment
    is said by `enrolment.deleted`.
    """

    origin: str


Change = EnrolmentChange | PersonEnrolled | PersonNumbered | NumberChange | EtapeChange | ComponentChange | Tombstone


class Received(NamedTuple):
    """A change and the instant at which it was published: the clock of the promise starts there."""

    change: Change
    published_at: Instant
