"""Memory and time of a whole worker that starts with an empty ledger and the messages of a university."""

import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from multiprocessing.connection import Connection
from pathlib import Path

from tools.bench import Figure, Quantity, scaled
from tools.bench.parts import DEAD_LETTERS, PLATFORM, PROCESSES, TOPIC, command, served, settings
from worker import telemetry
from worker.kafka import RecordProducer
from worker.ledger.status import read_status
from worker.runtime.ledger import open_ledger
from worker.runtime.worker import Worker
from worker.sandbox.broker import EmbeddedBroker
from worker.sandbox.moodle.server import Cost
from worker.sandbox.university.generator import University
from worker.settings.root import Settings

TITLE = "A whole worker from an empty ledger"
PARTITIONS = 16  # the embedded broker keeps 5 MiB in each
LOOK_SECONDS = 0.5


def run() -> Iterator[Figure]:
    """Publish everything, then start the worker in a process of its own and measure it to the end."""
    university = University(students=scaled(35_000))
    with ExitStack() as stack:
        broker = stack.enter_context(EmbeddedBroker())
        broker.create_topic(TOPIC, PARTITIONS)
        broker.create_topic(DEAD_LETTERS, 1)
        messages = [(TOPIC, m.key.encode(), m.payload(), ()) for m in university.initial()]
        RecordProducer(broker.properties).send(messages)
        numbers = sorted(frozenset().union(*university.truth().values()))
        moodle = stack.enter_context(served([f"e{number}" for number in numbers], cost=Cost()))
        directory = stack.enter_context(tempfile.TemporaryDirectory())
        ours = settings(
            ledger=f"sqlite:///{Path(directory) / 'ledger.db'}",
            moodle=moodle.url,
            kafka={"bootstrap": broker.bootstrap},
            limits={"calls_per_second": 1000},
        )
        receiver, sender = PROCESSES.Pipe()
        process = command(_work, sender, ours, len(messages))
        before, recorded, after_recording, closed, at_the_end = receiver.recv()
        process.join()
    what, plain = f"{len(messages):,} messages", f"{before:.0f} MiB, before it starts"
    for done, peak_, seconds in (
        ("recorded", after_recording, recorded),
        ("on a Moodle with instant calls", at_the_end, closed),
    ):
        yield Figure(
            what=f"{what}, all {done} after {seconds:.1f} s: peak memory",
            figure=Quantity(peak_, "MiB"),
            against=plain,
            ratio=Quantity(peak_ / before, "times as much"),
        )


def _work(sender: Connection, ours: Settings, messages: int) -> None:
    """Run a worker until no message and no gap is left."""
    telemetry.configure_logging("warning")
    before, started = peak(), time.monotonic()
    worker = Worker(ours)
    with worker.running() as wait_for_end:
        ledger = open_ledger(ours)
        while sum((status := read_status(ledger, [PLATFORM], time.time())).positions.values()) < messages:
            time.sleep(LOOK_SECONDS)
        recorded, after_recording = time.monotonic() - started, peak()
        while any(status.platforms[0].gaps.values()):
            time.sleep(LOOK_SECONDS)
            status = read_status(ledger, [PLATFORM], time.time())
        sender.send((before, recorded, after_recording, time.monotonic() - started, peak()))
        ledger.close()
        worker.stop()
        wait_for_end()


def peak() -> float:
    """Return the peak memory of this process, in MiB.

    Not by getrusage, whose maximum is inherited from the process that started this one.
    """
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    [peak] = [line for line in lines if line.startswith("VmHWM:")]
    return int(peak.split()[1]) / 1024
