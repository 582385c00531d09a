"""A Moodle that somebody has taken over: it gets no more than it is told anyway, and can't stop the worker."""

import gzip
import itertools
import re
import time
from collections.abc import Callable, Iterator

import prometheus_client
import pytest

from tools.fuzz.moodle import TOKEN, AnyAnswer
from worker.domain.errors import MoodleDenied, MoodleError, MoodleUnavailable
from worker.domain.rules import Mode
from worker.moodle import CallLimits, MoodleReader, MoodleWriter, Transport
from worker.moodle.transport import MOST_CODES, RESPONSE_BYTES
from worker.runtime.check import is_in_the_clear

OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
NONE = OK + b"Content-Length: 2\r\n\r\n[]"


@pytest.fixture
def site() -> AnyAnswer:
    return AnyAnswer()


@pytest.fixture
def wire(site: AnyAnswer) -> Iterator[Transport]:
    wire = Transport("ecampus", site.url, TOKEN, CallLimits(calls_per_second=10_000.0, timeout_seconds=5.0))
    yield wire
    wire.close()


@pytest.fixture
def reader(wire: Transport) -> MoodleReader:
    return MoodleReader(wire)


def failing(call: Callable[[], object]) -> MoodleError:
    with pytest.raises(MoodleError) as caught:
        call()
    return caught.value


def answer(body: bytes, *headers: bytes) -> list[bytes]:
    lines = b"".join(header + b"\r\n" for header in headers)
    return [OK + lines + b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body]


ENDLESS = [OK + b"Connection: close\r\n\r\n["], itertools.repeat(b" " * 1_000_000)
BOMB = answer(gzip.compress(b"[" + b" " * 300_000_000, mtime=0), b"Content-Encoding: gzip")


@pytest.mark.parametrize("pieces", [itertools.chain(*ENDLESS), BOMB], ids=["endless", "packed"])
def test_no_more_of_an_answer_is_read_than_any_moodle_gives(
    site: AnyAnswer, wire: Transport, pieces: Iterator[bytes]
) -> None:
    site.answer = pieces
    error = failing(lambda: wire.write("core_cohort_add_cohort_members", {}))
    assert isinstance(error, MoodleUnavailable)
    assert (error.code, error.unknown) == ("too-long", True)
    assert str(RESPONSE_BYTES) in str(error)


def test_an_answer_that_comes_byte_by_byte_has_as_long_as_any_other(site: AnyAnswer) -> None:
    def trickle() -> Iterator[bytes]:
        yield OK + b"Connection: close\r\n\r\n"
        while True:
            time.sleep(0.02)
            yield b" "

    site.answer = trickle()
    wire = Transport("ecampus", site.url, TOKEN, CallLimits(timeout_seconds=0.2))
    error = failing(lambda: wire.write("core_cohort_add_cohort_members", {}))
    wire.close()
    assert isinstance(error, MoodleUnavailable)
    assert (error.code, error.unknown) == ("timeout", True)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_takes_the_token_nowhere(site: AnyAnswer, reader: MoodleReader, status: int) -> None:
    elsewhere = AnyAnswer()
    site.answer = [
        b"HTTP/1.1 %d Moved\r\nLocation: %s/\r\nContent-Length: 0\r\n\r\n" % (status, elsewhere.url.encode())
    ]
    error = failing(reader.cohorts)
    assert isinstance(error, MoodleDenied)
    assert elsewhere.asked == (b"", b"")
    assert elsewhere.url not in str(error)


def test_no_cookie_of_an_answer_comes_back_with_the_next_call(site: AnyAnswer, reader: MoodleReader) -> None:
    site.answer = answer(b"[]", b"Set-Cookie: MoodleSession=\xc3\xa9\xff; Path=/", b"Set-Cookie: a=b")
    assert reader.cohorts() == []
    assert reader.cohorts() == []
    assert b"cookie" not in site.asked[0].lower()


@pytest.mark.parametrize(
    "code", ['"a\\nb"', '"\\u001b[2J"', '"x\\"} 1\\nforged 1"', "[1]", "{}", '"é"', f'"{"x" * 65}"']
)
def test_an_errorcode_that_is_none_of_moodles_is_not_repeated(site: AnyAnswer, reader: MoodleReader, code: str) -> None:
    site.answer = answer(b'{"exception": "x", "message": "Jeanne Dupont", "errorcode": %s}' % code.encode())
    error = failing(reader.cohorts)
    assert isinstance(error, MoodleUnavailable)
    assert error.code == "no-errorcode"
    assert str(error).startswith("ecampus: core_cohort_get_cohorts: no-errorcode: ")
    assert "Dupont" not in str(error)


def test_errorcodes_without_end_make_no_series_of_metrics_without_end(site: AnyAnswer, reader: MoodleReader) -> None:
    for number in range(200):
        site.answer = answer(b'{"exception": "x", "errorcode": "code%d"}' % number)
        failing(reader.cohorts)
    page = prometheus_client.generate_latest().decode()
    assert len(re.findall(r'^cohorts_moodle_calls_total\{.*outcome="code\d+"', page, re.MULTILINE)) == MOST_CODES


def test_cohorts_that_were_not_asked_for_are_neither_created_nor_read(site: AnyAnswer, wire: Transport) -> None:
    writer = MoodleWriter(wire, Mode.AUTOMATIC, instance="4f2a9c71d0be")
    site.answer = answer(b'[{"id": 9, "idnumber": "PROFS"}]')
    assert failing(lambda: writer.create([("L1DROI", "Licence 1")])).code == "not-moodle"
    site.answer = answer(b'[{"cohortid": 9, "userids": [4]}]')
    assert failing(lambda: writer.members([1])).code == "not-moodle"


@pytest.mark.parametrize(
    ("url", "warned"),
    [
        ("https://moodle.example.fr", False), ("http://moodle.example.fr", True), ("http://127.0.0.1:8080", False),
        ("http://localhost/moodle", False), ("http://localhost.example.fr", True), ("http://127.0.0.1@evil.fr", True),
    ],
)  # fmt: skip
def test_an_address_by_which_the_network_can_read_the_token_is_warned_of(url: str, warned: bool) -> None:  # noqa: FBT001 - a verdict
    assert is_in_the_clear(url) is warned
