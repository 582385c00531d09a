"""What the commands share: options, the console, the settings, the words for durations."""

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
    """Where commands print: of text that comes from elsewhere, nothing steers the terminal."""

    def render_str(self, text: str, **options: Any) -> Text:  # noqa: ANN401 - those of rich
        """Make text of a string; every string that is printed comes by here, also the cells of tables."""
        return super().render_str("\n".join(map(printable, text.split("\n"))), **options)


out = Terminal()
errors = Terminal(stderr=True)
ConfigOption = Annotated[
    Path,
    typer.Option("--config", "-c", envvar="COHORTS_CONFIG", help="The settings file.", show_default=True),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DEFAULT_CONFIG = DEFAULT_FILE


def prepare(path: Path, log: str = "warning") -> Settings:
    """Set the log up and read the settings: how every command begins that needs some."""
    telemetry.configure_logging(log)
    return load(path)


def say(sentence: str) -> None:
    """Print a sentence as it is, on one line however long."""
    out.print(sentence, soft_wrap=True, markup=False, highlight=False)


def say_json(value: object) -> None:
    """Print a value as JSON."""
    out.print_json(json.dumps(value), ensure_ascii=True)


def ago(seconds: float) -> str:
    """Say a duration in hours and minutes."""
    minutes = int(seconds // 60)
    return f"{minutes // 60} h {minutes % 60:02d}" if minutes >= 60 else f"{minutes} min"  # noqa: PLR2004 - an hour


def when(at: Instant, settings: Settings) -> str:
    """Say an instant in the university's local time."""
    return datetime.fromtimestamp(at, settings.zone).isoformat(" ", "minutes")


def person() -> str:
    """Who sits there, for the journal; a container's user may have a number alone."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"user {os.getuid()}"
