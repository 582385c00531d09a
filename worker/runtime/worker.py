"""The composition root: parts to threads, signals to a graceful stop."""

import datetime as dt
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import ExitStack, contextmanager
from types import FrameType

import structlog

from worker import __version__
from worker.domain.errors import BrokerError, MoodleError, RunInProgress
from worker.domain.rules import Mode
from worker.domain.schedule import due
from worker.ledger import Ledger, runs
from worker.ledger.availability import Availability
from worker.runtime import gauges
from worker.runtime.build import lanes, reconciliation
from worker.runtime.consumption import Consumption
from worker.runtime.http import Health, application, serving
from worker.runtime.ledger import open_ledger, recorder
from worker.runtime.systemd import Supervisor
from worker.runtime.threads import join, spawn
from worker.settings.root import Settings
from worker.sync.converge.lane import Lane

NIGHT_SECONDS = 15.0
"""How often to check whether a nightly run is due."""
NIGHT_RETRY_SECONDS = 900.0
"""When a nightly run that failed, because Kafka was away for example, is tried again."""

log = structlog.get_logger()


@contextmanager
def converging(settings: Settings, ledger: Ledger, stop: threading.Event) -> Iterator[None]:
    """Close gaps in threads of this process for as long as the context lasts: for commands that wait for them."""
    with ExitStack() as stack:
        threads = [
            spawn(holder, _lane_loop(lane, stop, poll=settings.converge.poll_seconds))
            for holder, lane in lanes(settings, ledger, stop, stack)
        ]
        try:
            yield
        finally:
            stop.set()
            ended = join(threads)
        for thread in ended:
            thread.result()


def _lane_loop(
    lane: Lane, stop: threading.Event, *, poll: float, beat: Callable[[], None] = lambda: None
) -> Callable[[], None]:
    def loop() -> None:
        while not stop.is_set():
            beat()
            if not lane.run_once():
                stop.wait(poll)

    return loop


class Worker:
    """A worker process: consumes, records, converges and answers, until told to stop.

    With `reconcile_at`, a local time, it reconciles every night, unless another process has done that night's.
    The supervisor is told when it is ready, that its loops are alive, and when it stops.
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
        """Start everything; yields a function that waits until told to stop, or until a thread fails.

        At the end everything is stopped, and what a thread failed with is raised.
        """
        with ExitStack() as stack:
            ledger = open_ledger(self._settings)
            stack.callback(ledger.close)
            loops = dict(self._loops(ledger, stack))
            self._apply_settings(ledger)
            web = self._settings.web
            address = stack.enter_context(
                serving(application(self._health, lambda: self._refresh_gauges(ledger)), host=web.host, port=web.port)
            )
            log.info("started", version=__version__, web=address, instance=ledger.instance, threads=len(loops))
            threads = [spawn(name, loop) for name, loop in loops.items()]
            try:
                yield lambda: self._wait(threads)
            finally:
                self._end(threads)

    def run(self) -> None:
        """Run until SIGTERM or SIGINT, or until a thread fails: then that error is raised."""

        def on_signal(number: int, _frame: FrameType | None) -> None:
            self._signal = number  # no more: a log or an event may be locked by what the signal interrupted

        signal.signal(signal.SIGTERM, on_signal)
        signal.signal(signal.SIGINT, on_signal)
        with self.running() as wait_for_end:
            wait_for_end()

    def _loops(self, ledger: Ledger, stack: ExitStack) -> Iterator[tuple[str, Callable[[], None]]]:
        """Yield what is to run side by side, by the names of the threads."""
        consumption = Consumption(self._settings, ledger, self._health, self._stop)
        stack.callback(consumption.close)
        yield "ingest", consumption.run
        poll = self._settings.converge.poll_seconds
        for holder, lane in lanes(self._settings, ledger, self._stop, stack):
            yield holder, _lane_loop(lane, self._stop, poll=poll, beat=self._beat_of_lane(holder))
        if self._reconcile_at is not None:
            yield "night", self._nightly(ledger, self._reconcile_at)

    def _beat_of_lane(self, holder: str) -> Callable[[], None]:
        # A round is some calls, each of which may take as long as the time-out.
        within = 60 + 40 * max(p.limits.timeout_seconds for p in self._settings.platforms.values())
        return lambda: self._health.beat(holder, within=within)

    def _nightly(self, ledger: Ledger, at: dt.time) -> Callable[[], None]:
        def loop() -> None:
            while not self._stop.is_set():
                night, _ = due(time.time(), at, self._settings.zone)
                pause = NIGHT_SECONDS
                if not runs.is_over(ledger, night, time.time()):
                    try:
                        with ExitStack() as stack:
                            reconciliation(self._settings, ledger, stack, stop=self._stop).run(night)
                    except (BrokerError, MoodleError, RunInProgress) as error:
                        log.error("reconciliation failed; it will be tried again", night=night, error=str(error))  # noqa: TRY400 - the sentence says it all
                        pause = NIGHT_RETRY_SECONDS
                self._stop.wait(pause)

        return loop

    def _apply_settings(self, ledger: Ledger) -> None:
        """Bring what is desired in line with the settings, and warn of a guard that is off.

        A restart also ends the pauses of the platforms: somebody may have put right what stopped one.
        """
        changed = recorder(self._settings, ledger).apply_policy(now=time.time())
        if changed:
            log.warning("settings changed what is desired", memberships=changed)
        for name, platform in self._settings.platforms.items():
            if platform.mode is not Mode.MANUAL:
                Availability(ledger, name).end_pause(time.time())
            if not platform.guard.enabled and platform.mode is not Mode.MANUAL:
                log.warning("the guard is off: removals are not limited", platform=name)

    def _refresh_gauges(self, ledger: Ledger) -> None:
        platforms = self._settings.platforms.items()
        guarded = {name: platform.guard.enabled for name, platform in platforms if platform.mode is not Mode.MANUAL}
        gauges.refresh(ledger, guarded, time.time())

    def _wait(self, threads: Sequence[Future[None]]) -> None:
        self._supervisor.notify("READY=1")
        while not self._stop.is_set() and self._signal is None:
            if wait(threads, timeout=0.2, return_when=FIRST_COMPLETED).done:
                return
            if self._supervisor.expects_beat():
                if stuck := self._health.stuck():
                    log.error("loops are stuck; the supervisor will restart this process", loops=stuck)
                else:
                    self._supervisor.notify("WATCHDOG=1")
        if self._signal is not None:
            log.info("stopping", signal=signal.Signals(self._signal).name)

    def _end(self, threads: Sequence[Future[None]]) -> None:
        self._supervisor.notify("STOPPING=1")
        self.stop()
        for thread in join(threads):
            thread.result()
