"""The night: what a complete snapshot says and what Moodle really holds, into the ledger; then a report.

Observation is not action: gaps that are found go to the queue of converging, behind fresh changes, and this waits for
them. `Reconciliation.run` is the whole flow. Moodle is what takes long: every platform is read while the snapshot is.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import structlog

from worker.domain.drift import People
from worker.domain.errors import MoodleError, MoodleRejected, SnapshotFault, SnapshotRefused
from worker.domain.guard import Guard
from worker.domain.instants import Instant
from worker.domain.report import CohortReport, ForeignChange, PlatformReport, Report, SnapshotReport
from worker.domain.rules import Mode, PlatformPolicy, can_be_asked
from worker.domain.snapshots import AcceptedSnapshot, Snapshot
from worker.domain.states import Action, CohortState, RunState
from worker.ledger import Ledger, Recorder, observations, proposals, runs
from worker.ledger.observations import ObservationReport, Observer
from worker.moodle import MoodleReader, RemoteCohort
from worker.sync.foreign import Fingerprint, differences, fingerprints

log = structlog.get_logger()

Latest = Callable[[Instant, AcceptedSnapshot | None], Snapshot]
"""Reads the topic for a snapshot newer than the accepted one; raises SnapshotRefused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconciledPlatform:
    """One platform, as a reconciliation needs it."""

    policy: PlatformPolicy
    guard: Guard
    reader: MoodleReader | None
    """None where nothing can be read: a manual platform without a token."""
    remove_strangers: bool


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a reconciliation is, for a person who waits."""

    step: str
    done: int
    of: int


_Contents = tuple[dict[int, RemoteCohort], dict[int, set[int]]]
"""Every cohort of a site, and its members."""


@dataclass(frozen=True, slots=True)
class _Reading:
    """A platform that is being read."""

    reader: MoodleReader
    observer: Observer
    at: Instant
    """When that began."""
    ours: Mapping[int, tuple[str | None, str | None]]
    """What was ours then, as `Observer.owned` gives it."""
    contents: Future[_Contents]
    """Raises MoodleError."""


@dataclass(slots=True)
class _Look:
    """What was seen of a platform at the beginning."""

    fingerprints: dict[int, Fingerprint] = field(default_factory=dict)
    """Of each foreign cohort, by Moodle's id."""
    found: ObservationReport | None = None
    error: str | None = None


class Reconciliation:
    """Everything of one run; one thread owns it."""

    def __init__(
        self,
        ledger: Ledger,
        recorder: Recorder,
        sites: Sequence[ReconciledPlatform],
        runs_: runs.Runs,
        *,
        latest: Latest | None,
        wait_seconds: float,
        pause: Callable[[float], bool],
        clock: Callable[[], Instant] = time.time,
        progress: Callable[[Progress], None] = lambda _: None,
    ) -> None:
        """Take `latest` as None for a run that only reads Moodle back.

        Gaps are waited for during `wait_seconds`; `pause` waits for so many seconds and says whether to give up.
        """
        self._ledger = ledger
        self._recorder = recorder
        self._sites = sites
        self._runs = runs_
        self._latest = latest
        self._wait_seconds = wait_seconds
        self._pause = pause
        self._clock = clock
        self._progress = progress

    def run(self, night: str | None = None) -> Report | None:
        """Reconcile, and give the report, which the ledger keeps; None when the night's run is not ours to do.

        Raises RunInProgress when another one is going on, and whatever Kafka or the ledger raise: then the run is
        recorded as failed. A platform that can't be read fails for itself alone.
        """
        number = self._runs.begin(self._clock(), night=night)
        if number is None:
            return None
        report = Report(run=number, state=RunState.RUNNING, night=night, started_at=self._clock(), ended_at=None)
        try:
            report = self._reconcile(report)
        except SnapshotRefused as error:
            report = replace(report, state=RunState.REFUSED, error=str(error), refusals=error.refusals)
        except BaseException as error:
            self._runs.end(replace(report, state=RunState.FAILED, ended_at=self._clock(), error=type(error).__name__))
            raise
        report = replace(report, ended_at=self._clock())
        self._runs.end(report)
        log.info("reconciliation ended", run=number, state=report.state.value)
        return report

    def _reconcile(self, report: Report) -> Report:
        with ThreadPoolExecutor(max(1, len(self._sites))) as threads:
            readings = {site.policy.name: self._begin_reading(site, report.run, threads) for site in self._sites}
            if self._latest is not None:
                report = self._take_snapshot(report, self._latest)
            looks = {site.policy.name: self._look(site, report.run, readings[site.policy.name]) for site in self._sites}
        left = self._wait(report.run, [site for site in self._sites if looks[site.policy.name].found is not None])
        platforms = tuple(self._platform(site, looks[site.policy.name], report) for site in self._sites)
        whole = not left and not any(platform.error for platform in platforms)
        return replace(report, state=RunState.DONE if whole else RunState.PARTIAL, platforms=platforms)

    # The snapshot

    def _take_snapshot(self, report: Report, latest: Latest) -> Report:
        self._progress(Progress("snapshot", 0, 1))
        accepted = self._recorder.last_snapshot()
        try:
            image = latest(self._clock(), accepted)
        except SnapshotRefused as error:
            if accepted is None or not runs.left_over(self._ledger, accepted, self._clock()):
                raise
            log.info("the run that recorded the snapshot died: this one goes on", run=report.run, snapshot=accepted.id)
            others = [refusal for refusal in error.refusals if refusal.fault is not SnapshotFault.NOT_NEWER]
            return replace(report, snapshot=_known(accepted), refusals=tuple(others))
        self._runs.renew(report.run, self._clock())
        told = self._recorder.record_snapshot(image, run=report.run, now=self._clock())
        log.info(
            "snapshot recorded", run=report.run, snapshot=image.id, rows=len(image.rows),
            applied=told.applied, ended=told.ended, memberships=told.memberships,
        )  # fmt: skip
        return replace(
            report,
            snapshot=replace(
                _known(image.accepted()), applied=told.applied, ended=told.ended, memberships=told.memberships
            ),
            refusals=tuple(image.passed_over),
        )

    # Each platform: read, then written into the ledger

    def _begin_reading(self, site: ReconciledPlatform, run: int, threads: ThreadPoolExecutor) -> _Reading | None:
        if site.reader is None:
            return None
        observer = Observer(self._ledger, site.policy, run=run, remove_unmatched=site.remove_strangers)
        at, ours = self._clock(), observer.owned()
        return _Reading(site.reader, observer, at, ours, threads.submit(_read, site.reader))

    def _look(self, site: ReconciledPlatform, run: int, reading: _Reading | None) -> _Look:
        """Take what was read of a platform; what goes wrong with it is its own."""
        look = _Look()
        if reading is None:
            return look
        self._progress(Progress(site.policy.name, 0, 1))
        self._runs.renew(run, self._clock())
        try:
            self._observe(site.policy, reading, look)
        except MoodleError as error:
            look.error = str(error)
            log.warning("platform cannot be read", platform=site.policy.name, code=error.code)
        return look

    def _observe(self, policy: PlatformPolicy, reading: _Reading, look: _Look) -> None:
        ours, (cohorts, members) = reading.ours, reading.contents.result()
        look.fingerprints = fingerprints(cohorts, members, ours.keys(), self._ledger.instance)
        if policy.mode is Mode.MANUAL:
            return
        here = {number: users for number, users in members.items() if number in ours}
        people = self._people(policy, reading, here)
        seen = observations.Reading(at=reading.at, ours=ours, cohorts=cohorts, members=here, people=people)
        look.found = reading.observer.write(seen, self._clock())

    def _people(self, policy: PlatformPolicy, reading: _Reading, members: Mapping[int, set[int]]) -> People:
        """Tell who is who: remembered accounts aren't asked for again."""
        reader, observer = reading.reader, reading.observer
        accounts = observer.accounts.all()
        wanted = observer.unplaced()
        unknown = sorted(key for key in {*wanted.values()} - accounts.keys() if can_be_asked(policy.account_field, key))
        found = {key: ids[0] for key, ids in reader.users(policy.account_field, unknown).items() if len(ids) == 1}
        there = set().union(*members.values())
        strangers = there - set(accounts.values()) - set(found.values())
        missing = observer.left() - there
        named = reader.account_keys(policy.account_field, sorted(strangers | missing))
        found |= {key: user_id for user_id, key in named.items() if key and user_id in strangers}
        observer.accounts.remember(found, self._clock())
        accounts |= found
        pairs = [(student, accounts[key]) for key, student in observer.students().items() if key in accounts]
        return People(
            accounts=dict(pairs),
            students={user_id: student for student, user_id in pairs},
            # Asked by its number, Moodle gives a deleted account too, under another name.
            gone={user_id for user_id in missing if accounts.get(named.get(user_id, "")) != user_id},
        )

    # Waiting

    def _wait(self, run: int, sites: Sequence[ReconciledPlatform]) -> int:
        """Wait until the gaps that this run has made are closed, held or parked; gives how many are left."""
        deadline = self._clock() + self._wait_seconds
        most = 0
        while True:
            left = runs.open_gaps(self._ledger, run, [s.policy.name for s in sites if s.policy.mode is Mode.AUTOMATIC])
            most = max(most, left)
            self._progress(Progress("gaps", most - left, most))
            self._runs.renew(run, self._clock())
            if not left or self._clock() >= deadline or self._pause(1.0):
                return left

    # The report

    def _platform(self, site: ReconciledPlatform, look: _Look, report: Report) -> PlatformReport:
        name = site.policy.name
        bare = PlatformReport(
            name=name, mode=site.policy.mode.value, error=look.error, strangers_removed=site.remove_strangers
        )
        if site.reader is None or look.error is not None:
            return bare
        try:
            changes = tuple(self._foreign_changes(site, site.reader, look, report))
        except MoodleError as error:
            changes, bare = (), replace(bare, error=str(error))
        bare = replace(bare, read=True, foreign=len(look.fingerprints), foreign_changes=changes)
        if look.found is None:
            return bare
        with self._ledger.read() as connection:
            plan = proposals.planned(connection, name, site.guard, self._clock())
        details = tuple(_details(look.found, plan, runs.applied(self._ledger, name, report.run)))
        log.info(
            "guard", platform=name, memberships=plan.judgement.members, held=sum(each.held for each in details),
            pending=plan.judgement.pending, removed=plan.judgement.removed, enabled=plan.judgement.enabled,
        )  # fmt: skip
        total = {
            what: sum(getattr(each, what) for each in details)
            for what in ("added", "removed", "waiting", "held", "parked", "strangers")
        }
        return replace(
            bare,
            cohorts=look.found.cohorts,
            members=look.found.members,
            drift=dict(look.found.total()),
            guard=proposals.guard_report(plan),
            details=details,
            **total,
        )

    def _foreign_changes(
        self, site: ReconciledPlatform, reader: MoodleReader, look: _Look, report: Report
    ) -> Iterator[ForeignChange]:
        """Look at the cohorts that aren't ours once more: any difference is somebody else's, as the journal shows."""
        if not look.fingerprints:
            return
        observer = Observer(self._ledger, site.policy, run=report.run, remove_unmatched=False)
        cohorts = {cohort.id: cohort for cohort in reader.cohorts()}
        ours_now = observer.owned().keys()  # a person may have adopted one meanwhile
        foreign = look.fingerprints.keys() - ours_now
        members = reader.members(sorted(cohorts.keys() - ours_now))
        after = fingerprints(cohorts, members, ours_now, self._ledger.instance)
        changes = [change for change in differences(look.fingerprints, after) if change[0] in foreign | after.keys()]
        numbers = [number for number, _, _ in changes]
        ours = runs.journalled(self._ledger, site.policy.name, report.started_at, numbers)
        for number, idnumber, what in changes:
            yield ForeignChange(moodle_id=number, idnumber=idnumber, what=what, journalled=ours.get(number, 0))


def _known(accepted: AcceptedSnapshot) -> SnapshotReport:
    """Say what there is in a snapshot that tells nothing new."""
    return SnapshotReport(
        id=accepted.id,
        taken_at=accepted.taken_at,
        system=accepted.system,
        rows=sum(accepted.rows_by_year.values()),
        rows_by_year=dict(accepted.rows_by_year),
        unknown=len(accepted.unknown),
        applied=0,
        ended=0,
        memberships=0,
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
    found: ObservationReport, plan: proposals.PlannedPlatform, applied: Mapping[str, Mapping[str, int]]
) -> Iterator[CohortReport]:
    """Give the cohorts to which something happened, or has yet to."""
    planned = {cohort.idnumber: cohort for cohort in plan.cohorts if cohort.state is not CohortState.FOREIGN}
    drift = {idnumber: counts for idnumber, counts in found.drift.items() if counts.total()}
    for idnumber in sorted({*planned, *drift, *found.unmatched, *applied}):
        cohort, done = planned.get(idnumber), Counter(applied.get(idnumber, {}))
        leaving = len(cohort.pairs) if cohort is not None else 0
        held = leaving if cohort is not None and cohort.held is not None else 0
        joining = sum(map(len, cohort.additions.values())) if cohort is not None else 0
        yield CohortReport(
            idnumber=idnumber,
            added=done[Action.ADD],
            removed=done[Action.REMOVE],
            waiting=joining + leaving - held + (cohort.approved if cohort is not None else 0),
            held=held,
            parked=cohort.parked if cohort is not None else 0,
            strangers=found.unmatched[idnumber],
            drift=dict(drift.get(idnumber, {})),
        )
