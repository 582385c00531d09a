"""Parsed messages: the changes that the ledger records."""

from dataclasses import dataclass
from typing import NamedTuple

from worker.domain.instants import Instant
from worker.domain.states import Payment, Status


class EnrolmentChange(NamedTuple):
    """The state of one enrolment at one source, as a message carries it (never a delta).

    A tuple, always built with keywords: each message builds one, and a frozen dataclass takes three times as long.
    `version` orders the facts of one enrolment from one source; `changed_at` orders those of different sources.
    `origin` is where it was read, e.g. `enrolments[3]@1042`.
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
    """Orders, as text, the facts that a source publishes under one version and instant; empty where there is one."""
    cod_ind: int | None = None
    """The person, where the source names one: the enrolment is theirs, whatever their number is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PersonEnrolled:
    """An enrolment that names a person, by APOGÉE's COD_IND, instead of a student.

    `enrolment` is complete except for its student number, which is empty until a `PersonNumbered` brings it.
    """

    person: int
    enrolment: EnrolmentChange


@dataclass(frozen=True, slots=True, kw_only=True)
class PersonNumbered:
    """The student number (COD_ETU) of a person (COD_IND), empty when they have none, or are deleted."""

    uai: str
    person: int
    student_id: str
    version: int
    sequence: str
    changed_at: Instant
    origin: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberChange:
    """Two student numbers of one person were merged: `previous_student_id` lives on as `student_id`."""

    uai: str
    previous_student_id: str
    student_id: str
    changed_at: Instant
    origin: str


BELOW_ALL_VERSIONS = ""
"""Version key of an étape's own label, used when no version has one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EtapeChange:
    """The label and the component of an étape, for the names of its cohorts.

    The label of the highest version is used. A label without a version comes before them all, one with
    `BELOW_ALL_VERSIONS` after them all.
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

    It names a student, not an enrolment, and has no version: it unenrols nobody. A deleted enrolment is announced by
    `enrolment.deleted`.
    """

    origin: str


Change = EnrolmentChange | PersonEnrolled | PersonNumbered | NumberChange | EtapeChange | ComponentChange | Tombstone


class Received(NamedTuple):
    """A change, and the instant of its publication, from which the promised delay counts."""

    change: Change
    published_at: Instant
