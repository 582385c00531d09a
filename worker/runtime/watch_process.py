"""The process that watches a directory: look after look until it is told to stop, with metrics and health."""

import signal
import threading
import time
from types import FrameType

import structlog

from worker import __version__, telemetry
from worker.domain.errors import SourceIncomplete
from worker.runtime.http import Health, application, serving
from worker.sources.watch import PollResult, Watch

SLOW_LOOK_SECONDS = 900.0
"""The first look tells everybody; any other takes seconds."""
MOST_PATIENCE = 300.0
"""Seconds between looks, at most, while the directory can't be read."""

log = structlog.get_logger()


def watching(watch: Watch, *, host: str, port: int) -> None:
    """Watch until SIGTERM or SIGINT; a look that has begun is finished.

    A directory that can't be read is tried again, ever less often. Raises BrokerError when Kafka doesn't acknowledge.
    """
    stop, health = threading.Event(), Health()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    with serving(application(health, lambda: None), host=host, port=port) as address:
        log.info("started", version=__version__, source=watch.name, web=address)
        patience = watch.every
        while not stop.is_set():
            health.beat("watch", within=SLOW_LOOK_SECONDS + MOST_PATIENCE)
            try:
                found = watch.poll()
            except SourceIncomplete as error:
                telemetry.WATCH_FAILURES.labels(watch.name).inc()
                log.error("the directory cannot be watched; it is tried again", source=watch.name, error=str(error))  # noqa: TRY400 - the sentence says it all
                stop.wait(patience)
                patience = min(2 * patience, MOST_PATIENCE)
            else:
                _count(watch.name, found)
                patience = watch.every
                stop.wait(patience)


def _count(name: str, found: PollResult) -> None:
    telemetry.WATCH_LOOKED.labels(name).set(time.time())
    telemetry.WATCH_ENTRIES.labels(name).set(found.entries)
    for kind, number in found.published.items():
        telemetry.WATCH_MESSAGES.labels(name, kind).inc(number)
    if published := found.published:
        log.info(
            "changes published", source=name, entries=found.read,
            states=published["state"], deleted=published["deleted"], rekeyed=published["rekeyed"],
        )  # fmt: skip
