"""Seconds from the publication of a message to its membership on Moodle, in a steady stream of messages."""

import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from tests.bench import Figure
from tests.bench.parts import DEAD_LETTERS, TOPIC, Moodle, Seen, served, settings
from worker.app import Worker
from worker.broker import RecordProducer
from worker.sandbox.broker import EmbeddedBroker
from worker.sandbox.moodle import MEASURED
from worker.sandbox.records import Message
from worker.sandbox.university import University

MESSAGES_A_SECOND = 20
SECONDS = 30
PARTITIONS = 4
ARRIVAL_SECONDS = 60


def run() -> Iterator[Figure]:
    """Publish through the embedded broker to a whole worker, with default settings."""
    number = MESSAGES_A_SECOND * SECONDS
    university = University(students=2 * number, etapes=60)
    numbers = [number for _, _, number in university.accounts()]
    with ExitStack() as stack:
        moodle = stack.enter_context(served([f"e{number}" for number in numbers], cost=MEASURED))
        broker = stack.enter_context(EmbeddedBroker())
        broker.create_topic(TOPIC, PARTITIONS)
        broker.create_topic(DEAD_LETTERS, 1)
        directory = stack.enter_context(tempfile.TemporaryDirectory())
        worker = Worker(
            settings(
                ledger=f"sqlite:///{Path(directory) / 'ledger.db'}",
                moodle=moodle.url,
                kafka={"bootstrap": broker.bootstrap},
            )
        )
        wait_for_end = stack.enter_context(worker.running())
        moodle.watch()
        published = _publish(broker, university, set(numbers), number)
        seen = _arrived(moodle, published)
        worker.stop()
        wait_for_end()
    waits = sorted(seen[key] - at for key, at in published.items() if key in seen)
    what = f"{MESSAGES_A_SECOND} messages/s for {SECONDS} s: {len(waits)} of {len(published)} arrived"
    for percentile, aim in ((50, ""), (95, "less than 10 s"), (99, "")):
        at = statistics.quantiles(waits, n=100)[percentile - 1]
        yield Figure(what=what, value=f"{at:.1f} s", against=f"{percentile}th percentile", aim=aim)


def _publish(broker: EmbeddedBroker, university: University, numbers: set[str], most: int) -> Seen:
    """Publish at a steady pace, each message a new membership; gives the instant of each."""
    producer = RecordProducer(broker.properties)
    messages = list(university.initial())
    described = (message for message in messages if not _membership(message))
    producer.send((TOPIC, message.key.encode(), message.payload(), ()) for message in described)
    truth = {(cohort, f"e{n}") for cohort, some in university.truth().items() for n in some & numbers}
    coming = {key: message for message in messages if (key := _membership(message)) in truth}
    published: Seen = {}
    start = time.time()
    for i, (key, message) in enumerate(coming.items()):
        if i == most:
            break
        time.sleep(max(0.0, start + i / MESSAGES_A_SECOND - time.time()))
        published[key] = time.time()
        producer.send([(TOPIC, message.key.encode(), message.payload(), ())])
    return published


def _membership(message: Message) -> tuple[str, str] | None:
    """Give the membership that an active enrolment of this year leads to, as Moodle shows it."""
    data = message.value["data"]
    if data.get("status") != "active" or data["payment"] == "due" or data["academic_year"] != 2026:
        return None
    return data["etape"]["code"], f"e{data['student']['student_id']}"


def _arrived(moodle: Moodle, published: Seen) -> Seen:
    deadline = time.monotonic() + ARRIVAL_SECONDS
    seen = moodle.seen()
    while published.keys() - seen.keys() and time.monotonic() < deadline:
        time.sleep(0.5)
        seen = moodle.seen()
    return seen
