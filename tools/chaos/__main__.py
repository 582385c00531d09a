"""Try the faults whose names hold one of the words given, or all, and print what came of each."""

import argparse
import os
import platform
import shutil
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, redirect_stdout
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path

from rich.console import Console

from tests.support.servers.kafka import real_kafka
from tests.support.servers.postgres import real_postgres
from tools.chaos.campaign import Fault, Trial, tried
from tools.chaos.faults import FAULTS
from tools.chaos.world import living

PAGE = Path("docs/chaos.md")
INTRODUCTION = """\
# What breaking it shows

Written by `make chaos` (`tools/chaos`). Each fault strikes real processes (the worker, Kafka, PostgreSQL)
and a Moodle of the sandbox, while a small university lives on. Once it is over, every cohort must soon be true, what
isn't ours untouched, no message and no dead letter lost, and nobody removed, at any time, whose removal nobody had
asked for.

The columns: how often it was tried; what was lost; what was wrong; from the end of the fault until everything was in
step, the median and the worst; how often the worker ended, to be started again as a supervisor does; the most memory
that it had.

Time is cut short: 5 s stand for the 5 minutes (or what Moodle asks for) that a Moodle is left alone that is down or
denies, and for the minute that SQLite waits for its file; the worker looks at its topics every 2 s, not 15 s; a removal
waits 2 s, not 2 minutes, and a call to Moodle 1 s, not a minute. So ten seconds are an outage of ten minutes; the line
of ten whole minutes, which is tried once, is of a worker that waits as long as any, up to five minutes after its end.
Not cut short is the lease of a worker that was killed, twice the time-out of a call and 30 s: lines of SIGKILL wait for
that.
"""


def main() -> int:
    """Give 1 when something was lost, wrong, or not in step in time."""
    parser = argparse.ArgumentParser(prog="python -m tools.chaos", description=__doc__)
    parser.add_argument("words", nargs="*", help="parts of the names of faults; all faults unless said")
    parser.add_argument("--seed", type=int, default=1, help="scenarios follow from it; instants don't")
    parser.add_argument("--rounds", type=int, default=1, help="how often each is tried, in another university")
    parser.add_argument("--write", action="store_true", help=f"write {PAGE}")
    said = parser.parse_args()
    chosen = [fault for fault in FAULTS if not said.words or any(word in fault.name for word in said.words)]
    if not chosen:
        parser.error(f"no such fault; there are: {'; '.join(fault.name for fault in FAULTS)}")
    trials = campaign(chosen, range(said.seed, said.seed + said.rounds))
    lines = table(trials)
    print("\n".join(lines))  # noqa: T201 - it is what the program is for
    if said.write:
        machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
        dated = f"{datetime.now(UTC):%Y-%m-%d}, seeds from {said.seed}, rounds: {said.rounds}; on {machine}."
        PAGE.write_text("\n".join([INTRODUCTION, dated, "", *lines, ""]), encoding="utf-8")
    return int(any(trial.problem or trial.lost or trial.wrong for some in trials.values() for trial in some))


def campaign(faults: Sequence[Fault], seeds: Iterable[int]) -> Mapping[str, list[Trial]]:
    """Try each fault under each seed, in a university that lives on unless something was wrong in it."""
    trials: defaultdict[str, list[Trial]] = defaultdict(list)
    console = Console(stderr=True)
    with ExitStack() as servers:
        servers.enter_context(redirect_stdout(StringIO()))  # an installation prints its logs, for pytest
        kafka = servers.enter_context(real_kafka())
        postgres = servers.enter_context(real_postgres()) if any(fault.postgres for fault in faults) else None
        for number, seed in enumerate(seeds):
            left = [fault for fault in faults if number == 0 or not fault.once]
            while left:
                directory = Path(tempfile.mkdtemp(prefix="chaos-"))
                ledger = postgres if left[0].postgres else None
                with living(directory, kafka, directory.name, seed=seed, postgres=ledger) as world:
                    lives = True
                    while lives and left and left[0].postgres is (ledger is not None):
                        fault = left.pop(0)
                        trial = tried(world, [fault])
                        trials[fault.name].append(trial)
                        console.print(f"seed {seed}: {fault.name}: {trial}", highlight=False, markup=False)
                        lives = not fault.last and not trial.problem
                if trial.problem:
                    console.print(f"what its processes logged is in {directory}", highlight=False, markup=False)
                else:
                    shutil.rmtree(directory)
    return trials


def table(trials: Mapping[str, list[Trial]]) -> list[str]:
    """Write what came of it as a table in Markdown."""
    lines = [
        "| fault | tried | lost | wrong | in step after | at worst | ends | memory |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, some in trials.items():
        seconds = [trial.seconds for trial in some]
        cells = (
            name, len(some), sum(len(trial.lost) for trial in some), sum(len(trial.wrong) for trial in some),
            f"{statistics.median(seconds):.0f} s", f"{max(seconds):.0f} s", sum(trial.ends for trial in some),
            f"{max(trial.peak for trial in some) // 1024} MB",
        )  # fmt: skip
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return lines


if __name__ == "__main__":
    sys.exit(main())
