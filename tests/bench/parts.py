"""What several benches need: settings, a Moodle in a process of its own, and the instants at which it changes."""

import multiprocessing
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

from worker.config import Settings
from worker.sandbox.moodle import Cost, SandboxMoodle

PLATFORM = "ecampus"
TOKEN = "benchmark"
TOPIC, DEAD_LETTERS = "enrolments", "enrolments.dead-letters"
WATCH_SECONDS = 0.05
FIRST_COHORTS = 100_000
PROCESSES = multiprocessing.get_context("spawn")  # a fork would copy the threads' locks

Seen = dict[tuple[str, str], float]
"""When each membership (cohort idnumber, username) was first seen, in seconds since the epoch."""


def settings(*, ledger: str, moodle: str = "http://127.0.0.1:9", **more: Any) -> Settings:  # noqa: ANN401 - as TOML gives them
    """Give the settings of a university with one platform and default values, but for `more`."""
    return Settings(
        uais=frozenset({"0141408E"}),
        active_years=frozenset({2026}),
        platforms={
            PLATFORM: {
                "mode": "automatic",
                "url": moodle,
                "token": TOKEN,
                "account": {"template": "e{student_id}"},
                "limits": more.pop("limits", {}),
            }
        },
        ledger={"url": ledger},
        web={"port": 0},
        **more,
    )


class Moodle:
    """A sandbox Moodle in another process, so that it shares no interpreter lock with who calls it."""

    def __init__(self, url: str, accounts: Mapping[str, int], pipe: Connection) -> None:
        self.url = url
        self.accounts = accounts
        """Ids by username."""
        self._pipe = pipe

    def watch(self) -> None:
        """Look at the memberships all the time from now on, which takes some of its time."""
        self._ask("watch")

    def seen(self) -> Seen:
        """Look, and tell all that has been seen."""
        seen: Seen = self._ask("seen")
        return seen

    def create_cohort(self, idnumber: str) -> None:
        """Create a cohort, without a call."""
        self._ask("create", idnumber)

    def charge(self, cost: Cost) -> None:
        """Let calls take that long from now on."""
        self._ask("charge", cost)

    def _ask(self, *words: Any) -> Any:  # noqa: ANN401 - each question has an answer of its own
        self._pipe.send(words)
        return self._pipe.recv()


@contextmanager
def served(usernames: list[str], *, cost: Cost, courses: int = 0) -> Iterator[Moodle]:
    """Serve a Moodle whose cohorts are all synchronised into so many courses."""
    ours, theirs = PROCESSES.Pipe()
    process = PROCESSES.Process(target=_serve, args=(theirs, usernames, cost, courses))
    process.start()
    try:
        url, accounts = ours.recv()
        yield Moodle(url, accounts, ours)
        ours.send(("stop",))
    finally:
        process.join(10)
        process.kill()


def _serve(pipe: Connection, usernames: list[str], cost: Cost, courses: int) -> None:
    moodle = SandboxMoodle(token=TOKEN, cost=cost)
    accounts = dict(zip(usernames, moodle.add_users((name, name[1:]) for name in usernames), strict=True))
    moodle.courses.update(dict.fromkeys(range(FIRST_COHORTS), courses))  # of cohorts that are still to come
    seen: Seen = {}
    watching = False
    with moodle.serving() as url:
        pipe.send((url, accounts))
        while True:
            asked = pipe.recv() if not watching or pipe.poll(WATCH_SECONDS) else None
            now = time.time()
            for cohort, members in moodle.memberships().items():
                for name in members:
                    seen.setdefault((cohort, name), now)
            match asked:
                case ("stop",):
                    return
                case ("watch",):
                    watching = True
                    pipe.send(None)
                case ("seen",):
                    pipe.send(seen)
                case ("charge", price):
                    moodle.cost = price
                    pipe.send(None)
                case ("create", idnumber):
                    pipe.send(moodle.create_cohort(name=idnumber, idnumber=idnumber))
