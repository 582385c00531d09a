"""What a spectator of the demo sees: steps, sentences and checks, each of which held or failed."""

import sys
import time
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from worker.sandbox.demo.stage import Stage

GIVE_UP_SECONDS = 90.0
LOOK_SECONDS = 0.25
SHOWN = 10
"""Differences printed of those that a failed check has found."""


class Show:
    """Prints, counts the checks that failed, and waits with the spectator."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._steps = 0
        self._started = time.monotonic()
        self.console = Console(highlight=False)
        self.failures = 0

    @property
    def seconds(self) -> float:
        """Since when it goes on."""
        return time.monotonic() - self._started

    def step(self, sentence: str) -> None:
        """Begin a numbered step."""
        self._steps += 1
        self.console.print(f"\n[bold]{self._steps}. {escape(sentence)}[/]", soft_wrap=True)

    def say(self, sentence: str) -> None:
        """Print a sentence as it is."""
        self.console.print(sentence, soft_wrap=True, markup=False)

    def check(self, sentence: str, wrong: Iterable[str]) -> None:
        """Print a check, and what is wrong when it failed."""
        wrong = [*wrong]
        mark = "[red]FAILED[/]" if wrong else "[green]ok[/]"
        self.console.print(f"   {mark} {escape(sentence)}", soft_wrap=True)
        for line in wrong[:SHOWN]:
            self.say(f"          {line}")
        if len(wrong) > SHOWN:
            self.say(f"          and {len(wrong) - SHOWN} more")
        self.failures += bool(wrong)

    def until_right(self, *names: str, what: str) -> None:
        """Wait until these platforms are as they must be, and no other gap is left than there must be; check it."""
        started = time.monotonic()
        with self.progress() as progress:
            bars = {name: progress.add_task(name, total=None) for name in names}
            while True:
                found = {name: self._stage.compare(name) for name in names}
                for name, bar in bars.items():
                    progress.update(bar, completed=found[name].right, total=found[name].wanted)
                left = [
                    *(difference for name in names for difference in found[name].differences),
                    *(line for name in names for line in self._stage.miscounted(name, found[name])),
                ]
                seconds = time.monotonic() - started
                if not left or seconds > GIVE_UP_SECONDS or self._stage.worker_ended():
                    break
                time.sleep(LOOK_SECONDS)
        self.check(f"{what}, after {seconds:.1f} s", left)

    def progress(self) -> Progress:
        """Give bars that show only on a terminal."""
        return Progress(
            TextColumn("   {task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            console=self.console, transient=True, disable=not self.console.is_terminal,
        )  # fmt: skip

    def point(self) -> None:
        """Say where a person can look for as long as the demo runs."""
        web = self._stage.settings.web
        self.say("Look for yourself while it runs (it goes on with --serve):")
        self.say(f"  http://{web.host}:{web.port}/metrics, /livez and /readyz")
        for words in ("status", "dead-letters list", "adopt ecampus"):
            self.say(f"  {self.command(words)}")

    def command(self, words: str) -> str:
        """Give a command that acts on the demo's settings."""
        command = sys.argv[0] if Path(sys.argv[0]).name == "cohorts" else "cohorts"
        return f"{command} {words} --config {self._stage.settings_file}"
