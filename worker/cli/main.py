"""The commands: arguments in, parts called, sentences out. No logic lives here."""

import json
import os
import sys
import time
from dataclasses import asdict
from datetime import time as LocalTime  # noqa: N812 - beside the module time
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import rich.progress
import typer
from rich.markup import escape
from rich.table import Table

from schemas import generate
from worker import __version__, telemetry
from worker import explain as explaining
from worker.cli.base import DEFAULT_CONFIG, ConfigOption, JsonOption, ago, errors, opened, out, person, say, say_json
from worker.cli.reconcile import night
from worker.cli.retention import keep
from worker.cli.review import guard
from worker.cli.snapshots import snapshot
from worker.cli.topics import topics
from worker.cli.watch import watching
from worker.domain.errors import (
    BrokerError,
    CohortsError,
    LedgerError,
    MoodleError,
    SettingsError,
    SnapshotRefused,
    SourceIncomplete,
)
from worker.domain.rules import Mode
from worker.domain.sanitize import printable
from worker.domain.schedule import time_of_day
from worker.domain.states import Language
from worker.ledger import student_view
from worker.ledger.status import GAP_STATES, forget_positions, read_status
from worker.moodle import MoodleReader
from worker.runtime import build, check, systemd
from worker.runtime.worker import Worker
from worker.settings.root import effective, load
from worker.sync import adoption, dead_letters
from worker.sync import publish as publishing

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

cli = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Keep the cohorts of Moodle platforms in step with students' enrolments.",
    epilog="Exit codes: " + "; ".join(f"{code}: {meaning}" for code, meaning in EXIT_CODES.items()) + ".",
)
letters = typer.Typer(no_args_is_help=True, help="Messages that could never be read.")
cli.add_typer(letters, name="dead-letters")
cli.add_typer(snapshot, name="snapshot")
cli.add_typer(topics, name="topics")
cli.add_typer(night)
cli.add_typer(guard)
cli.add_typer(watching)
cli.add_typer(keep)


def main() -> None:
    """Run a command; an error of ours is a sentence on standard error and an exit code."""
    try:
        cli()
    except CohortsError as error:
        errors.print(f"[red]cohorts:[/red] {escape(str(error))}", soft_wrap=True)
        sys.exit(next((code for kind, code in _EXITS if isinstance(error, kind)), 1))


def _say_version(asked: bool) -> None:
    if asked:
        out.print(__version__, highlight=False)
        raise typer.Exit


@cli.callback()
def _prepare(
    *,
    version: Annotated[  # noqa: ARG001 - its callback answers
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Print the version, and end.")
    ] = False,
) -> None:
    telemetry.configure_logging("warning")


def _time_of_day(text: str) -> LocalTime:
    try:
        return time_of_day(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


@cli.command()
def run(
    path: ConfigOption = DEFAULT_CONFIG,
    level: Annotated[str, typer.Option("--log", help="debug, info, warning or error.")] = "info",
    reconcile_at: Annotated[
        LocalTime | None,
        typer.Option(
            parser=_time_of_day,
            metavar="HH:MM",
            help="Reconcile every night at this local time, once across processes.",
        ),
    ] = None,
) -> None:
    """Consume, record and converge until SIGTERM; serves /metrics, /livez and /readyz."""
    telemetry.configure_logging(level)
    supervisor = systemd.Supervisor(os.environ)
    Worker(load(path), reconcile_at=reconcile_at, supervisor=supervisor).run()


@cli.command()
def demo(
    serve: Annotated[bool, typer.Option("--serve", help="Stay up afterwards, until Ctrl-C.")] = False,
) -> None:
    """Run the main job on an embedded broker, ledger and three Moodles, and verify every cohort at the end."""
    from worker.sandbox.demo import demo as demonstration  # noqa: PLC0415 - a worker in production doesn't load it

    telemetry.configure_logging("error")
    if not demonstration.run(serve=serve):
        raise typer.Exit(1)


@cli.command()
def sandbox(
    path: ConfigOption = DEFAULT_CONFIG,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8080,
    students: Annotated[int, typer.Option(min=100, help="How large the university is.")] = 3_000,
) -> None:
    """Be an invented university until SIGTERM: a Moodle, and messages to Kafka. For an installation to try."""
    from worker.sandbox import serve  # noqa: PLC0415 - a worker in production doesn't load it

    serve.live(load(path), host=host, port=port, students=students)


@cli.command(name="check")
def check_command(path: ConfigOption = DEFAULT_CONFIG) -> None:
    """Look at the settings, the broker, the ledger and each Moodle: one line each, with the remedy."""
    marks = {
        check.Level.OK: "[green]ok[/]",
        check.Level.WARNING: "[yellow]warning[/]",
        check.Level.FAILURE: "[red]FAILURE[/]",
    }
    settings = load(path)
    out.print(f"{marks[check.Level.OK]} settings: {escape(str(path))}", soft_wrap=True)
    failed = False
    for finding in check.check(settings):
        failed |= finding.level is check.Level.FAILURE
        out.print(
            f"{marks[finding.level]} {escape(finding.subject)}: {escape(printable(finding.sentence))}", soft_wrap=True
        )
    if failed:
        raise typer.Exit(1)


@cli.command()
def status(path: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False) -> None:
    """Say how every platform stands: memberships, cohorts, gaps and what they wait for."""
    settings = load(path)
    with opened(settings) as ledger:
        now = time.time()
        found = read_status(ledger, sorted(settings.platforms), now)
    if as_json:
        say_json(asdict(found))
        return
    table = Table("", *(platform.name for platform in found.platforms))
    rows: dict[str, list[str]] = {
        "mode": [settings.platforms[platform.name].mode for platform in found.platforms],
        "Moodle": [platform.state if platform.since else "" for platform in found.platforms],
        "memberships": [str(platform.memberships) for platform in found.platforms],
        "cohorts, ours": [
            f"{sum(platform.cohorts.values())}, {platform.cohorts['owned']}" for platform in found.platforms
        ],
        **{f"gaps {state}": [str(p.gaps[state]) for p in found.platforms] for state in GAP_STATES},
        "oldest gap": ["" if p.oldest is None else ago(now - p.oldest) for p in found.platforms],
    }
    for title, cells in rows.items():
        table.add_row(title, *cells)
    out.print(table)
    for platform in found.platforms:
        of = settings.platforms[platform.name]
        if of.mode is not Mode.MANUAL and not of.guard.enabled:
            out.print(f"{platform.name}: {check.GUARD_OFF}", soft_wrap=True)
        if platform.sentence is not None:
            out.print(
                f"{platform.name}: {escape(platform.sentence)} (tried again in "
                f"{max(0.0, platform.next_attempt_at - now):.0f} s)",
                soft_wrap=True,
            )
        for reason, number in sorted(platform.reasons.items()):
            out.print(f"{platform.name}: {number} waiting for: {reason}", soft_wrap=True)
    if found.without_number:
        out.print(f"{found.without_number} enrolments wait for the student number of their person")
    out.print(f"{found.enrolments} enrolments; positions " + (
        ", ".join(f"{partition} {offset}" for partition, offset in found.positions.items()) or "none yet"
    ), soft_wrap=True)  # fmt: skip


@cli.command()
def publish(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="JSON lines: structured CloudEvents.")],
    path: ConfigOption = DEFAULT_CONFIG,
    topic: Annotated[
        str | None, typer.Option(help="Another topic than the first of kafka.topics that isn't of change capture.")
    ] = None,
) -> None:
    """Validate a file of messages, then produce all of them; with an invalid line nothing is sent."""
    settings = load(path)
    target = topic or next(iter(settings.kafka.native), None)
    if target is None or target in settings.kafka.captured:
        raise SettingsError(f"{target or 'every topic'} is of change capture: name one of messages with --topic")
    try:
        with rich.progress.open(file, "rb", description=target, disable=not out.is_terminal) as lines:
            sent = publishing.publish(lines, settings.kafka.properties(), target)
    except publishing.InvalidLines as error:
        for number, problem in error.lines[:20]:
            out.print(f"{file}:{number}: {problem}", soft_wrap=True, markup=False)
        out.print(f"{len(error.lines)} invalid lines: nothing was sent")
        raise typer.Exit(1) from None
    out.print(f"{sent} messages published to {target}")


@letters.command(name="list")
def list_letters(
    path: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """List dead letters: where each came from and what is wrong with it, never what it says."""
    settings = load(path)
    number = 0
    for letter in dead_letters.dead_letters(settings.kafka.properties(), settings.kafka.dead_letters):
        number += 1
        if as_json:
            line = {"dead_letter": letter.record.origin, "origin": letter.origin, "problem": letter.problem}
            out.print(json.dumps(line), soft_wrap=True, markup=False, highlight=False)
        else:
            say(printable(f"{letter.record.origin}  from {letter.origin}  {letter.problem}"))
    if not as_json:
        out.print(f"{number} dead letters in {settings.kafka.dead_letters}")


@letters.command()
def replay(
    path: ConfigOption = DEFAULT_CONFIG,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count.")] = False,
) -> None:
    """Send those that can be read by now back to their topic; nothing newer is ever reverted by it."""
    settings = load(path)
    counts = dead_letters.replay(
        settings.kafka.properties(), settings.kafka.dead_letters, build.formats(settings), publish=not dry_run
    )
    out.print(
        f"{counts['sent']} {'would be ' if dry_run else ''}sent, {counts['unreadable']} still can't be read, "
        f"{counts['homeless']} come from no topic of kafka.topics"
    )


@cli.command()
def adopt(
    platform: Annotated[str, typer.Argument(help="The platform's name in the settings.")],
    globs: Annotated[
        list[str] | None, typer.Argument(help="Cohort idnumbers (globs); all of them unless said.")
    ] = None,
    path: ConfigOption = DEFAULT_CONFIG,
    apply: Annotated[bool, typer.Option("--apply", help="Take them over; without it, only show them.")] = False,
) -> None:
    """Show the existing cohorts that carry our idnumbers, with their sizes, and with --apply take them over."""
    settings = load(path)
    policy = next((p for p in settings.policy().platforms if p.name == platform), None)
    if policy is None or policy.mode is Mode.MANUAL:
        raise SettingsError(f"{platform} is not a platform that is kept automatically; see platforms in {path}")
    connection = build.wire(platform, settings.platforms[platform])
    with opened(settings) as ledger, out.status(f"Reading {platform}"):
        found = adoption.candidates(ledger, policy, MoodleReader(connection), globs or ["*"])
        taken = adoption.adopt(ledger, policy, found, by=person()) if apply else 0
    connection.close()
    table = Table("idnumber", "name", "members", "desired and there", "to be added", "others (they stay)")
    for item in found:
        table.add_row(
            escape(item.idnumber),
            escape(printable(item.name)),
            *map(str, (item.members, item.present, item.absent, item.others)),
        )
    out.print(table)
    if apply:
        out.print(f"{taken} of {len(found)} cohorts adopted on {platform}")
    else:
        out.print(f"{len(found)} cohorts could be adopted on {platform}; add --apply to take them over")


@cli.command(name="config")
def show_config(
    path: ConfigOption = DEFAULT_CONFIG,
    describe: Annotated[
        bool, typer.Option("--describe", help="Say what each setting is, its unit and default.")
    ] = False,
) -> None:
    """Print the settings in force, secrets masked."""
    for setting in effective(load(path)):
        if describe:
            out.print(f"# {setting.description}", soft_wrap=True, markup=False, highlight=False)
        out.print(f"{setting.path} = {setting.value}", soft_wrap=True, markup=False, highlight=False)


@cli.command()
def positions(
    path: ConfigOption = DEFAULT_CONFIG,
    forget: Annotated[
        str | None, typer.Option(help="Read this topic again from its beginning at the next start.")
    ] = None,
) -> None:
    """Print where reading goes on. Reading again is always safe: what is known already changes nothing."""
    with opened(load(path)) as ledger:
        if forget is not None:
            out.print(f"{forget_positions(ledger, forget)} positions of {forget} forgotten")
        for partition, offset in read_status(ledger, (), time.time()).positions.items():
            out.print(f"{partition} {offset}", markup=False)


@cli.command()
def migrate(path: ConfigOption = DEFAULT_CONFIG) -> None:
    """Bring the ledger's schema up to date and end, as every command does that opens it. Several may at once."""
    with opened(load(path)) as ledger:
        out.print(f"{ledger.name} ledger, instance {ledger.instance}: its schema is up to date")


@cli.command()
def schema(
    what: Annotated[
        str, typer.Argument(help="json-schema, examples, snapshot-json-schema, snapshot-examples or asyncapi.")
    ] = "json-schema",
) -> None:
    """Print the contract of the messages, for producers."""
    documents: dict[str, Any] = {
        "json-schema": generate.json_schema,
        "snapshot-json-schema": generate.snapshot_json_schema,
        "asyncapi": generate.asyncapi,
    }
    examples = {"examples": "examples.jsonl", "snapshot-examples": "snapshot-examples.jsonl"}
    if what in documents:
        sys.stdout.write(generate.written(documents[what]()))
    elif what in examples:
        sys.stdout.write((resources.files("schemas") / examples[what]).read_text(encoding="utf-8"))
    else:
        raise typer.BadParameter(f"{what}: there are {', '.join([*documents, *examples])}")


@cli.command()
def explain(
    student: Annotated[str, typer.Argument(help="The student number (COD_ETU), with its leading zeros.")],
    *,
    path: ConfigOption = DEFAULT_CONFIG,
    platform: Annotated[str | None, typer.Option(help="Only this platform.")] = None,
    cohort: Annotated[str | None, typer.Option(help="Only this cohort, by its idnumber or name.")] = None,
    language: Annotated[Language, typer.Option("--lang", help="The language of the answer.")] = Language.FR,
    as_json: JsonOption = False,
) -> None:
    """Say why a student is, or isn't, in a cohort: what sources said, what holds it, and what happens next."""
    settings = load(path)
    policy = settings.policy()
    with opened(settings) as ledger:
        told = student_view.read(ledger, policy, student.strip(), cohort)
    answer = explaining.explain(told, policy, now=time.time(), platform=platform, cohort=cohort)
    if as_json:
        say_json(asdict(answer))
    else:
        text = explaining.render(answer, language, settings.zone)
        out.print(text, end="", soft_wrap=True, markup=False, highlight=False)
    if explaining.Why.PLATFORM_UNKNOWN in answer.codes():
        raise typer.Exit(2)
