"""Memberships a second on Moodle: the lanes of a worker, against a client that makes one call an event."""

import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx

from tests.bench import Figure
from tests.bench.parts import PLATFORM, TOKEN, Moodle, served, settings
from worker import messages, parts
from worker.config import Settings
from worker.converge import Lane
from worker.ledger import Ledger, Workbook, reading
from worker.model import Received
from worker.moodle.wire import SERVICE
from worker.plan import Guard
from worker.sandbox.moodle import MEASURED, Cost
from worker.sandbox.university import University

ROUNDS = {0: 3, 1: 1, 10: 1}
"""By synchronised courses: what sleeps most is disturbed least."""
NAIVE_CALLS = 60
IDLE_SECONDS = 0.1
AIMS = {0: "15 times faster"}
STUDENTS = {0: 5_000, 1: 2_000, 10: 400}
"""Students of the university, by synchronised courses: the dearer, the fewer."""


def run() -> Iterator[Figure]:
    """Give the figures at measured costs, then our own ceiling, on a Moodle whose calls cost nothing."""
    for courses, students in STUDENTS.items():
        rounds = [_round(students, MEASURED, courses) for _ in range(ROUNDS[courses])]
        yield _figure(f"{courses} courses a cohort, accounts known", rounds, AIMS.get(courses, ""))
    rounds = [_round(STUDENTS[0], MEASURED, 0, known=False)]
    yield _figure("0 courses a cohort, accounts to be looked up", rounds)
    free = Cost()
    rounds = [_round(STUDENTS[0], free, 0, limits={"calls_per_second": 1000}) for _ in range(ROUNDS[0])]
    yield _figure("calls that cost nothing, no throttle", rounds)


def _figure(what: str, rounds: list[tuple[int, float, float]], aim: str = "") -> Figure:
    """Say a median; a round is the memberships, and ours and the naive client's a second."""
    ours, naive = (statistics.median(some) for some in list(zip(*rounds, strict=True))[1:])
    return Figure(
        what=f"{what} ({rounds[0][0]:,})",
        value=f"{ours:,.0f} memberships/s",
        against=f"{naive:,.0f}/s, one call an event",
        ratio=f"{ours / naive:.1f} times faster",
        aim=aim,
    )


def _round(
    students: int, cost: Cost, courses: int, *, known: bool = True, limits: dict[str, Any] | None = None
) -> tuple[int, float, float]:
    """Measure both on one Moodle, with the ledger loaded and, if they are known, the accounts remembered."""
    university = University(students=students, etapes=max(25, students // 30))
    numbers = sorted(frozenset().union(*university.truth().values()))
    with ExitStack() as stack:
        moodle = stack.enter_context(served([f"e{number}" for number in numbers], cost=cost, courses=courses))
        directory = stack.enter_context(tempfile.TemporaryDirectory())
        ours = settings(
            ledger=f"sqlite:///{Path(directory) / 'ledger.db'}",
            moodle=moodle.url,
            limits=limits or {},
            converge={"coalesce_seconds": 0},
        )
        ledger = parts.open_ledger(ours)
        stack.callback(ledger.close)
        now = time.time()
        changes = [messages.parse(value=message.payload(), origin="bench") for message in university.initial()]
        parts.recorder(ours, ledger).record([Received(change=c, published_at=now) for c in changes], now=now)
        if known:
            Workbook(ledger, PLATFORM, "bench", lease=1, guard=Guard()).remember(moodle.accounts, now)
        naive = _naive(moodle, numbers)
        seconds = converge(ours, ledger)
        number = sum(map(len, university.truth().values()))
        missing = number - sum(cohort != "naive" for cohort, _ in moodle.seen())
        if missing:
            raise RuntimeError(f"{missing} memberships are missing on Moodle")
    return number, number / seconds, naive


def _naive(moodle: Moodle, numbers: list[str]) -> float:
    """Add members to a cohort that exists, one a call, on a connection that is kept."""
    moodle.create_cohort("naive")
    started = time.perf_counter()
    with httpx.Client() as client:
        for number in numbers[:NAIVE_CALLS]:
            form = {
                "members[0][cohorttype][type]": "idnumber",
                "members[0][cohorttype][value]": "naive",
                "members[0][usertype][type]": "username",
                "members[0][usertype][value]": f"e{number}",
                "wsfunction": "core_cohort_add_cohort_members",
                "moodlewsrestformat": "json",
                "wstoken": TOKEN,
            }
            client.post(f"{moodle.url}/{SERVICE}", data=form).raise_for_status()
    return NAIVE_CALLS / (time.perf_counter() - started)


def converge(ours: Settings, ledger: Ledger) -> float:
    """Run the lanes of the worker until no gap is left; gives the seconds."""
    stop = threading.Event()

    def work(lane: Lane) -> None:
        while not stop.is_set():
            if not lane.turn():
                [platform] = reading.status(ledger, [PLATFORM], time.time()).platforms
                if not any(platform.gaps.values()):
                    stop.set()
                stop.wait(IDLE_SECONDS)

    with ExitStack() as stack:
        threads = [threading.Thread(target=work, args=[lane]) for _, lane in parts.lanes(ours, ledger, stop, stack)]
        started = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return time.perf_counter() - started
