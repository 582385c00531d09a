"""The lanes of a worker, which adapt the size of their calls, against two plain scripts on the same Moodle. The
scripts keep no ledger, and write to existing cohorts, for accounts with known ids:

- one call per event, one after the other;
- batches of a fixed size, over as many connections as ours.

The worker also creates the cohorts, makes at most ten calls per second, and records what it does in the ledger.

Moodle's share is the part of the time during which at least one call was running there. The length of calls matters,
because PHP and proxies give up after 30 to 300 s; fixed sizes don't take it into account.
"""

import statistics
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tools.bench import Figure, Quantity, scaled
from tools.bench.parts import PLATFORM, TOKEN, Moodle, record, served, settings
from worker.domain.accounts import FoundAccount
from worker.domain.guard import Guard
from worker.ledger import Ledger, WorkQueue
from worker.ledger.status import read_status
from worker.moodle.transport import SERVICE
from worker.runtime import build
from worker.runtime.ledger import open_ledger
from worker.sandbox.moodle.server import MEASURED, Cost
from worker.sandbox.university.generator import University
from worker.settings.root import Settings
from worker.sync.converge.lane import Lane

TITLE = "Memberships on Moodle"
ROUNDS = scaled(3, least=1)
"""Of measurements without sleeps, which vary most."""
NAIVE_CALLS = 60
FIXED = (50, 200, 500)
"""Members per call."""
CONNECTIONS = 2
IDLE_SECONDS = 0.1
AIMS = {0: 15.0}
"""Times faster than one call per event, at least, by number of synchronised courses."""
SHARE_AIM = 90.0
"""Percent of the time during which Moodle works, at least."""
STUDENTS = {0: scaled(15_000), 1: scaled(3_000), 10: scaled(900)}
"""Students of the university, by number of synchronised courses: fewer where calls are slower."""
FEW = scaled(5_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """What a client did on a Moodle."""

    memberships: int
    seconds: float
    calls: Sequence[tuple[float, float]]
    """When each began and ended."""

    @property
    def rate(self) -> float:
        """Memberships per second."""
        return self.memberships / self.seconds

    @property
    def longest(self) -> float:
        """Seconds of the longest call."""
        return max(ended - began for began, ended in self.calls)

    @property
    def share(self) -> float:
        """Percent of the time during which at least one call was running."""
        busy, until = 0.0, 0.0
        for began, ended in sorted(self.calls):
            busy += max(0.0, ended - max(began, until))
            until = max(until, ended)
        return 100 * busy / self.seconds


def run() -> Iterator[Figure]:
    """Yield the figures at measured costs, then our own limit, on a Moodle with instant calls."""
    for courses, students in STUDENTS.items():
        done = _round(students, MEASURED, courses, fixed=FIXED)
        yield from _figures(f"{courses} courses per cohort", [done], AIMS.get(courses))
    yield from _figures("0 courses, accounts unknown", [_round(FEW, MEASURED, 0, known=False)])
    limits = {"calls_per_second": 1000}
    free = [_round(FEW, Cost(), 0, limits=limits) for _ in range(ROUNDS)]
    yield from _figures("instant calls, no throttle", free, bulk=False)


def _figures(
    what: str, rounds: Sequence[dict[str, _Work]], aim: float | None = None, *, bulk: bool = True
) -> Iterator[Figure]:
    """Yield medians of rounds, each of which has the work of the worker and of the scripts."""
    rates = {who: statistics.median(each[who].rate for each in rounds) for who in rounds[0]}
    longest = {who: max(each[who].longest for each in rounds) for who in rounds[0]}
    ours, what = rates.pop("ours"), f"{what} ({rounds[0]['ours'].memberships:,})"
    for who, rate in rates.items():
        yield Figure(
            what=what,
            figure=f"{ours:,.0f} memberships/s, calls of up to {longest['ours']:.1f} s",
            against=f"{rate:,.0f}/s, {who}, calls of up to {longest[who]:.1f} s",
            ratio=Quantity(ours / rate, "times as fast", least=aim if who == ONE_BY_ONE else None),
        )
    if bulk:
        share = statistics.median(each["ours"].share for each in rounds)
        yield Figure(
            what=f"{what}: Moodle's share of the time",
            ratio=Quantity(share, "%", least=SHARE_AIM),
            figure=f"{statistics.median(each['ours'].seconds for each in rounds):.1f} s",
        )


ONE_BY_ONE = "one call per event"


def _round(
    students: int,
    cost: Cost,
    courses: int,
    *,
    known: bool = True,
    fixed: Sequence[int] = (),
    limits: dict[str, Any] | None = None,
) -> dict[str, _Work]:
    """Measure the worker and the scripts on one Moodle; with `known`, the ledger already holds the accounts."""
    university = University(students=students, etapes=max(25, students // 30))
    truth = university.truth()
    numbers = sorted(frozenset().union(*truth.values()))
    with ExitStack() as stack:
        moodle = stack.enter_context(served([f"e{number}" for number in numbers], cost=cost, courses=courses))
        directory = stack.enter_context(tempfile.TemporaryDirectory())
        ours = settings(
            ledger=f"sqlite:///{Path(directory) / 'ledger.db'}",
            moodle=moodle.url,
            limits=limits or {},
            converge={"coalesce_seconds": 0},
        )
        ledger = open_ledger(ours)
        stack.callback(ledger.close)
        record(ours, ledger, university.initial())
        if known:
            found = {key: FoundAccount(user_id=user_id) for key, user_id in moodle.accounts.items()}
            WorkQueue(ledger, PLATFORM, "bench", lease=1, guard=Guard()).accounts.remember(found, time.time())
        number = sum(map(len, truth.values()))
        one_by_one = sorted(moodle.accounts.values())[:NAIVE_CALLS]
        done = {ONE_BY_ONE: _fixed(moodle, {"naive": one_by_one}, size=1, connections=1)}
        for size in fixed:
            members = {
                f"{size}-{code}": [moodle.accounts[f"e{n}"] for n in sorted(some)] for code, some in truth.items()
            }
            done[f"batches of {size}"] = _fixed(moodle, members, size=size, connections=CONNECTIONS)
        before = len(moodle.seen())
        done["ours"] = _Work(memberships=number, seconds=converge(ours, ledger), calls=moodle.calls())
        if missing := number - len(moodle.seen()) + before:
            raise RuntimeError(f"{missing} memberships are missing on Moodle")
    return done


def _fixed(moodle: Moodle, members: dict[str, list[int]], *, size: int, connections: int) -> _Work:
    """Add accounts to existing cohorts, so many per call, with no cohort in two calls at once."""
    cohorts = {name: moodle.create_cohort(name) for name in members}
    pairs = [(cohorts[name], user_id) for name, some in members.items() for user_id in some]
    moodle.calls()
    middle = next((i for i in range(len(pairs) // 2, len(pairs)) if pairs[i][0] != pairs[i - 1][0]), len(pairs))
    shares = [pairs[:middle], pairs[middle:]] if connections > 1 else [pairs]
    started = time.perf_counter()
    with ThreadPoolExecutor(connections) as pool:
        for done in [pool.submit(_add, moodle, share, size) for share in shares]:
            done.result()
    return _Work(memberships=len(pairs), seconds=time.perf_counter() - started, calls=moodle.calls())


def _add(moodle: Moodle, pairs: Sequence[tuple[int, int]], size: int) -> None:
    """Add members over one connection."""
    with httpx.Client(timeout=60) as client:
        for start in range(0, len(pairs), size):
            form = {"wsfunction": "core_cohort_add_cohort_members", "moodlewsrestformat": "json"}
            for i, (cohort_id, user_id) in enumerate(pairs[start : start + size]):
                item = f"members[{i}]"
                form |= {f"{item}[cohorttype][type]": "id", f"{item}[cohorttype][value]": str(cohort_id)}
                form |= {f"{item}[usertype][type]": "id", f"{item}[usertype][value]": str(user_id)}
            answer = client.post(f"{moodle.url}/{SERVICE}", data=form | {"wstoken": TOKEN})
            if answer.raise_for_status().json() != {"warnings": []}:
                raise RuntimeError(f"not added: {answer.text[:200]}")


def converge(ours: Settings, ledger: Ledger) -> float:
    """Run the lanes of the worker until no gap is left; returns the seconds."""
    stop = threading.Event()

    def work(lane: Lane) -> None:
        while not stop.is_set():
            if not lane.run_once():
                [platform] = read_status(ledger, [PLATFORM], time.time()).platforms
                if not any(platform.gaps.values()):
                    stop.set()
                stop.wait(IDLE_SECONDS)

    with ExitStack() as stack:
        threads = [threading.Thread(target=work, args=[lane]) for _, lane in build.lanes(ours, ledger, stop, stack)]
        started = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return time.perf_counter() - started
