"""One platform during one reconciliation: read, written into the ledger, then reported."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import structlog

from worker.domain.accounts import CONFIRM_NIGHTS
from worker.domain.errors import MoodleError, MoodleRejected
from worker.domain.guard import Guard
from worker.domain.instants import Instant
from worker.domain.report import CohortReport, ForeignChange, PlatformReport
from worker.domain.rules import Mode, PlatformPolicy
from worker.domain.states import BLOCKED, Action
from worker.ledger import Ledger, deletions, observations, proposals, runs
from worker.ledger.availability import Availability
from worker.ledger.observations import ObservationReport, Observer
from worker.ledger.proposals import PlannedCohort, PlannedPlatform
from worker.moodle import MoodleReader, RemoteCohort, owner
from worker.sync import outage
from worker.sync.foreign import Fingerprint, differences, fingerprints
from worker.sync.people import identify

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconciledPlatform:
    """One platform, as a reconciliation needs it."""

    policy: PlatformPolicy
    guard: Guard
    reader: MoodleReader | None
    """None where nothing can be read: a manual platform without a token."""
    remove_unmatched: bool
    """Whether unmatched members are removed."""
    confirm_nights: int = CONFIRM_NIGHTS
    """Nights within which every account is confirmed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What a platform showed at the beginning."""

    fingerprints: Mapping[int, Fingerprint] = field(default_factory=dict)
    """Of each foreign cohort, by Moodle's id."""
    found: ObservationReport | None = None
    """None where nothing is ours: nothing could be read, or the platform is manual."""
    error: str | None = None


_Contents = tuple[dict[int, RemoteCohort], dict[int, set[int]]]
"""Every cohort of a platform, and its members."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reading:
    """A reading under way."""

    reader: MoodleReader
    at: Instant
    """When it began."""
    ours: Mapping[int, tuple[str | None, str | None]]
    """The cohorts that were ours then, as `Observer.owned` returns them."""
    contents: Future[_Contents]
    """Raises MoodleError."""


class PlatformRun:
    """A platform's part in the reconciliation with this number. `begin` comes first, then `observe`, then `report`."""

    def __init__(self, ledger: Ledger, platform: ReconciledPlatform, *, run: int, clock: Callable[[], Instant]) -> None:
        self.policy = platform.policy
        self._ledger = ledger
        self._platform = platform
        self._run = run
        self._clock = clock
        self._owner = owner(ledger.instance, platform.policy.name)
        self._availability = Availability(ledger, platform.policy.name)
        self._observer = Observer(ledger, platform.policy, run=run, remove_unmatched=platform.remove_unmatched)
        self._reading: _Reading | None = None

    def begin(self, threads: ThreadPoolExecutor) -> None:
        """Begin to read the platform, on a thread."""
        reader = self._platform.reader
        if reader is not None:
            at, ours = self._clock(), self._observer.owned()
            self._reading = _Reading(reader=reader, at=at, ours=ours, contents=threads.submit(_read, reader))

    @property
    def is_read(self) -> bool:
        """Whether the platform is being read: a manual one without a token can't be."""
        return self._reading is not None

    def observe(self) -> Observation:
        """Wait for what was read, and write it into the ledger; an error of Moodle is this platform's alone."""
        if self._reading is None:
            return Observation()
        try:
            return self._observe(self._reading)
        except MoodleError as error:
            return Observation(error=self._failed(error, self._reading.at))

    def report(self, observation: Observation, started_at: Instant, *, left: int) -> PlatformReport:
        """Report what was found and done on the platform in the run, which began then; `left` are the gaps left."""
        changes: tuple[ForeignChange, ...] = ()
        error, is_read = observation.error, self._reading is not None and observation.error is None
        if self._reading is not None and is_read:
            began = self._clock()
            try:
                changes = tuple(self._foreign_changes(self._reading.reader, observation.fingerprints, started_at))
            except MoodleError as failure:
                error = self._failed(failure, began)
        if is_read and error is None and not left:
            self._availability.answered(self._clock())
        with self._ledger.read() as connection:
            deleted = deletions.read(connection, self.policy.name)
        bare = PlatformReport(
            name=self.policy.name,
            deleted=deleted,
            mode=self.policy.mode.value,
            error=error,
            stopped=self._availability.stopped() if self.policy.mode is Mode.AUTOMATIC else None,
            last_read=self._availability.last_read(),
            read=is_read,
            left=left,
            foreign=len(observation.fingerprints),
            foreign_changes=changes,
            strangers_removed=self._platform.remove_unmatched,
        )
        return bare if observation.found is None else self._with_details(bare, observation.found)

    def _failed(self, error: MoodleError, began: Instant) -> str:
        """Note that a reading that began then has failed; returns why. What is written waits as after any failure."""
        log.warning("platform cannot be read", platform=self.policy.name, code=error.code)
        if self.policy.mode is not Mode.MANUAL:
            outage.note(self._availability, error, began=began, now=self._clock())
        return str(error).removeprefix(f"{self.policy.name}: ")

    def _observe(self, reading: _Reading) -> Observation:
        ours, (cohorts, members) = reading.ours, reading.contents.result()
        foreign = fingerprints(cohorts, members, ours.keys(), self._owner)
        if self.policy.mode is Mode.MANUAL:
            self._availability.was_read(reading.at)
            return Observation(fingerprints=foreign)
        members_of_ours = {number: users for number, users in members.items() if number in ours}
        people = identify(
            self.policy, reading.reader, self._observer, members_of_ours, self._clock(),
            nights=self._platform.confirm_nights,
        )  # fmt: skip
        seen = observations.PlatformReading(
            at=reading.at, ours=ours, cohorts=cohorts, members=members_of_ours, people=people
        )
        found = self._observer.write(seen, self._clock())
        self._availability.was_read(reading.at)
        self._availability.end_pause(self._clock())
        return Observation(fingerprints=foreign, found=found)

    def _foreign_changes(
        self, reader: MoodleReader, before: Mapping[int, Fingerprint], started_at: Instant
    ) -> Iterator[ForeignChange]:
        """Read the foreign cohorts once more: any difference is somebody else's, as the journal shows."""
        if not before:
            return
        cohorts = {cohort.id: cohort for cohort in reader.cohorts()}
        ours = self._observer.owned().keys()  # a person may have adopted one meanwhile
        members = reader.members(sorted(cohorts.keys() - ours))
        after = fingerprints(cohorts, members, ours, self._owner)
        still_foreign = (before.keys() - ours) | after.keys()
        changes = [change for change in differences(before, after) if change.moodle_id in still_foreign]
        numbers = [change.moodle_id for change in changes]
        journalled = runs.journalled(self._ledger, self.policy.name, started_at, numbers)
        for change in changes:
            yield replace(change, journalled=journalled.get(change.moodle_id, 0))

    def _with_details(self, report: PlatformReport, found: ObservationReport) -> PlatformReport:
        name = self.policy.name
        with self._ledger.read() as connection:
            plan = proposals.planned(connection, name, self._platform.guard, self._clock())
        details = tuple(_details(found, plan, runs.applied(self._ledger, name, self._run)))
        log.info(
            "guard", platform=name, memberships=plan.judgement.members, held=sum(each.held for each in details),
            pending=plan.judgement.pending, removed=plan.judgement.removed, enabled=plan.judgement.enabled,
        )  # fmt: skip
        total = {
            what: sum(getattr(each, what) for each in details)
            for what in ("added", "removed", "waiting", "held", "parked", "strangers", "unclean", "unconfirmed")
        }
        return replace(
            report,
            cohorts=found.cohorts,
            members=found.members,
            drift=dict(found.total()),
            guard=proposals.guard_report(plan),
            blocked=plan.blocked,
            details=details,
            **total,
        )


def _read(reader: MoodleReader) -> _Contents:
    """Read every cohort with its members, once more when one is deleted in between."""
    for last in (False, True):
        cohorts = {cohort.id: cohort for cohort in reader.cohorts()}
        try:
            return cohorts, reader.members(list(cohorts))
        except MoodleRejected:
            if last:
                raise
    raise AssertionError  # pragma: no cover - the second round returns or raises


def _details(
    found: ObservationReport, plan: PlannedPlatform, applied: Mapping[str, Mapping[str, int]]
) -> Iterator[CohortReport]:
    """Report the cohorts to which something happened, or has yet to."""
    planned = {
        cohort.idnumber: cohort
        for cohort in plan.cohorts
        if cohort.state not in BLOCKED and cohort.cohort_id not in plan.whole.uncreated
    }
    drift = {idnumber: counts for idnumber, counts in found.drift.items() if counts.total()}
    for idnumber in sorted({*planned, *drift, *found.unmatched, *found.unclean, *found.unconfirmed, *applied}):
        done = Counter(applied.get(idnumber, {}))
        report = CohortReport(
            idnumber=idnumber,
            added=done[Action.ADD],
            removed=done[Action.REMOVE],
            strangers=found.unmatched[idnumber],
            unclean=found.unclean[idnumber],
            unconfirmed=found.unconfirmed[idnumber],
            drift=dict(drift.get(idnumber, {})),
        )
        yield _with_plan(report, planned[idnumber]) if idnumber in planned else report


def _with_plan(report: CohortReport, planned: PlannedCohort) -> CohortReport:
    """Add what is still to be done to a cohort."""
    leaving = len(planned.pairs)
    held = leaving if planned.held is not None else 0
    joining = sum(map(len, planned.additions.values()))
    waiting = joining + leaving - held + planned.approved
    return replace(report, waiting=waiting, held=held, parked=planned.parked)
