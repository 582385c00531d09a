"""The night: a complete snapshot and what Moodle really holds, into the ledger; then a report.

Observation is not action: gaps that are found go to the queue of converging, behind fresh changes, and this waits for
them. `Reconciliation.run` is the whole flow. Reading Moodle takes longest: it is done while the snapshot is read.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import structlog

from worker.domain.errors import SnapshotFault, SnapshotRefused
from worker.domain.instants import Instant
from worker.domain.report import PlatformReport, Report, SnapshotReport
from worker.domain.rules import Mode
from worker.domain.snapshots import AcceptedSnapshot, Snapshot
from worker.domain.states import RunState
from worker.ledger import Ledger, Recorder, deletions, runs
from worker.sync.platform_run import Observation, PlatformRun, ReconciledPlatform

log = structlog.get_logger()

Latest = Callable[[Instant, AcceptedSnapshot | None], Snapshot]
"""Reads the topic for a snapshot newer than the accepted one; raises SnapshotRefused."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a reconciliation has come, for a person who waits."""

    step: str
    done: int
    of: int


class Reconciliation:
    """One run; one thread owns it."""

    def __init__(
        self,
        ledger: Ledger,
        recorder: Recorder,
        platforms: Sequence[ReconciledPlatform],
        runs_: runs.Runs,
        *,
        latest: Latest | None,
        wait_seconds: float,
        pause: Callable[[float], bool],
        clock: Callable[[], Instant] = time.time,
        progress: Callable[[Progress], None] = lambda _: None,
    ) -> None:
        """Without `latest` the run only reads Moodle back.

        It waits for gaps during `wait_seconds`; `pause` waits for so many seconds and returns whether to give up.
        """
        self._ledger = ledger
        self._recorder = recorder
        self._platforms = platforms
        self._runs = runs_
        self._latest = latest
        self._wait_seconds = wait_seconds
        self._pause = pause
        self._clock = clock
        self._progress = progress

    def run(self, night: str | None = None) -> Report | None:
        """Reconcile and return the report, which the ledger keeps; None when another process has done the night's run.

        Raises RunInProgress when another one is running, and whatever Kafka or the ledger raise: then the run is
        recorded as failed. A platform that can't be read doesn't keep the others from being reconciled. Cohorts that
        were found to be deleted before are in the report of any run.
        """
        number = self._runs.begin(self._clock(), night=night)
        if number is None:
            return None
        report = Report(run=number, state=RunState.RUNNING, night=night, started_at=self._clock(), ended_at=None)
        try:
            report = self._reconcile(report)
        except SnapshotRefused as error:
            report = self._without_readings(report, RunState.REFUSED, str(error))
            report = replace(report, refusals=error.refusals)
        except BaseException as error:
            report = self._without_readings(report, RunState.FAILED, type(error).__name__)
            self._runs.end(replace(report, ended_at=self._clock()))
            raise
        report = replace(report, ended_at=self._clock())
        self._runs.end(report)
        log.info("reconciliation ended", run=number, state=report.state.value)
        return report

    def _reconcile(self, report: Report) -> Report:
        platforms = [PlatformRun(self._ledger, each, run=report.run, clock=self._clock) for each in self._platforms]
        with ThreadPoolExecutor(max(1, len(platforms))) as threads:
            for platform in platforms:
                platform.begin(threads)
            if self._latest is not None:
                report = self._take_snapshot(report, self._latest)
            observations = [(platform, self._observe(platform, report.run)) for platform in platforms]
        self._wait(report, _written(observations))
        left = self._left(report, [each.policy.name for each in platforms if each.policy.mode is Mode.AUTOMATIC])
        reports = tuple(
            platform.report(observation, report.started_at, left=left.get(platform.policy.name, 0))
            for platform, observation in observations
        )
        whole = not any(each.error or each.stopped or each.left for each in reports)
        return replace(report, state=RunState.DONE if whole else RunState.PARTIAL, platforms=reports)

    def _without_readings(self, report: Report, state: RunState, error: str) -> Report:
        """End a report before the platforms were read; those with deleted cohorts are in it."""
        with self._ledger.read() as connection:
            platforms = [
                PlatformReport(
                    name=each.policy.name,
                    mode=each.policy.mode.value,
                    deleted=deletions.read(connection, each.policy.name),
                )
                for each in self._platforms
            ]
        return replace(report, state=state, error=error, platforms=tuple(each for each in platforms if each.deleted))

    # The snapshot

    def _take_snapshot(self, report: Report, latest: Latest) -> Report:
        self._progress(Progress("snapshot", 0, 1))
        accepted = self._recorder.last_snapshot()
        try:
            snapshot = latest(self._clock(), accepted)
        except SnapshotRefused as error:
            if accepted is None or not runs.left_over(self._ledger, accepted, self._clock()):
                raise
            log.info(
                "the run that recorded the snapshot left something undone: this one goes on",
                run=report.run,
                snapshot=accepted.id,
            )
            others = [refusal for refusal in error.refusals if refusal.fault is not SnapshotFault.NOT_NEWER]
            return replace(report, snapshot=_known(accepted), refusals=tuple(others))
        self._runs.renew(report.run, self._clock())
        counts = self._recorder.record_snapshot(snapshot, run=report.run, now=self._clock())
        log.info(
            "snapshot recorded", run=report.run, snapshot=snapshot.id, rows=len(snapshot.rows),
            applied=counts.applied, ended=counts.ended, memberships=counts.memberships,
        )  # fmt: skip
        recorded = replace(
            _known(snapshot.accepted()), applied=counts.applied, ended=counts.ended, memberships=counts.memberships
        )
        return replace(report, snapshot=recorded, refusals=tuple(snapshot.passed_over))

    # The platforms

    def _observe(self, platform: PlatformRun, run: int) -> Observation:
        if not platform.is_read:
            return Observation()
        self._progress(Progress(platform.policy.name, 0, 1))
        self._runs.renew(run, self._clock())
        return platform.observe()

    def _left(self, report: Report, platforms: Sequence[str], *, due_by: Instant | None = None) -> dict[str, int]:
        now = self._clock()
        return runs.open_gaps(self._ledger, report.run, platforms, now, since=report.started_at, due_by=due_by)

    def _wait(self, report: Report, platforms: Sequence[str]) -> None:
        """Wait until the gaps that there are on these platforms are closed, held or parked, or can't be in time.

        Those that were made meanwhile, but not by this run, are left to the worker.
        """
        deadline = self._clock() + self._wait_seconds
        most = 0
        while True:
            left = sum(self._left(report, platforms, due_by=deadline).values())
            most = max(most, left)
            self._progress(Progress("gaps", most - left, most))
            self._runs.renew(report.run, self._clock())
            if not left or self._clock() >= deadline or self._pause(1.0):
                return


def _written(observations: Iterable[tuple[PlatformRun, Observation]]) -> list[str]:
    """Return the platforms on which gaps that were found are closed."""
    observed = [platform.policy for platform, observation in observations if observation.found is not None]
    return [policy.name for policy in observed if policy.mode is Mode.AUTOMATIC]


def _known(accepted: AcceptedSnapshot) -> SnapshotReport:
    """Report a snapshot, as if it had changed nothing."""
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
