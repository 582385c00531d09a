"""Metrics and health over HTTP."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from worker.domain.errors import SettingsError

START_SECONDS = 10.0


class Health:
    """The loops' heartbeats, and what keeps the worker from being ready. Threads share it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._beats: dict[str, tuple[float, float]] = {}
        self.obstacles: dict[str, str] = {}
        """What a person must look at, by loop; empty when all is well."""

    def beat(self, loop: str, *, within: float) -> None:
        """Note that a loop is alive; it is stuck if the next beat doesn't come within so many seconds."""
        self._beats[loop] = (self._clock(), within)

    def forget(self, loop: str) -> None:
        """Expect no more beats of a loop: it ended on purpose."""
        self._beats.pop(loop, None)

    def stuck(self) -> list[str]:
        """Return the loops whose heartbeat is overdue."""
        now = self._clock()
        return [loop for loop, (at, within) in list(self._beats.items()) if now - at > within]


def application(health: Health, refresh: Callable[[], None]) -> Starlette:
    """Serve /metrics, /livez and /readyz. `refresh` brings the gauges up to date before they are read.

    A worker stays alive and ready without Kafka or Moodle: an outage must not restart the fleet.
    """

    async def metrics(_request: Request) -> Response:
        await run_in_threadpool(refresh)
        return Response(generate_latest(), headers={"content-type": CONTENT_TYPE_LATEST})

    async def livez(_request: Request) -> Response:
        return _verdict(dict.fromkeys(health.stuck(), "no heartbeat"))

    async def readyz(_request: Request) -> Response:
        return _verdict(health.obstacles)

    return Starlette(
        routes=[Route("/metrics", metrics), Route("/livez", livez), Route("/readyz", readyz)],
    )


def _verdict(problems: Mapping[str, str]) -> Response:
    lines = [f"{loop}: {problem}" for loop, problem in sorted(problems.items())]
    return PlainTextResponse("\n".join(lines or ["ok"]) + "\n", 503 if lines else 200)


@contextlib.contextmanager
def serving(app: Starlette, *, host: str, port: int) -> Iterator[str]:
    """Serve in a thread for as long as the context lasts; yields the address, with the port in use."""
    config = uvicorn.Config(
        app, host=host, port=port, log_config=None, access_log=False,
        lifespan="off", ws="none", http="h11", loop="asyncio",
    )  # fmt: skip
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, name="web", daemon=True)
    thread.start()
    deadline = time.monotonic() + START_SECONDS
    while not server.started:
        if not thread.is_alive() or time.monotonic() > deadline:
            raise SettingsError(f"web.port: cannot listen on {host}:{port}; is the port taken?")
        time.sleep(0.01)
    try:
        port_in_use = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://{host}:{port_in_use}"
    finally:
        server.should_exit = True
        thread.join(START_SECONDS)
