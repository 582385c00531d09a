"""The composition root: settings to parts, parts to threads, signals to a graceful stop."""

import datetime as dt
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import ExitStack, contextmanager
from types import FrameType

import structlog

from worker import __version__, telemetry
from worker.domain.errors import BrokerError, ContractBroken, MoodleError, PositionLost, RunInProgress
from worker.domain.rules import Mode
from worker.domain.schedule import due
from worker.kafka import ABSENCE, Properties, RecordConsumer, RecordProducer, describe
from worker.ledger import Ledger, runs, status
from worker.runtime import gauges
from worker.runtime.build import lanes, reconciliation
from worker.runtime.http import Health, application, serving
from worker.runtime.ledger import open_ledger, recorder
from worker.runtime.messages import formats
from worker.runtime.systemd import Supervisor
from worker.settings.root import Settings
from worker.sync.converge.lane import Lane
from worker.sync.ingest import Ingest

INGEST_BEAT_SECONDS = 120.0
TOPICS_SECONDS = 15.0
"""How often to see whether the topics are still those that the positions are of."""
POSITION_REMEDY = (
    "messages may be lost, so have them published again; "
    "`cohorts positions --forget TOPIC`, then a restart, reads what is left"
)
NIGHT_SECONDS = 15.0
"""How often to see whether a nightly run is due."""
NIGHT_RETRY_SECONDS = 900.0
"""When a nightly run that failed, because Kafka was away for example, is tried again."""
STOP_SECONDS = 25.0
"""How long a call in flight may delay the end; after that the lease covers it."""

log = structlog.get_logger()


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
            finished = _finished(parts)
        for part in finished:
            part.result()


def _turning(lane: Lane, stop: threading.Event, poll: float) -> None:
    while not stop.is_set():
        if not lane.run_once():
            stop.wait(poll)


class Worker:
    """A worker process: consumes, records, converges and answers, until told to stop.

    With `reconcile_at`, a local time, it reconciles every night, unless another process has done that night's.
    The supervisor hears when it is ready, that its loops come round, and when it stops.
    """

    def __init__(
        self, settings: Settings, *, reconcile_at: dt.time | None = None, supervisor: Supervisor | None = None
    ) -> None:
        self._settings = settings
        self._reconcile_at = reconcile_at
        self._supervisor = supervisor or Supervisor({})
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
            if self._reconcile_at is not None:
                loops["night"] = self._nightly(ledger, self._reconcile_at)
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
            log.info("started", version=__version__, web=address, instance=ledger.instance, threads=len(loops))
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
        self._supervisor.tell("READY=1")
        while not self._stop.is_set() and self._signal is None:
            if wait(parts, timeout=0.2, return_when=FIRST_COMPLETED).done:
                return
            if self._supervisor.expects_beat():
                if stuck := self._health.stuck():
                    log.error("stuck: the supervisor will end this process", loops=stuck)
                else:
                    self._supervisor.tell("WATCHDOG=1")
        if self._signal is not None:
            log.info("stopping", signal=signal.Signals(self._signal).name)

    def _end(self, parts: Sequence[Future[None]]) -> None:
        self._supervisor.tell("STOPPING=1")
        self.stop()
        for part in _finished(parts):
            part.result()

    def _consume(self, ledger: Ledger, stack: ExitStack) -> Callable[[], None]:
        kafka = self._settings.kafka
        properties = kafka.properties()
        cluster = describe(properties, [*kafka.topics, kafka.dead_letters])
        if missing := {*kafka.topics, kafka.dead_letters} - cluster.topics.keys():
            raise BrokerError(f"missing topics: {', '.join(sorted(missing))}; create them ({ABSENCE})")
        topic_ids = {name: cluster.topics[name].id for name in kafka.topics}
        for topic in status.recreated(ledger, topic_ids):
            log.warning("topic was re-created: read from its beginning", topic=topic)

        def start(partitions: list[tuple[str, int]]) -> dict[tuple[str, int], int]:
            known = status.positions(ledger, topic_ids)
            return {partition: known[partition] for partition in partitions if partition in known}

        consumer = RecordConsumer(properties, group=kafka.group, topics=kafka.topics, start=start)
        stack.callback(consumer.close)
        ingest = Ingest(
            consumer,
            RecordProducer(properties),
            recorder(self._settings, ledger),
            formats=formats(self._settings),
            dead_letters=kafka.dead_letters,
            topic_ids=topic_ids,
            batch=kafka.batch,
            invalid_limit=kafka.invalid_limit,
        )

        return lambda: self._read(ingest, consumer, topic_ids)

    def _read(self, ingest: Ingest, consumer: RecordConsumer, topic_ids: Mapping[str, str | None]) -> None:
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
                if not lane.run_once():
                    self._stop.wait(poll)

        return loop

    def _nightly(self, ledger: Ledger, at: dt.time) -> Callable[[], None]:
        def loop() -> None:
            while not self._stop.is_set():
                night, _ = due(time.time(), at, self._settings.zone)
                pause = NIGHT_SECONDS
                if not runs.is_over(ledger, night):
                    try:
                        with ExitStack() as stack:
                            reconciliation(self._settings, ledger, stack, stop=self._stop).run(night)
                    except (BrokerError, MoodleError, RunInProgress) as error:
                        log.error("reconciliation failed; it is tried again", night=night, error=str(error))  # noqa: TRY400 - the sentence says it all
                        pause = NIGHT_RETRY_SECONDS
                self._stop.wait(pause)

        return loop

    def _gauges(self, ledger: Ledger) -> None:
        platforms = self._settings.platforms.items()
        guarded = {name: platform.guard.enabled for name, platform in platforms if platform.mode is not Mode.MANUAL}
        gauges.refresh(ledger, guarded, time.time())


def _same_topics(properties: Properties, ids: Mapping[str, str | None]) -> None:
    """Raise BrokerError when a topic is no more, or another of its name: its positions would skip messages there."""
    try:
        found = describe(properties, ids).topics
    except BrokerError:
        return  # an outage: reading goes on by itself afterwards
    if gone := ids.keys() - found.keys():
        raise BrokerError(f"topics were deleted: {', '.join(sorted(gone))}; create them")
    if other := [name for name, topic in found.items() if topic.id != ids[name] and None not in {topic.id, ids[name]}]:
        raise BrokerError(f"topics were re-created: {', '.join(other)}; a restart reads them from their beginning")


def _finished(parts: Sequence[Future[None]]) -> set[Future[None]]:
    """Wait for the end of these parts, but not for long, and give those that have ended."""
    finished, late = wait(parts, timeout=STOP_SECONDS)
    if late:
        log.warning("calls still in flight are left to their leases", lanes=len(late))
    return finished


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
