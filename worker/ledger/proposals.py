"""What would be done now, cohort by cohort, for a person to read: nothing is written."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import sha256
from typing import Any

import orjson
import sqlalchemy as sa

from worker.domain.guard import Guard, Judgement
from worker.domain.instants import Instant
from worker.domain.report import GuardReport
from worker.domain.states import PARKING, Cause, CohortState, Limit
from worker.ledger.guard import approved, judged, members_by_cohort
from worker.ledger.schema import cohort, gap, in_cohort, membership

Pair = tuple[int, str]
"""A membership: cohort id, student id."""
HASH_DIGITS = 8
"""Hexadecimal digits of the name of a set of removals; the number of a run, which it is never taken for, has fewer."""


class ChangeReason(StrEnum):
    """Why somebody joins or leaves a cohort, in the words of a plan."""

    ENROLLED = "enrolled"
    DEPARTED = "departed"
    CHANGED_ETAPE = "changed_etape"
    MERGED = "merged"
    YEAR_CLOSED = "year_closed"
    RULE_CHANGED = "rule_changed"
    DRIFT = "drift"
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
    """Students who join, parked ones aside."""
    parked: int
    removals: Mapping[ChangeReason, Sequence[str]]
    """Students who leave, those of approved removals aside."""
    approved: int
    """Removals that a person has approved, and that aren't done yet."""
    held: Limit | None
    """The limit that its removals are beyond: they wait for a person, or would as soon as they are due."""
    due_at: Instant | None
    """When the last of its removals is to be made, if nothing holds them."""

    @property
    def pairs(self) -> list[Pair]:
        """Give its removals."""
        return [(self.cohort_id, student) for students in self.removals.values() for student in students]

    @property
    def hash(self) -> str | None:
        """Name its removals; None without any."""
        return proposal_hash(self.pairs)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedPlatform:
    """What would be done on one platform, and what the guard says of it."""

    name: str
    cohorts: tuple[PlannedCohort, ...]
    judgement: Judgement

    @property
    def hash(self) -> str | None:
        """Name all its removals; None without any."""
        return proposal_hash(pair for planned in self.cohorts for pair in planned.pairs)


def proposal_hash(pairs: Iterable[Pair]) -> str | None:
    """Name a set of removals: equal for equal sets, else different; None for none."""
    ordered = sorted(pairs)
    return sha256(orjson.dumps(ordered)).hexdigest()[:HASH_DIGITS] if ordered else None


def planned(connection: sa.Connection, platform: str, guard: Guard, now: Instant) -> PlannedPlatform:
    """Give what would be done on a platform now. Who has no account shows only when it is looked up."""
    judgement = judged(connection, platform, guard, now)
    members = members_by_cohort(connection)
    staying = _staying(connection, platform)
    found: defaultdict[int, _Gathered] = defaultdict(_Gathered)
    rows = connection.execute(
        sa.select(membership, cohort.c.idnumber, cohort.c.state, approved(now).label("is_approved"))
        .join(cohort)
        .where(cohort.c.platform == platform, gap)
        .order_by(cohort.c.idnumber, membership.c.student_id)
    )
    for row in rows:
        found[row.cohort_id].take(row, changes=row.student_id in staying)
    return PlannedPlatform(
        name=platform,
        judgement=judgement,
        cohorts=tuple(
            PlannedCohort(
                cohort_id=cohort_id,
                platform=platform,
                idnumber=gathered.idnumber,
                state=CohortState(gathered.state),
                members=members.get(cohort_id, 0),
                additions=gathered.additions,
                parked=gathered.parked,
                removals=gathered.removals,
                approved=gathered.approved,
                held=gathered.held or judgement.held.get(cohort_id),
                due_at=gathered.due_at,
            )
            for cohort_id, gathered in found.items()
        ),
    )


def guard_report(plan: PlannedPlatform) -> GuardReport:
    """Say what the guard saw of a platform."""
    judgement = plan.judgement
    return GuardReport(
        enabled=judgement.enabled,
        memberships=judgement.members,
        removed=judgement.removed,
        pending=judgement.pending,
        held=sum(len(cohort.pairs) for cohort in plan.cohorts if cohort.held is not None),
        platform_limit=judgement.allowed,
        worst_cohort=judgement.worst.idnumber if judgement.worst else None,
        worst_percent=judgement.worst.percent if judgement.worst else 0.0,
    )


@dataclass(slots=True)
class _Gathered:
    idnumber: str = ""
    state: str = CohortState.WANTED
    additions: defaultdict[ChangeReason, list[str]] = field(default_factory=lambda: defaultdict(list))
    removals: defaultdict[ChangeReason, list[str]] = field(default_factory=lambda: defaultdict(list))
    parked: int = 0
    approved: int = 0
    held: Limit | None = None
    due_at: Instant | None = None

    def take(self, row: sa.Row[Any], *, changes: bool) -> None:
        self.idnumber, self.state = row.idnumber, row.state
        why = _why(row, changes=changes)
        if row.desired and row.reason in PARKING:
            self.parked += 1
        elif row.desired:
            self.additions[why].append(row.student_id)
        elif row.is_approved:
            self.approved += 1
        else:
            self.removals[why].append(row.student_id)
            self.due_at = max(row.next_attempt_at, self.due_at or 0.0)
            if row.held is not None:
                self.held = Limit(row.held)


_WHY = {
    Cause.DRIFT: ChangeReason.DRIFT,
    Cause.UNDONE: ChangeReason.PERSON,
    Cause.REJECTED: ChangeReason.PERSON,
    Cause.ERASED: ChangeReason.PERSON,
    Cause.YEAR_CLOSED: ChangeReason.YEAR_CLOSED,
    Cause.SETTINGS: ChangeReason.RULE_CHANGED,
    Cause.DESCRIBED: ChangeReason.RULE_CHANGED,
    Cause.REKEYED: ChangeReason.MERGED,
}


def _why(row: sa.Row[Any], *, changes: bool) -> ChangeReason:
    if row.desired:
        return _WHY.get(row.cause, ChangeReason.ENROLLED)
    return _WHY.get(row.cause, ChangeReason.CHANGED_ETAPE if changes else ChangeReason.DEPARTED)


def _staying(connection: sa.Connection, platform: str) -> set[str]:
    """Those among the leaving who are desired in another cohort of the platform."""
    leaving = (
        sa.select(membership.c.student_id).join(cohort).where(cohort.c.platform == platform, gap, ~membership.c.desired)
    )
    here = in_cohort(cohort.c.platform == platform)
    elsewhere = sa.select(membership.c.student_id).where(
        membership.c.desired, membership.c.student_id.in_(leaving), here
    )
    return set(connection.scalars(elsewhere.distinct()))
