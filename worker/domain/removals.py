"""Which removals are too many. Pure: decided before any of them is made."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from worker.domain.guard import MONTH_SECONDS, WINDOW_SECONDS, Guard, GuardLimits, RemovalLimits
from worker.domain.instants import Instant
from worker.domain.states import Limit


def source_of(origin: str) -> str:
    """Return the source of a change: the topic of a message, or else the kind of its origin, such as a setting.

    That is all that the guard tells apart: it isn't for a message to say.
    """
    return origin.split(" ", maxsplit=1)[0].split("[", maxsplit=1)[0]


class Window(Enum):
    """A sliding window in which removals are counted."""

    DAY = WINDOW_SECONDS
    MONTH = MONTH_SECONDS


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaving:
    """Removals from one cohort that follow from one source, without those that a person approved."""

    removed: Mapping[Window, int]
    """Removals done, within each window."""
    pending: int
    """Removals to come, held ones included."""
    held: int
    """Those among them that are held."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Removals:
    """What the guard looks at, of one cohort."""

    cohort_id: int
    idnumber: str
    members: int
    """Members who were there a day ago and still are, or may be."""
    by_source: Mapping[str, Leaving]
    inherited: int = 0
    """Removals to come of members whom the cohort had when it became ours."""

    @property
    def pending(self) -> int:
        """Removals to come, held ones included."""
        return sum(leaving.pending for leaving in self.by_source.values())

    def removed(self, window: Window) -> int:
        """Count the removals done within a window."""
        return sum(leaving.removed[window] for leaving in self.by_source.values())

    def before(self, window: Window) -> int:
        """Count the members before these removals; whoever was added in the last day raises no limit."""
        return self.members + self.removed(window)

    @property
    def percent(self) -> float:
        """Share of the members of a day ago that leave or have left within a day, 0 to 100."""
        leaving = self.pending + self.removed(Window.DAY)
        return 100 * leaving / max(leaving, self.before(Window.DAY)) if leaving else 0.0


Part = tuple[int, str]
"""Cohort id and source: removals that are held, or pass, together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """The guard's judgement of all removals of a platform."""

    limits: GuardLimits
    enabled: bool
    held: Mapping[Part, Limit]
    """The removals that are to be held and aren't yet, and the limit that they exceed."""
    members: int
    """Members of our cohorts a day ago."""
    removed: int
    removed_in_month: int
    pending: int
    """Removals to come that are neither approved nor held by a limit of cohorts, or by an earlier judgement."""
    allowed: int
    """Removals that the platform's limit allows in 24 h."""
    allowed_in_month: int
    """Those that it allows in 30 days."""
    worst: Removals | None
    """The cohort that loses the largest share."""


def judge(guard: Guard, cohorts: Sequence[Removals], now: Instant, *, members: int) -> Judgement:
    """Judge the removals of a platform, before any of them; `members` counts those of all its owned cohorts.

    Members are those of a day ago: nothing that was said since then raises a limit.

    Where there are too many, those of the source that removes most are held, all of them, and so on until the others
    fit: a mistake is seen whole, not when the limit is used up, and what others remove a few of goes on. What is held
    stays held until a person approves or rejects it, and no longer counts towards the limits of the platform.
    """
    judging = _Judging(cohorts, members)
    limits = guard.at(now)
    windows = [
        (Window.DAY, limits.day, Limit.COHORT, Limit.PLATFORM),
        (Window.MONTH, limits.month, Limit.COHORT_MONTH, Limit.PLATFORM_MONTH),
    ]
    if guard.enabled:
        judging.hold_inherited()
        for window, of_window, limit, _ in windows:
            judging.hold_beyond_cohorts(window, of_window, limit)
        for window, of_window, _, _ in windows:
            judging.hold_beyond_floor(window, of_window)
    pending = judging.pending()
    if guard.enabled:
        for window, of_window, _, limit in windows:
            judging.hold_beyond_platform(window, of_window, limit)
    return Judgement(
        limits=limits,
        enabled=guard.enabled,
        held=judging.held,
        members=judging.before(Window.DAY),
        removed=judging.removed(Window.DAY),
        removed_in_month=judging.removed(Window.MONTH),
        pending=pending,
        allowed=limits.day.platform(judging.before(Window.DAY)),
        allowed_in_month=limits.month.platform(judging.before(Window.MONTH)),
        worst=_worst(cohorts),
    )


class _Judging:
    """The removals of a platform, and those that are held, limit by limit."""

    def __init__(self, cohorts: Sequence[Removals], members: int) -> None:
        self.cohorts = sorted(cohorts, key=lambda cohort: cohort.cohort_id)
        self.members = members
        self.held: dict[Part, Limit] = {}

    def removed(self, window: Window) -> int:
        return sum(cohort.removed(window) for cohort in self.cohorts)

    def before(self, window: Window) -> int:
        return self.members + self.removed(window)

    def pending(self) -> int:
        """Count the removals to come that nothing holds yet."""
        return sum(self._passing(cohort) for cohort in self.cohorts)

    def hold_inherited(self) -> None:
        """Hold all removals of cohorts that would lose members whom nobody has decided about: they are one list."""
        for cohort in self.cohorts:
            if cohort.inherited:
                self._hold([cohort], cohort.by_source, Limit.ADOPTED)

    def hold_beyond_cohorts(self, window: Window, limits: RemovalLimits, limit: Limit) -> None:
        """Hold what is too much for a cohort. What was held before counts, so that what follows it is held with it."""
        for cohort in self.cohorts:
            sizes = _Sizes()
            for source, leaving in cohort.by_source.items():
                is_held = (cohort.cohort_id, source) in self.held
                sizes.add(source, leaving.removed[window], 0 if is_held else leaving.pending)
            allowed = limits.cohort(cohort.before(window))
            self._hold([cohort], sizes.too_many(allowed, of_one=allowed), limit)

    def hold_beyond_floor(self, window: Window, limits: RemovalLimits) -> None:
        """Hold what would empty too many small cohorts: the floor lets one of them pass, not each of them."""
        while True:
            emptied = [(cohort, self._emptied(cohort, window, limits)) for cohort in self.cohorts]
            going = [cohort for cohort, leaving in emptied if leaving and self._passing(cohort)]
            if sum(leaving for _, leaving in emptied) <= limits.floor or not going:
                return
            self._hold(going, [self._sizes(going, window).largest()], Limit.SMALL_COHORTS)

    def hold_beyond_platform(self, window: Window, limits: RemovalLimits, limit: Limit) -> None:
        """Hold what is too much for the platform, or for one source on it."""
        before = self.before(window)
        sizes = self._sizes(self.cohorts, window)
        too_many = sizes.too_many(limits.platform(before), of_one=limits.source(before))
        self._hold(self.cohorts, too_many, limit)

    def _passing(self, cohort: Removals) -> int:
        return sum(self._waiting(cohort, source) for source in cohort.by_source)

    def _waiting(self, cohort: Removals, source: str) -> int:
        """Count the removals that would pass now."""
        leaving = cohort.by_source[source]
        return 0 if (cohort.cohort_id, source) in self.held else leaving.pending - leaving.held

    def _emptied(self, cohort: Removals, window: Window, limits: RemovalLimits) -> int:
        """Count the removals from a cohort that loses more than its share, and than half of its members; else none."""
        before, leaving = cohort.before(window), cohort.removed(window) + self._passing(cohort)
        return leaving if leaving > max(limits.share(before), before // 2) else 0

    def _sizes(self, cohorts: Iterable[Removals], window: Window) -> "_Sizes":
        sizes = _Sizes()
        for cohort in cohorts:
            for source, leaving in cohort.by_source.items():
                sizes.add(source, leaving.removed[window], self._waiting(cohort, source))
        return sizes

    def _hold(self, cohorts: Iterable[Removals], sources: Collection[str], limit: Limit) -> None:
        for cohort in cohorts:
            for source in cohort.by_source:
                if source in sources and self._waiting(cohort, source):
                    self.held[cohort.cohort_id, source] = limit


class _Sizes:
    """How many removals there are within a window, by source: done, and to come."""

    def __init__(self) -> None:
        self._done: Counter[str] = Counter()
        self._to_come: Counter[str] = Counter()

    def add(self, source: str, done: int, to_come: int) -> None:
        self._done[source] += done
        self._to_come[source] += to_come

    def largest(self) -> str:
        """Return the source that removes most, of those that have removals to come."""
        waiting = [source for source, number in self._to_come.items() if number]
        return max(waiting, key=lambda source: (self._done[source] + self._to_come[source], source))

    def too_many(self, allowed: int, *, of_one: int) -> list[str]:
        """Return the sources to be held so that the others stay within what is allowed together, and to each."""
        held = []
        while self._to_come.total():
            source = self.largest()
            together = self._done.total() + self._to_come.total()
            if together <= allowed and self._done[source] + self._to_come[source] <= of_one:
                break
            held.append(source)
            self._to_come[source] = 0
        return held


def _worst(cohorts: Sequence[Removals]) -> Removals | None:
    losing = [cohort for cohort in cohorts if cohort.pending or cohort.removed(Window.DAY)]
    return max(losing, key=lambda cohort: (cohort.percent, cohort.idnumber), default=None)
