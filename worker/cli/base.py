"""What the commands share: options, the console, the settings, durations."""

import getpass
import json
import os
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from worker import telemetry
from worker.domain.instants import Instant
from worker.domain.sanitize import printable
from worker.settings.root import DEFAULT_FILE, Settings, load


class Terminal(Console):
    """The console that commands print to. Text from elsewhere can't steer the terminal."""

    def render_str(self, text: str, **options: Any) -> Text:  # noqa: ANN401 - those of rich
        """Return a string as text. Every printed string passes through here, cells of tables included."""
        return super().render_str("\n".join(map(printable, text.split("\n"))), **options)


LOG_LEVELS = ("debug", "info", "warning", "error")


def _known_level(level: str) -> str:
    if level.lower() not in LOG_LEVELS:
        raise typer.BadParameter(f"no level {level}; choose one of {', '.join(LOG_LEVELS)}")
    return level


out = Terminal()
errors = Terminal(stderr=True)
ConfigOption = Annotated[
    Path,
    typer.Option("--config", "-c", envvar="COHORTS_CONFIG", help="The settings file.", show_default=True),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
LogOption = Annotated[str, typer.Option("--log", callback=_known_level, help="debug, info, warning or error.")]
DEFAULT_CONFIG = DEFAULT_FILE


def prepare(path: Path, log: str = "error") -> Settings:
    """Set up the log and read the settings, as every command does that needs them.

    The log is JSON, for whoever runs the program; a person at a terminal is told what happened by sentences.
    """
    telemetry.configure_logging(log)
    return load(path)


def say(sentence: str) -> None:
    """Print a sentence unchanged, on one line however long."""
    out.print(sentence, soft_wrap=True, markup=False, highlight=False)


def say_json(value: object) -> None:
    """Print a value as JSON."""
    out.print_json(json.dumps(value), ensure_ascii=True)


def ago(seconds: float) -> str:
    """Return a duration in hours and minutes."""
    minutes = int(seconds // 60)
    return f"{minutes // 60} h {minutes % 60:02d}" if minutes >= 60 else f"{minutes} min"  # noqa: PLR2004 - an hour


def when(at: Instant, settings: Settings) -> str:
    """Return an instant in the university's local time."""
    return datetime.fromtimestamp(at, settings.zone).isoformat(" ", "minutes")


def person() -> str:
    """Return who runs the command, for the journal; a container's user may have only a number."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"user {os.getuid()}"
