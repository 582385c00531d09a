"""The command that checks an installation: check."""

import typer
from rich.markup import escape

from worker.cli.base import DEFAULT_CONFIG, ConfigOption, out, prepare
from worker.domain.sanitize import printable
from worker.runtime import check

family = typer.Typer()


@family.command(name="check")
def check_command(path: ConfigOption = DEFAULT_CONFIG) -> None:
    """Check the settings, the broker, the ledger and each Moodle: one line each, with the remedy."""
    marks = {
        check.Level.OK: "[green]ok[/]",
        check.Level.WARNING: "[yellow]warning[/]",
        check.Level.FAILURE: "[red]FAILURE[/]",
    }
    settings = prepare(path)
    out.print(f"{marks[check.Level.OK]} settings: {escape(str(path))}", soft_wrap=True)
    failed = False
    for result in check.check(settings):
        failed |= result.level is check.Level.FAILURE
        out.print(
            f"{marks[result.level]} {escape(result.subject)}: {escape(printable(result.sentence))}", soft_wrap=True
        )
    if failed:
        raise typer.Exit(1)
