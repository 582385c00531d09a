"""Reviewing what can't be taken back: the plan, what is held, a person's decisions; commands and console share it.

A plan is computed from a reading, which keeps no writer waiting. What is shown of it is then written, in a short
transaction of its own. In between the ledger may change: a hash names exactly the removals, or the cohorts to be
created or renamed, that were shown, and a decision is refused when they are no longer those that would be made.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import groupby

from worker.domain.guard import Guard
from worker.domain.instants import Instant
from worker.domain.states import CohortChange
from worker.ledger import Ledger, Recorder, cohort_decisions, decisions, proposals
from worker.ledger.backup import temporary_copy
from worker.ledger.cohort_proposals import PlannedChange, changes_hash
from worker.ledger.decisions import Decision
from worker.ledger.proposals import Pair, PlannedCohort, PlannedPlatform

ALL_PLATFORMS = "*"
"""Stands for the platform of removals that may be of several."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeGroup:
    """The cohorts of a platform that would all be created, or all be renamed: decided on together, or one by one."""

    platform: str
    change: CohortChange
    changes: tuple[PlannedChange, ...]

    @property
    def open(self) -> tuple[PlannedChange, ...]:
        """Return those that nobody has decided about."""
        return tuple(change for change in self.changes if change.is_open)

    @property
    def hash(self) -> str:
        """Return the hash to decide on all of those by."""
        return changes_hash(self.open)


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What waits for a person."""

    cohorts: tuple[PlannedCohort, ...]
    """Those whose removals are held."""
    groups: tuple[ChangeGroup, ...]
    """The cohorts that aren't created, or keep their label."""

    @property
    def pairs(self) -> list[Pair]:
        """Return the held removals of all cohorts."""
        return _pairs(self.cohorts)

    @property
    def hash(self) -> str | None:
        """Return the hash to decide on all held removals by; None without any."""
        return proposals.proposal_hash(self.pairs)


class Review:
    """What would be done on some platforms, before a person. `guards` are by platform."""

    def __init__(
        self, ledger: Ledger, guards: Mapping[str, Guard], *, clock: Callable[[], Instant] = time.time
    ) -> None:
        self._ledger = ledger
        self._guards = guards
        self._clock = clock

    def plan(self, glob: str | None = None) -> tuple[PlannedPlatform, ...]:
        """Return what would be done now.

        Each cohort's removals, and all of a platform's, can then be decided on; so can each cohort that would be
        created or renamed, and all of either on a platform whose idnumber matches.
        """
        platforms = self._planned(self._ledger)
        removals = [(cohort.platform, cohort.pairs) for platform in platforms for cohort in platform.cohorts]
        removals += [(platform.name, _pairs(platform.cohorts)) for platform in platforms]
        self._show(removals)
        self._show_cohorts(groups(platforms, lambda change: change.is_open and is_match(change.idnumber, glob)))
        return platforms

    def rehearse(self, recorder_of: Callable[[Ledger], Recorder]) -> tuple[PlannedPlatform, ...]:
        """Return what would be done under another policy, that of the recorder which is built for a copy of the ledger.

        Nothing is kept: it can't be decided on.
        """
        with temporary_copy(self._ledger) as copy:
            recorder_of(copy).apply_policy(now=self._clock())
            return self._planned(copy)

    def held(self) -> Held:
        """Return what is held; each cohort's removals and all, each cohort and each group, can then be decided on."""
        platforms = self._planned(self._ledger)
        cohorts = [cohort for platform in platforms for cohort in platform.cohorts]
        held = Held(
            cohorts=tuple(cohort for cohort in cohorts if cohort.held is not None),
            groups=groups(platforms, lambda change: change.is_open and change.held is not None),
        )
        removals = [(cohort.platform, cohort.pairs) for cohort in held.cohorts]
        self._show([*removals, (ALL_PLATFORMS, held.pairs)])
        self._show_cohorts(held.groups)
        return held

    def approve(self, name: str, *, by: str) -> Decision:
        """Let what was shown under this hash be done. Raises DecisionRefused."""
        name = decisions.full_name(self._ledger, name)
        approve = cohort_decisions.approve if self._is_of_cohorts(name) else decisions.approve
        return approve(self._ledger, name, by=by, now=self._clock())

    def reject(self, name: str, *, by: str) -> Decision:
        """Keep the members, or the cohorts, as they are that were shown under this hash. Raises DecisionRefused."""
        name = decisions.full_name(self._ledger, name)
        reject = cohort_decisions.reject if self._is_of_cohorts(name) else decisions.reject
        return reject(self._ledger, name, by=by, now=self._clock())

    def undo(self, name: str, *, by: str) -> Decision:
        """Put back the members whom this run, or the approval with this hash, removed. Raises DecisionRefused.

        A decision about cohorts is withdrawn, as far as it wasn't carried out.
        """
        name = decisions.full_name(self._ledger, name)
        undo = cohort_decisions.undo if self._is_of_cohorts(name) else decisions.undo
        return undo(self._ledger, name, by=by, now=self._clock())

    def _is_of_cohorts(self, name: str) -> bool:
        return cohort_decisions.is_shown(self._ledger, name)

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

    def _show_cohorts(self, shown: Sequence[ChangeGroup]) -> None:
        if not shown:
            return
        now = self._clock()
        with self._ledger.write() as connection:
            for group in shown:
                one_by_one = [[change] for change in group.changes]
                cohort_decisions.show(connection, group.platform, [group.changes, *one_by_one], now)


def groups(
    platforms: Iterable[PlannedPlatform], chosen: Callable[[PlannedChange], bool] = lambda _: True
) -> tuple[ChangeGroup, ...]:
    """Return the chosen ones of the cohorts that would be created or renamed, by platform and by what would be done."""
    changes = [each for platform in platforms for each in platform.whole.changes if chosen(each)]
    return tuple(
        ChangeGroup(platform=platform, change=change, changes=tuple(some))
        for (platform, change), some in groupby(changes, key=lambda each: (each.platform, each.change))
    )


def matching(platform: PlannedPlatform, glob: str | None) -> list[PlannedCohort]:
    """Return the cohorts of a plan whose idnumber matches; all of them without a glob."""
    return [cohort for cohort in platform.cohorts if is_match(cohort.idnumber, glob)]


def is_match(idnumber: str, glob: str | None) -> bool:
    """Return whether an idnumber matches; any does without a glob."""
    return glob is None or fnmatchcase(idnumber, glob)


def _pairs(cohorts: Iterable[PlannedCohort]) -> list[Pair]:
    return [pair for cohort in cohorts for pair in cohort.pairs]
