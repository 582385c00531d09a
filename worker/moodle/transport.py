"""One call to a Moodle: form encoding, throttling, the retry policy, and what each kind of response means."""

import re
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any
from urllib.parse import urlencode

import httpx
import orjson
import stamina
from pydantic import ValidationError

from worker import __version__, telemetry
from worker.domain.errors import MoodleDenied, MoodleError, MoodleRejected, MoodleUnavailable
from worker.moodle.refusals import TOO_LARGE, TOO_MANY_FIELDS, refusal, remedy
from worker.moodle.responses import FORMS

SERVICE = "webservice/rest/server.php"
ENVELOPE_FIELDS = 4
"""Fields of every call besides its arguments: function, format, raw texts, token."""
TRUNCATION_FIELDS = 100
"""An XML response to a call with fewer fields than this can't come from PHP's `max_input_vars`."""
CUT_TOKEN = "invalidtoken"  # noqa: S105 - an errorcode
"""What Moodle answers to a form of which only the token was cut: it is the last field."""
RESPONSE_BYTES = 32 * 1024 * 1024
"""The longest response that is read, once unpacked: ten times what 400,000 members, or 10,000 cohorts, take."""

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_ERROR_KEYS = {"exception", "error", "errorcode"}
"""Keys of an answer that isn't a result; Moodle's web services give the first, what stands before them may not."""

_MESSAGE_OF_PHP = re.compile(
    rb"<b>(?:Notice|Warning|Deprecated|Strict Standards|(?:Recoverable |Catchable )?[Ff]atal error|Parse error)</b>|"
    rb"^(?:PHP )?(?:Notice|Warning|Deprecated|Fatal error|Parse error): |class=\"[^\"]*debuggingmessage",
    re.MULTILINE,
)
"""What PHP, and Moodle's own debugging, print into a page."""

SENDING = "http11.send_request_headers.started"
"""The event of httpcore before the first byte of a request, once its connection is open."""
MOST_CODES = 100
"""Different errorcodes of a platform that are reported as they are: a Moodle has a dozen."""
_CODE = re.compile("[a-z][a-z0-9_/-]{0,63}", re.IGNORECASE)
"""What Moodle's errorcodes look like. They end up in logs, metrics and terminals: no other text of Moodle's does."""
_GAVE_UP = {500, 502, 504}
"""Statuses of a web server that stopped waiting for PHP, which may go on: nginx and Apache's modules differ."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallLimits:
    """How much a platform may be asked: see `worker.settings.platforms` for units and defaults."""

    connections: int = 2
    calls_per_second: float = 10.0
    fields: int = 900
    timeout_seconds: float = 60.0
    batch_seconds: float = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What a call returned, and the seconds that Moodle took for it, without the wait for the throttle."""

    content: Any
    seconds: float


class Transport:
    """A connection to one platform's web services. Threads may share it."""

    def __init__(
        self,
        platform: str,
        url: str,
        token: str,
        limits: CallLimits,
        *,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.platform = platform
        self.limits = limits
        self.fields = limits.fields
        """The most fields of a form: fewer than `limits` says once PHP was seen to cut one."""
        self._token = token
        self._url = f"{url.rstrip('/')}/{SERVICE}"
        self._http = httpx.Client(
            headers={"user-agent": f"etape-cohorts/{__version__}"},
            timeout=httpx.Timeout(limits.timeout_seconds, connect=min(10.0, limits.timeout_seconds)),
            limits=httpx.Limits(max_connections=limits.connections),
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),  # none is kept: each call has its token
        )
        self._slots = threading.BoundedSemaphore(limits.connections)
        self._turn = threading.Lock()
        self._next_call = 0.0
        self._sleep = sleep
        self._codes: set[str] = set()  # that Moodle has returned so far

    def read(self, function: str, **arguments: Any) -> Any:  # noqa: ANN401 - any JSON
        """Call a function that changes nothing: when its response is lost, it is called again."""
        return self._retried(function, arguments, repeat_unknown=True).content

    def write(self, function: str, arguments: dict[str, Any], *, before: Callable[[], None] = lambda: None) -> Reply:
        """Call a function that changes something. Raises MoodleUnavailable with `unknown` when its outcome is unknown.

        `before` is called each time the request is about to be sent, once the connection is open: if it raises,
        nothing is sent.
        """
        return self._retried(function, arguments, repeat_unknown=False, before=before)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _retried(
        self,
        function: str,
        arguments: dict[str, Any],
        *,
        repeat_unknown: bool,
        before: Callable[[], None] = lambda: None,
    ) -> Reply:
        def is_retried(error: Exception) -> bool:
            return (
                isinstance(error, MoodleUnavailable)
                and error.retry_after is None
                and (repeat_unknown or not error.unknown)
                and error.code != "timeout"
            )

        # The only retries within a call: some seconds. What lasts longer is left to the ledger's back-off.
        for attempt in stamina.retry_context(on=is_retried, attempts=3, timeout=15.0, wait_initial=0.3, wait_max=3.0):
            with attempt:
                return self._call(function, arguments, before)
        raise AssertionError("stamina re-raises the last error")  # pragma: no cover - unreachable

    def _call(self, function: str, arguments: dict[str, Any], before: Callable[[], None]) -> Reply:
        def trace(event: str, _details: object) -> None:
            if event == SENDING:
                before()

        # The token comes last: if PHP cuts the request at max_input_vars, the whole call fails.
        form = [
            *_flatten("", arguments),
            ("wsfunction", function),
            ("moodlewsrestformat", "json"),
            ("moodlewssettingraw", "1"),
            ("wstoken", self._token),
        ]
        body = urlencode(form).encode()
        with self._slots:
            self._wait_turn()
            started = time.perf_counter()
            outcome = "not-sent"
            try:
                with self._http.stream(
                    "POST",
                    self._url,
                    content=body,
                    headers={"content-type": "application/x-www-form-urlencoded"},
                    extensions={"trace": trace},
                ) as response:
                    text = self._text(function, response, started)
                content = self._decode(function, response, text, len(form), len(body))
                outcome = "ok"
                return Reply(content=content, seconds=time.perf_counter() - started)
            except MoodleError as error:
                outcome = error.code
                raise
            except (httpx.RequestError, httpx.InvalidURL) as error:  # the latter for the target of a redirect
                raised = self._transport_error(function, error)
                outcome = raised.code
                raise raised from None
            finally:
                telemetry.MOODLE_CALLS.labels(self.platform, function, outcome).inc()
                telemetry.MOODLE_CALL_SECONDS.labels(self.platform, function).observe(time.perf_counter() - started)

    def _wait_turn(self) -> None:
        with self._turn:
            now = time.monotonic()
            wait = max(0.0, self._next_call - now)
            self._next_call = max(now, self._next_call) + 1 / self.limits.calls_per_second
        if wait:
            self._sleep(wait)

    def _transport_error(self, function: str, error: httpx.RequestError | httpx.InvalidURL) -> MoodleUnavailable:
        never_sent = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout)
        timed_out = isinstance(error, httpx.TimeoutException) and not never_sent
        if timed_out:
            return self._late(function)
        cause: BaseException | None = error
        while cause and not isinstance(cause, ssl.SSLCertVerificationError):
            cause = cause.__cause__ or cause.__context__
        what = f"{type(error).__name__}; check that the address is right and the site is up"
        if isinstance(cause, ssl.SSLCertVerificationError):
            what = f"the site's certificate isn't accepted: {cause.verify_message}"
        return MoodleUnavailable("transport", f"{self.platform}: {function}: {what}", unknown=not never_sent)

    def _late(self, function: str) -> MoodleUnavailable:
        sentence = f"{function} had no response within {self.limits.timeout_seconds:g} s; it may have been applied"
        return MoodleUnavailable("timeout", f"{self.platform}: {sentence}", unknown=True)

    def _text(self, function: str, response: httpx.Response, started: float) -> bytes:
        """Read a response to its end, but neither more than RESPONSE_BYTES nor for longer than the time-out."""
        text = bytearray()
        for part in response.iter_bytes():
            text += part
            if len(text) > RESPONSE_BYTES:
                sentence = f"a response of more than {RESPONSE_BYTES} bytes; the call may have been applied"
                raise MoodleUnavailable("too-long", f"{self.platform}: {function}: {sentence}", unknown=True)
            if time.perf_counter() - started > self.limits.timeout_seconds:
                raise self._late(function)
        return bytes(text)

    def _decode(self, function: str, response: httpx.Response, text: bytes, fields: int, sent: int) -> Any:  # noqa: ANN401 - any JSON
        where = f"{self.platform}: {function}"
        _check_status(where, response, sent)
        if text.startswith(b"<?xml"):
            raise _xml(where, fields)
        try:
            content = orjson.loads(text.removeprefix(_BYTE_ORDER_MARK))
        except orjson.JSONDecodeError:
            code, what = _not_json(text)
            raise MoodleUnavailable(code, f"{where}: {what}", unknown=True) from None
        if isinstance(content, dict) and content.keys() & _ERROR_KEYS:
            raise self._refusal(where, function, content, fields)
        try:
            if function in FORMS:
                FORMS[function].validate_python(content)
        except ValidationError:
            raise MoodleUnavailable("not-moodle", f"{where}: unexpected JSON response", unknown=True) from None
        return content

    def _refusal(self, where: str, function: str, content: dict[str, Any], fields: int) -> MoodleError:
        # Moodle's own sentence is translated and may name people: only the code is reported.
        code = self._errorcode(content)
        if code == CUT_TOKEN and fields >= TRUNCATION_FIELDS:
            return _cut(where, fields)
        error = refusal(where, function, code)
        if "exception" in content or isinstance(error, MoodleDenied):
            return error
        return MoodleUnavailable(code, f"{where}: {code}: an error that isn't in Moodle's form", unknown=True)

    def _errorcode(self, content: dict[str, Any]) -> str:
        """Return the errorcode, unless it doesn't look like one or is one too many: each makes a series of a metric."""
        code = str(content.get("errorcode", ""))
        if not _CODE.fullmatch(code) or (len(self._codes) >= MOST_CODES and code not in self._codes):
            return "no-errorcode"
        self._codes.add(code)
        return code


def _check_status(where: str, response: httpx.Response, sent: int) -> None:
    """Raise the error that an HTTP status stands for; `sent` bytes were the request."""
    status = response.status_code
    code = f"http-{status}"
    todo = remedy(code)
    if todo is not None:
        raise MoodleDenied(code, f"{where}: HTTP {status}: {todo}")
    if code == TOO_LARGE:
        sentence = f"{where}: the web server refuses {sent} bytes; lower limits.fields, or let it take more"
        raise MoodleRejected(code, sentence)
    if status != 200:  # noqa: PLR2004 - the only status of a response by Moodle itself
        raise MoodleUnavailable(
            code,
            f"{where}: HTTP {status}",
            retry_after=_retry_after(response),
            unknown=status in _GAVE_UP,
        )


def _not_json(text: bytes) -> tuple[str, str]:
    """Return code and sentence of an answer that isn't JSON."""
    if _MESSAGE_OF_PHP.search(text) or _ends_in_json(text):
        advice = "switch debugdisplay off on Moodle (and display_errors in PHP), then see its log"
        return "output-before-json", f"PHP or a plugin prints into the answers ({len(text)} bytes); {advice}"
    if text.lstrip().startswith(b"<"):
        advice = "it is that of a proxy, of a sign-in, or of an error; open the platform's url in a browser"
        return "not-json", f"a page of {len(text)} bytes instead of JSON; {advice}"
    return "not-json", f"{len(text)} bytes that are not JSON"


def _ends_in_json(text: bytes) -> bool:
    """Return whether a result stands at the end, on a line of its own or right after something else."""
    start = min((at for at in (text.find(b'{"'), text.find(b"[{"), text.find(b"[]")) if at >= 0), default=-1)
    candidates = [text[start:]] if start > 0 else []
    if b"\n" in text:
        candidates.append(text.rsplit(b"\n", 1)[1])
    for candidate in candidates:
        try:
            orjson.loads(candidate)
        except orjson.JSONDecodeError:
            continue
        return True
    return False


def _xml(where: str, fields: int) -> MoodleError:
    if fields >= TRUNCATION_FIELDS:
        return _cut(where, fields)
    return MoodleUnavailable("xml", f"{where}: an XML response, although JSON was asked for")


def _cut(where: str, fields: int) -> MoodleRejected:
    sentence = f"{where}: PHP cut a form of {fields} fields; lower limits.fields or raise max_input_vars"
    return MoodleRejected(TOO_MANY_FIELDS, sentence)


def _retry_after(response: httpx.Response) -> float | None:
    value = response.headers.get("retry-after", "")
    return float(value) if value.isdecimal() else None


def _flatten(prefix: str, value: Any) -> Iterator[tuple[str, str]]:  # noqa: ANN401 - any argument of a call
    """Write arguments as PHP reads them: `members[0][cohorttype][type]=id`."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _flatten(f"{prefix}[{key}]" if prefix else key, item)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _flatten(f"{prefix}[{index}]", item)
    else:
        yield prefix, str(value)
