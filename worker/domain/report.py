"""What a reconciliation found and did: the values of a report. Pure.

Instants are seconds since the epoch (UTC). A report holds codes and counts, and no student.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from pydantic import TypeAdapter

from worker.domain.cohorts import BlockedCohort, DeletedCohort
from worker.domain.errors import Refusal
from worker.domain.instants import Instant
from worker.domain.states import CohortChange, Drift, Limit, PlatformState, RunState


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotReport:
    """The snapshot that was accepted, and what it changed."""

    id: str
    taken_at: Instant
    system: str
    rows: int
    rows_by_year: Mapping[int, int]
    unknown: int
    """Students and enrolments that its source could not read: they stay as they were."""
    applied: int
    """Enrolments of which it changed something."""
    ended: int
    """Enrolments that ended because they were absent from it."""
    memberships: int
    """Memberships whose desired state it changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CohortGuardReport:
    """The guard's figures of the cohorts of one platform that are created, or renamed."""

    change: CohortChange
    ours: int
    """Cohorts that have been ours for a day."""
    made: int
    """Cohorts that were changed so in the last 24 h without a person's approval."""
    pending: int
    """Cohorts that are still to be changed so, without held ones."""
    held: int
    limit: int
    """Cohorts that may be changed so in 24 h."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardReport:
    """The guard's figures of one platform, also when everything passed: of removals, and of cohorts as a whole."""

    enabled: bool
    memberships: int
    """Members of our cohorts, before the removals of the last 24 h."""
    removed: int
    """Removals of the last 24 h that no person approved."""
    pending: int
    """Removals that wait to be applied, without held ones."""
    held: int
    platform_limit: int
    """Removals that are allowed in 24 h."""
    worst_cohort: str | None
    """The cohort that loses the largest share; None when none loses anybody."""
    worst_percent: float
    """That share, 0 to 100."""
    cohorts: tuple[CohortGuardReport, ...] = ()
    """The figures of new cohorts, and of renames."""
    removed_in_month: int = 0
    """Removals of the last 30 days that no person approved."""
    month_limit: int = 0
    """Removals that are allowed in 30 days."""
    held_by: Mapping[Limit, int] = field(default_factory=dict)
    """Those that are held, by the limit that holds them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CohortReport:
    """What happened to one cohort; cohorts to which nothing happened are not listed."""

    idnumber: str
    added: int = 0
    removed: int = 0
    waiting: int = 0
    """Gaps that were left, to be applied soon or retried."""
    held: int = 0
    parked: int = 0
    strangers: int = 0
    """Unmatched members: those whom we can't tie to a student."""
    unclean: int = 0
    """Members whose account Moodle doesn't return, so that nobody knows whose it is: they stay."""
    unconfirmed: int = 0
    """Members whose account has their name no more, while nobody else's is known to be theirs: they stay."""
    drift: Mapping[Drift, int] = field(default_factory=dict)


class ForeignEvent(StrEnum):
    """What happened to a cohort that isn't ours."""

    CREATED = "created"
    DELETED = "deleted"
    MEMBERS = "members"
    """Its members changed, and perhaps its name."""
    NAME = "name"
    """Its name or idnumber changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignChange:
    """A cohort that isn't ours and changed during the run; others changed it, as the journal proves."""

    moodle_id: int
    idnumber: str
    what: ForeignEvent
    journalled: int = 0
    """Entries of our journal about it during the run: always 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopped:
    """Why nothing is written to a platform, and since when."""

    state: PlatformState
    since: Instant
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PlatformReport:
    """What was found and done on one platform."""

    name: str
    mode: str
    error: str | None = None
    """Why it could not be read, or, with `read`, why its foreign cohorts could not be read again at the end."""
    stopped: Stopped | None = None
    """Why nothing could be written there at the end: it denies, or doesn't answer."""
    last_read: Instant | None = None
    """When the last complete reading of it began, this one included; None: there was none."""
    left: int = 0
    """Gaps that could have been closed and weren't, whoever made them: without held, parked and delayed ones."""
    read: bool = False
    """Whether Moodle was read; a manual platform without a token isn't."""
    cohorts: int = 0
    """Our cohorts."""
    members: int = 0
    """Members that Moodle showed in them."""
    drift: Mapping[Drift, int] = field(default_factory=dict)
    strangers: int = 0
    """Unmatched members."""
    strangers_removed: bool = False
    """Whether unmatched members are removed, rather than kept and reported."""
    unclean: int = 0
    """Members whose account Moodle doesn't return: they stay."""
    unconfirmed: int = 0
    """Members whose account has their name no more: they stay until it is known whose it is, or who they are."""
    guard: GuardReport | None = None
    added: int = 0
    removed: int = 0
    waiting: int = 0
    held: int = 0
    parked: int = 0
    foreign: int = 0
    """Cohorts that aren't ours."""
    foreign_changes: tuple[ForeignChange, ...] = ()
    deleted: tuple[DeletedCohort, ...] = ()
    """The cohorts of ours that somebody deleted on Moodle, whenever it was noticed, until a person acknowledges it."""
    blocked: tuple[BlockedCohort, ...] = ()
    """The cohorts that wait for a person: foreign, colliding, refused, or without their new idnumber."""
    details: tuple[CohortReport, ...] = ()

    @property
    def held_cohorts(self) -> int:
        """Cohorts whose creation or new label the guard holds."""
        return 0 if self.guard is None else sum(each.held for each in self.guard.cohorts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One reconciliation."""

    run: int
    state: RunState
    night: str | None
    started_at: Instant
    ended_at: Instant | None
    snapshot: SnapshotReport | None = None
    refusals: tuple[Refusal, ...] = ()
    """Why newer snapshots were passed over, or none was accepted."""
    error: str | None = None
    platforms: tuple[PlatformReport, ...] = ()


REPORTS: TypeAdapter[Report] = TypeAdapter(Report)
"""Reports to JSON and back: `REPORTS.dump_json(report)`, `REPORTS.validate_json(text)`."""
