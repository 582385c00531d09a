"""Which removals, new cohorts and renames are too many. Pure: decided before any of them is made."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, tzinfo

from worker.domain.instants import Instant
from worker.domain.states import CohortChange, Limit

WINDOW_SECONDS = 24 * 3600.0
"""The sliding window in which removals, new cohorts and renames are counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardLimits:
    """How many removals, new cohorts and renames pass without a person's approval, in a sliding 24 hours.

    Of removals: percent of the members that a cohort, and all our cohorts of a platform, had a day ago; and `floor`,
    a number of removals that always pass, for small ones. Of the others: percent of the cohorts of the platform that
    have been ours for a day, and a floor of each.
    """

    cohort_percent: float = 20.0
    platform_percent: float = 5.0
    floor: int = 10
    new_cohorts_percent: float = 10.0
    new_cohorts_floor: int = 20
    renames_percent: float = 5.0
    renames_floor: int = 20

    def cohort(self, members: int) -> int:
        """Return how many may leave a cohort of so many members."""
        return max(self.floor, _share(members, self.cohort_percent))

    def platform(self, members: int) -> int:
        """Return how many may leave the cohorts of a platform that have so many members together."""
        return max(self.floor, _share(members, self.platform_percent))

    def cohorts(self, change: CohortChange, ours: int) -> int:
        """Return how many cohorts may be created, or renamed, on a platform of which so many are ours."""
        if change is CohortChange.CREATION:
            return max(self.new_cohorts_floor, _share(ours, self.new_cohorts_percent))
        return max(self.renames_floor, _share(ours, self.renames_percent))


def _share(members: int, percent: float) -> int:
    """Round down, except where only binary fractions keep the share below a whole number: 18.4 % of 375 is 69."""
    return int(members * percent / 100 + 1e-6)


MonthDay = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Season:
    """A season with limits of its own, from its first day to its last, both included; it may span New Year."""

    first: MonthDay
    last: MonthDay
    limits: GuardLimits

    def __contains__(self, day: date) -> bool:
        """Return whether a day belongs to it."""
        at = (day.month, day.day)
        if self.first <= self.last:
            return self.first <= at <= self.last
        return at >= self.first or at <= self.last


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """The limits of one platform. A guard that isn't `enabled` lets everything pass."""

    enabled: bool = True
    limits: GuardLimits = GuardLimits()
    seasons: tuple[Season, ...] = ()
    zone: tzinfo = UTC
    """Where the seasons' days begin and end."""

    def at(self, now: Instant) -> GuardLimits:
        """Return the limits in force: those of the first season that the day belongs to, or the usual ones."""
        day = datetime.fromtimestamp(now, self.zone).date()
        return next((season.limits for season in self.seasons if day in season), self.limits)


@dataclass(frozen=True, slots=True, kw_only=True)
class Removals:
    """What the guard looks at, of one cohort."""

    cohort_id: int
    idnumber: str
    members: int
    """Members who were there a day ago and still are, or may be."""
    removed: int
    """Removals of the last 24 h that no person approved."""
    pending: int
    """Removals to come that no person approved, held ones included."""
    held: int
    """Those among them that are held."""
    inherited: int = 0
    """Those among them of members whom the cohort had when it became ours."""

    @property
    def before(self) -> int:
        """Members of a day ago, as far as they count: whoever was added since raises no limit."""
        return self.members + self.removed

    @property
    def percent(self) -> float:
        """Share of them that leave or have left, 0 to 100."""
        leaving = self.pending + self.removed
        return 100 * leaving / max(leaving, self.before) if leaving else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """The guard's judgement of all removals of a platform: which limit each cohort's pending ones exceed."""

    limits: GuardLimits
    enabled: bool
    held: Mapping[int, Limit]
    """By cohort id."""
    members: int
    """Members of our cohorts a day ago."""
    removed: int
    pending: int
    """Removals to come that are neither approved nor held by their cohort's limit, or by an earlier judgement."""
    allowed: int
    """Removals that the platform's limit allows in 24 h."""
    worst: Removals | None
    """The cohort that loses the largest share."""


def judge(guard: Guard, cohorts: Sequence[Removals], now: Instant, *, members: int) -> Judgement:
    """Judge the removals of a platform, before any of them; `members` counts those of all its owned cohorts.

    Members are those of a day ago: nothing that was said since then raises a limit.

    A cohort that would lose members whom it had when it became ours, or too many, has all of its removals held. If
    what is left is too many for the platform, all of it is held: a mistake that touches every cohort a little is seen
    whole, not when the limit is used up.
    What is held stays held until a person approves or rejects it, and no longer counts towards the platform's limit.
    """
    limits = guard.at(now)
    removed = sum(cohort.removed for cohort in cohorts)
    held = _beyond_their_limit(cohorts, limits) if guard.enabled else {}
    rest = [cohort for cohort in cohorts if cohort.cohort_id not in held]
    pending = sum(cohort.pending - cohort.held for cohort in rest)
    allowed = limits.platform(members + removed)
    if guard.enabled and pending and pending + removed > allowed:
        held |= {cohort.cohort_id: Limit.PLATFORM for cohort in rest if cohort.pending > cohort.held}
    return Judgement(
        limits=limits,
        enabled=guard.enabled,
        held=held,
        members=members + removed,
        removed=removed,
        pending=pending,
        allowed=allowed,
        worst=_worst(cohorts),
    )


def _beyond_their_limit(cohorts: Sequence[Removals], limits: GuardLimits) -> dict[int, Limit]:
    """Return the cohorts that would lose members whom nobody has decided about, or more than their limit allows."""
    held = {}
    for cohort in cohorts:
        if cohort.inherited:
            held[cohort.cohort_id] = Limit.ADOPTED
        elif cohort.pending and cohort.pending + cohort.removed > limits.cohort(cohort.before):
            held[cohort.cohort_id] = Limit.COHORT
    return held


def _worst(cohorts: Sequence[Removals]) -> Removals | None:
    losing = [cohort for cohort in cohorts if cohort.pending or cohort.removed]
    return max(losing, key=lambda cohort: (cohort.percent, cohort.idnumber), default=None)


LIMIT_OF = {CohortChange.CREATION: Limit.CREATIONS, CohortChange.RENAME: Limit.RENAMES}
"""The limit that holds cohorts that are to be changed so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CohortJudgement:
    """The guard's judgement of all cohorts of a platform that are to be created, or of all that are to be renamed."""

    change: CohortChange
    ours: int
    """Cohorts of the platform that have been ours for a day."""
    made: int
    """Cohorts that were changed so in the last 24 h, or may have been, and that no person had approved."""
    pending: frozenset[int]
    """Ids of the cohorts that are to be changed so and aren't held, approved or exempt."""
    allowed: int
    """Cohorts that may be changed so in 24 h."""
    held: frozenset[int]
    """Ids of those that are to be held: all that are pending, or none."""


def judge_cohorts(
    guard: Guard, change: CohortChange, now: Instant, *, ours: int, made: int, pending: Collection[int]
) -> CohortJudgement:
    """Judge what is to be done to the cohorts of a platform as a whole, before any of it.

    As with the removals of a platform, all that is pending is held if it is too much, and what is held stays so.
    """
    allowed = guard.at(now).cohorts(change, ours)
    too_many = guard.enabled and len(pending) + made > allowed
    return CohortJudgement(
        change=change,
        ours=ours,
        made=made,
        pending=frozenset(pending),
        allowed=allowed,
        held=frozenset(pending if too_many else ()),
    )
