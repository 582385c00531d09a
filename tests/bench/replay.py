"""A topic read by a whole worker, in a process of its own, into SQLite: first from an empty ledger, then once more from
the beginning, as after `cohorts positions --forget`, when everything is known already. Moodle is down meanwhile, so
that recording has the machine to itself. The seconds run from the start of the worker's parts, Python's aside, until
the ledger holds the last position. What is aimed at is that ten times as many messages take no more than 11 times as
long.
"""

import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path

from tests.bench import Figure, Quantity, scaled
from tests.bench.memory import peak
from tests.bench.parts import DEAD_LETTERS, PROCESSES, TOPIC, command, settings
from worker import telemetry
from worker.app import Worker
from worker.broker import RecordProducer
from worker.config import Settings
from worker.ledger import reading
from worker.parts import open_ledger
from worker.sandbox.broker import EmbeddedBroker
from worker.sandbox.university import University

TITLE = "Reading a topic again: 10,000, 100,000 and 1,000,000 messages"
SIZES = tuple(scaled(number) for number in (10_000, 100_000, 1_000_000))
STUDENTS_A_MESSAGE = 0.67
MOST_TIMES = 11.0
LOOK_SECONDS = 0.05


def run() -> Iterator[Figure]:
    """Measure each size against the one before."""
    before: dict[str, float] = {}
    for messages in SIZES:
        now = {}
        for done, (seconds, memory) in _read(messages).items():
            now[done] = seconds
            what = f"{messages:,} messages, {done}"
            fewer = before.get(done)
            yield Figure(
                what=what,
                figure=f"{seconds:.1f} s, {messages / seconds:,.0f} messages/s",
                against="" if fewer is None else f"{fewer:.1f} s, of a tenth",
                ratio=None if fewer is None else Quantity(seconds / fewer, "times", most=MOST_TIMES),
            )
            yield Figure(what=f"{what}: peak of memory", figure=Quantity(memory, "MiB", most=250))
        before = now


def _read(messages: int) -> dict[str, tuple[float, float]]:
    """Publish so many messages, and have them read twice; gives seconds and peak of memory in MiB."""
    university = University(students=max(100, round(STUDENTS_A_MESSAGE * messages)), etapes=1_200)
    with ExitStack() as stack:
        broker = stack.enter_context(EmbeddedBroker())
        broker.create_topic(TOPIC, max(4, messages // 4_000))  # the embedded broker keeps 5 MiB in each
        broker.create_topic(DEAD_LETTERS, 1)
        told = islice(university.initial(), messages)
        RecordProducer(broker.properties).send((TOPIC, m.key.encode(), m.payload(), ()) for m in told)
        directory = stack.enter_context(tempfile.TemporaryDirectory())
        ours = settings(ledger=f"sqlite:///{Path(directory) / 'ledger.db'}", kafka={"bootstrap": broker.bootstrap})
        first = _recorded(ours, messages)
        ledger = open_ledger(ours)
        reading.forget_positions(ledger, TOPIC)
        ledger.close()
        return {"from an empty ledger": first, "all known already": _recorded(ours, messages)}


def _recorded(ours: Settings, messages: int) -> tuple[float, float]:
    theirs, pipe = PROCESSES.Pipe()
    process = command(_work, pipe, ours, messages)
    pipe.close()  # so that a process that fails is not waited for
    seconds, memory = theirs.recv()
    process.join()
    return seconds, memory


def _work(pipe: Connection, ours: Settings, messages: int) -> None:
    """Run a worker until it has read so many messages."""
    telemetry.configure_logging("error")
    worker, started = Worker(ours), time.perf_counter()
    with worker.running() as wait_for_end:
        ledger = open_ledger(ours)
        while sum(reading.positions(ledger, {TOPIC: None}).values()) < messages:
            time.sleep(LOOK_SECONDS)
        pipe.send((time.perf_counter() - started, peak()))
        ledger.close()
        worker.stop()
        wait_for_end()
