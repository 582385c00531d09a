"""A Moodle that speaks the real wire format over HTTP: for the demo, the tests and the benchmarks.

`tests/wire/sandbox/test_moodle.py` checks it word for word against the recorded transcripts of a Moodle 4.3.
"""

import asyncio
import logging
import math
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any

import uvicorn
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from worker.sandbox.moodle.cost import MEASURED, Cost
from worker.sandbox.moodle.functions import FUNCTIONS
from worker.sandbox.moodle.http import (
    ERRORS,
    IN_FUNCTIONS,
    Fault,
    altered,
    bad_gateway,
    failure,
    page_of,
    read_form,
    success,
)
from worker.sandbox.moodle.session import Session, WebServiceError
from worker.sandbox.moodle.site import CohortRow, Site, User

__all__ = ["MEASURED", "Call", "Chaos", "CohortRow", "Cost", "Fault", "SandboxMoodle", "User"]

log = logging.getLogger(__name__)

ENDPOINT = "/webservice/rest/server.php"
CORE_FUNCTIONS = {"core_course_get_courses"}  # exist in Moodle, but the sandbox never grants them
SETTINGS = {f"moodlewssetting{name}" for name in ("raw", "fileurl", "filter", "lang", "timezone")}
ENVELOPE = {"wstoken", "wsfunction", "moodlewsrestformat"} | SETTINGS
"""Fields that aren't arguments of a function."""


@dataclass(slots=True, eq=False)
class Call:
    """A call that was received. Instants are of `time.monotonic()`; `ended` is that of the commit, NaN until then.

    `cohorts` holds the ids of the touched cohorts and, for a creation, the requested idnumbers; `removed` the
    memberships (cohort id, user id) that it removes. `error` is Moodle's errorcode or the name of a fault; a call
    whose fault is named `applied_…` has been applied.
    """

    function: str
    started: float
    writes: bool = False
    ended: float = math.nan
    items: int = 0
    cohorts: frozenset[int | str] = frozenset()
    removed: frozenset[tuple[int, int]] = frozenset()
    error: str | None = None


@dataclass(slots=True)
class Chaos:
    """Random faults of calls: the same seed and the same order of calls give the same faults."""

    rate: float
    seed: int
    kinds: tuple[Fault, ...] = (
        Fault.PHP_DOWN,
        Fault.DATABASE_DOWN,
        Fault.WRITE_REFUSED,
        Fault.APPLIED_THEN_502,
        Fault.APPLIED_THEN_CLOSED,
        Fault.APPLIED_THEN_LATE,
        Fault.APPLIED_THEN_EMPTY,
    )
    random: Random = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.random = Random(self.seed)  # noqa: S311 # scenarios, not cryptography

    def draw(self) -> Fault | None:
        """Choose the fault of the next call, if any."""
        return self.random.choice(self.kinds) if self.random.random() < self.rate else None


class SandboxMoodle(Site):
    """A Moodle on a port of its own.

    `fault`, `chaos`, `cost`, `late`, `drip` and `elsewhere` may be set while it serves.
    `calls` are in order of reception. `collisions` are the pairs of write calls that were in flight at once (held by a
    PHP worker and not committed) and touched the same cohort: there should never be one. `php_workers` is how many
    calls run at once; others wait, as behind nginx.
    """

    def __init__(
        self,
        *,
        token: str,
        name: str = "Ecampus",
        max_input_vars: int = 5000,
        cost: Cost | None = None,
        php_workers: int = 2,
        collation: Callable[[str], str] = str,
    ) -> None:
        super().__init__(name=name, token=token, collation=collation)
        self.granted = set(FUNCTIONS)
        self.max_input_vars = max_input_vars
        self.cost = cost or Cost()
        self.php_workers = php_workers
        self.fault: Fault | None = None
        self.chaos: Chaos | None = None
        self.late = self.drip = 1.0
        self.elsewhere = "https://login.example.org/"
        self.calls: list[Call] = []
        self.collisions: list[tuple[Call, Call]] = []
        self._in_flight: list[tuple[Call, Session]] = []
        self._changed = threading.Condition(self.lock)
        self._running = threading.Event()
        self._running.set()

    @contextmanager
    def serving(self, port: int = 0, host: str = "127.0.0.1") -> Iterator[str]:
        """Serve in a thread until the block ends; yields the address of the site. Port 0 is any free port."""
        # asyncio sets TCP_NODELAY only on a socket that names its protocol; without it, a response takes 40 ms more.
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(128)
        self.url = "http://{}:{}".format(*listener.getsockname())
        self._workers = asyncio.Semaphore(self.php_workers)
        config = uvicorn.Config(
            self._application,
            interface="asgi3",
            proxy_headers=False,
            loop="asyncio",
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="critical",  # closing a connection in the middle of a response is intended
            access_log=False,
            timeout_graceful_shutdown=1,
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listener],), name=f"moodle-{self.name}")
        thread.start()
        try:
            yield self.url
        finally:
            server.should_exit = True
            thread.join()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Keep calls in flight, computed but not committed, until the block ends."""
        self._running.clear()
        try:
            yield
        finally:
            self._running.set()

    def wait_in_flight(self, calls: int, timeout: float = 10.0) -> None:
        """Wait until exactly that many calls are in flight; raises TimeoutError."""
        with self._changed:
            if not self._changed.wait_for(lambda: len(self._in_flight) == calls, timeout):
                raise TimeoutError(f"{len(self._in_flight)} calls in flight instead of {calls}")

    async def _application(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        response: Response | None = Response("File not found.\n", 404, {"content-type": "text/html"})
        if request.url.path == ENDPOINT:
            try:
                response = await self._respond(await self._form(request))
            except Exception:
                log.exception("the sandbox Moodle has a bug")
                raise
        if response:
            await response(scope, receive, send)
        else:
            await _send_half(send)

    async def _form(self, request: Request) -> dict[str, Any]:
        """Read query and body, each with a limit of its own; PHP accepts one field too many in a body (recorded)."""
        form = read_form(request.scope["query_string"], self.max_input_vars)
        if request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
            form |= read_form(await request.body(), self.max_input_vars + 1)
        return form

    async def _respond(self, form: dict[str, Any]) -> Response | None:
        """Respond to one call; None when the response is to be lost."""
        name = str(form.get("wsfunction", ""))
        with self.lock:
            fault = self.fault or (self.chaos.draw() if self.chaos else None)
            call = Call(name, time.monotonic(), error=fault)
            self.calls.append(call)
        if page := page_of(fault, self.name, self.elsewhere):
            call.ended = time.monotonic()
            return page
        as_json = form.get("moodlewsrestformat") == "json"
        async with self._workers:
            call.started = time.monotonic()
            try:
                response = success(await self._execute(call, form, fault), as_json=as_json)
            except WebServiceError as error:
                call.error = error.code
                response = failure(error, as_json=as_json)
            finally:
                call.ended = time.monotonic()
        return await self._after_fault(response, fault)

    async def _after_fault(self, response: Response, fault: Fault | None) -> Response | None:
        """Return the response of an applied call as the fault lets it arrive; None when it is to be lost."""
        match fault:
            case Fault.APPLIED_THEN_502:
                return bad_gateway()
            case Fault.APPLIED_THEN_CLOSED:
                return None
            case Fault.APPLIED_THEN_DRIPPED:
                return StreamingResponse(self._dripping(bytes(response.body)), media_type=response.media_type)
            case Fault.APPLIED_THEN_LATE:
                await asyncio.sleep(self.late)
        return altered(response, fault)

    async def _dripping(self, body: bytes) -> AsyncIterator[bytes]:
        for byte in body:
            await asyncio.sleep(self.drip)
            yield bytes([byte])

    async def _execute(self, call: Call, form: dict[str, Any], fault: Fault | None) -> object:
        """Compute, be in flight for as long as the call costs, then commit, or raise."""
        name, arguments = self._admit(form, fault)
        session = Session(self, raw=form.get("moodlewssettingraw") == "1")
        with self._changed:
            session.run(FUNCTIONS[name], arguments)
            call.writes, call.items = FUNCTIONS[name].writes, session.items
            call.cohorts, call.removed = frozenset(session.touched), frozenset(session.removed)
            self._meet_others(call, session)
            self._in_flight.append((call, session))
            self._changed.notify_all()
        try:
            if seconds := self.cost.seconds(session.spent):
                await asyncio.sleep(seconds)
            if not self._running.is_set():
                await asyncio.to_thread(self._running.wait)
            with self.lock:
                session.commit()
        finally:
            with self._changed:
                self._in_flight.remove((call, session))
                self._changed.notify_all()
        if session.error:
            raise session.error
        return session.answer

    def _meet_others(self, call: Call, session: Session) -> None:
        """Note collisions with the calls in flight, and fail where PostgreSQL would."""
        for other, other_session in self._in_flight:
            if call.writes and other.writes and call.cohorts & other.cohorts:
                self.collisions.append((other, call))
            # Memberships are unique: the second insert waits for the first, and fails (recorded).
            if not other_session.error and session.added.keys() & other_session.added.keys():
                session.error = WebServiceError("dmlwriteexception")

    def _admit(self, form: dict[str, Any], fault: Fault | None) -> tuple[str, dict[str, Any]]:
        """Return the function and its arguments, checked in Moodle's order: the token, the site, the function."""
        code = ERRORS.get(fault) if fault else None
        if code == "dbconnectionfailed":
            raise WebServiceError(code)
        if form.get("wstoken") != self.token:
            raise WebServiceError("invalidtoken")
        if code in IN_FUNCTIONS:
            self._refuse_in(form.get("wsfunction"), code)
        elif code:
            raise WebServiceError(code, self.users[self.service_user].username)
        arguments = {key: value for key, value in form.items() if key not in ENVELOPE}
        return self._granted_function(form.get("wsfunction")), arguments

    def _refuse_in(self, name: str | None, code: str) -> None:
        """Raise an error of `require_login` as this function does."""
        if name != "core_webservice_get_site_info":
            raise WebServiceError("Error" if name == "core_cohort_add_cohort_members" else code)

    def _granted_function(self, name: str | None) -> str:
        """Return the name of a function if it exists and the token may call it."""
        if not name:
            raise WebServiceError("invalidparameter")
        if "webservice/rest:use" not in self.capabilities:
            raise WebServiceError("accessexception")
        if name not in FUNCTIONS.keys() | CORE_FUNCTIONS:
            raise WebServiceError("invalidrecord", "external_functions")
        if name not in self.granted:
            raise WebServiceError("accessexception")
        return name


async def _send_half(send: Send) -> None:
    """Announce more than is sent, so that the server closes the connection in the middle of the response."""
    start: Message = {
        "type": "http.response.start",
        "status": 200,
        "headers": [(b"content-type", b"application/json"), (b"content-length", b"17")],
    }
    await send(start)
    await send({"type": "http.response.body", "body": b'{"warn', "more_body": True})
