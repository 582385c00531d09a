"""Commands close gaps themselves, in threads beside what they wait for."""

import threading
import time
from pathlib import Path

import pytest

from tests.support.installation import enrolment
from tools.bench.parts import TOKEN, settings
from worker.domain.changes import Received
from worker.formats import cloudevents
from worker.runtime.ledger import open_ledger, recorder
from worker.runtime.worker import converging
from worker.sandbox.moodle.server import SandboxMoodle


def test_a_command_ends_although_a_call_of_its_lanes_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.runtime.threads.STOP_SECONDS", 0.1)
    moodle = SandboxMoodle(token=TOKEN)
    before = set(threading.enumerate())
    with moodle.serving(), moodle.paused():
        ours = settings(
            ledger=f"sqlite:///{tmp_path / 'ledger.db'}", moodle=moodle.url, converge={"coalesce_seconds": 0}
        )
        ledger = open_ledger(ours)
        change = cloudevents.parse(value=enrolment(0).payload(), origin="test")
        recorder(ours, ledger).record([Received(change=change, published_at=0)], now=time.time())
        with converging(ours, ledger, threading.Event()):
            moodle.wait_in_flight(1)
            lanes = [thread for thread in set(threading.enumerate()) - before if "ecampus" in thread.name]
        assert any(lane.is_alive() for lane in lanes)
    for lane in lanes:
        lane.join()
    ledger.close()
