"""The command line: which commands there are, where each is, and how an error ends one. No logic lives here."""

import sys
from typing import Annotated, NoReturn

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
        "watch": "Publish a directory's changes as messages, within a minute, until SIGTERM.",
    },
    "worker.cli.check": {
        "check": "Check the settings, the broker, the ledger and each Moodle: one line each, with the remedy.",
    },
    "worker.cli.status": {
        "status": "Show the state of every platform: memberships, cohorts, gaps and what they wait for.",
    },
    "worker.cli.retry": {
        "retry": "End the pause of a platform, and try at once what failed there: after its token, say, was renewed.",
    },
    "worker.cli.explain": {
        "explain": "Explain why a student is, or isn't, in a cohort: what the sources say, what blocks it, and "
        "what happens next.",
    },
    "worker.cli.reconcile": {
        "reconcile": "Apply the newest snapshot, read every Moodle back, close the gaps, and report. Run it once a "
        "night, from a timer.",
    },
    "worker.cli.runs": {
        "runs": "List the reconciliations so far, newest first.",
    },
    "worker.cli.review": {
        "plan": "Show what would be done now, and why, with hashes to approve or reject it by.",
        "held": "List what waits for a person, with the hashes to approve or reject it by: removals, new cohorts, "
        "renames.",
        "approve": "Let exactly what was shown under this hash be done: removals, or cohorts created or renamed.",
        "reject": "Keep what was shown under this hash as it is.",
        "undo": "Put back whom a run, or an approval, has removed; a newer message or snapshot may end their "
        "membership again.",
    },
    "worker.cli.merges": {
        "merges": "List student numbers that became others, and decide about merges that are held or wrong.",
    },
    "worker.cli.adopt": {
        "adopt": "List the existing cohorts whose idnumber is one of ours, and whom they would lose; with --apply, "
        "adopt them.",
    },
    "worker.cli.acknowledge": {
        "acknowledge": "Say that the courses of cohorts that were deleted on Moodle are seen to: they are no longer "
        "reported.",
    },
    "worker.cli.messages": {
        "publish": "Validate a file of messages, then publish all of them; if one line is invalid, nothing is sent.",
        "dead-letters": "List dead letters, the messages that could not be read, and replay them.",
    },
    "worker.cli.snapshots": {
        "snapshot": "Publish snapshots of all enrolments, and look at those on the topic.",
    },
    "worker.cli.topics": {
        "topics": "Create the topics in Kafka, and print the rights on them.",
    },
    "worker.cli.contract": {
        "schema": "Print the contract of the messages, for producers.",
    },
    "worker.cli.config": {
        "config": "Print the settings in force, with secrets masked.",
    },
    "worker.cli.ledger": {
        "migrate": "Bring the ledger's schema up to date, as every command does that opens it. Safe to run several at "
        "once.",
        "positions": "Print the positions where reading resumes. Reading messages again is always safe: they change "
        "nothing.",
        "ledger": "Copy the whole ledger.",
    },
    "worker.cli.retention": {
        "purge": "Delete what is older than the retention periods: journal, decisions, reports, and students who left.",
        "erase": "Erase one person from the ledger, under all their numbers; refused while they are enrolled or "
        "in a cohort.",
    },
    "worker.cli.sandbox": {
        "demo": "Run the whole job on an embedded broker, ledger and three Moodles, and verify every cohort.",
        "sandbox": "Play an invented university until SIGTERM, to try an installation: a Moodle, and messages on "
        "Kafka.",
    },
}
EXIT_CODES = {
    0: "done",
    1: "a check failed, lines are invalid, a number is unknown, or the demo differs from the truth",
    2: "the command line or the settings are wrong, or a file can't be read or written",
    3: "Kafka is unreachable, refuses, or did not acknowledge",
    4: "the ledger cannot be opened, or its database failed",
    5: "a Moodle is unreachable or refuses, or its mode forbids this",
    6: "a snapshot or its source is refused; nothing was changed",
    7: "partial: a platform could not be read or written, or gaps remain; the rest is done",
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
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Keep the cohorts of Moodle platforms in step with students' enrolments.",
    epilog="Exit codes: " + "; ".join(f"{code}: {meaning}" for code, meaning in EXIT_CODES.items()) + ".",
)


def main() -> None:
    """Run a command; an error of ours is a sentence on standard error and an exit code."""
    try:
        cli()
    except CohortsError as error:
        _fail(str(error), next((code for kind, code in _EXITS if isinstance(error, kind)), 1))
    except OSError as error:
        if error.filename is None:
            raise
        _fail(f"{error.filename}: {error.strerror}", 2)


def _fail(sentence: str, code: int) -> NoReturn:
    from rich.markup import escape  # noqa: PLC0415 - the command that failed has loaded them

    from worker.cli.base import errors  # noqa: PLC0415 - idem

    errors.print(f"[red]cohorts:[/red] {escape(sentence)}", soft_wrap=True)
    sys.exit(code)


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
