"""What the ledger says, as gauges: asked at each scrape, so that a restart loses nothing and any worker can tell.

A nightly job is gone before it could be scraped: what it recorded in the ledger is shown by the workers.
"""

from collections.abc import Mapping
from typing import TypeVar

from prometheus_client import Gauge

from worker import telemetry
from worker.domain.instants import Instant
from worker.domain.report import Report
from worker.domain.states import Action, Drift, PlatformState, Reason, RunState
from worker.ledger import Ledger, runs, snapshots
from worker.ledger.status import PlatformStatus, read_status

Labels = TypeVar("Labels", bound=tuple[str, ...])
"""The values of a gauge's labels, in their order."""


def refresh(ledger: Ledger, guarded: Mapping[str, bool], now: Instant) -> None:
    """Bring the gauges up to date; `guarded` says whether the guard is on, by platform that isn't manual."""
    status = read_status(ledger, guarded, now)
    telemetry.WAITING.set(status.without_number)
    _platforms(status.platforms, guarded)
    ends = runs.last_ends(ledger)
    _show(telemetry.RUN_ENDED, {(state,): end.ended_at for state, end in ends.items()})
    _show(telemetry.RUN_SECONDS, {(state,): end.ended_at - end.started_at for state, end in ends.items()})
    last = runs.report(ledger)
    telemetry.SNAPSHOT_REFUSALS.set(len(last.refusals) if last is not None else 0)
    whole = max((end.id for state, end in ends.items() if state in {RunState.DONE, RunState.PARTIAL}), default=None)
    if whole is not None and (report := runs.report(ledger, whole)) is not None:
        _night(report)
    with ledger.read() as connection:
        snapshot = snapshots.last(connection)
    if snapshot is not None:
        _show(telemetry.SNAPSHOT_TAKEN, {(snapshot.system,): snapshot.taken_at})
        _show(telemetry.SNAPSHOT_ROWS, {(str(year),): rows for year, rows in snapshot.rows_by_year.items()})


def _platforms(platforms: tuple[PlatformStatus, ...], guarded: Mapping[str, bool]) -> None:
    _show(telemetry.GAPS, {(p.name, state): number for p in platforms for state, number in p.gaps.items()})
    reasons: dict[str, int] = dict.fromkeys(Reason, 0)
    _show(
        telemetry.GAP_REASONS,
        {(p.name, reason): number for p in platforms for reason, number in (reasons | dict(p.reasons)).items()},
    )
    # The values of `le` are those of the histogram, letter by letter: rules bring both together.
    _show(telemetry.LATE, {(p.name, str(le)): number for p in platforms for le, number in p.late.items()})
    _show(telemetry.OLDEST_GAP, {(p.name,): p.oldest for p in platforms if p.oldest is not None})
    _show(telemetry.OLDEST_HELD, {(p.name,): p.oldest_held for p in platforms if p.oldest_held is not None})
    _show(telemetry.COHORTS, {(p.name, state): number for p in platforms for state, number in p.cohorts.items()})
    _show(telemetry.MEMBERSHIPS, {(p.name,): p.memberships for p in platforms})
    _show(telemetry.GUARD_ENABLED, {(name,): enabled for name, enabled in guarded.items()})
    _show(telemetry.PLATFORM_UP, {(p.name,): p.state is PlatformState.UP for p in platforms})
    _show(telemetry.PLATFORM_DENIED, {(p.name,): p.state is PlatformState.DENIED for p in platforms})


def _night(report: Report) -> None:
    platforms = [platform for platform in report.platforms if platform.read]
    tried = [platform for platform in report.platforms if platform.read or platform.error is not None]
    _show(telemetry.NIGHT_READ, {(p.name,): p.error is None for p in tried})
    kinds = {(p.name, kind): n for p in platforms for kind, n in (("ours", p.cohorts), ("others", p.foreign))}
    _show(telemetry.NIGHT_COHORTS, kinds)
    _show(telemetry.NIGHT_FOREIGN, {(p.name,): len(p.foreign_changes) for p in platforms})
    _show(telemetry.NIGHT_MEMBERS, {(p.name,): p.members for p in platforms})
    _show(telemetry.NIGHT_STRANGERS, {(p.name,): p.strangers for p in platforms})
    _show(telemetry.NIGHT_DRIFT, {(p.name, kind): p.drift.get(kind, 0) for p in platforms for kind in Drift})
    done = {(p.name, a): n for p in platforms for a, n in ((Action.ADD, p.added), (Action.REMOVE, p.removed))}
    _show(telemetry.NIGHT_CHANGES, done)
    guards = [(p.name, p.guard) for p in platforms if p.guard is not None]
    states = ("removed", "pending", "held")
    _show(telemetry.GUARD_REMOVALS, {(name, s): getattr(guard, s) for name, guard in guards for s in states})
    _show(telemetry.GUARD_LIMIT, {(name,): guard.platform_limit for name, guard in guards})
    _show(telemetry.GUARD_WORST, {(name,): guard.worst_percent / 100 for name, guard in guards})


def _show(gauge: Gauge, samples: Mapping[Labels, float]) -> None:
    """Have a gauge show these samples and no other."""
    shown = {tuple(sample.labels.values()) for family in gauge.collect() for sample in family.samples}
    for labels, value in samples.items():
        gauge.labels(*labels).set(value)
    for gone in shown.difference(samples):
        gauge.remove(*gone)
