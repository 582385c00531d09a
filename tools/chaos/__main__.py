"""Try the faults whose names contain one of the given words, or all, and print the outcomes."""

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
from itertools import takewhile
from pathlib import Path

from rich.console import Console

from tests.support.servers.kafka import Kafka, real_kafka
from tests.support.servers.postgres import Postgres, real_postgres
from tools.chaos.campaign import Fault, Trial, try_faults
from tools.chaos.faults import FAULTS
from tools.chaos.world import living

PAGE = Path("docs/chaos.md")
INTRODUCTION = """\
# What breaking it shows

Written by `make chaos` (`tools/chaos`). Each fault strikes real processes (the worker, Kafka, PostgreSQL) and a
sandbox Moodle, while a small university goes on. Once the fault is over, everything must soon be in step: every
cohort has the right members, foreign cohorts are untouched, no message and no dead letter is lost, and nobody was
removed, at any time, without a message or a person requesting it.

The columns: how often the fault was tried; how many items were lost; how many were wrong; the time from the end of
the fault until everything was in step, median and maximum; how often the worker ended and was restarted, as a
supervisor does; the most memory that it used.

Delays are shortened. A Moodle that is down or denies access is left alone for 5 s instead of 5 minutes (or the time
that Moodle asks for); a locked SQLite file is waited for 5 s instead of a minute; topics are checked every 2 s
instead of 15 s; a removal waits 2 s instead of 2 minutes; a call to Moodle may last 1 s instead of a minute. An
outage of ten seconds therefore stands for ten minutes. The outage of ten real minutes is tried once, with delays of
full length: the worker may then wait up to five minutes after its end. The lease of a killed worker isn't shortened
(twice the time-out of a call, plus 30 s): the lines of SIGKILL include it.
"""


def main() -> int:
    """Return 1 if something was lost, wrong, or not in step in time."""
    parser = argparse.ArgumentParser(prog="python -m tools.chaos", description=__doc__)
    parser.add_argument("words", nargs="*", help="parts of the names of faults; default: all")
    parser.add_argument("--seed", type=int, default=1, help="of the scenarios; instants still vary")
    parser.add_argument("--rounds", type=int, default=1, help="how often each is tried, always in another university")
    parser.add_argument("--write", action="store_true", help=f"write {PAGE}")
    options = parser.parse_args()
    chosen = [fault for fault in FAULTS if not options.words or any(word in fault.name for word in options.words)]
    if not chosen:
        parser.error(f"no such fault; there are: {'; '.join(fault.name for fault in FAULTS)}")
    trials = campaign(chosen, range(options.seed, options.seed + options.rounds))
    lines = table(trials)
    print("\n".join(lines))  # noqa: T201 - it is what the program is for
    if options.write:
        machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
        dated = f"{datetime.now(UTC):%Y-%m-%d}, seeds from {options.seed}, rounds: {options.rounds}; on {machine}."
        PAGE.write_text("\n".join([INTRODUCTION, dated, "", *lines, ""]), encoding="utf-8")
    return int(any(trial.problem or trial.lost or trial.wrong for tries in trials.values() for trial in tries))


def campaign(faults: Sequence[Fault], seeds: Iterable[int]) -> Mapping[str, list[Trial]]:
    """Try each fault under each seed; a university is used again unless something was wrong in it."""
    trials: defaultdict[str, list[Trial]] = defaultdict(list)
    console = Console(stderr=True)
    with ExitStack() as servers:
        servers.enter_context(redirect_stdout(StringIO()))  # an installation prints its logs, for pytest
        kafka = servers.enter_context(real_kafka())
        postgres = servers.enter_context(real_postgres()) if any(fault.postgres for fault in faults) else None
        for number, seed in enumerate(seeds):
            left = [fault for fault in faults if number == 0 or not fault.once]
            while left:
                ledger = postgres if left[0].postgres else None
                for fault, trial in _in_one_university(left, kafka, ledger, seed, console):
                    trials[fault.name].append(trial)
                    left.remove(fault)
    return trials


def _in_one_university(
    faults: Sequence[Fault], kafka: Kafka, postgres: Postgres | None, seed: int, console: Console
) -> list[tuple[Fault, Trial]]:
    """Try the first faults, until one leaves its university unusable or needs another kind of ledger."""
    directory = Path(tempfile.mkdtemp(prefix="chaos-"))
    trials: list[tuple[Fault, Trial]] = []
    with living(directory, kafka, directory.name, seed=seed, postgres=postgres) as world:
        for fault in takewhile(lambda fault: fault.postgres is (postgres is not None), faults):
            trial = try_faults(world, [fault])
            trials.append((fault, trial))
            console.print(f"seed {seed}: {fault.name}: {trial}", highlight=False, markup=False)
            if fault.last or trial.problem:
                break
    if trial.problem:
        console.print(f"the logs of its processes are in {directory}", highlight=False, markup=False)
    else:
        shutil.rmtree(directory)
    return trials


def table(trials: Mapping[str, list[Trial]]) -> list[str]:
    """Return the outcomes as a table in Markdown."""
    lines = [
        "| fault | tried | lost | wrong | in step after | at worst | ends | memory |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, tries in trials.items():
        seconds = [trial.seconds for trial in tries]
        cells = (
            name, len(tries), sum(len(trial.lost) for trial in tries), sum(len(trial.wrong) for trial in tries),
            f"{statistics.median(seconds):.0f} s", f"{max(seconds):.0f} s", sum(trial.ends for trial in tries),
            f"{max(trial.peak for trial in tries) // 1024} MB",
        )  # fmt: skip
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return lines


if __name__ == "__main__":
    sys.exit(main())
