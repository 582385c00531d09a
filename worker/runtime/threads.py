"""The worker's loops, each in a thread of its own."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from threading import Thread

import structlog

STOP_SECONDS = 25.0
"""How long a call in flight may delay the end; after that the lease covers it."""

log = structlog.get_logger()


def spawn(name: str, loop: Callable[[], None]) -> Future[None]:
    """Run a loop in a thread that doesn't outlive the process, as a pool's would."""
    future: Future[None] = Future()

    def run() -> None:
        try:
            loop()
        except BaseException as error:  # noqa: BLE001 - raised where the thread is waited for
            future.set_exception(error)
        else:
            future.set_result(None)

    Thread(target=run, name=name, daemon=True).start()
    return future


def join(threads: Sequence[Future[None]]) -> set[Future[None]]:
    """Wait up to `STOP_SECONDS` for the end of these threads, and return those that ended."""
    ended, running = wait(threads, timeout=STOP_SECONDS)
    if running:
        log.warning("shutdown timeout: calls still in flight", lanes=len(running))
    return ended
