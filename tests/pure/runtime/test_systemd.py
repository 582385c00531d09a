import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from worker.runtime.systemd import Supervisor


@pytest.fixture(params=["a file", "an abstract name"])
def heard(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, socket.socket]]:
    """Return the value of NOTIFY_SOCKET, and the socket at which a supervisor listens."""
    name = str(tmp_path / "notify") if request.param == "a file" else f"@etape-cohorts-{tmp_path.name}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(name.replace("@", "\0", 1))
        listener.settimeout(0)
        yield name, listener


def test_a_supervisor_hears_each_state_as_one_datagram(heard: tuple[str, socket.socket]) -> None:
    name, listener = heard
    supervisor = Supervisor({"NOTIFY_SOCKET": name})
    supervisor.notify("READY=1")
    supervisor.notify("STOPPING=1")
    assert [listener.recv(100), listener.recv(100)] == [b"READY=1", b"STOPPING=1"]


def test_a_watchdog_is_told_twice_in_its_time() -> None:
    now = [100.0]
    supervisor = Supervisor({"WATCHDOG_USEC": "120000000"}, clock=lambda: now[0])
    heard = []
    for second in range(200):
        now[0] = 100.0 + second
        if supervisor.expects_beat():
            heard.append(second)
    assert heard == [0, 60, 120, 180]


def test_without_a_supervisor_nothing_is_told_and_nothing_is_wrong() -> None:
    without = Supervisor({})
    with capture_logs() as logs:
        without.notify("READY=1")
    assert not without.expects_beat()
    assert logs == []


def test_a_supervisor_that_is_gone_is_logged_and_stops_nothing(tmp_path: Path) -> None:
    with capture_logs() as logs:
        Supervisor({"NOTIFY_SOCKET": str(tmp_path / "nobody")}).notify("READY=1")
    assert [(line["log_level"], line["state"]) for line in logs] == [("warning", "READY=1")]
