"""Seconds from the publication of a message to its membership on Moodle, in steady streams of messages.

Each message is a new membership of a university that is in step with its Moodle. It goes through the broker to
`cohorts run` with default settings, which waits two seconds to coalesce messages. During the last stream, another
process runs one reconciliation after another, each with a snapshot of its own.
"""

import multiprocessing.synchronize
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from datetime import UTC, datetime, timedelta
from itertools import count, islice
from pathlib import Path
from typing import Any

import orjson

from tools.bench import Figure, Quantity, scaled
from tools.bench.night import load, publish, reconciled, with_topic
from tools.bench.parts import DEAD_LETTERS, PROCESSES, TOPIC, Moodle, Seen, command, served, settings
from tools.bench.process import running, write_settings
from worker.kafka import RecordProducer
from worker.sandbox.broker import EmbeddedBroker
from worker.sandbox.moodle.server import MEASURED, Cost
from worker.sandbox.university.generator import University
from worker.sandbox.university.records import Message
from worker.settings.root import Settings

TITLE = "From message to Moodle"
STREAMS = ((1, 100, False), (20, 1_200, False), (200, 6_000, False), (20, 1_200, True))
"""Messages per second, number of messages, and whether reconciliations run meanwhile."""
PARTITIONS = 4
SNAPSHOT_PARTITIONS = 16  # the embedded broker keeps 5 MiB in each
ARRIVAL_SECONDS = 60
MOST_SECONDS = 10.0
MOST_NIGHTS = 40
"""During one stream."""


def run() -> Iterator[Figure]:
    """Load a university without the memberships to come, then publish these, stream by stream."""
    university = University(students=scaled(35_000, least=1_000))
    coming = _new(university)
    before = [message for message in university.initial() if _membership(message) not in coming]
    rows = [orjson.dumps(data) for data in _own_enrolments(before, university.uai)]
    with ExitStack() as stack:
        moodle = stack.enter_context(served(_usernames(university), cost=Cost()))
        broker = stack.enter_context(EmbeddedBroker())
        broker.create_topic(TOPIC, PARTITIONS)
        broker.create_topic(DEAD_LETTERS, 1)
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        ledger = f"sqlite:///{directory / 'ledger.db'}"
        ours = settings(ledger=ledger, moodle=moodle.url, kafka={"bootstrap": broker.bootstrap})
        load(ours, before)
        moodle.charge(MEASURED)
        moodle.watch()
        file = write_settings(directory / "cohorts.toml", ledger=ledger, moodle=moodle.url, bootstrap=broker.bootstrap)
        stack.enter_context(running(file))
        left = iter(coming.items())
        for rate, messages, has_nights in STREAMS:
            stream = dict(islice(left, scaled(messages, least=5)))
            with _nights(broker, ours, rows) if has_nights else nullcontext():
                published = _publish(broker, stream, rate)
                seen = _arrived(moodle, published)
            waits = sorted(seen[membership] - at for membership, at in published.items())
            yield from _figures(f"{rate} messages/s{' during nights' if has_nights else ''}", waits)


def _figures(what: str, waits: list[float]) -> Iterator[Figure]:
    for percentile in (95, 99):
        yield Figure(
            what=f"{what}, {percentile}th percentile of {len(waits):,}",
            figure=Quantity(statistics.quantiles(waits, n=100)[percentile - 1], "s", most=MOST_SECONDS),
            against=f"{statistics.median(waits):.1f} s, the median",
        )


def _own_enrolments(messages: Iterable[Message], uai: str) -> Iterator[dict[str, Any]]:
    for message in messages:
        data = message.value["data"]
        if "enrolment_id" in data and data["source"]["uai"] == uai:
            yield data


def _usernames(university: University) -> list[str]:
    return sorted({f"e{number}" for members in university.truth().values() for number in members})


def _new(university: University) -> dict[tuple[str, str], Message]:
    """Return messages by membership, of memberships that follow from one message alone."""
    messages = [(key, message) for message in university.initial() if (key := _membership(message)) is not None]
    times = Counter(key for key, _ in messages)
    truth = {(cohort, f"e{number}") for cohort, members in university.truth().items() for number in members}
    needed = sum(scaled(number, least=5) for _, number, _ in STREAMS)
    alone = ((key, message) for key, message in messages if times[key] == 1 and key in truth)
    return dict(islice(alone, needed))


def _membership(message: Message) -> tuple[str, str] | None:
    """Return the membership that follows from an active enrolment of this year, as Moodle shows it."""
    data = message.value["data"]
    if data.get("status") != "active" or data["payment"] == "due" or data["academic_year"] != 2026:
        return None
    return data["etape"]["code"], f"e{data['student']['student_id']}"


def _publish(broker: EmbeddedBroker, coming: Mapping[tuple[str, str], Message], rate: int) -> Seen:
    """Publish at a steady rate, dated now; returns the instant of each."""
    producer = RecordProducer(broker.properties)
    published: Seen = {}
    start = time.time()
    for i, (key, message) in enumerate(coming.items()):
        time.sleep(max(0.0, start + i / rate - time.time()))
        published[key] = time.time()
        now = datetime.fromtimestamp(published[key], UTC).isoformat()
        payload = orjson.dumps(message.value | {"time": now})
        producer.send([(TOPIC, message.key.encode(), payload, ())])
    return published


def _arrived(moodle: Moodle, published: Seen) -> Seen:
    deadline = time.monotonic() + ARRIVAL_SECONDS
    while missing := published.keys() - (seen := moodle.seen()).keys():
        if time.monotonic() > deadline:
            raise RuntimeError(f"{len(missing)} of {len(published)} memberships are missing on Moodle")
        time.sleep(0.5)
    return seen


@contextmanager
def _nights(broker: EmbeddedBroker, ours: Settings, rows: list[bytes]) -> Iterator[None]:
    """Reconcile again and again."""
    for number in range(MOST_NIGHTS):
        broker.create_topic(f"snapshots-{number}", SNAPSHOT_PARTITIONS)
    stop = PROCESSES.Event()
    process = command(_reconcile, stop, ours, rows)
    try:
        yield
    finally:
        stop.set()
        process.join()
    if process.exitcode:
        raise RuntimeError("a reconciliation failed")


def _reconcile(stop: multiprocessing.synchronize.Event, ours: Settings, rows: list[bytes]) -> None:
    """Do what the timer does at night, with the rows of before the first stream."""
    first = datetime.now(UTC) - timedelta(hours=1)
    for number in count():
        if stop.is_set():
            return
        tonight = with_topic(ours, f"snapshots-{number}")
        publish(tonight, rows, first + timedelta(seconds=number))
        reconciled(tonight, with_snapshot=True)
