"""What would be done now, cohort by cohort, for a person to read. Nothing is written."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from worker.domain.cohorts import BlockedCohort, DeletedCohort
from worker.domain.guard import Guard
from worker.domain.hashes import hash_of
from worker.domain.instants import Instant
from worker.domain.removals import Judgement, Part
from worker.domain.report import CohortGuardReport, GuardReport
from worker.domain.states import PARKING, Cause, CohortState, Limit
from worker.ledger import blocked, cohort_proposals, deletions
from worker.ledger.cohort_proposals import PlannedCohorts
from worker.ledger.guard import approved, judged, members_by_cohort
from worker.ledger.schema import cohort, gap, in_cohort, membership

Pair = tuple[int, str]
"""A membership: cohort id, student id."""


class ChangeReason(StrEnum):
    """Why somebody joins or leaves a cohort, as a plan shows it."""

    ENROLLED = "enrolled"
    DEPARTED = "departed"
    CHANGED_ETAPE = "changed_etape"
    MERGED = "merged"
    YEAR_CLOSED = "year_closed"
    RULE_CHANGED = "rule_changed"
    DRIFT = "drift"
    ADOPTED = "adopted"
    """The cohort had this member when it became ours."""
    PERSON = "person"
    """A person's decision: a removal that was undone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedCohort:
    """What would be done to one cohort."""

    cohort_id: int
    platform: str
    idnumber: str
    state: CohortState
    members: int
    """Members that Moodle shows, or may show."""
    additions: Mapping[ChangeReason, Sequence[str]]
    """Students who join, without parked ones."""
    parked: int
    removals: Mapping[ChangeReason, Sequence[str]]
    """Students who leave, without approved removals."""
    approved: int
    """Removals that a person has approved and that aren't done yet."""
    held: Limit | None
    """The limit that its removals exceed: they wait for a person, or will as soon as they are due."""
    due_at: Instant | None
    """When the last of its removals is due, if nothing holds them."""

    @property
    def pairs(self) -> list[Pair]:
        """Its removals."""
        return [(self.cohort_id, student) for students in self.removals.values() for student in students]

    @property
    def hash(self) -> str | None:
        """The hash of its removals; None without any."""
        return proposal_hash(self.pairs)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedPlatform:
    """What would be done on one platform, and the guard's judgement of it."""

    name: str
    cohorts: tuple[PlannedCohort, ...]
    judgement: Judgement
    blocked: tuple[BlockedCohort, ...]
    """The cohorts of which nothing is done, or that aren't renamed, until a person acts."""
    deleted: tuple[DeletedCohort, ...]
    """The cohorts that somebody deleted on Moodle, until a person acknowledges it."""
    whole: PlannedCohorts
    """What would be done to cohorts as a whole."""

    @property
    def hash(self) -> str | None:
        """The hash of all its removals; None without any."""
        return proposal_hash(pair for planned in self.cohorts for pair in planned.pairs)


def proposal_hash(pairs: Iterable[Pair]) -> str | None:
    """Return the hash of a set of removals: equal for equal sets, different for others; None for none."""
    ordered = sorted(pairs)
    return hash_of("removals", ordered) if ordered else None


def planned(connection: sa.Connection, platform: str, guard: Guard, now: Instant) -> PlannedPlatform:
    """Return what would be done on a platform now. A missing account shows only when it is looked up."""
    judgement = judged(connection, platform, guard, now)
    members = members_by_cohort(connection)
    staying = _staying(connection, platform)
    gathered: defaultdict[int, _Gathered] = defaultdict(_Gathered)
    rows = connection.execute(
        sa.select(membership, cohort.c.idnumber, cohort.c.state, approved(now).label("is_approved"))
        .join(cohort)
        .where(cohort.c.platform == platform, gap)
        .order_by(cohort.c.idnumber, membership.c.student_id)
    )
    for row in rows:
        gathered[row.cohort_id].add(row, stays=row.student_id in staying, held=judgement.held)
    return PlannedPlatform(
        name=platform,
        judgement=judgement,
        blocked=blocked.read(connection, platform),
        deleted=deletions.read(connection, platform),
        whole=cohort_proposals.planned(connection, platform, guard, now),
        cohorts=tuple(
            PlannedCohort(
                cohort_id=cohort_id,
                platform=platform,
                idnumber=changes.idnumber,
                state=CohortState(changes.state),
                members=members.get(cohort_id, 0),
                additions=changes.additions,
                parked=changes.parked,
                removals=changes.removals,
                approved=changes.approved,
                held=changes.held,
                due_at=changes.due_at,
            )
            for cohort_id, changes in gathered.items()
        ),
    )


def guard_report(plan: PlannedPlatform) -> GuardReport:
    """Return the guard's figures for a platform."""
    judgement = plan.judgement
    held = Counter[Limit]()
    for planned_cohort in plan.cohorts:
        if planned_cohort.held is not None:
            held[planned_cohort.held] += len(planned_cohort.pairs)
    return GuardReport(
        enabled=judgement.enabled,
        memberships=judgement.members,
        removed=judgement.removed,
        removed_in_month=judgement.removed_in_month,
        pending=judgement.pending,
        held=held.total(),
        held_by=dict(held),
        platform_limit=judgement.allowed,
        month_limit=judgement.allowed_in_month,
        worst_cohort=judgement.worst.idnumber if judgement.worst else None,
        worst_percent=judgement.worst.percent if judgement.worst else 0.0,
        cohorts=tuple(
            CohortGuardReport(
                change=each.change,
                ours=each.ours,
                made=each.made,
                pending=len(each.pending - each.held),
                held=plan.whole.held(each.change),
                limit=each.allowed,
            )
            for each in plan.whole.judgements
        ),
    )


@dataclass(slots=True)
class _Gathered:
    idnumber: str = ""
    state: str = CohortState.WANTED
    additions: defaultdict[ChangeReason, list[str]] = field(default_factory=lambda: defaultdict(list))
    removals: defaultdict[ChangeReason, list[str]] = field(default_factory=lambda: defaultdict(list))
    parked: int = 0
    approved: int = 0
    by_limit: Counter[Limit] = field(default_factory=Counter)
    due_at: Instant | None = None

    @property
    def held(self) -> Limit | None:
        """The limit that holds most of them."""
        return max(self.by_limit, key=lambda limit: (self.by_limit[limit], limit), default=None)

    def add(self, row: sa.Row[Any], *, stays: bool, held: Mapping[Part, Limit]) -> None:
        self.idnumber, self.state = row.idnumber, row.state
        reason = _reason(row, stays=stays)
        if row.desired and row.reason in PARKING:
            self.parked += 1
        elif row.desired:
            self.additions[reason].append(row.student_id)
        elif row.is_approved:
            self.approved += 1
        else:
            self.removals[reason].append(row.student_id)
            self.due_at = max(row.next_attempt_at, self.due_at or 0.0)
            limit = Limit(row.held) if row.held else held.get((row.cohort_id, row.source))
            if limit is not None:
                self.by_limit[limit] += 1


_REASONS = {
    Cause.DRIFT: ChangeReason.DRIFT,
    Cause.ADOPTED: ChangeReason.ADOPTED,
    Cause.UNDONE: ChangeReason.PERSON,
    Cause.REJECTED: ChangeReason.PERSON,
    Cause.ERASED: ChangeReason.PERSON,
    Cause.YEAR_CLOSED: ChangeReason.YEAR_CLOSED,
    Cause.SETTINGS: ChangeReason.RULE_CHANGED,
    Cause.DESCRIBED: ChangeReason.RULE_CHANGED,
    Cause.REKEYED: ChangeReason.MERGED,
}


def _reason(row: sa.Row[Any], *, stays: bool) -> ChangeReason:
    if row.desired:
        return _REASONS.get(row.cause, ChangeReason.ENROLLED)
    return _REASONS.get(row.cause, ChangeReason.CHANGED_ETAPE if stays else ChangeReason.DEPARTED)


def _staying(connection: sa.Connection, platform: str) -> set[str]:
    """Return the students who leave a cohort of the platform and are desired in another."""
    leaving = (
        sa.select(membership.c.student_id).join(cohort).where(cohort.c.platform == platform, gap, ~membership.c.desired)
    )
    elsewhere = sa.select(membership.c.student_id).where(
        membership.c.desired, membership.c.student_id.in_(leaving), in_cohort(cohort.c.platform == platform)
    )
    return set(connection.scalars(elsewhere.distinct()))
