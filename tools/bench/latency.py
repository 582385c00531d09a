"""Seconds from the publication of a message to its membership on Moodle, in steady streams of messages.

Each message is a new membership of a university that is in step with its Moodle. They go through the broker to
`cohorts run` with default settings, which waits two seconds for what comes together. The last stream meets nights: in
another process one reconciliation follows another, each with a snapshot of its own.
"""

import multiprocessing.synchronize
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from datetime import UTC, datetime, timedelta
from itertools import count, islice
from pathlib import Path

import orjson

from tools.bench import Figure, Quantity, scaled
from tools.bench.night import load, publish, reconciled, with_topic
from tools.bench.parts import DEAD_LETTERS, PROCESSES, TOPIC, Moodle, Seen, command, served, settings
from tools.bench.process import running, written
from worker.kafka import RecordProducer
from worker.sandbox.broker import EmbeddedBroker
from worker.sandbox.moodle.server import MEASURED, Cost
from worker.sandbox.university.generator import University
from worker.sandbox.university.records import Message
from worker.settings.root import Settings

TITLE = "From message to Moodle"
STREAMS = ((1, 100, False), (20, 1_200, False), (200, 6_000, False), (20, 1_200, True))
"""Messages a second, messages, and whether there is a night."""
PARTITIONS = 4
SNAPSHOT_PARTITIONS = 16  # the embedded broker keeps 5 MiB in each
ARRIVAL_SECONDS = 60
MOST_SECONDS = 10.0
MOST_NIGHTS = 40
"""In the time of a stream."""


def run() -> Iterator[Figure]:
    """Load a university but for the memberships that are to come, and let these come, stream by stream."""
    university = University(students=scaled(35_000, least=1_000))
    usernames = {f"e{number}" for some in university.truth().values() for number in some}
    new = _new(university)
    before = [message for message in university.initial() if _membership(message) not in new]
    told = (message.value["data"] for message in before)
    rows = [orjson.dumps(data) for data in told if "enrolment_id" in data and data["source"]["uai"] == university.uai]
    with ExitStack() as stack:
        moodle = stack.enter_context(served(sorted(usernames), cost=Cost()))
        broker = stack.enter_context(EmbeddedBroker())
        broker.create_topic(TOPIC, PARTITIONS)
        broker.create_topic(DEAD_LETTERS, 1)
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        ledger = f"sqlite:///{directory / 'ledger.db'}"
        ours = settings(ledger=ledger, moodle=moodle.url, kafka={"bootstrap": broker.bootstrap})
        load(ours, before)
        moodle.charge(MEASURED)
        moodle.watch()
        file = written(directory / "cohorts.toml", ledger=ledger, moodle=moodle.url, bootstrap=broker.bootstrap)
        stack.enter_context(running(file))
        coming = iter(new.items())
        for rate, messages, night in STREAMS:
            some = dict(islice(coming, scaled(messages, least=5)))
            with _nights(broker, ours, rows) if night else nullcontext():
                published = _publish(broker, some, rate)
                seen = _arrived(moodle, published)
            waits = sorted(seen[key] - at for key, at in published.items())
            what = f"{rate} messages/s{' during nights' if night else ''}"
            for percentile in (95, 99):
                yield Figure(
                    what=f"{what}, {percentile}th percentile of {len(waits):,}",
                    figure=Quantity(statistics.quantiles(waits, n=100)[percentile - 1], "s", most=MOST_SECONDS),
                    against=f"{statistics.median(waits):.1f} s, the median",
                )


def _new(university: University) -> dict[tuple[str, str], Message]:
    """Give messages that alone lead to a membership, by this membership."""
    told = [(key, message) for message in university.initial() if (key := _membership(message)) is not None]
    times = Counter(key for key, _ in told)
    truth = {(cohort, f"e{number}") for cohort, some in university.truth().items() for number in some}
    most = sum(scaled(messages, least=5) for _, messages, _ in STREAMS)
    alone = ((key, message) for key, message in told if times[key] == 1 and key in truth)
    return dict(islice(alone, most))


def _membership(message: Message) -> tuple[str, str] | None:
    """Give the membership that an active enrolment of this year leads to, as Moodle shows it."""
    data = message.value["data"]
    if data.get("status") != "active" or data["payment"] == "due" or data["academic_year"] != 2026:
        return None
    return data["etape"]["code"], f"e{data['student']['student_id']}"


def _publish(broker: EmbeddedBroker, coming: Mapping[tuple[str, str], Message], rate: int) -> Seen:
    """Publish at a steady pace, as of now; gives the instant of each."""
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
    over = PROCESSES.Event()
    process = command(_reconcile, over, ours, rows)
    try:
        yield
    finally:
        over.set()
        process.join()
    if process.exitcode:
        raise RuntimeError("a night failed")


def _reconcile(over: multiprocessing.synchronize.Event, ours: Settings, rows: list[bytes]) -> None:
    """Do what the night's timer does, with what the source held before the first message of a stream."""
    first = datetime.now(UTC) - timedelta(hours=1)
    for number in count():
        if over.is_set():
            return
        tonight = with_topic(ours, f"snapshots-{number}")
        publish(tonight, rows, first + timedelta(seconds=number))
        reconciled(tonight, with_snapshot=True)
