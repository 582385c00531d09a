"""Closing gaps: the only part that changes Moodle.

A `Lane` works on one platform, with at most one call at a time. Its `run_once` is the whole flow; all that it does
is read afresh from the ledger, and no other lane of any worker holds the same cohorts.
"""

import threading
import time
from collections.abc import Callable

import structlog

from worker import telemetry
from worker.domain.accounts import CONFIRM_NIGHTS
from worker.domain.errors import LeaseLost, MoodleError, MoodleRefusesAll
from worker.domain.instants import Instant
from worker.domain.plan import plan
from worker.domain.rules import PlatformPolicy
from worker.ledger import WorkQueue
from worker.moodle import MoodleReader, MoodleWriter
from worker.sync import outage
from worker.sync.converge.accounts import AccountResolver
from worker.sync.converge.backoff import Backoff
from worker.sync.converge.cohorts import CohortProvider
from worker.sync.converge.context import LaneContext
from worker.sync.converge.members import MemberWriter

STEP_BACK_SECONDS = 5.0
"""How long after the pause cohorts for which everything was refused let the others go first."""
RENEW_SECONDS = 10.0
"""How old a lease may be when a call is sent, so that it outlasts the call by far."""
CLAIM_BATCHES = 4
"""Batches' worth of gaps that are claimed at once."""
OBSERVED = 200
"""Gaps of a batch in observe mode, where no call teaches its size."""

log = structlog.get_logger()


class Lane:
    """One thread's worth of converging on one platform: its lanes share the connections.

    `writer` is None on a platform in observe mode: then everything but the writing happens. `backoff` is that of
    parked memberships; accounts are believed for `confirm_nights`. No call is begun once `stop` is set.
    """

    def __init__(
        self,
        platform: PlatformPolicy,
        queue: WorkQueue,
        reader: MoodleReader,
        writer: MoodleWriter | None,
        *,
        backoff: Backoff,
        confirm_nights: int = CONFIRM_NIGHTS,
        stop: threading.Event | None = None,
        clock: Callable[[], Instant] = time.time,
    ) -> None:
        self._platform = platform
        self._queue = queue
        self._reader = reader
        self._writer = writer and writer.checking(self._keep_leases)
        self._clock = clock
        self._leased: frozenset[int] = frozenset()
        self._renew_at = 0.0
        self._log = log.bind(platform=platform.name)
        context = LaneContext(
            platform=platform, queue=queue, reader=reader, writer=self._writer, backoff=backoff, clock=clock,
            log=self._log, confirm_nights=confirm_nights,
        )  # fmt: skip
        self._cohorts = CohortProvider(context)
        self._accounts = AccountResolver(context)
        self._members = MemberWriter(context, self._cohorts, stop or threading.Event())

    def run_once(self) -> bool:
        """Claim the cohorts that wait longest and close their gaps; False when nothing is due.

        A platform that doesn't respond, or denies, is noted in the ledger and left alone for a while.
        """
        batch_size = self._writer.additions.size if self._writer else OBSERVED
        began = self._clock()
        work = self._queue.claim(began, limit=CLAIM_BATCHES * batch_size)
        for limit, removals in work.held.items():
            self._log.warning("removals are held until a person decides", limit=limit.value, removals=removals)
        if not work:
            self._probe(began)
            return False
        self._leased, self._renew_at = frozenset(work.cohorts), began + RENEW_SECONDS
        try:
            cohorts = self._cohorts.ready(work)
            gaps = [gap for gap in work.gaps if gap.cohort_id in cohorts]
            resolved = self._accounts.resolve(gaps)
            staying = self._accounts.staying(resolved.gaps)
            self._members.apply(plan(resolved.gaps, resolved.accounts, staying), work, cohorts)
            self._queue.availability.answered(self._clock())
            telemetry.LAST_SUCCESS.labels(self._platform.name).set(self._clock())
        except MoodleError as error:
            self._pause(error, began)
        except LeaseLost as error:
            self._log.warning("lease lost, work discarded", error=str(error))
        finally:
            self._queue.release()
        return True

    def _probe(self, began: Instant) -> None:
        """Ask a platform that failed last whether it answers, if no gap is left to show it."""
        if not self._queue.availability.is_in_doubt(began):
            return
        try:
            self._reader.site_info()
        except MoodleError as error:
            self._pause(error, began)
        else:
            self._queue.availability.answered(self._clock())

    def _keep_leases(self) -> None:
        """Let no call out but under fresh leases: called right before each is sent. Raises LeaseLost.

        A process can be stopped anywhere, for any time, and goes on as if nothing had happened.
        """
        while (now := self._clock()) >= self._renew_at:
            self._queue.renew(self._leased, now)
            self._renew_at = now + RENEW_SECONDS

    def _pause(self, error: MoodleError, began: Instant) -> None:
        seconds = outage.note(self._queue.availability, error, began=began, now=self._clock())
        if isinstance(error, MoodleRefusesAll):  # others go first, and show whether the platform refuses them too
            self._queue.step_back(error.cohort_ids, self._clock() + (seconds or 0.0) + STEP_BACK_SECONDS)
        state = outage.state_after(error)
        if seconds is None:
            self._log.info("platform failed again, paused already", state=state.value, code=error.code)
        else:
            self._log.warning("platform paused", state=state.value, code=error.code, seconds=round(seconds))
