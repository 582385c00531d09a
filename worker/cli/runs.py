"""The commands about past reconciliations: runs, runs show."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from worker.cli.base import DEFAULT_CONFIG, ConfigOption, JsonOption, out, prepare, say_json, when
from worker.cli.run_report import print_report
from worker.console.report_page import render
from worker.domain.errors import SettingsError
from worker.domain.states import Language
from worker.ledger import runs
from worker.runtime.ledger import opened

family = typer.Typer()
past = typer.Typer(invoke_without_command=True, help="List the reconciliations so far, newest first.")
family.add_typer(past, name="runs")
LanguageOption = Annotated[Language, typer.Option("--lang", help="fr or en.")]


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
    settings = prepare(path)
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
    html: Annotated[Path | None, typer.Option(help="Write an HTML page to this file; - for standard output.")] = None,
    language: LanguageOption = Language.FR,
) -> None:
    """Show the report of a reconciliation: as text, as JSON, or as a page in French or English."""
    settings = prepare(path)
    with opened(settings) as ledger:
        report = runs.report(ledger, number)
    if report is None:
        raise SettingsError(f"run {number} has no report; `cohorts runs` lists the runs")
    if html is None:
        print_report(report, settings, as_json=as_json)
        return
    page = render(report, language, settings.zone)
    if str(html) == "-":
        sys.stdout.write(page)
    else:
        html.write_text(page, encoding="utf-8")
