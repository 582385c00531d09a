"""Reviewing removals: the plan, what is held, and a person's decisions; what the commands and the console share.

A plan is computed from a reading, which keeps no writer waiting. What is shown of it is then written, in a short
transaction of its own. In between the ledger may change: a hash names exactly the removals that were shown, and a
decision is refused when they are no longer those that would be made.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from worker.domain.guard import Guard
from worker.domain.instants import Instant
from worker.ledger import Ledger, Recorder, decisions, proposals
from worker.ledger.backup import temporary_copy
from worker.ledger.decisions import Decision
from worker.ledger.proposals import Pair, PlannedCohort, PlannedPlatform

ALL_PLATFORMS = "*"
"""Stands for the platform of removals that may be of several."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldRemovals:
    """The cohorts whose removals wait for a person."""

    cohorts: tuple[PlannedCohort, ...]

    @property
    def pairs(self) -> list[Pair]:
        """Return the removals of all of them."""
        return _pairs(self.cohorts)

    @property
    def hash(self) -> str | None:
        """Return the hash to decide on all of them by; None without any."""
        return proposals.proposal_hash(self.pairs)


class Review:
    """The removals of some platforms, before a person. `guards` are by platform."""

    def __init__(
        self, ledger: Ledger, guards: Mapping[str, Guard], *, clock: Callable[[], Instant] = time.time
    ) -> None:
        self._ledger = ledger
        self._guards = guards
        self._clock = clock

    def plan(self) -> tuple[PlannedPlatform, ...]:
        """Return what would be done now; each cohort's removals, and all of a platform's, can then be decided on."""
        platforms = self._planned(self._ledger)
        removals = [(cohort.platform, cohort.pairs) for platform in platforms for cohort in platform.cohorts]
        removals += [(platform.name, _pairs(platform.cohorts)) for platform in platforms]
        self._show(removals)
        return platforms

    def rehearse(self, recorder_of: Callable[[Ledger], Recorder]) -> tuple[PlannedPlatform, ...]:
        """Return what would be done under another policy, that of the recorder which is built for a copy of the ledger.

        Nothing is kept: it can't be decided on.
        """
        with temporary_copy(self._ledger) as copy:
            recorder_of(copy).apply_policy(now=self._clock())
            return self._planned(copy)

    def held(self) -> HeldRemovals:
        """Return the removals that are held; those of each cohort, and all of them, can then be decided on."""
        cohorts = [cohort for platform in self._planned(self._ledger) for cohort in platform.cohorts]
        held = HeldRemovals(cohorts=tuple(cohort for cohort in cohorts if cohort.held is not None))
        removals = [(cohort.platform, cohort.pairs) for cohort in held.cohorts]
        self._show([*removals, (ALL_PLATFORMS, held.pairs)])
        return held

    def approve(self, name: str, *, by: str) -> Decision:
        """Let the removals that were shown under this hash be made. Raises DecisionRefused."""
        return decisions.approve(self._ledger, name, by=by, now=self._clock())

    def reject(self, name: str, *, by: str) -> Decision:
        """Keep the members whose removals were shown under this hash. Raises DecisionRefused."""
        return decisions.reject(self._ledger, name, by=by, now=self._clock())

    def undo(self, name: str, *, by: str) -> Decision:
        """Put back the members whom this run, or the approval with this hash, removed. Raises DecisionRefused."""
        return decisions.undo(self._ledger, name, by=by, now=self._clock())

    def _planned(self, ledger: Ledger) -> tuple[PlannedPlatform, ...]:
        now = self._clock()
        with ledger.read() as connection:
            return tuple(proposals.planned(connection, name, guard, now) for name, guard in self._guards.items())

    def _show(self, removals: Iterable[tuple[str, Sequence[Pair]]]) -> None:
        shown = [(platform, pairs) for platform, pairs in removals if pairs]
        if not shown:
            return
        with self._ledger.write() as connection:
            for platform, pairs in shown:
                decisions.show(connection, platform, pairs, self._clock())


def matching(platform: PlannedPlatform, glob: str | None) -> list[PlannedCohort]:
    """Return the cohorts of a plan whose idnumber matches; all of them without a glob."""
    return [cohort for cohort in platform.cohorts if glob is None or fnmatchcase(cohort.idnumber, glob)]


def _pairs(cohorts: Iterable[PlannedCohort]) -> list[Pair]:
    return [pair for cohort in cohorts for pair in cohort.pairs]
