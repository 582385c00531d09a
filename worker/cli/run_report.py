"""The report of a reconciliation, printed."""

from worker.cli.base import ago, say, say_json, when
from worker.domain.report import REPORTS, GuardReport, Report
from worker.domain.sanitize import printable
from worker.settings.root import Settings


def print_report(report: Report, settings: Settings, *, as_json: bool) -> None:
    """Print a report for people, or as JSON."""
    if as_json:
        say_json(REPORTS.dump_python(report, mode="json"))
        return
    end = "" if report.ended_at is None else f", {report.ended_at - report.started_at:.0f} s"
    say(f"reconciliation {report.run}: {report.state}, began {when(report.started_at, settings)}{end}")
    # An error names the refusals, if these are why.
    for sentence in [report.error] if report.error else [f"passed over: {refusal}" for refusal in report.refusals]:
        say(sentence)
    if (image := report.snapshot) is not None:
        say(
            f"snapshot {image.id}: {image.rows} enrolments, taken {ago(report.started_at - image.taken_at)} before; "
            f"{image.applied} told anew, {image.ended} ended by absence, {image.memberships} memberships changed; "
            f"{image.unknown} unknown to the source, which stay as they were"
        )
    for platform in report.platforms:
        if platform.error is not None:
            say(f"{platform.name}: FAILED: {platform.error}")
        if not platform.read:
            continue
        drift = ", ".join(f"{number} {kind}" for kind, number in platform.drift.items() if number) or "none"
        if platform.guard is not None:
            say(f"{platform.name}: {platform.cohorts} cohorts of ours with {platform.members} members; drift: {drift}")
            say(
                f"{platform.name}: {platform.added} added, {platform.removed} removed, {platform.held} held, "
                f"{platform.parked} parked, {platform.waiting} left; {platform.strangers} strangers "
                + ("to be removed" if platform.strangers_removed else "kept")
            )
            say(f"{platform.name}: {guard_sentence(platform.guard)}")
        changed = len(platform.foreign_changes)
        say(f"{platform.name}: {platform.foreign} cohorts that aren't ours, {changed or 'none'} changed meanwhile")
        for change in platform.foreign_changes:
            name = printable(change.idnumber) or change.moodle_id
            say(f"  {name}: {change.what} by others; {change.journalled} entries of ours in the journal")
    if any(platform.held for platform in report.platforms):
        say("`cohorts held` shows the removals that wait for a person")


def guard_sentence(guard: GuardReport) -> str:
    """Say what the guard saw, also when it passed."""
    worst = "nobody leaves"
    if guard.worst_cohort is not None:
        worst = f"worst cohort {guard.worst_cohort} {guard.worst_percent:.0f} %"
    seen = f"{guard.memberships} memberships, {guard.removed} removed in 24 h, {guard.pending} to be removed, {worst}"
    if not guard.enabled:
        return f"THE GUARD IS OFF: {seen}, nothing holds them"
    return f"guard: {seen}, " + (f"{guard.held} HELD" if guard.held else "passed")
