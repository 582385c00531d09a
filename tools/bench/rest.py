"""What it costs to start a command, and a worker that has nothing to do.

`cohorts run` is started on the ledger of a university that is in step with its Moodle, and timed until it logs that it
has started; `cohorts --help` until its end; a bare Python until its end. The median of several starts, in turn. Then a
worker is left alone, and the processor's time that the kernel counts for it is read at the beginning and the end.
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
from tools.bench.process import installed, running, written
from worker.sandbox.broker import EmbeddedBroker
from worker.sandbox.moodle.server import MEASURED, Cost
from worker.sandbox.university.generator import University

TITLE = "Starting, and doing nothing"
ROUNDS = scaled(5, least=1)
SETTLE_SECONDS, IDLE_SECONDS = scaled(5, least=1), scaled(60, least=2)
TICKS = os.sysconf("SC_CLK_TCK")
PARTITIONS = 6


def run() -> Iterator[Figure]:
    """Start everything several times, then leave the last worker alone."""
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
        file = written(directory / "cohorts.toml", ledger=ledger, moodle=moodle.url, bootstrap=broker.bootstrap)
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
            before = _processor_seconds(pid)
            time.sleep(IDLE_SECONDS)
            busy, memory = _processor_seconds(pid) - before, _resident(pid)
    bare = statistics.median(python)
    for what, some in (("cohorts run, until it has started", worker), ("cohorts --help", help_)):
        seconds = statistics.median(some)
        yield Figure(
            what=what,
            figure=Quantity(seconds, "s"),
            against=f"{bare:.2f} s, python -c pass",
            ratio=Quantity(seconds / bare, "times slower"),
        )
    what = f"a worker with nothing to do for {IDLE_SECONDS} s, {sum(map(len, truth.values())):,} memberships"
    yield Figure(what=what, figure=Quantity(100 * busy / IDLE_SECONDS, "% of a core", most=5))
    yield Figure(what=f"{what}: memory", figure=Quantity(memory, "MiB", most=250))


def _seconds(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=installed())  # noqa: S603 - our own program
    return time.perf_counter() - started


def _processor_seconds(pid: int) -> float:
    """Give the time that a process has had of the processor, in user and system mode."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / TICKS


def _resident(pid: int) -> float:
    """Give the memory that a process holds, in MiB."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    [line] = [line for line in lines if line.startswith("VmRSS:")]
    return int(line.split()[1]) / 1024
