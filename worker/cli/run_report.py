"""The report of a reconciliation, printed."""

from collections.abc import Iterator

from worker.cli.base import ago, say, say_json, when
from worker.cli.deleted import deleted_sentences
from worker.domain.cohorts import blocked_sentences
from worker.domain.instants import Instant
from worker.domain.report import REPORTS, GuardReport, PlatformReport, Report, SnapshotReport
from worker.domain.sanitize import printable
from worker.domain.states import CohortChange
from worker.domain.words import counted
from worker.settings.root import Settings


def print_report(report: Report, settings: Settings, *, as_json: bool) -> None:
    """Print a report for people, or as JSON."""
    if as_json:
        say_json(REPORTS.dump_python(report, mode="json"))
        return
    duration = "" if report.ended_at is None else f", {report.ended_at - report.started_at:.0f} s"
    say(f"reconciliation {report.run}: {report.state}, began {when(report.started_at, settings)}{duration}")
    for sentence in _sentences(report, settings):
        say(sentence)


def _sentences(report: Report, settings: Settings) -> Iterator[str]:
    """Yield what a report says, the worst first."""
    for platform in report.platforms:
        yield from deleted_sentences(platform.name, platform.deleted, settings)
    # An error names the refusals, if these are why.
    yield from [report.error] if report.error else [f"passed over: {refusal}" for refusal in report.refusals]
    for platform in report.platforms:
        yield from _incomplete_sentences(platform, settings)
        yield from _held_cohorts(platform)
    if report.snapshot is not None:
        yield _snapshot_sentence(report.snapshot, report.started_at)
    for platform in report.platforms:
        yield from _platform_sentences(platform)
    if any(platform.held or platform.held_cohorts for platform in report.platforms):
        yield "`cohorts held` shows what waits for a person"


def _snapshot_sentence(snapshot: SnapshotReport, started_at: Instant) -> str:
    return (
        f"snapshot {snapshot.id}: {counted(snapshot.rows, 'enrolment')}, "
        f"taken {ago(started_at - snapshot.taken_at)} before; "
        f"{snapshot.applied} new or changed, {snapshot.ended} ended by absence, "
        f"{counted(snapshot.memberships, 'membership')} changed; "
        f"{snapshot.unknown} unknown to the source, which stay as they were"
    )


def _incomplete_sentences(platform: PlatformReport, settings: Settings) -> Iterator[str]:
    """Say first what was not done, since when and why, and what to do."""
    name, stopped = platform.name, platform.stopped
    since = "" if stopped is None else f" since {when(stopped.since, settings)}"
    if platform.error is not None:
        last_read = "never" if platform.last_read is None else when(platform.last_read, settings)
        how_far = "NOT READ TO THE END" if platform.read else "NOT READ"
        yield f"{name}: {how_far}{since}: {platform.error}"
        yield f"{name}: last read: {last_read}; once it answers, run `cohorts reconcile --without-snapshot`"
    elif stopped is not None:
        yield f"{name}: NOTHING IS WRITTEN THERE{since}: {stopped.sentence}"
        yield f"{name}: once that is mended, `cohorts retry {name}` tries at once"
    if platform.left:
        yield f"{name}: LEFT: {counted(platform.left, 'change')}; `cohorts status` says what they wait for"


def _platform_sentences(platform: PlatformReport) -> Iterator[str]:
    if not platform.read:
        return
    if platform.guard is not None:
        yield from _owned_sentences(platform, platform.guard)
    for sentence in blocked_sentences(platform.blocked):
        yield f"{platform.name}: {sentence}"
    changed = len(platform.foreign_changes) or "none"
    yield f"{platform.name}: {counted(platform.foreign, 'cohort')} of others, {changed} changed meanwhile"
    for change in platform.foreign_changes:
        name = printable(change.idnumber) or change.moodle_id
        entries = counted(change.journalled, "entry", "entries")
        yield f"  {name}: {change.what} by others; our journal has {entries} of it"


def _owned_sentences(platform: PlatformReport, guard: GuardReport) -> Iterator[str]:
    drift = ", ".join(f"{number} {kind}" for kind, number in platform.drift.items() if number) or "none"
    ours = f"{counted(platform.cohorts, 'cohort')} of ours with {counted(platform.members, 'member')}"
    yield f"{platform.name}: {ours}; drift: {drift}"
    unmatched = "to be removed" if platform.strangers_removed else "kept"
    yield (
        f"{platform.name}: {platform.added} added, {platform.removed} removed, {platform.held} held, "
        f"{platform.parked} parked, {platform.waiting} left; unmatched {unmatched}: {platform.strangers}"
    )
    if platform.unclean:
        yield (
            f"{platform.name}: accounts that Moodle doesn't return (unclean accounts): "
            f"{counted(platform.unclean, 'member')}; they stay, and an administrator of Moodle must mend them"
        )
    if platform.unconfirmed:
        yield (
            f"{platform.name}: accounts that no longer have their name: {counted(platform.unconfirmed, 'member')}; "
            "they stay until it is known whose it is; an administrator of Moodle gives the name back, or takes them out"
        )
    for sentence in guard_sentences(guard):
        yield f"{platform.name}: {sentence}"


def _held_cohorts(platform: PlatformReport) -> Iterator[str]:
    for figures in platform.guard.cohorts if platform.guard else ():
        if figures.held:
            done = "created" if figures.change is CohortChange.CREATION else "renamed"
            yield f"{platform.name}: HELD: {counted(figures.held, 'cohort')} to be {done} once a person decides"


def guard_sentences(guard: GuardReport) -> Iterator[str]:
    """Yield what the guard saw, of removals also when everything passed."""
    yield _removals_sentence(guard)
    for figures in guard.cohorts:
        if figures.made or figures.pending or figures.held:
            what = "new cohorts" if figures.change is CohortChange.CREATION else "cohorts renamed"
            held = f"{figures.held} HELD" if figures.held else "passed"
            yield f"guard: {figures.made} {what} in 24 h of {figures.limit}, {figures.pending} to come, {held}"


def _removals_sentence(guard: GuardReport) -> str:
    worst = "no removals"
    if guard.worst_cohort is not None:
        worst = f"worst cohort {guard.worst_cohort} {guard.worst_percent:.0f} %"
    memberships = counted(guard.memberships, "membership")
    removed = f"{guard.removed} removed in 24 h and {guard.removed_in_month} in 30 days"
    seen = f"{memberships}, {removed}, {guard.pending} to be removed, {worst}"
    if not guard.enabled:
        return f"THE GUARD IS OFF: {seen}, nothing holds them"
    return f"guard: {seen}, " + (f"{guard.held} HELD" if guard.held else "passed")
