"""Merges of student numbers: which are in force, and where each number leads in the end. Pure.

Two people are never made one because they had one number at different times: a merge of numbers that more than one
person has had is held, until a person decides.
"""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from worker.domain.instants import Instant
from worker.domain.states import Action, MergeState

Person = tuple[str, int]
"""UAI and COD_IND."""
Pair = tuple[str, str]
"""The former number, and the one that it lives on as."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Merge:
    """That a student number lives on as another, and what has been found and decided about that since."""

    student_id: str
    merged_into: str
    merged_at: Instant
    ended_at: Instant | None = None
    """When a snapshot was taken that had enrolments under the former number, after the merge."""
    verdict: str | None = None
    """An `Action`: approve or reject."""
    decided_at: Instant | None = None
    persons: int = 0
    """How many had had either number when it was approved."""

    @property
    def pair(self) -> Pair:
        """Return both numbers."""
        return self.student_id, self.merged_into


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What merges come to."""

    states: Mapping[Pair, MergeState]
    survivors: Mapping[str, str]
    """The last number that each leads to; a number that leads nowhere is itself, or isn't there."""


def judge(merges: Collection[Merge], persons: Mapping[str, Collection[Person]]) -> Judgement:
    """Judge all merges that are connected with each other; `persons` are those who have, or had, each number.

    Each merge is looked at a few times, however many there are.
    """
    settled = _settled(merges)
    states = {merge.pair: _by_itself(merge, settled.get(merge.student_id), persons) for merge in merges}
    leading = {
        merge.student_id: merge for merge in sorted(merges, key=_order) if states[merge.pair] is MergeState.APPLIED
    }
    for former in _of_several_persons(leading, persons):
        if leading[former].verdict != Action.APPROVE:
            states[leading.pop(former).pair] = MergeState.CLAIMED
    last = _followed(leading)
    for merge in merges:
        leads = leading.get(merge.student_id) is merge and last[merge.student_id] != merge.student_id
        if states[merge.pair] is MergeState.APPLIED and not leads:
            states[merge.pair] = MergeState.SET_ASIDE
    return Judgement(states=states, survivors=last)


def _order(merge: Merge) -> tuple[bool, Instant, str]:
    """Return what tells which of the merges of one number leads it."""
    return merge.verdict == Action.APPROVE, merge.merged_at, merge.merged_into


def _settled(merges: Collection[Merge]) -> dict[str, Instant]:
    """Return since when it is known of numbers that they are in use by themselves."""
    settled: dict[str, Instant] = {}
    for merge in merges:
        rejected_at = merge.decided_at if merge.verdict == Action.REJECT else None
        for at in (merge.ended_at, rejected_at):
            if at is not None:
                settled[merge.student_id] = max(at, settled.get(merge.student_id, at))
    return settled


def _by_itself(merge: Merge, settled: Instant | None, persons: Mapping[str, Collection[Person]]) -> MergeState:
    bearers = {*persons.get(merge.student_id, ()), *persons.get(merge.merged_into, ())}
    if merge.verdict == Action.APPROVE and len(bearers) <= max(1, merge.persons):
        return MergeState.APPLIED
    if merge.verdict == Action.REJECT:
        return MergeState.REJECTED
    if settled is not None:
        return MergeState.TOLD_AGAIN if merge.merged_at > settled else MergeState.CONTRADICTED
    return MergeState.CLAIMED if len(bearers) > 1 else MergeState.APPLIED


def _of_several_persons(leading: Mapping[str, Merge], persons: Mapping[str, Collection[Person]]) -> list[str]:
    """Return the numbers that lead, through others, to a number where several persons would become one."""
    last = _followed(leading)
    bearers: defaultdict[str, set[Person]] = defaultdict(set)
    for number in {*leading, *last.values()}:
        bearers[last.get(number, number)].update(persons.get(number, ()))
    return [number for number in leading if len(bearers[last[number]]) > 1]


def _followed(leading: Mapping[str, Merge]) -> dict[str, str]:
    return survivors({number: (merge.merged_into, merge.merged_at) for number, merge in leading.items()})


def survivors(merges: Mapping[str, tuple[str, float]]) -> dict[str, str]:
    """Resolve merges (previous number to surviving number and instant) to the last survivor of each.

    Chains are followed. In a cycle (a merge that was reversed) the oldest merge of the cycle is dropped, in whatever
    order they were learnt. Each merge is looked at a few times, however long the chains are.
    """
    edges = dict(merges)
    for circle in _circles(merges):
        del edges[min(circle, key=lambda number: (merges[number][1], number))]
    last: dict[str, str] = {}
    for start in merges:
        trail, at = [], start
        while at not in last and at in edges:
            trail.append(at)
            at = edges[at][0]
        end = last.get(at, at)
        last |= dict.fromkeys(trail, end)
        last.setdefault(start, end)
    return last


def _circles(merges: Mapping[str, tuple[str, float]]) -> Iterator[list[str]]:
    """Yield the numbers of each circle of merges."""
    seen_from: dict[str, str] = {}
    for start in merges:
        trail, at = [], start
        while at in merges and at not in seen_from:
            seen_from[at] = start
            trail.append(at)
            at = merges[at][0]
        if seen_from.get(at) == start:
            yield trail[trail.index(at) :]
