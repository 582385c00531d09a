"""The command line: which commands there are, where each is, and how an error ends one. No logic lives here."""

import sys
from typing import Annotated

import typer

from worker import __version__
from worker.cli.lazy import LazyGroup
from worker.domain.errors import (
    BrokerError,
    CohortsError,
    LedgerError,
    MoodleError,
    SettingsError,
    SnapshotRefused,
    SourceIncomplete,
)

FAMILIES = {
    "worker.cli.run": {
        "run": "Consume, record and converge until SIGTERM; serves /metrics, /livez and /readyz.",
    },
    "worker.cli.watch": {
        "watch": "Tell a directory's changes as messages on the topic, within a minute, until SIGTERM.",
    },
    "worker.cli.check": {
        "check": "Look at the settings, the broker, the ledger and each Moodle: one line each, with the remedy.",
    },
    "worker.cli.status": {
        "status": "Say how every platform stands: memberships, cohorts, gaps and what they wait for.",
    },
    "worker.cli.explain": {
        "explain": "Say why a student is, or isn't, in a cohort: what sources said, what holds it, and what "
        "happens next.",
    },
    "worker.cli.reconcile": {
        "reconcile": "Take the newest snapshot, read every Moodle back, close what differs, and report. For a timer, "
        "once a night.",
    },
    "worker.cli.runs": {
        "runs": "The reconciliations so far, newest first.",
    },
    "worker.cli.review": {
        "plan": "Show what would be done now, and why; each cohort's removals have a hash to approve or reject "
        "them by.",
        "held": "List the removals that wait for a person, with the hashes to approve or reject them by.",
        "approve": "Let exactly the removals that were shown under this hash be made; the approval expires after a "
        "day.",
        "reject": "Keep the members whose removals were shown under this hash, until their enrolments change again.",
        "undo": "Put back whom a run, or an approval, has removed; a newer message or snapshot may end their "
        "membership again.",
    },
    "worker.cli.adopt": {
        "adopt": "Show the existing cohorts that carry our idnumbers, with their sizes, and with --apply take "
        "them over.",
    },
    "worker.cli.messages": {
        "publish": "Validate a file of messages, then produce all of them; with an invalid line nothing is sent.",
        "dead-letters": "Messages that could never be read.",
    },
    "worker.cli.snapshots": {
        "snapshot": "Complete images of all enrolments, on their topic.",
    },
    "worker.cli.topics": {
        "topics": "The topics in Kafka, and the rights on them.",
    },
    "worker.cli.contract": {
        "schema": "Print the contract of the messages, for producers.",
    },
    "worker.cli.config": {
        "config": "Print the settings in force, secrets masked.",
    },
    "worker.cli.ledger": {
        "migrate": "Bring the ledger's schema up to date and end, as every command does that opens it. Several may "
        "at once.",
        "positions": "Print where reading goes on. Reading again is always safe: what is known already changes "
        "nothing.",
        "ledger": "The ledger as a whole.",
    },
    "worker.cli.retention": {
        "purge": "Forget what is older than the retention periods: the journal, decisions, reports, students "
        "gone for that long.",
        "erase": "Erase one person from the ledger, by all their numbers; refused while they are enrolled or in "
        "a cohort.",
    },
    "worker.cli.sandbox": {
        "demo": "Run the main job on an embedded broker, ledger and three Moodles, and verify every cohort at the end.",
        "sandbox": "Be an invented university until SIGTERM: a Moodle, and messages to Kafka. For an installation "
        "to try.",
    },
}
EXIT_CODES = {
    0: "done",
    1: "something isn't as it should be: a check failed, lines are invalid, the demo differs from the truth",
    2: "the command line or the settings are wrong",
    3: "Kafka is unreachable, refuses, or did not acknowledge",
    4: "the ledger cannot be opened, or its database failed",
    5: "a Moodle is unreachable, refuses, or may not be used so",
    6: "a snapshot, or what it is made from, is refused: nothing was changed",
    7: "partial: a platform could not be read, or gaps are left; the rest is done",
}
_EXITS: tuple[tuple[type[CohortsError], int], ...] = (
    (SettingsError, 2), (BrokerError, 3), (LedgerError, 4), (MoodleError, 5),
    (SnapshotRefused, 6), (SourceIncomplete, 6),
)  # fmt: skip


class Cohorts(LazyGroup):
    """The commands of `cohorts`."""

    families = FAMILIES


cli = typer.Typer(
    cls=Cohorts,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # rich takes longer to load than all else that help needs
    help="Keep the cohorts of Moodle platforms in step with students' enrolments.",
    epilog="Exit codes: " + "; ".join(f"{code}: {meaning}" for code, meaning in EXIT_CODES.items()) + ".",
)


def main() -> None:
    """Run a command; an error of ours is a sentence on standard error and an exit code."""
    try:
        cli()
    except CohortsError as error:
        from rich.markup import escape  # noqa: PLC0415 - the command that failed has loaded them

        from worker.cli.base import errors  # noqa: PLC0415 - idem

        errors.print(f"[red]cohorts:[/red] {escape(str(error))}", soft_wrap=True)
        sys.exit(next((code for kind, code in _EXITS if isinstance(error, kind)), 1))


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(__version__)
        raise typer.Exit


@cli.callback()
def _root(
    *,
    version: Annotated[  # its callback answers
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version, and end.")
    ] = False,
) -> None:
    """Take the options that stand before the command."""
