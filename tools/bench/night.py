"""A night that finds nothing to do, against a plain script that only reads the same data.

The script reads the cohorts and their members, in calls of the same size, and, if there is a snapshot, the messages
of its topic and their JSON.
"""

import statistics
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import httpx
import orjson
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

from schemas import EnrolmentRow
from tools.bench import Figure, Quantity, scaled
from tools.bench.memory import peak
from tools.bench.moodle import converge
from tools.bench.parts import PLATFORM, PROCESSES, TOKEN, Moodle, command, record, served, settings
from worker import snapshots, telemetry
from worker.domain.snapshots import SnapshotScope
from worker.domain.states import RunState
from worker.moodle.transport import ENVELOPE_FIELDS, SERVICE
from worker.runtime import build
from worker.runtime.ledger import open_ledger, recorder
from worker.runtime.worker import converging
from worker.sandbox.broker import EmbeddedBroker
from worker.sandbox.moodle.server import MEASURED, Cost
from worker.sandbox.university.generator import University
from worker.sandbox.university.records import Message
from worker.settings.root import Settings

TITLE = "A night without drift"
ROUNDS = scaled(5, least=1)
PARTITIONS = 16  # the embedded broker keeps 5 MiB in each


def run() -> Iterator[Figure]:
    """Load a university, close its gaps on a Moodle with instant calls, then reconcile at measured costs."""
    university = University(students=scaled(35_000))
    truth = university.truth()
    rows = list(university.snapshot_rows())
    with ExitStack() as stack:
        broker = stack.enter_context(EmbeddedBroker())
        numbers = sorted(frozenset().union(*truth.values()))
        moodle = stack.enter_context(served([f"e{number}" for number in numbers], cost=Cost()))
        directory = stack.enter_context(tempfile.TemporaryDirectory())
        ours = settings(
            ledger=f"sqlite:///{Path(directory) / 'ledger.db'}",
            moodle=moodle.url,
            kafka={"bootstrap": broker.bootstrap},
        )
        load(ours, university.initial())
        moodle.charge(MEASURED)
        bare, bare_both, only_moodle, whole = [], [], [], []
        for number in range(ROUNDS):
            tonight = with_topic(ours, f"snapshots-{number}")
            broker.create_topic(tonight.kafka.snapshots, PARTITIONS)
            publish(tonight, rows)
            bare.append(_read_moodle(moodle, ours))
            bare_both.append(bare[-1] + _read_topic(tonight))
            only_moodle.append(reconciled(tonight, with_snapshot=False))
            whole.append(reconciled(tonight, with_snapshot=True))
    what = f"{sum(map(len, truth.values())):,} memberships, {len(truth):,} cohorts"
    yield from _figures(what, only_moodle, {"Moodle": bare})
    what += f", snapshot of {len(rows):,}"
    yield from _figures(what, whole, {"Moodle": bare, "Moodle and the topic": bare_both})


def _figures(what: str, ours: list[tuple[float, float]], bare: dict[str, list[float]]) -> Iterator[Figure]:
    seconds = statistics.median(seconds for seconds, _ in ours)
    for source, readings in bare.items():
        plain = statistics.median(readings)
        yield Figure(
            what=what,
            figure=Quantity(seconds, "s"),
            against=f"{plain:.2f} s, only reading {source}",
            ratio=Quantity(seconds / plain, "times slower", most=3.0),
        )
    memory = max(memory for _, memory in ours)
    yield Figure(what=f"{what}: peak memory", figure=Quantity(memory, "MiB", most=238))


def load(ours: Settings, messages: Iterable[Message]) -> None:
    """Bring the ledger and Moodle in step, without any throttle."""
    platform = ours.platforms[PLATFORM]
    unlimited = platform.model_copy(
        update={"limits": platform.limits.model_copy(update={"calls_per_second": 1000.0})},
    )
    at_once = ours.converge.model_copy(update={"coalesce_seconds": 0.0})
    quick = ours.model_copy(update={"converge": at_once, "platforms": {PLATFORM: unlimited}})
    ledger = open_ledger(quick)
    record(quick, ledger, messages)
    converge(quick, ledger)
    ledger.close()


def with_topic(ours: Settings, topic: str) -> Settings:
    return ours.model_copy(update={"kafka": ours.kafka.model_copy(update={"snapshots": topic})})


def _read_moodle(moodle: Moodle, ours: Settings) -> float:
    """Read all cohorts and their members, in calls of the same size as ours; returns the seconds."""
    size = ours.platforms[PLATFORM].limits.fields - ENVELOPE_FIELDS

    def call(client: httpx.Client, function: str, **form: object) -> list[dict[str, Any]]:
        envelope = {"wsfunction": function, "moodlewsrestformat": "json", "wstoken": TOKEN}
        answer = client.post(f"{moodle.url}/{SERVICE}", data=envelope | form, timeout=60).raise_for_status()
        found: list[dict[str, Any]] = answer.json()
        return found

    started = time.perf_counter()
    with httpx.Client() as client:
        ids = [cohort["id"] for cohort in call(client, "core_cohort_get_cohorts")]
        members: dict[int, set[int]] = {}
        for start in range(0, len(ids), size):
            form = {f"cohortids[{i}]": number for i, number in enumerate(ids[start : start + size])}
            for cohort in call(client, "core_cohort_get_cohort_members", **form):
                members[cohort["cohortid"]] = {*cohort["userids"]}
    return time.perf_counter() - started


def _read_topic(ours: Settings) -> float:
    """Read every message of the topic, and its JSON; returns the seconds."""
    started = time.perf_counter()
    consumer = Consumer(
        {**ours.kafka.properties(), "group.id": "bare", "enable.auto.commit": False, "enable.partition.eof": True}
    )
    consumer.assign([TopicPartition(ours.kafka.snapshots, number, OFFSET_BEGINNING) for number in range(PARTITIONS)])
    unfinished, rows = PARTITIONS, []
    while unfinished:
        for message in consumer.consume(500, 0.05):
            if message.error():
                unfinished -= 1
            else:
                rows.append(orjson.loads(message.value() or b"null"))
    consumer.close()
    return time.perf_counter() - started


def publish(ours: Settings, rows: Iterable[bytes], taken_at: datetime | None = None) -> None:
    """Publish a snapshot with these rows, taken now by default."""
    scope = SnapshotScope(uais=ours.uais, academic_years=frozenset({2025, 2026}))
    taken_at = taken_at or datetime.now(UTC)
    with snapshots.collect(map(EnrolmentRow.model_validate_json, rows), scope) as snapshot:
        name = snapshots.new_id(snapshot.system, taken_at)
        publisher = snapshots.Publisher(ours.kafka.properties(), ours.kafka.snapshots)
        publisher.publish(snapshot, snapshot_id=name, taken_at=taken_at)


def reconciled(ours: Settings, *, with_snapshot: bool, drift: int = 0) -> tuple[float, float]:
    """Reconcile in a process of its own; returns seconds, without the start of Python, and peak memory in MiB.

    Raises RuntimeError unless exactly that drift was found, and closed.
    """
    receiver, sender = PROCESSES.Pipe()
    process = command(_reconcile, sender, ours, with_snapshot, drift)
    sender.close()  # so that recv() fails if the process does
    seconds, memory = receiver.recv()
    process.join()
    return seconds, memory


def _reconcile(sender: Connection, ours: Settings, with_snapshot: bool, drift: int) -> None:  # noqa: FBT001 - a process's argument
    """Do what the command does."""
    telemetry.configure_logging("warning")
    started = time.perf_counter()
    stop = threading.Event()
    with ExitStack() as stack:
        ledger = open_ledger(ours)
        stack.callback(ledger.close)
        recorder(ours, ledger).apply_policy(now=time.time())
        stack.enter_context(converging(ours, ledger, stop))
        report = build.reconciliation(ours, ledger, stack, stop=stop, with_snapshot=with_snapshot).run()
    seconds = time.perf_counter() - started
    if report is None or report.state is not RunState.DONE or sum(report.platforms[0].drift.values()) != drift:
        raise RuntimeError(f"a drift of {drift} was not found and closed: {report}")
    sender.send((seconds, peak()))
