"""Whoever reaches the port of metrics and health may read them, and nothing else."""

import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx
import pytest

from worker.runtime.http import Health, application, serving

SECRET = "password=0123456789abcdef"


@pytest.fixture(scope="module")
def broken() -> list[Exception]:
    """The errors that refreshing the metrics raises."""
    return []


@pytest.fixture(scope="module")
def address(broken: list[Exception]) -> Iterator[str]:
    def refresh() -> None:
        for error in broken:
            raise error

    with serving(application(Health(), refresh), host="127.0.0.1", port=0) as found:
        yield found


def raw(address: str, request: bytes) -> bytes:
    """Send bytes, and return what comes back until the server closes."""
    place = urlsplit(address)
    answer = b""
    with socket.create_connection((place.hostname, place.port), timeout=10) as connection:
        try:
            connection.sendall(request)
            while part := connection.recv(65_536):
                answer += part
        except ConnectionResetError:  # it has read enough
            pass
    return answer


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "TRACE", "OPTIONS", "CONNECT", "BREW"])
@pytest.mark.parametrize("path", ["metrics", "livez", "readyz"])
def test_the_port_is_only_read(address: str, method: str, path: str) -> None:
    answer = raw(address, f"{method} /{path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    assert answer.startswith((b"HTTP/1.1 405 ", b"HTTP/1.1 400 "))


@pytest.mark.parametrize(
    "path", ["/", "/metrics/../../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "//etc/passwd", "/docs"]
)
def test_no_other_path_is_served(address: str, path: str) -> None:
    answer = raw(address, f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert answer.endswith(b"Not Found")


@pytest.mark.parametrize(
    "request_",
    [
        b"GET /" + b"x" * 1_000_000,
        b"GET /livez HTTP/1.1\r\nHost: x\r\n" + b"X-Many: y\r\n" * 50_000,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    ],
    ids=["long line", "many headers", "tls", "negative length"],
)
def test_what_is_no_request_is_refused_and_the_next_one_is_answered(address: str, request_: bytes) -> None:
    answer = raw(address, request_)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 400 ")
    assert httpx.get(f"{address}/livez").text == "ok\n"


def test_an_error_within_is_not_shown(address: str, broken: list[Exception]) -> None:
    broken.append(RuntimeError(SECRET))
    answer = httpx.get(f"{address}/metrics")
    broken.clear()
    assert (answer.status_code, answer.text) == (500, "Internal Server Error")
