"""The process that watches a directory: polls it until told to stop, with metrics and health."""

import signal
import threading
import time
from types import FrameType

import structlog

from worker import __version__, telemetry
from worker.domain.errors import SourceIncomplete
from worker.runtime.http import Health, application, serving
from worker.sources.watch import PollResult, Watch

SLOW_POLL_SECONDS = 900.0
"""The first poll publishes everybody; any other takes seconds."""
MOST_BACKOFF_SECONDS = 300.0
"""Between polls, at most, while the directory can't be read."""

log = structlog.get_logger()


def watching(watch: Watch, *, host: str, port: int) -> None:
    """Watch until SIGTERM or SIGINT; a poll that has begun is finished.

    A directory that can't be read is tried again, less and less often. Raises BrokerError when Kafka doesn't
    acknowledge.
    """
    stop, health = threading.Event(), Health()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    with serving(application(health, lambda: None), host=host, port=port) as address:
        log.info("started", version=__version__, source=watch.name, web=address)
        pause = watch.every
        while not stop.is_set():
            health.beat("watch", within=SLOW_POLL_SECONDS + MOST_BACKOFF_SECONDS)
            try:
                result = watch.poll()
            except SourceIncomplete as error:
                telemetry.WATCH_FAILURES.labels(watch.name).inc()
                log.error("the directory cannot be read; it will be tried again", source=watch.name, error=str(error))  # noqa: TRY400 - the sentence says it all
                stop.wait(pause)
                pause = min(2 * pause, MOST_BACKOFF_SECONDS)
            else:
                _count(watch.name, result)
                pause = watch.every
                stop.wait(pause)


def _count(name: str, result: PollResult) -> None:
    telemetry.WATCH_LOOKED.labels(name).set(time.time())
    telemetry.WATCH_ENTRIES.labels(name).set(result.entries)
    for kind, number in result.published.items():
        telemetry.WATCH_MESSAGES.labels(name, kind).inc(number)
    if messages := result.published:
        log.info(
            "changes published", source=name, entries=result.read,
            states=messages["state"], deleted=messages["deleted"], rekeyed=messages["rekeyed"],
        )  # fmt: skip
