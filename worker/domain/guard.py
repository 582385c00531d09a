"""Which new cohorts and renames are too many, and the limits of all that can't be taken back. Pure."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, date, datetime, tzinfo

from worker.domain.instants import Instant
from worker.domain.states import CohortChange, Limit

WINDOW_SECONDS = 24 * 3600.0
"""The sliding window in which removals, new cohorts and renames are counted."""
MONTH_SECONDS = 30 * 24 * 3600.0
"""The longer window, in which removals are counted too: what is small every day isn't in a month."""
SOURCE_SHARE = 0.8
"""How much of a platform's limit one source may use: some room is always left to the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RemovalLimits:
    """How many removals pass within one window; shares are in percent."""

    cohort_percent: float
    platform_percent: float
    floor: int

    def share(self, members: int) -> int:
        """Return how many may leave a cohort of so many members, however few they are."""
        return _share(members, self.cohort_percent)

    def cohort(self, members: int) -> int:
        """Return how many may leave a cohort of so many members."""
        return max(self.floor, self.share(members))

    def platform(self, members: int) -> int:
        """Return how many may leave the cohorts of a platform that have so many members together."""
        return max(self.floor, _share(members, self.platform_percent))

    def source(self, members: int) -> int:
        """Return how many of them one source may remove."""
        return max(self.floor, _share(self.platform(members), 100 * SOURCE_SHARE))


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardLimits:
    """How many removals, new cohorts and renames pass without a person's approval.

    Of removals, in a sliding 24 hours: percent of the members that a cohort, and all our cohorts of a platform, had a
    day ago; and `floor`, a number of removals that always pass, for small ones. The same in a sliding 30 days. Of the
    others, in 24 hours: percent of the cohorts of the platform that have been ours for a day, and a floor of each.
    """

    cohort_percent: float = 20.0
    platform_percent: float = 5.0
    floor: int = 10
    month_cohort_percent: float = 40.0
    month_platform_percent: float = 20.0
    month_floor: int = 30
    new_cohorts_percent: float = 10.0
    new_cohorts_floor: int = 20
    renames_percent: float = 5.0
    renames_floor: int = 20

    @property
    def day(self) -> RemovalLimits:
        """Limits of the removals of 24 hours."""
        return RemovalLimits(
            cohort_percent=self.cohort_percent, platform_percent=self.platform_percent, floor=self.floor
        )

    @property
    def month(self) -> RemovalLimits:
        """Limits of the removals of 30 days: never less than in 24 hours."""
        return RemovalLimits(
            cohort_percent=max(self.cohort_percent, self.month_cohort_percent),
            platform_percent=max(self.platform_percent, self.month_platform_percent),
            floor=max(self.floor, self.month_floor),
        )

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
