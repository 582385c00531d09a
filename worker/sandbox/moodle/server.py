"""A Moodle that speaks the real wire format over HTTP: for the demo, the tests and the benchmarks.

It is held to the recorded transcripts of a Moodle 4.3, word for word, by `tests/wire/sandbox/test_moodle.py`.
"""

import asyncio
import logging
import math
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from random import Random
from typing import Any

import uvicorn
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from worker.sandbox.moodle.functions import FUNCTIONS
from worker.sandbox.moodle.http import ERRORS, Fault, answer, bad_gateway, failure, page_of, read_form
from worker.sandbox.moodle.session import Session, WebServiceError
from worker.sandbox.moodle.site import CohortRow, Site, User

__all__ = ["MEASURED", "Call", "Chaos", "CohortRow", "Cost", "Fault", "SandboxMoodle", "User"]

log = logging.getLogger(__name__)

ENDPOINT = "/webservice/rest/server.php"
CORE_FUNCTIONS = {"core_course_get_courses"}  # exist in Moodle, but the sandbox never grants them
SETTINGS = {f"moodlewssetting{name}" for name in ("raw", "fileurl", "filter", "lang", "timezone")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a call takes, in seconds: once, and by member, row, or member and synchronised course."""

    call: float = 0.0
    added: float = 0.0
    removed: float = 0.0
    course_added: float = 0.0
    course_removed: float = 0.0
    looked_up: float = 0.0
    created: float = 0.0
    cohort_read: float = 0.0
    member_read: float = 0.0

    def seconds(self, spent: Mapping[str, int]) -> float:
        """Add up what a call has spent."""
        return math.fsum(getattr(self, item.name) * spent.get(item.name, 0) for item in fields(self))


MEASURED = Cost(
    # Derived from runs with one client (unless said) against the Moodle of the transcripts, on 2 cores.
    call=0.026,  # add of 1 member a call, 29 ms, less the member
    added=0.0027,  # 350 members/s by 200 a call: 200 / 350 s = call + 200 members
    removed=0.0009,  # 2,000/s by 200 a call and 2 clients: 0.2 s = call + 200 members
    course_added=0.0037,  # 10 courses, 200 members: 7.7 s; 1 course, 134/s, would say 4.6 ms
    course_removed=0.0078,  # 10 courses, 200 members: 16 s
    looked_up=0.0038,  # 500 values: 1.6 to 2.2 s
    created=0.0009,  # 100 a call: 0.12 s
    cohort_read=0.000084,  # 1,237 cohorts: 0.13 s
    member_read=0.000022,  # 1,200 cohorts with 40,002 members: 1.0 s, less the call and the cohorts
)


@dataclass(slots=True, eq=False)
class Call:
    """One call received. Instants are of `time.monotonic()`; `ended` is that of the commit, NaN until then.

    `cohorts` holds the ids of the cohorts touched and, for a creation, the idnumbers asked for; `removed` the
    memberships (cohort id, user id) that it takes away. `error` is Moodle's errorcode or the name of a fault; a call
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
    """Faults at random, by call: the same seed and the same order of calls give the same faults."""

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
    `calls` are in order of reception. `collisions` are the pairs of writing calls that were in flight at once
    (held by a PHP worker, and not committed) and touched the same cohort: there should never be one.
    `php_workers` is how many calls run at once; others wait, as behind nginx.
    """

    def __init__(
        self,
        *,
        token: str,
        name: str = "Ecampus",
        max_input_vars: int = 5000,
        cost: Cost | None = None,
        php_workers: int = 2,
    ) -> None:
        super().__init__(name=name, token=token)
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
        """Serve in a thread until the block ends; gives the address of the site. Port 0 is any free one."""
        # Only to a socket that names its protocol does asyncio give TCP_NODELAY: 40 ms an answer.
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
            log_level="critical",  # closing a connection in the middle of an answer is meant
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
        """Keep calls in flight, computed and not committed, until the block ends."""
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
            await _break_off(send)

    async def _form(self, request: Request) -> dict[str, Any]:
        """Read query and body, counted apart; of a body PHP lets one field too many pass (recorded)."""
        form = read_form(request.scope["query_string"], self.max_input_vars)
        if request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
            form |= read_form(await request.body(), self.max_input_vars + 1)
        return form

    async def _respond(self, form: dict[str, Any]) -> Response | None:
        """Answer one call; None when the answer is to be lost."""
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
                response = answer(await self._execute(call, form, fault), as_json=as_json)
            except WebServiceError as error:
                call.error = error.code
                response = failure(error, as_json=as_json)
            finally:
                call.ended = time.monotonic()
        return await self._spoilt(response, fault)

    async def _spoilt(self, response: Response, fault: Fault | None) -> Response | None:
        """Give the answer of a call that was applied as the fault lets it arrive."""
        match fault:
            case Fault.APPLIED_THEN_502:
                return bad_gateway()
            case Fault.APPLIED_THEN_CLOSED:
                return None
            case Fault.APPLIED_THEN_EMPTY:
                return Response("", media_type="application/json")
            case Fault.APPLIED_THEN_STRANGE:
                return Response('{"status":"success"}', media_type="application/json")
            case Fault.APPLIED_THEN_DRIPPED:
                return StreamingResponse(self._dripping(bytes(response.body)), media_type=response.media_type)
            case Fault.APPLIED_THEN_LATE:
                await asyncio.sleep(self.late)
        return response

    async def _dripping(self, body: bytes) -> AsyncIterator[bytes]:
        for byte in body:
            await asyncio.sleep(self.drip)
            yield bytes([byte])

    async def _execute(self, call: Call, form: dict[str, Any], fault: Fault | None) -> object:
        """Compute, be in flight for as long as it costs, commit or raise."""
        name, arguments = self._admit(form, fault)
        session = Session(self, raw=form.get("moodlewssettingraw") == "1")
        with self._changed:
            session.run(FUNCTIONS[name], arguments)
            call.writes, call.items = FUNCTIONS[name].writes, session.items
            call.cohorts, call.removed = frozenset(session.touched), frozenset(session.removed)
            for other, theirs in self._in_flight:
                if call.writes and other.writes and call.cohorts & other.cohorts:
                    self.collisions.append((other, call))
                # A membership is unique: who inserts it second waits for the first, and fails (recorded).
                if not theirs.error and session.added.keys() & theirs.added.keys():
                    session.error = WebServiceError("dmlwriteexception")
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

    def _admit(self, form: dict[str, Any], fault: Fault | None) -> tuple[str, dict[str, Any]]:
        """Check in Moodle's order: token, maintenance, the function exists, the token may call it."""
        token, name = form.get("wstoken"), form.get("wsfunction")
        code = ERRORS.get(fault) if fault else None
        if code == "dbconnectionfailed":
            raise WebServiceError(code)
        if token != self.token:
            raise WebServiceError("invalidtoken")
        if code:
            raise WebServiceError(code)
        if not name:
            raise WebServiceError("invalidparameter")
        if "webservice/rest:use" not in self.capabilities:
            raise WebServiceError("accessexception")
        if name not in FUNCTIONS.keys() | CORE_FUNCTIONS:
            raise WebServiceError("invalidrecord", "external_functions")
        if name not in self.granted:
            raise WebServiceError("accessexception")
        ours = {"wstoken", "wsfunction", "moodlewsrestformat"} | SETTINGS
        return name, {key: value for key, value in form.items() if key not in ours}


async def _break_off(send: Send) -> None:
    """Promise more than is sent: the server then closes the connection in the middle of the answer."""
    start: Message = {
        "type": "http.response.start",
        "status": 200,
        "headers": [(b"content-type", b"application/json"), (b"content-length", b"17")],
    }
    await send(start)
    await send({"type": "http.response.body", "body": b'{"warn', "more_body": True})
