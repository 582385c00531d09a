"""The composition root: settings to parts, parts to threads, signals to a graceful stop."""

import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import FrameType

import structlog

from worker import broker, snapshots, telemetry
from worker.config import PlatformSettings, Settings, Strangers
from worker.converge import Lane, Patience
from worker.errors import BrokerError, ContractBroken, PositionLost
from worker.ingest import Ingest
from worker.ledger import Ledger, Recorder, Workbook, reading
from worker.ledger.runs import Runs
from worker.model import AcceptedSnapshot, Instant, PlatformState, Snapshot
from worker.moodle import Limits, MoodleReader, MoodleWriter, Wire
from worker.reconcile import Latest, Progress, Reconciliation, Site
from worker.rules import Mapper, Mode
from worker.web import Health, application, serving

INGEST_BEAT_SECONDS = 120.0
TOPICS_SECONDS = 15.0
"""How often to see whether the topics are still those that the positions are of."""
POSITION_REMEDY = (
    "messages may be lost, so have them published again; "
    "`cohorts positions --forget TOPIC`, then a restart, reads what is left"
)
STOP_SECONDS = 25.0
"""How long a call in flight may delay the end; after that the lease covers it."""

RUN_LEASE_SECONDS = 900.0
"""A reconciliation that doesn't come round within this time is taken for dead; on the same host, it is seen at once."""
ME = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
"""This process. In a container that is restarted, host and number are those of the dead one."""

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
        grace=settings.eligibility.grace_days * 86_400,
    )


def wire(name: str, platform: PlatformSettings) -> Wire:
    """Connect to a platform's web services; needs its url and token."""
    if platform.url is None or platform.token is None:
        raise ValueError(f"{name} has no url and token")
    limits = Limits(**platform.limits.model_dump())
    return Wire(name, platform.url, platform.token.get_secret_value(), limits)


def lanes(settings: Settings, ledger: Ledger, stop: threading.Event, stack: ExitStack) -> Iterator[tuple[str, Lane]]:
    """Build the lanes of every platform that is not manual: one a connection, one where nothing is written."""
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
            holder = f"{ME}:{policy.name}-{number}"
            # Longer than a call can last, so that a cohort is never taken over while one may be running.
            lease = 2 * platform.limits.timeout_seconds + 30
            book = Workbook(ledger, policy.name, holder, lease=lease, guard=settings.guard(policy.name))
            yield holder, Lane(policy, book, reader, writer, patience=patience, stop=stop)


def is_dead(holder: str) -> bool:
    """Whether a process of this host, as it is named in a lease, is no more; of other hosts we can't tell."""
    host, number, mark = holder.rsplit(":", 2)
    if host != socket.gethostname():
        return False
    if int(number) == os.getpid():
        return mark != ME.rsplit(":", 1)[1]
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def latest_snapshot(settings: Settings) -> Latest:
    """Build what reads the topic for the newest acceptable snapshot."""

    def latest(now: Instant, accepted: AcceptedSnapshot | None) -> Snapshot:
        return snapshots.latest(
            settings.kafka.properties(),
            settings.kafka.snapshots,
            now=now,
            accepted=accepted,
            uais=settings.uais,
            years=settings.active_years,
            limits=snapshots.Limits(
                max_age_seconds=settings.snapshot.max_age_hours * 3600,
                max_shrink_percent=settings.snapshot.max_shrink_percent,
            ),
        )

    return latest


def reconciliation(
    settings: Settings,
    ledger: Ledger,
    stack: ExitStack,
    *,
    stop: threading.Event,
    with_snapshot: bool = True,
    progress: Callable[[Progress], None] = lambda _: None,
) -> Reconciliation:
    """Build a reconciliation of every platform that can be read."""
    sites = []
    for policy in settings.policy().platforms:
        platform = settings.platforms[policy.name]
        reader = None
        if platform.url is not None and platform.token is not None:
            connection = wire(policy.name, platform)
            stack.callback(connection.close)
            reader = MoodleReader(connection)
        sites.append(
            Site(
                policy=policy,
                guard=settings.guard(policy.name),
                reader=reader,
                remove_strangers=platform.strangers is Strangers.REMOVE,
            )
        )
    return Reconciliation(
        ledger,
        recorder(settings, ledger),
        sites,
        Runs(ledger, ME, lease=RUN_LEASE_SECONDS, is_dead=is_dead),
        latest=latest_snapshot(settings) if with_snapshot else None,
        wait_seconds=settings.reconcile.wait_minutes * 60,
        pause=stop.wait,
        progress=progress,
    )


@contextmanager
def converging(settings: Settings, ledger: Ledger, stop: threading.Event) -> Iterator[None]:
    """Close gaps in threads of this process for as long as the context lasts: for commands that wait for them."""
    with ExitStack() as stack:
        parts = [
            _spawn(holder, lambda lane=lane: _turning(lane, stop, settings.converge.poll_seconds))  # type: ignore[misc] # a lambda's default
            for holder, lane in lanes(settings, ledger, stop, stack)
        ]
        try:
            yield
        finally:
            stop.set()
            wait(parts, timeout=STOP_SECONDS)
        for part in parts:
            part.result(timeout=0)


def _turning(lane: Lane, stop: threading.Event, poll: float) -> None:
    while not stop.is_set():
        if not lane.turn():
            stop.wait(poll)


class Worker:
    """A worker process: consumes, records, converges and answers, until told to stop."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stop = threading.Event()
        self._signal: int | None = None
        self._health = Health()

    def stop(self) -> None:
        """End gracefully: calls in flight are finished, nothing new is begun."""
        self._stop.set()

    @contextmanager
    def running(self) -> Iterator[Callable[[], None]]:
        """Start everything; gives a function that waits until told to stop, or until a part fails.

        At the end everything is stopped, and what a part failed with is raised.
        """
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
            for name, platform in self._settings.platforms.items():
                if not platform.guard.enabled and platform.mode is not Mode.MANUAL:
                    log.warning("the guard is off: removals are not limited", platform=name)
            web = self._settings.web
            address = stack.enter_context(
                serving(application(self._health, lambda: self._gauges(ledger)), host=web.host, port=web.port)
            )
            log.info("started", web=address, instance=ledger.instance, lanes=len(loops) - 1)
            parts = [_spawn(name, loop) for name, loop in loops.items()]
            try:
                yield lambda: self._wait(parts)
            finally:
                self._end(parts)

    def run(self) -> None:
        """Run until SIGTERM or SIGINT, or until a part fails: then that error is raised."""

        def on_signal(number: int, _frame: FrameType | None) -> None:
            self._signal = number  # no more: a log or an event may be locked by what the signal interrupted

        signal.signal(signal.SIGTERM, on_signal)
        signal.signal(signal.SIGINT, on_signal)
        with self.running() as wait_for_end:
            wait_for_end()

    def _wait(self, parts: Sequence[Future[None]]) -> None:
        while not self._stop.is_set() and self._signal is None:
            if wait(parts, timeout=0.2, return_when=FIRST_COMPLETED).done:
                return
        if self._signal is not None:
            log.info("stopping", signal=signal.Signals(self._signal).name)

    def _end(self, parts: Sequence[Future[None]]) -> None:
        self.stop()
        finished, late = wait(parts, timeout=STOP_SECONDS)
        if late:
            log.warning("calls still in flight are left to their leases", lanes=len(late))
        for part in finished:
            part.result()

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

        return lambda: self._read(ingest, consumer, topic_ids)

    def _read(self, ingest: Ingest, consumer: broker.RecordConsumer, topic_ids: Mapping[str, str | None]) -> None:
        properties = self._settings.kafka.properties()
        look_at = time.monotonic() + TOPICS_SECONDS
        try:
            while not self._stop.is_set():
                self._health.beat("ingest", within=INGEST_BEAT_SECONDS)
                ingest.step()
                lag = dict.fromkeys(topic_ids, 0)
                for (topic, _), messages in consumer.lag().items():
                    lag[topic] += messages
                for topic, messages in lag.items():
                    telemetry.LAG.labels(topic).set(messages)
                if time.monotonic() >= look_at:
                    _same_topics(properties, topic_ids)
                    look_at = time.monotonic() + TOPICS_SECONDS
        except PositionLost as error:
            _same_topics(properties, topic_ids)
            self._stop_consumption("position_lost", f"{error}; {POSITION_REMEDY}")
        except ContractBroken as error:
            self._stop_consumption("contract_broken", str(error))

    def _stop_consumption(self, reason: str, sentence: str) -> None:
        telemetry.CONSUMPTION_STOPPED.labels(reason).set(1)
        self._health.forget("ingest")
        self._health.obstacles["ingest"] = sentence
        log.error("consumption stopped; converging goes on", reason=reason, error=sentence)
        self._stop.wait()

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
            telemetry.GUARD_ENABLED.labels(platform.name).set(self._settings.guard(platform.name).enabled)
            telemetry.PLATFORM_UP.labels(platform.name).set(platform.state is PlatformState.UP)
            telemetry.PLATFORM_DENIED.labels(platform.name).set(platform.state is PlatformState.DENIED)
            if platform.oldest is None:
                with_label = (platform.name,)
                if with_label in telemetry.OLDEST_GAP._metrics:  # noqa: SLF001 - remove() raises for an absent label
                    telemetry.OLDEST_GAP.remove(*with_label)
            else:
                telemetry.OLDEST_GAP.labels(platform.name).set(platform.oldest)


def _same_topics(properties: broker.Properties, ids: Mapping[str, str | None]) -> None:
    """Raise BrokerError when a topic is no more, or another of its name: its positions would skip messages there."""
    try:
        found = broker.describe(properties, ids).topics
    except BrokerError:
        return  # an outage: reading goes on by itself afterwards
    if gone := ids.keys() - found.keys():
        raise BrokerError(f"topics were deleted: {', '.join(sorted(gone))}; create them")
    if other := [name for name, topic in found.items() if topic.id != ids[name] and None not in {topic.id, ids[name]}]:
        raise BrokerError(f"topics were re-created: {', '.join(other)}; a restart reads them from their beginning")


def _spawn(name: str, loop: Callable[[], None]) -> Future[None]:
    """Run a loop in a thread that doesn't outlive the process, as a pool's would."""
    part: Future[None] = Future()

    def run() -> None:
        try:
            loop()
        except BaseException as error:  # noqa: BLE001 - raised where the part is waited for
            part.set_exception(error)
        else:
            part.set_result(None)

    threading.Thread(target=run, name=name, daemon=True).start()
    return part
