"""The members of the claimed cohorts: added, then removed, batch by batch."""

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from worker import telemetry
from worker.domain.cohorts import Gap
from worker.domain.instants import Instant
from worker.domain.plan import Plan
from worker.domain.states import Action, Channel, Reason
from worker.ledger.work_queue import Applied, Parked, Work
from worker.moodle import BatchSize, Outcome
from worker.moodle.writer import UNKNOWN_COHORT, UNKNOWN_USER, Pair
from worker.sync.converge.cohorts import CohortProvider
from worker.sync.converge.context import OBSERVE_RETRY_SECONDS, LaneContext
from worker.sync.converge.suspects import Of, changes


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberCall:
    """One of Moodle's two calls that change members, with the batch size that its duration has taught."""

    send: Callable[..., Outcome]
    """`MoodleWriter.add` or `remove`."""
    batch_size: BatchSize


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Gaps that one call is to close, by the pair (Moodle's cohort id, user id) that it names each by."""

    gaps: Mapping[Pair, Gap]

    @property
    def cohort_ids(self) -> set[int]:
        """Return the ledger's ids of the cohorts that the call changes."""
        return {gap.cohort_id for gap in self.gaps.values()}

    def cohorts_refused(self, outcome: Outcome, code: str) -> set[int]:
        """Return the cohorts in which a member was refused with this code."""
        return {self.gaps[pair].cohort_id for pair, refusal in outcome.refused.items() if refusal == code}


class MemberWriter:
    """Applies plans, for one lane; no batch is begun once `stop` is set."""

    def __init__(self, context: LaneContext, provider: CohortProvider, stop: threading.Event) -> None:
        self._context = context
        self._provider = provider
        self._stop = stop
        # A series that begins at 1 would show no increase.
        for action, channel in product((Action.ADD, Action.REMOVE), Channel):
            telemetry.APPLIED_SECONDS.labels(context.platform.name, action, channel)

    def apply(self, plan: Plan, work: Work, cohorts: Mapping[int, int]) -> None:
        """Apply a plan for claimed work; `cohorts` are Moodle's ids by ours."""
        context, writer = self._context, self._context.writer
        if writer is None:
            self._park_observed([gap for gap, _ in plan.additions + plan.removals + plan.unneeded])
            return
        context.queue.settle(closed=[gap for gap, _ in plan.unneeded], now=context.clock())
        additions = MemberCall(send=writer.add, batch_size=writer.additions)
        removals = MemberCall(send=writer.remove, batch_size=writer.removals)
        self._apply_all(additions, plan.additions, work, cohorts)
        self._apply_all(removals, plan.removals, work, cohorts)

    def _park_observed(self, gaps: Iterable[Gap]) -> None:
        now = self._context.clock()
        later = now + OBSERVE_RETRY_SECONDS
        parked = [Parked(gap=gap, reason=Reason.OBSERVE, retry_at=later, observed=not gap.desired) for gap in gaps]
        self._context.queue.settle(parked=parked, now=now)

    def _apply_all(
        self, call: MemberCall, items: Sequence[tuple[Gap, int]], work: Work, cohorts: Mapping[int, int]
    ) -> None:
        rest = list(items)
        while rest and not self._stop.is_set():
            size = call.batch_size.size  # learns from call to call
            some, rest = rest[:size], rest[size:]
            in_flight = self._context.queue.mark_in_flight(some, self._context.clock())
            if not in_flight:
                continue
            batch = Batch(gaps={(cohorts[gap.cohort_id], user_id): gap for gap, user_id in in_flight})
            with self._context.changing(batch.cohort_ids, [gap for gap, _ in in_flight]):
                outcome = self._send(call, batch)
            self._settle(work, batch, outcome)

    def _send(self, call: MemberCall, batch: Batch) -> Outcome:
        suspects = self._context.suspects
        of_items = suspects.codes_of_items(changes(Of.MEMBERS, batch.cohort_ids))
        outcome = call.send(list(batch.gaps), of_items=of_items)
        suspects.accepted(changes(Of.MEMBERS, (batch.gaps[pair].cohort_id for pair in outcome.done)))
        return outcome

    def _settle(self, work: Work, batch: Batch, outcome: Outcome) -> None:
        """Write what became of a batch."""
        queue, now = self._context.queue, self._context.clock()
        applied = [Applied(gap=gap, user_id=pair[1]) for pair, gap in batch.gaps.items() if pair in outcome.done]
        closed, parked = self._refused(batch, outcome, now)
        queue.accounts.forget({user_id for (_, user_id), code in outcome.refused.items() if code == UNKNOWN_USER})
        queue.settle(applied=applied, closed=closed, parked=parked, now=now)
        for cohort_id in batch.cohorts_refused(outcome, UNKNOWN_COHORT):
            self._provider.vanished(work.cohorts[cohort_id])
        self._measure(applied, now)
        self._context.log.info(
            "batch applied", members=len(applied), refused=len(outcome.refused), cohorts=len(batch.cohort_ids)
        )

    def _refused(self, batch: Batch, outcome: Outcome, now: Instant) -> tuple[list[Gap], list[Parked]]:
        """Split the refused gaps: removals of deleted accounts, which are in no cohort any more, and those to retry."""
        closed: list[Gap] = []
        parked: list[Parked] = []
        for pair, code in outcome.refused.items():
            gap = batch.gaps[pair]
            if code == UNKNOWN_USER and not gap.desired:
                closed.append(gap)
                continue
            delay = self._context.backoff.after(gap.attempts) if gap.attempts else 0.0  # the first retry is at once
            parked.append(Parked(gap=gap, reason=code, retry_at=now + delay, observed=not gap.desired))
        return closed, parked

    def _measure(self, applied: Iterable[Applied], now: Instant) -> None:
        for done in applied:
            action = Action.ADD if done.gap.desired else Action.REMOVE
            seconds = telemetry.APPLIED_SECONDS.labels(self._context.platform.name, action, done.gap.channel)
            seconds.observe(max(0.0, now - done.gap.since))
