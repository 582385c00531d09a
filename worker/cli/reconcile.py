"""The command of the night: reconcile."""

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from worker.cli.base import DEFAULT_CONFIG, ConfigOption, JsonOption, errors, prepare
from worker.cli.run_report import print_report
from worker.domain.states import RunState
from worker.runtime import build
from worker.runtime.ledger import opened, recorder
from worker.runtime.worker import converging
from worker.sync.reconcile import Progress as Step

EXITS = {RunState.DONE: 0, RunState.REFUSED: 6, RunState.PARTIAL: 7, RunState.FAILED: 1}
family = typer.Typer()


@family.command()
def reconcile(
    path: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
    without_snapshot: Annotated[
        bool,
        typer.Option("--without-snapshot", help="Only read Moodle back; the desired memberships stay as they are."),
    ] = False,
) -> None:
    """Apply the newest snapshot, read every Moodle back, close the gaps, and report. Run it once a night, from a timer.

    It closes gaps itself, so it doesn't need a running worker. Exit code 6: no snapshot could be accepted, and nothing
    was changed; 7: partial, because a platform could not be read or written, or gaps remain.
    """
    settings = prepare(path, log="warning")
    stop = threading.Event()
    with opened(settings) as ledger, ExitStack() as stack:
        recorder(settings, ledger).apply_policy(now=time.time())
        stack.enter_context(converging(settings, ledger, stop))
        progress = stack.enter_context(_progress_bars())
        run = build.reconciliation(
            settings, ledger, stack, stop=stop, with_snapshot=not without_snapshot, progress=progress
        )
        report = run.run()
    if report is not None:
        print_report(report, settings, as_json=as_json)
        raise typer.Exit(EXITS[report.state])


@contextmanager
def _progress_bars() -> Iterator[Any]:
    """Show progress on a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as bars:
        tasks: dict[str, Any] = {}

        def progress(step: Step) -> None:
            if step.step not in tasks:
                tasks[step.step] = bars.add_task(step.step)
            bars.update(tasks[step.step], completed=step.done, total=step.of)

        yield progress
