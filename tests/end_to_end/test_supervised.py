"""What systemd hears from a worker, at a real socket of its kind."""

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from tests.support.installation import Install, eventually
from worker.runtime.systemd import Supervisor
from worker.runtime.worker import Worker
from worker.settings.root import load

pytestmark = pytest.mark.end_to_end


class Listener:
    """The supervisor's end."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.path)
        self._socket.settimeout(30)

    def next(self) -> str:
        """Wait for the next datagram."""
        return self._socket.recv(100).decode()

    def rest(self) -> list[str]:
        """Return what was sent and not received yet."""
        self._socket.settimeout(0)
        received = []
        try:
            while True:
                received.append(self._socket.recv(100).decode())
        except BlockingIOError:
            self._socket.settimeout(30)
        return received

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[Listener]:
    listener = Listener(tmp_path / "notify")
    yield listener
    listener.close()


def test_a_worker_says_when_it_is_ready_that_it_lives_and_that_it_stops(
    install: Install, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", listener.path)
    monkeypatch.setenv("WATCHDOG_USEC", "400000")
    worker = install().worker()
    assert listener.next() == "READY=1"
    assert worker.get("livez").status_code == 200
    assert [listener.next(), listener.next()] == ["WATCHDOG=1", "WATCHDOG=1"]
    assert worker.terminate() == 0
    *beats, last = listener.rest()
    assert set(beats) <= {"WATCHDOG=1"}
    assert last == "STOPPING=1"


def test_a_watchdog_hears_nothing_while_a_loop_is_stuck(install: Install, listener: Listener) -> None:
    supervisor = Supervisor({"NOTIFY_SOCKET": listener.path, "WATCHDOG_USEC": "200000"})
    worker = Worker(load(install().file), supervisor=supervisor)
    with capture_logs() as logs, ThreadPoolExecutor() as threads, worker.running() as wait_for_end:
        end = threads.submit(wait_for_end)
        assert [listener.next(), listener.next()] == ["READY=1", "WATCHDOG=1"]
        worker._health.beat("ecampus-0", within=-1)  # overdue at once

        def stuck() -> int:
            return sum(line["event"].startswith("loops are stuck") and line["loops"] == ["ecampus-0"] for line in logs)

        eventually(stuck)
        listener.rest()
        seen = stuck()
        eventually(lambda: stuck() > seen + 1)
        assert listener.rest() == []
        worker._health.forget("ecampus-0")
        assert listener.next() == "WATCHDOG=1"
        worker.stop()
        end.result()
