"""The commands that delete from the ledger: purge, erase."""

import time
from typing import Annotated

import typer

from worker.cli.base import DEFAULT_CONFIG, ConfigOption, prepare, say
from worker.domain.words import counted
from worker.ledger import retention
from worker.ledger.retention import Removed
from worker.runtime.ledger import opened
from worker.sync import dead_letters

DAY = 86_400.0
NOT_ERASED = (
    "Not erased: messages on the topics, until their retention ends; dead letters; backups of the ledger; Moodle; and "
    "the source, which may publish the student again"
)
family = typer.Typer()
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Only count.")]


@family.command()
def purge(path: ConfigOption = DEFAULT_CONFIG, dry_run: DryRunOption = False) -> None:
    """Delete what is older than the retention periods: journal, decisions, reports, and students who left.

    No desired membership and no gap changes. Counts the dead letters that are too old; only Kafka can remove them.
    """
    settings = prepare(path)
    now, periods = time.time(), settings.retention
    with opened(settings) as ledger:
        removed = retention.purge(
            ledger,
            settings.policy(),
            journal_before=now - periods.journal_days * DAY,
            gone_before=now - periods.student_days * DAY,
            dry_run=dry_run,
        )
    _print_removed(removed, dry_run=dry_run)
    topic, days = settings.kafka.dead_letters, periods.dead_letter_days
    old = dead_letters.older(settings.kafka.properties(), topic, now - days * DAY)
    say(
        f"{old} dead letters in {topic} are older than {days:g} days"
        + (f"; give the topic retention.ms={days * DAY * 1000:.0f}" if old else "")
    )


@family.command()
def erase(
    student: Annotated[str, typer.Argument(help="The student number (COD_ETU), with its leading zeros.")],
    path: ConfigOption = DEFAULT_CONFIG,
    dry_run: DryRunOption = False,
) -> None:
    """Erase one person from the ledger, under all their numbers; refused while they are enrolled or in a cohort."""
    settings = prepare(path)
    with opened(settings) as ledger:
        removed = retention.erase(ledger, settings.policy(), student.strip(), now=time.time(), dry_run=dry_run)
    _print_removed(removed, dry_run=dry_run)
    if removed.numbers == 0:
        say("the ledger does not know this number")
    say(NOT_ERASED)


def _print_removed(removed: Removed, *, dry_run: bool) -> None:
    say(
        f"{counted(removed.numbers, 'student number')}, {counted(removed.enrolments, 'enrolment')}, "
        f"{counted(removed.memberships, 'membership')}, "
        f"{counted(removed.accounts, 'account')}, {counted(removed.journal, 'journal entry', 'journal entries')}, "
        f"{counted(removed.proposals, 'decision')}, "
        f"{removed.runs} reports {'would be removed' if dry_run else 'removed'}"
    )
