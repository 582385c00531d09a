"""What a spectator of the demo sees: steps, sentences, and checks that hold or fail."""

import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from worker.sandbox.demo.stage import Stage

TIMEOUT_SECONDS = 90.0
POLL_SECONDS = 0.25
MOST_LINES = 10
"""Differences printed below a failed check."""


class Show:
    """Prints, counts the checks that failed, and waits together with the spectator."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._steps = 0
        self._started = time.monotonic()
        self.console = Console(highlight=False)
        self.failures = 0

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._started

    def step(self, sentence: str) -> None:
        """Begin a numbered step."""
        self._steps += 1
        self.console.print(f"\n[bold]{self._steps}. {escape(sentence)}[/]", soft_wrap=True)

    def say(self, sentence: str) -> None:
        """Print a sentence as it is."""
        self.console.print(sentence, soft_wrap=True, markup=False)

    def check(self, sentence: str, differences: Iterable[str]) -> None:
        """Print a check, which failed if there are differences, and the first of them."""
        lines = [*differences]
        mark = "[red]FAILED[/]" if lines else "[green]ok[/]"
        self.console.print(f"   {mark} {escape(sentence)}", soft_wrap=True)
        for line in lines[:MOST_LINES]:
            self.say(f"          {line}")
        if len(lines) > MOST_LINES:
            self.say(f"          and {len(lines) - MOST_LINES} more")
        self.failures += bool(lines)

    def wait_until_right(self, *names: str, what: str) -> None:
        """Wait until these platforms are right and have no gap left but the expected ones, and check it."""
        started = time.monotonic()
        with self.progress() as progress:
            bars = {name: progress.add_task(name, total=None) for name in names}
            while True:
                differences: list[str] = []
                for name, bar in bars.items():
                    comparison = self._stage.compare(name)
                    progress.update(bar, completed=comparison.right, total=comparison.wanted)
                    differences += [*comparison.differences, *self._stage.wrong_gaps(name, comparison)]
                seconds = time.monotonic() - started
                if not differences or seconds > TIMEOUT_SECONDS or self._stage.worker_ended():
                    break
                time.sleep(POLL_SECONDS)
        self.check(f"{what}, after {seconds:.1f} s", differences)

    def wait_until(self, holds: Callable[[], bool], *, what: str) -> None:
        """Wait until something holds, and check it."""
        started = time.monotonic()
        while (
            not (is_so := holds()) and time.monotonic() - started < TIMEOUT_SECONDS and not self._stage.worker_ended()
        ):
            time.sleep(POLL_SECONDS)
        self.check(f"{what}, after {time.monotonic() - started:.1f} s", [] if is_so else ["it isn't so"])

    def progress(self) -> Progress:
        """Return progress bars that show only on a terminal."""
        return Progress(
            TextColumn("   {task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            console=self.console, transient=True, disable=not self.console.is_terminal,
        )  # fmt: skip

    def say_where_to_look(self) -> None:
        """Print the addresses and commands that work for as long as the demo runs."""
        web = self._stage.settings.web
        self.say("Look for yourself while it runs (--serve keeps it running):")
        self.say(f"  http://{web.host}:{web.port}/metrics, /livez and /readyz")
        for words in ("status", "dead-letters list", "adopt ecampus"):
            self.say(f"  {self.command(words)}")

    def command(self, words: str) -> str:
        """Return a command line that acts on the demo's settings."""
        command = sys.argv[0] if Path(sys.argv[0]).name == "cohorts" else "cohorts"
        return f"{command} {words} --config {self._stage.settings_file}"
