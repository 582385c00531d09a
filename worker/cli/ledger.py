"""The commands about the ledger itself: positions, migrate, ledger copy."""

import time
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from worker.cli.base import DEFAULT_CONFIG, ConfigOption, errors, out, prepare, say
from worker.domain.errors import SettingsError
from worker.domain.words import counted
from worker.ledger import Ledger, backup
from worker.ledger.database import has_password
from worker.ledger.status import forget_positions, read_status
from worker.runtime.ledger import opened

family = typer.Typer()
whole = typer.Typer(no_args_is_help=True, help="Copy the whole ledger.")
family.add_typer(whole, name="ledger")


@family.command()
def positions(
    path: ConfigOption = DEFAULT_CONFIG,
    forget: Annotated[
        str | None, typer.Option(help="Read this topic again from its beginning at the next start of the worker.")
    ] = None,
) -> None:
    """Print the positions where reading resumes. Reading messages again is always safe: they change nothing."""
    with opened(prepare(path)) as ledger:
        if forget is not None:
            forgotten = forget_positions(ledger, forget)
            if not forgotten:
                raise SettingsError(f"no position in a topic {forget} is known; `cohorts positions` lists them")
            say(f"{counted(forgotten, 'position')} of {forget} forgotten")
        for partition, offset in read_status(ledger, (), time.time()).positions.items():
            say(f"{partition} {offset}")


@family.command()
def migrate(path: ConfigOption = DEFAULT_CONFIG) -> None:
    """Bring the ledger's schema up to date, as every command does that opens it. Safe to run several at once."""
    with opened(prepare(path)) as ledger:
        out.print(f"{ledger.name} ledger, instance {ledger.instance}: its schema is up to date")


@whole.command(name="copy")
def copy_ledger(
    target: Annotated[
        str,
        typer.Option("--to", help="URL of an empty database, written as `ledger.url`; keep its password in ~/.pgpass."),
    ],
    path: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Copy the whole ledger to another database: to move it, or as a backup while workers run."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    if has_password(target):
        raise SettingsError("--to: everybody on this machine sees a password in an address; put it in ~/.pgpass")
    with opened(prepare(path)) as source, Progress(*columns, console=errors, disable=not errors.is_terminal) as bars:
        tasks = {}

        def progress(table: str, done: int, total: int) -> None:
            if table not in tasks:
                tasks[table] = bars.add_task(table)
            bars.update(tasks[table], completed=done, total=total)

        copied = Ledger(target)
        try:
            counts = backup.copy(source, copied, progress)
        finally:
            copied.close()
    for table, rows in counts.items():
        say(f"{table}: {rows}")
    out.print(f"{counted(sum(counts.values()), 'row')} copied; the copy is the same ledger, {source.instance}")
