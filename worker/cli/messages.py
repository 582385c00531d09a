"""The commands about messages: publish, dead-letters."""

import json
from pathlib import Path
from typing import Annotated

import rich.progress
import typer

from worker.cli.base import DEFAULT_CONFIG, ConfigOption, JsonOption, out, prepare, say
from worker.domain.errors import SettingsError
from worker.domain.sanitize import printable
from worker.domain.words import counted
from worker.runtime.messages import formats
from worker.sync import dead_letters
from worker.sync import publish as publishing

family = typer.Typer()
letters = typer.Typer(
    no_args_is_help=True, help="List dead letters, the messages that could not be read, and replay them."
)
family.add_typer(letters, name="dead-letters")


@family.command()
def publish(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="JSON lines: structured CloudEvents.")],
    path: ConfigOption = DEFAULT_CONFIG,
    topic: Annotated[
        str | None, typer.Option(help="Topic [default: the first of kafka.topics in format native].")
    ] = None,
) -> None:
    """Validate a file of messages, then publish all of them; if one line is invalid, nothing is sent."""
    settings = prepare(path)
    target = topic or next(iter(settings.kafka.native), None)
    if target is None or target in settings.kafka.captured:
        raise SettingsError(
            f"{target or 'every topic'} is in format debezium: name a topic in format native with --topic"
        )
    try:
        with rich.progress.open(file, "rb", description=target, disable=not out.is_terminal) as lines:
            sent = publishing.publish(lines, settings.kafka.properties(), target)
    except publishing.InvalidLines as error:
        for number, problem in error.lines[:20]:
            out.print(f"{file}:{number}: {problem}", soft_wrap=True, markup=False)
        out.print(f"{len(error.lines)} invalid lines: nothing was sent")
        raise typer.Exit(1) from None
    out.print(f"{counted(sent, 'message')} published to {target}")


@letters.command(name="list")
def list_letters(
    path: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """List dead letters: where each came from and what is wrong with it, never its content."""
    settings = prepare(path)
    count = 0
    for letter in dead_letters.dead_letters(settings.kafka.properties(), settings.kafka.dead_letters):
        count += 1
        if as_json:
            line = {"dead_letter": letter.record.origin, "origin": letter.origin, "problem": letter.problem}
            out.print(json.dumps(line), soft_wrap=True, markup=False, highlight=False)
        else:
            say(printable(f"{letter.record.origin}  from {letter.origin}  {letter.problem}"))
    if not as_json:
        out.print(f"{count} dead letters in {settings.kafka.dead_letters}")


@letters.command()
def replay(
    path: ConfigOption = DEFAULT_CONFIG,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count.")] = False,
) -> None:
    """Send the dead letters that can be read now back to their topic; this never reverts anything newer."""
    settings = prepare(path)
    counts = dead_letters.replay(
        settings.kafka.properties(), settings.kafka.dead_letters, formats(settings), publish=not dry_run
    )
    out.print(
        f"{counts['sent']} {'would be ' if dry_run else ''}sent, {counts['unreadable']} still can't be read, "
        f"{counts['homeless']} come from no topic of kafka.topics"
    )
