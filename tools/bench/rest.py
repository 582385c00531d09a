"""The cost of starting a command, and of a worker that has nothing to do.

`cohorts run` is started on the ledger of a university that is in step with its Moodle, and timed until it logs that
it has started; `cohorts --help` and a bare Python are timed until they end. Each figure is the median of several
starts, in turns. Then a worker is left idle, and its CPU time is read from the kernel at the beginning and the end.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from tests.support.installation import PROGRAM
from tools.bench import Figure, Quantity, scaled
from tools.bench.night import load
from tools.bench.parts import DEAD_LETTERS, TOPIC, served, settings
from tools.bench.process import installed_environment, running, write_settings
from worker.sandbox.broker import EmbeddedBroker
from worker.sandbox.moodle.server import MEASURED, Cost
from worker.sandbox.university.generator import University

TITLE = "Start-up and idle load"
ROUNDS = scaled(5, least=1)
SETTLE_SECONDS, IDLE_SECONDS = scaled(5, least=1), scaled(60, least=2)
TICKS = os.sysconf("SC_CLK_TCK")
PARTITIONS = 6


def run() -> Iterator[Figure]:
    """Start everything several times, then leave the last worker idle."""
    university = University(students=scaled(35_000))
    truth = university.truth()
    with ExitStack() as stack:
        broker = stack.enter_context(EmbeddedBroker())
        broker.create_topic(TOPIC, PARTITIONS)
        broker.create_topic(DEAD_LETTERS, 1)
        numbers = sorted(frozenset().union(*truth.values()))
        moodle = stack.enter_context(served([f"e{number}" for number in numbers], cost=Cost()))
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        ledger = f"sqlite:///{directory / 'ledger.db'}"
        load(settings(ledger=ledger, moodle=moodle.url), university.initial())
        moodle.charge(MEASURED)
        file = write_settings(directory / "cohorts.toml", ledger=ledger, moodle=moodle.url, bootstrap=broker.bootstrap)
        worker: list[float] = []
        help_: list[float] = []
        python: list[float] = []
        _seconds([PROGRAM, "--help"])  # compiles the modules
        for _ in range(ROUNDS):
            python.append(_seconds([sys.executable, "-c", "pass"]))
            help_.append(_seconds([PROGRAM, "--help"]))
            with running(file) as (_, seconds):
                worker.append(seconds)
        with running(file) as (pid, _):
            time.sleep(SETTLE_SECONDS)
            before = _cpu_seconds(pid)
            time.sleep(IDLE_SECONDS)
            busy, memory = _cpu_seconds(pid) - before, _resident(pid)
    bare = statistics.median(python)
    for what, starts in (("cohorts run, until started", worker), ("cohorts --help", help_)):
        seconds = statistics.median(starts)
        yield Figure(
            what=what,
            figure=Quantity(seconds, "s"),
            against=f"{bare:.2f} s, python -c pass",
            ratio=Quantity(seconds / bare, "times slower"),
        )
    what = f"an idle worker for {IDLE_SECONDS} s, {sum(map(len, truth.values())):,} memberships"
    yield Figure(what=what, figure=Quantity(100 * busy / IDLE_SECONDS, "% of a core", most=5))
    yield Figure(what=f"{what}: memory", figure=Quantity(memory, "MiB", most=250))


def _seconds(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=installed_environment())  # noqa: S603 - our own program
    return time.perf_counter() - started


def _cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process, in user and system mode."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / TICKS


def _resident(pid: int) -> float:
    """Return the resident memory of a process, in MiB."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    [line] = [line for line in lines if line.startswith("VmRSS:")]
    return int(line.split()[1]) / 1024
