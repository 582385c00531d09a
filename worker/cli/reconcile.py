"""The commands of the night and of the guard: reconcile, runs, plan, held, approve, reject, undo."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from worker.cli.base import (
    DEFAULT_CONFIG,
    ConfigOption,
    JsonOption,
    ago,
    errors,
    guard_sentence,
    opened,
    out,
    say,
    say_json,
    when,
)
from worker.console.report_page import render
from worker.domain.errors import SettingsError
from worker.domain.report import REPORTS, Report
from worker.domain.sanitize import printable
from worker.domain.states import Language, RunState
from worker.ledger import runs
from worker.runtime import build
from worker.runtime.worker import converging
from worker.settings.root import Settings, load
from worker.sync.reconcile import Progress as Step

EXITS = {RunState.DONE: 0, RunState.REFUSED: 6, RunState.PARTIAL: 7, RunState.FAILED: 1}
night = typer.Typer()
past = typer.Typer(invoke_without_command=True, help="The reconciliations so far, newest first.")
night.add_typer(past, name="runs")
LanguageOption = Annotated[Language, typer.Option("--lang", help="fr or en.")]


@night.command()
def reconcile(
    path: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
    without_snapshot: Annotated[
        bool, typer.Option("--without-snapshot", help="Only read Moodle back: what is desired stays as it is.")
    ] = False,
) -> None:
    """Take the newest snapshot, read every Moodle back, close what differs, and report. For a timer, once a night.

    It closes gaps itself, so that it doesn't need a running worker. Exit code 6: no snapshot could be accepted and
    nothing was changed; 7: partial, because a platform could not be read or gaps are left.
    """
    settings = load(path)
    stop = threading.Event()
    with opened(settings) as ledger, ExitStack() as stack:
        build.recorder(settings, ledger).apply_policy(now=time.time())
        stack.enter_context(converging(settings, ledger, stop))
        progress = stack.enter_context(_shown())
        run = build.reconciliation(
            settings, ledger, stack, stop=stop, with_snapshot=not without_snapshot, progress=progress
        )
        report = run.run()
    if report is not None:
        _print_report(report, settings, as_json=as_json)
        raise typer.Exit(EXITS[report.state])


@past.callback()
def list_runs(
    context: typer.Context,
    path: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
    most: Annotated[int, typer.Option(min=1, help="How many.")] = 20,
) -> None:
    """List the reconciliations so far, newest first."""
    if context.invoked_subcommand is not None:
        return
    settings = load(path)
    with opened(settings) as ledger:
        found = runs.listed(ledger, most=most)
    if as_json:
        say_json([asdict(run) for run in found])
        return
    table = Table("run", "began", "lasted", "state", "night")
    for run in found:
        lasted = "" if run.ended_at is None else f"{run.ended_at - run.started_at:.0f} s"
        table.add_row(str(run.id), when(run.started_at, settings), lasted, run.state, run.night or "")
    out.print(table)


@past.command()
def show(
    number: Annotated[int, typer.Argument(help="The run's number.")],
    path: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
    html: Annotated[
        Path | None, typer.Option(help="Write a page for people to this file; - for standard output.")
    ] = None,
    language: LanguageOption = Language.FR,
) -> None:
    """Show the report of a reconciliation: as text, as JSON, or as a page in French or English."""
    settings = load(path)
    with opened(settings) as ledger:
        report = runs.report(ledger, number)
    if report is None:
        raise SettingsError(f"run {number} has no report; `cohorts runs` lists those that there are")
    if html is None:
        _print_report(report, settings, as_json=as_json)
        return
    page = render(report, language, settings.zone)
    if str(html) == "-":
        sys.stdout.write(page)
    else:
        html.write_text(page, encoding="utf-8")


# What is printed


def _print_report(report: Report, settings: Settings, *, as_json: bool) -> None:
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


@contextmanager
def _shown() -> Iterator[Any]:
    """Show how far it is, on a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as bars:
        tasks: dict[str, Any] = {}

        def progress(step: Step) -> None:
            if step.step not in tasks:
                tasks[step.step] = bars.add_task(step.step)
            bars.update(tasks[step.step], completed=step.done, total=step.of)

        yield progress
