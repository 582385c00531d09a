"""What the ledger says, as gauges: asked at each scrape, so that a restart loses nothing and any worker can tell.

A nightly job is gone before it could be scraped: what it recorded in the ledger is shown by the workers.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import Gauge

from worker import telemetry
from worker.domain.instants import Instant
from worker.domain.report import GuardReport, PlatformReport
from worker.domain.states import OF_REMOVALS, Action, Blockage, Drift, PlatformState, Reason, RunState
from worker.ledger import Ledger, runs, snapshots
from worker.ledger.status import PlatformStatus, read_status

Sample = tuple[Gauge, tuple[str, ...], float]
"""A gauge, the values of its labels in their order, and its value."""

_SHOWN = (
    telemetry.GAPS,
    telemetry.GAP_REASONS,
    telemetry.LATE,
    telemetry.OLDEST_GAP,
    telemetry.OLDEST_HELD,
    telemetry.COHORTS,
    telemetry.BLOCKED,
    telemetry.DELETED,
    telemetry.HELD_COHORTS,
    telemetry.MEMBERSHIPS,
    telemetry.GUARD_ENABLED,
    telemetry.PLATFORM_UP,
    telemetry.PLATFORM_DENIED,
    telemetry.PLATFORM_READ,
    telemetry.RUN_ENDED,
    telemetry.RUN_SECONDS,
    telemetry.SNAPSHOT_TAKEN,
    telemetry.SNAPSHOT_ROWS,
    telemetry.NIGHT_READ,
    telemetry.NIGHT_LEFT,
    telemetry.NIGHT_COHORTS,
    telemetry.NIGHT_FOREIGN,
    telemetry.NIGHT_MEMBERS,
    telemetry.NIGHT_STRANGERS,
    telemetry.NIGHT_DRIFT,
    telemetry.NIGHT_CHANGES,
    telemetry.GUARD_REMOVALS,
    telemetry.GUARD_HELD,
    telemetry.GUARD_LIMIT,
    telemetry.GUARD_MONTH_LIMIT,
    telemetry.GUARD_WORST,
)
"""Those with labels: a sample that the ledger no longer has is shown no more."""


def refresh(ledger: Ledger, guarded: Mapping[str, bool], now: Instant) -> None:
    """Bring the gauges up to date; `guarded` says whether the guard is on, by platform that isn't manual."""
    status = read_status(ledger, guarded, now)
    telemetry.WAITING.set(status.without_number)
    telemetry.HELD_MERGES.set(status.held_merges)
    last = runs.report(ledger)
    telemetry.SNAPSHOT_REFUSALS.set(len(last.refusals) if last is not None else 0)
    samples: list[Sample] = [(telemetry.GUARD_ENABLED, (name,), float(enabled)) for name, enabled in guarded.items()]
    for platform in status.platforms:
        samples += _platform(platform)
    samples += _runs(ledger)
    samples += _snapshot(ledger)
    _show(samples)


def _platform(platform: PlatformStatus) -> Iterator[Sample]:
    name = platform.name
    for state, number in platform.gaps.items():
        yield telemetry.GAPS, (name, state), number
    reasons: dict[str, int] = dict.fromkeys(Reason, 0)
    for reason, number in (reasons | dict(platform.reasons)).items():
        yield telemetry.GAP_REASONS, (name, reason), number
    # The values of `le` are those of the histogram, letter by letter: rules bring both together.
    for le, number in platform.late.items():
        yield telemetry.LATE, (name, str(le)), number
    if platform.oldest is not None:
        yield telemetry.OLDEST_GAP, (name,), platform.oldest
    if platform.oldest_held is not None:
        yield telemetry.OLDEST_HELD, (name,), platform.oldest_held
    for state, number in platform.cohorts.items():
        yield telemetry.COHORTS, (name, state), number
    why = Counter(cohort.why for cohort in platform.blocked)
    for kind in Blockage:
        yield telemetry.BLOCKED, (name, kind), why[kind]
    yield telemetry.DELETED, (name,), len(platform.deleted)
    for change, number in platform.held_cohorts.items():
        yield telemetry.HELD_COHORTS, (name, change), number
    yield telemetry.MEMBERSHIPS, (name,), platform.memberships
    yield telemetry.PLATFORM_UP, (name,), platform.state is PlatformState.UP
    yield telemetry.PLATFORM_DENIED, (name,), platform.state is PlatformState.DENIED
    if platform.read_at is not None:
        yield telemetry.PLATFORM_READ, (name,), platform.read_at


def _runs(ledger: Ledger) -> Iterator[Sample]:
    ends = runs.last_ends(ledger)
    for state, end in ends.items():
        yield telemetry.RUN_ENDED, (state,), end.ended_at
        yield telemetry.RUN_SECONDS, (state,), end.ended_at - end.started_at
    last_good = max((end.id for state, end in ends.items() if state in {RunState.DONE, RunState.PARTIAL}), default=None)
    report = None if last_good is None else runs.report(ledger, last_good)
    for platform in () if report is None else report.platforms:
        yield from _night(platform)


def _night(platform: PlatformReport) -> Iterator[Sample]:
    name = platform.name
    if platform.read or platform.error is not None:
        yield telemetry.NIGHT_READ, (name,), platform.error is None
        yield telemetry.NIGHT_LEFT, (name,), platform.left
    if not platform.read:
        return
    yield telemetry.NIGHT_COHORTS, (name, "ours"), platform.cohorts
    yield telemetry.NIGHT_COHORTS, (name, "others"), platform.foreign
    yield telemetry.NIGHT_FOREIGN, (name,), len(platform.foreign_changes)
    yield telemetry.NIGHT_MEMBERS, (name,), platform.members
    yield telemetry.NIGHT_STRANGERS, (name,), platform.strangers
    for kind in Drift:
        yield telemetry.NIGHT_DRIFT, (name, kind), platform.drift.get(kind, 0)
    yield telemetry.NIGHT_CHANGES, (name, Action.ADD), platform.added
    yield telemetry.NIGHT_CHANGES, (name, Action.REMOVE), platform.removed
    if platform.guard is not None:
        yield from _guard(name, platform.guard)


def _guard(name: str, guard: GuardReport) -> Iterator[Sample]:
    yield telemetry.GUARD_REMOVALS, (name, "removed"), guard.removed
    yield telemetry.GUARD_REMOVALS, (name, "removed_in_month"), guard.removed_in_month
    yield telemetry.GUARD_REMOVALS, (name, "pending"), guard.pending
    yield telemetry.GUARD_REMOVALS, (name, "held"), guard.held
    for limit in OF_REMOVALS:
        yield telemetry.GUARD_HELD, (name, limit), guard.held_by.get(limit, 0)
    yield telemetry.GUARD_LIMIT, (name,), guard.platform_limit
    yield telemetry.GUARD_MONTH_LIMIT, (name,), guard.month_limit
    yield telemetry.GUARD_WORST, (name,), guard.worst_percent / 100


def _snapshot(ledger: Ledger) -> Iterator[Sample]:
    with ledger.read() as connection:
        snapshot = snapshots.last(connection)
    if snapshot is None:
        return
    yield telemetry.SNAPSHOT_TAKEN, (snapshot.system,), snapshot.taken_at
    for year, rows in snapshot.rows_by_year.items():
        yield telemetry.SNAPSHOT_ROWS, (str(year),), rows


def _show(samples: Iterable[Sample]) -> None:
    """Set the gauges to these samples and no others."""
    current: dict[Gauge, set[tuple[str, ...]]] = defaultdict(set)
    for gauge, labels, value in samples:
        gauge.labels(*labels).set(value)
        current[gauge].add(labels)
    for gauge in _SHOWN:
        shown = {tuple(sample.labels.values()) for family in gauge.collect() for sample in family.samples}
        for labels in shown - current[gauge]:
            gauge.remove(*labels)
