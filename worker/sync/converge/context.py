"""What the parts of a lane share."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from structlog.typing import FilteringBoundLogger

from worker.domain.accounts import CONFIRM_NIGHTS
from worker.domain.cohorts import Cohort, Gap
from worker.domain.errors import MoodleRefusesAll, MoodleUnavailable
from worker.domain.instants import Instant
from worker.domain.rules import PlatformPolicy
from worker.domain.states import CohortChange, Reason
from worker.ledger import WorkQueue
from worker.ledger.work_queue import Parked
from worker.moodle import MoodleReader, MoodleWriter
from worker.sync.converge.backoff import Backoff
from worker.sync.converge.suspects import Of, Suspects, changes

OBSERVE_RETRY_SECONDS = 3600.0
"""How often a platform in observe mode is compared again with what would be done there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneContext:
    """One platform, its work and its Moodle. `writer` is None on a platform in observe mode."""

    platform: PlatformPolicy
    queue: WorkQueue
    reader: MoodleReader
    writer: MoodleWriter | None
    backoff: Backoff
    clock: Callable[[], Instant]
    log: FilteringBoundLogger
    confirm_nights: int = CONFIRM_NIGHTS
    """Nights within which every account is confirmed: those that are older are looked up again."""
    suspects: Suspects = field(default_factory=Suspects)

    def permitted(self, change: CohortChange, cohorts: Sequence[Cohort]) -> list[Cohort]:
        """Return those of these cohorts that the guard lets pass; a call to change them is to follow at once."""
        permit = self.queue.begin(change, cohorts, self.clock())
        if permit.held:
            self.log.warning("cohorts are held until a person decides", change=change.value, cohorts=permit.held)
        return [cohort for cohort in cohorts if cohort.id in permit.cohort_ids]

    @contextmanager
    def changing(self, cohort_ids: Iterable[int], gaps: Sequence[Gap] = ()) -> Iterator[None]:
        """Surround a call that changes these cohorts, to close these gaps.

        When its outcome is unknown it may still be running: nobody touches the cohorts until it can't be.
        """
        try:
            yield
        except MoodleRefusesAll as error:
            error.cohort_ids = frozenset(cohort_ids)
            self.suspects.refused(changes(Of.MEMBERS if gaps else Of.COHORT, error.cohort_ids), error.code)
            raise
        except MoodleUnavailable as error:
            if error.unknown:
                now = self.clock()
                until = now + self.reader.transport.limits.timeout_seconds
                unknown = [Parked(gap=gap, reason=Reason.TIMEOUT, retry_at=until, observed=None) for gap in gaps]
                self.queue.settle(parked=unknown, now=now)
                self.queue.hold_off(set(cohort_ids), until)
            raise
