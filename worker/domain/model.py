"""The values that the parts exchange. Frozen, made by keywords, without behaviour that needs a clock or I/O.

Instants are seconds since the epoch (UTC) as float, so that SQLite and PostgreSQL store and compare them alike.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import NamedTuple

from worker.domain.errors import Refusal

Instant = float


class Language(StrEnum):
    """A language in which people are answered."""

    FR = "fr"
    EN = "en"


class Status(StrEnum):
    """What the source says of an enrolment. `DELETED` is the row that no longer exists at the source."""

    ACTIVE = "active"
    PENDING = "pending"
    CANCELLED = "cancelled"
    RESIGNED = "resigned"
    DELETED = "deleted"
    ABSENT = "absent"
    """A complete snapshot, newer than all that was known of it, doesn't hold it any more."""


class Payment(StrEnum):
    """Whether the enrolment's fees are paid, as far as the source knows."""

    PAID = "paid"
    DUE = "due"
    UNKNOWN = "unknown"


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
class StudentRekeyed:
    """Two student numbers of one person were merged: `previous` lives on as `student_id`."""

    uai: str
    previous_student_id: str
    student_id: str
    changed_at: Instant
    origin: str


BELOW_ALL_VERSIONS = ""
"""The version of a label that an étape has for want of one of any version's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EtapeDescribed:
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
class ComponentDescribed:
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


Change = (
    EnrolmentChange | PersonEnrolled | PersonNumbered | StudentRekeyed | EtapeDescribed | ComponentDescribed | Tombstone
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotScope:
    """What a snapshot is complete for: within it, absence means that the enrolment is over.

    `etapes` are globs on the étape's code; None is every étape.
    """

    uais: frozenset[str]
    academic_years: frozenset[int]
    etapes: tuple[str, ...] | None = None

    def covers(self, *, uai: str, academic_year: int | None, etape: str | None) -> bool:
        """Say whether an enrolment lies within; one whose étape isn't known only lies within every étape."""
        return uai in self.uais and academic_year in self.academic_years and self.covers_etape(etape)

    def covers_etape(self, etape: str | None) -> bool:
        """Say the same of an étape."""
        if self.etapes is None:
            return True
        return etape is not None and any(fnmatchcase(etape, glob) for glob in self.etapes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unknown:
    """What the source of a snapshot could not tell: the snapshot says nothing of it, were it absent."""

    students: frozenset[str] = frozenset()
    enrolments: frozenset[str] = frozenset()

    def __len__(self) -> int:
        """Count the students and the enrolments."""
        return len(self.students) + len(self.enrolments)

    def holds(self, *, student_id: str, enrolment_id: str) -> bool:
        """Say whether an enrolment is among it."""
        return enrolment_id in self.enrolments or student_id in self.students


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptedSnapshot:
    """What is remembered of a snapshot once it was accepted: the next one is held against it."""

    id: str
    taken_at: Instant
    system: str
    scope: SnapshotScope
    rows_by_year: Mapping[int, int]
    unknown: Unknown = Unknown()

    def speaks_of(
        self, *, uai: str, academic_year: int | None, etape: str | None, student_id: str, enrolment_id: str
    ) -> bool:
        """Say whether an enrolment would be in it, if there were one."""
        return self.scope.covers(uai=uai, academic_year=academic_year, etape=etape) and not self.unknown.holds(
            student_id=student_id, enrolment_id=enrolment_id
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The complete image of all enrolments of a scope, as one system held them at `taken_at`.

    A row's `changed_at` is `taken_at`, its version the source's, or 0 where the source has none: it orders nothing,
    for a snapshot overrules by time. Its origin is `snapshot ID[partition]#row`. No enrolment is told twice.
    `passed_over` says why newer snapshots were not accepted, `ignored` counts messages that belong to no snapshot.
    """

    id: str
    taken_at: Instant
    system: str
    scope: SnapshotScope
    rows: Sequence[EnrolmentChange]
    unknown: Unknown = Unknown()
    passed_over: Sequence[Refusal] = ()
    ignored: int = 0

    def accepted(self) -> AcceptedSnapshot:
        """Give what to remember of it."""
        return AcceptedSnapshot(
            id=self.id,
            taken_at=self.taken_at,
            system=self.system,
            scope=self.scope,
            rows_by_year=Counter(row.academic_year for row in self.rows if row.academic_year is not None),
            unknown=self.unknown,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """An entry of a directory that is watched, as it was told last."""

    uuid: str
    csn: str
    """Says which state of the entry was read."""
    terms: str
    """Says under which settings it was understood."""
    student_id: str | None
    rows: str
    """The enrolments that it said, as JSON of `schemas.EnrolmentRow`."""
    version: int
    """Under which it was told last; 0 when it had nothing to tell."""
    missed_at: Instant | None = None
    """When a look missed it first; None while it is there."""
    gone: bool = False
    """Whether its leaving was told."""
    unsure: bool = False
    """Whether some of `rows` may not have been told, or some of it may be over: whoever told it was killed."""


class Received(NamedTuple):
    """A change and the instant at which it was published: the clock of the promise starts there."""

    change: Change
    published_at: Instant


class Cause(StrEnum):
    """Why a membership is desired, or no longer is: the enrolment's status, or what else happened."""

    ACTIVE = "active"
    PENDING = "pending"
    CANCELLED = "cancelled"
    RESIGNED = "resigned"
    DELETED = "deleted"
    REKEYED = "rekeyed"
    """Two student numbers were merged."""
    DESCRIBED = "described"
    """The étape's component became known or changed, and routes go by it."""
    ABSENT = "absent"
    """A complete snapshot doesn't hold the enrolment any more."""
    SETTINGS = "settings"
    YEAR_CLOSED = "year_closed"
    """The enrolment's year was taken out of the active ones."""
    DRIFT = "drift"
    """Moodle showed otherwise than we left it."""
    UNDONE = "undone"
    """A person had a removal undone."""
    REJECTED = "rejected"
    """A person refused the removal."""
    ERASED = "erased"
    """A person is to be erased, whom only a decision had kept."""


class Way(StrEnum):
    """How a change came to Moodle: those that a message announced, and that waited for nobody, are what is promised."""

    MESSAGE = "message"
    NIGHT = "night"
    """A reconciliation found it."""
    DECISION = "decision"
    """A setting was changed, or a person decided."""
    PARKED = "parked"
    """It waited for an account, or for the end of observing."""
    APPROVED = "approved"
    """The guard held it until a person approved it."""


class CohortState(StrEnum):
    """What we know of a cohort on its platform."""

    WANTED = "wanted"
    """Not looked for yet, or not created yet."""
    OWNED = "owned"
    """Created by us, or adopted: we may write it."""
    FOREIGN = "foreign"
    """It exists and isn't ours: `cohorts adopt` takes it over."""


class Limit(StrEnum):
    """Which limit of the guard holds removals."""

    COHORT = "cohort"
    PLATFORM = "platform"


class Kept(StrEnum):
    """Why a membership that the rules don't desire is kept."""

    REJECTED = "rejected"
    """A person refused its removal; until the desired state changes again."""
    UNDONE = "undone"
    """A person undid its removal; until a newer message or snapshot says that the enrolment is over."""


class Drift(StrEnum):
    """A difference between Moodle and what we left there, that no message announced."""

    MISSING = "missing"
    """A member of ours is no longer there."""
    EXTRA = "extra"
    """A student whom we know is there and isn't desired."""
    GONE_ACCOUNT = "gone_account"
    """A member is no longer there because their account was deleted."""
    RENAMED = "renamed"
    """A cohort of ours has another name or idnumber."""
    VANISHED = "vanished"
    """A cohort of ours was deleted."""


class RunState(StrEnum):
    """How a reconciliation stands or ended."""

    RUNNING = "running"
    DONE = "done"
    PARTIAL = "partial"
    """A platform could not be read, or gaps were left at the limit of time."""
    REFUSED = "refused"
    """No snapshot could be accepted: nothing was changed."""
    FAILED = "failed"
    ABANDONED = "abandoned"
    """Its process died; the next run took up its work."""


class PlatformState(StrEnum):
    """How a platform answered last."""

    UP = "up"
    UNAVAILABLE = "unavailable"
    DENIED = "denied"


class Action(StrEnum):
    """What was applied on Moodle, or decided by a person."""

    ADD = "add"
    REMOVE = "remove"
    CREATE_COHORT = "create_cohort"
    RENAME_COHORT = "rename_cohort"
    ADOPT_COHORT = "adopt_cohort"
    APPROVE = "approve"
    REJECT = "reject"
    UNDO = "undo"


class Reason(StrEnum):
    """Why a membership is parked. Besides these, Moodle's own errorcode."""

    NO_ACCOUNT = "no_account"
    AMBIGUOUS_ACCOUNT = "ambiguous_account"
    NO_LOGIN = "no_login"
    """The platform's accounts are named by login, and no message has told it."""
    BAD_ACCOUNT_NAME = "bad_account_name"
    """Moodle would refuse a look-up by this name, and every other in the same call."""
    OBSERVE = "observe"
    """The platform is in observe mode: this is what would be done."""
    TIMEOUT = "timeout"
    """The call's outcome is unknown; it will be repeated."""


OF_ACCOUNTS = frozenset({Reason.NO_ACCOUNT, Reason.AMBIGUOUS_ACCOUNT, Reason.NO_LOGIN, Reason.BAD_ACCOUNT_NAME})
"""Reasons that end when an account, or another name for it, becomes known."""
PARKING = OF_ACCOUNTS | {Reason.OBSERVE}
"""Reasons that Moodle and we can do nothing about; the others are retried."""
OF_DECISIONS = frozenset({Cause.SETTINGS, Cause.YEAR_CLOSED, Cause.UNDONE, Cause.REJECTED, Cause.ERASED})
"""Causes that no message announced."""


STRANGER = "#"
"""What the student id of a member begins with whom we can't tie to a student; the number of the account follows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cohort:
    """A cohort as the ledger knows it."""

    id: int
    platform: str
    idnumber: str
    etape: str | None
    wanted_name: str | None
    state: CohortState
    moodle_id: int | None
    moodle_name: str | None
    moodle_idnumber: str | None
    name_is_ours: bool
    attempts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """A membership to be given (`desired`) or taken back."""

    cohort_id: int
    student_id: str
    login: str | None
    desired: bool
    user_id: int | None
    cause: str
    origin: str
    since: Instant
    attempts: int
    run: int | None = None
    """The reconciliation that made it."""
    approved: str | None = None
    """Hash of the plan that a person approved."""
    reason: str | None = None
    """Why the last attempt failed."""

    @property
    def way(self) -> Way:
        """Say how it came, the longest wait first."""
        if self.approved is not None:
            return Way.APPROVED
        if self.reason in PARKING:
            return Way.PARKED
        if self.run is not None:
            return Way.NIGHT
        return Way.DECISION if self.cause in OF_DECISIONS else Way.MESSAGE
