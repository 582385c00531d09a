"""The commands that look after the ledger itself: purge, erase, ledger copy."""

import time
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from worker.cli.base import DEFAULT_CONFIG, ConfigOption, errors, opened, out, say
from worker.ledger import Ledger, backup, retention
from worker.ledger.retention import Removed
from worker.settings.root import load
from worker.sync import dead_letters

DAY = 86_400.0
REST = (
    "Not reached: the topics, until their retention ends; dead letters; backups of the ledger; Moodle; and the source, "
    "which may tell the student again"
)
keep = typer.Typer()
whole = typer.Typer(no_args_is_help=True, help="The ledger as a whole.")
keep.add_typer(whole, name="ledger")
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Only count.")]


@keep.command()
def purge(path: ConfigOption = DEFAULT_CONFIG, dry_run: DryRunOption = False) -> None:
    """Forget what is older than the retention periods: the journal, decisions, reports, students gone for that long.

    Nothing that is desired changes, and no gap. Says how many dead letters are too old; only Kafka can remove them.
    """
    settings = load(path)
    now, keeping_for = time.time(), settings.retention
    with opened(settings) as ledger:
        removed = retention.purge(
            ledger,
            settings.policy(),
            journal_before=now - keeping_for.journal_days * DAY,
            gone_before=now - keeping_for.student_days * DAY,
            dry_run=dry_run,
        )
    _print_removed(removed, dry_run=dry_run)
    topic, days = settings.kafka.dead_letters, keeping_for.dead_letter_days
    old = dead_letters.older(settings.kafka.properties(), topic, now - days * DAY)
    say(
        f"{old} dead letters in {topic} are older than {days:g} days"
        + (f"; give the topic retention.ms={days * DAY * 1000:.0f}" if old else "")
    )


@keep.command()
def erase(
    student: Annotated[str, typer.Argument(help="The student number (COD_ETU), with its leading zeros.")],
    path: ConfigOption = DEFAULT_CONFIG,
    dry_run: DryRunOption = False,
) -> None:
    """Erase one person from the ledger, by all their numbers; refused while they are enrolled or in a cohort."""
    settings = load(path)
    with opened(settings) as ledger:
        removed = retention.erase(ledger, settings.policy(), student.strip(), now=time.time(), dry_run=dry_run)
    _print_removed(removed, dry_run=dry_run)
    if removed.numbers == 0:
        say("the ledger knows nothing of this number")
    say(REST)


@whole.command(name="copy")
def copy_ledger(
    target: Annotated[str, typer.Option("--to", help="An empty database: as `ledger.url`, its password in ~/.pgpass.")],
    path: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Copy the whole ledger to another database, to move there, or as a backup beside running workers."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with opened(load(path)) as source, Progress(*columns, console=errors, disable=not errors.is_terminal) as bars:
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
    out.print(f"{sum(counts.values())} rows copied; the copy is the same ledger, {source.instance}")


def _print_removed(removed: Removed, *, dry_run: bool) -> None:
    say(
        f"{removed.numbers} student numbers, {removed.enrolments} enrolments, {removed.memberships} memberships, "
        f"{removed.accounts} accounts, {removed.journal} entries of the journal, {removed.proposals} decisions, "
        f"{removed.runs} reports {'would be removed' if dry_run else 'removed'}"
    )
