"""The composition root: settings to parts, parts to threads, signals to a graceful stop."""

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import FrameType

import structlog

from worker import broker, telemetry
from worker.config import PlatformSettings, Settings
from worker.converge import Lane, Patience
from worker.errors import BrokerError, ContractBroken, PositionLost
from worker.ingest import Ingest
from worker.ledger import Ledger, Recorder, Workbook, reading
from worker.model import PlatformState
from worker.moodle import Limits, MoodleReader, MoodleWriter, Wire
from worker.rules import Mapper, Mode
from worker.web import Health, application, serving

INGEST_BEAT_SECONDS = 120.0
STOP_SECONDS = 25.0
"""How long a call in flight may delay the end; after that the lease covers it."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where a running worker can be looked at."""

    web: str


def open_ledger(settings: Settings) -> Ledger:
    """Open the ledger that the settings name."""
    return Ledger(settings.ledger.url.get_secret_value())


def recorder(settings: Settings, ledger: Ledger) -> Recorder:
    """Build what writes changes into the ledger."""
    return Recorder(
        ledger,
        Mapper(settings.policy()),
        coalesce=settings.converge.coalesce_seconds,
        removal_delay=settings.converge.removal_delay_seconds,
    )


def wire(name: str, platform: PlatformSettings) -> Wire:
    """Connect to a platform's web services; needs its url and token."""
    if platform.url is None or platform.token is None:
        raise ValueError(f"{name} has no url and token")
    limits = Limits(**platform.limits.model_dump())
    return Wire(name, platform.url, platform.token.get_secret_value(), limits)


def lanes(settings: Settings, ledger: Ledger, stop: threading.Event, stack: ExitStack) -> Iterator[tuple[str, Lane]]:
    """Build the lanes of every platform that is not manual: one a connection, one where nothing is written."""
    me = f"{socket.gethostname()}:{os.getpid()}"
    patience = Patience(first=settings.converge.park_seconds, most=settings.converge.park_most_seconds)
    for policy in settings.policy().platforms:
        platform = settings.platforms[policy.name]
        if policy.mode is Mode.MANUAL:
            continue
        connection = wire(policy.name, platform)
        stack.callback(connection.close)
        writes = policy.mode is Mode.AUTOMATIC
        writer = MoodleWriter(connection, policy.mode, instance=ledger.instance) if writes else None
        reader = writer or MoodleReader(connection)
        for number in range(platform.limits.connections if writes else 1):
            holder = f"{me}:{policy.name}-{number}"
            # Longer than a call can last, so that a cohort is never taken over while one may be running.
            lease = 2 * platform.limits.timeout_seconds + 30
            book = Workbook(ledger, policy.name, holder, lease=lease)
            yield holder, Lane(policy, book, reader, writer, patience=patience, stop=stop)


class Worker:
    """A worker process: consumes, records, converges and answers, until told to stop."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stop = threading.Event()
        self._health = Health()

    def stop(self) -> None:
        """End gracefully: calls in flight are finished, nothing new is begun."""
        self._stop.set()

    @contextmanager
    def running(self) -> Iterator[Callable[[], None]]:
        """Start everything; gives a function that waits for the end, and raises what ended it."""
        with ExitStack() as stack:
            ledger = open_ledger(self._settings)
            stack.callback(ledger.close)
            ingest_loop = self._consume(ledger, stack)
            loops: dict[str, Callable[[], None]] = {"ingest": ingest_loop}
            for holder, lane in lanes(self._settings, ledger, self._stop, stack):
                loops[holder] = self._converge(holder, lane)
            changed = recorder(self._settings, ledger).apply_policy(now=time.time())
            if changed:
                log.warning("settings changed what is desired", memberships=changed)
            web = self._settings.web
            address = stack.enter_context(
                serving(application(self._health, lambda: self._gauges(ledger)), host=web.host, port=web.port)
            )
            log.info("started", web=address, instance=ledger.instance, lanes=len(loops) - 1)
            pool = stack.enter_context(ThreadPoolExecutor(len(loops), thread_name_prefix="cohorts"))
            futures = [pool.submit(loop) for loop in loops.values()]
            stack.callback(self.stop)
            yield lambda: self._wait(futures)

    def run(self) -> None:
        """Run until SIGTERM or SIGINT, or until a part fails: then that error is raised."""

        def on_signal(number: int, _frame: FrameType | None) -> None:
            log.info("stopping", signal=signal.Signals(number).name)
            self.stop()

        signal.signal(signal.SIGTERM, on_signal)
        signal.signal(signal.SIGINT, on_signal)
        with self.running() as wait_for_end:
            wait_for_end()

    def _wait(self, futures: list[Future[None]]) -> None:
        done: set[Future[None]] = set()
        while not done and not self._stop.is_set():
            done, _ = wait(futures, timeout=0.2, return_when=FIRST_COMPLETED)
        self.stop()
        finished, late = wait(futures, timeout=STOP_SECONDS)
        if late:
            log.warning("calls still in flight are left to their leases", lanes=len(late))
        for future in finished:
            future.result()

    def _consume(self, ledger: Ledger, stack: ExitStack) -> Callable[[], None]:
        kafka = self._settings.kafka
        properties = kafka.properties()
        cluster = broker.describe(properties, [*kafka.topics, kafka.dead_letters])
        if missing := {*kafka.topics, kafka.dead_letters} - cluster.topics.keys():
            raise BrokerError(f"missing topics: {', '.join(sorted(missing))}; create them, or see kafka.topics")
        topic_ids = {name: cluster.topics[name].id for name in kafka.topics}
        for topic in reading.recreated(ledger, topic_ids):
            log.warning("topic was re-created: read from its beginning", topic=topic)

        def start(partitions: list[tuple[str, int]]) -> dict[tuple[str, int], int]:
            known = reading.positions(ledger, topic_ids)
            return {partition: known[partition] for partition in partitions if partition in known}

        consumer = broker.RecordConsumer(properties, group=kafka.group, topics=kafka.topics, start=start)
        stack.callback(consumer.close)
        ingest = Ingest(
            consumer,
            broker.RecordProducer(properties),
            recorder(self._settings, ledger),
            dead_letters=kafka.dead_letters,
            topic_ids=topic_ids,
            batch=kafka.batch,
            invalid_limit=kafka.invalid_limit,
        )

        def loop() -> None:
            try:
                while not self._stop.is_set():
                    self._health.beat("ingest", within=INGEST_BEAT_SECONDS)
                    ingest.step()
                    lag: dict[str, int] = dict.fromkeys(kafka.topics, 0)
                    for (topic, _), messages in consumer.lag().items():
                        lag[topic] += messages
                    for topic, messages in lag.items():
                        telemetry.LAG.labels(topic).set(messages)
            except (ContractBroken, PositionLost) as error:
                reason = "contract_broken" if isinstance(error, ContractBroken) else "position_lost"
                telemetry.CONSUMPTION_STOPPED.labels(reason).set(1)
                self._health.forget("ingest")
                self._health.obstacles["ingest"] = str(error)
                log.error("consumption stopped; converging goes on", reason=reason, error=str(error))
                self._stop.wait()

        return loop

    def _converge(self, holder: str, lane: Lane) -> Callable[[], None]:
        poll = self._settings.converge.poll_seconds
        # A turn is some calls, each of which may take as long as the time-out.
        within = 60 + 40 * max(p.limits.timeout_seconds for p in self._settings.platforms.values())

        def loop() -> None:
            while not self._stop.is_set():
                self._health.beat(holder, within=within)
                if not lane.turn():
                    self._stop.wait(poll)

        return loop

    def _gauges(self, ledger: Ledger) -> None:
        names = [name for name, p in self._settings.platforms.items() if p.mode is not Mode.MANUAL]
        for platform in reading.status(ledger, names, time.time()).platforms:
            for state, number in platform.gaps.items():
                telemetry.GAPS.labels(platform.name, state).set(number)
            for state, number in platform.cohorts.items():
                telemetry.COHORTS.labels(platform.name, state).set(number)
            telemetry.MEMBERSHIPS.labels(platform.name).set(platform.memberships)
            telemetry.PLATFORM_UP.labels(platform.name).set(platform.state is PlatformState.UP)
            telemetry.PLATFORM_DENIED.labels(platform.name).set(platform.state is PlatformState.DENIED)
            if platform.oldest is None:
                with_label = (platform.name,)
                if with_label in telemetry.OLDEST_GAP._metrics:  # noqa: SLF001 - remove() raises for an absent label
                    telemetry.OLDEST_GAP.remove(*with_label)
            else:
                telemetry.OLDEST_GAP.labels(platform.name).set(platform.oldest)
