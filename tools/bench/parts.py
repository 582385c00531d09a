"""What several benchmarks need: settings, and a Moodle in a process of its own whose changes are timed."""

import multiprocessing
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from math import isnan
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from random import Random
from typing import Any

from worker.cli.lazy import settle
from worker.domain.changes import Received
from worker.formats import cloudevents
from worker.ledger import Ledger
from worker.runtime.ledger import recorder
from worker.sandbox.moodle.server import Cost, SandboxMoodle
from worker.sandbox.university.records import Message
from worker.settings.root import Settings

PLATFORM = "ecampus"
TOKEN = "benchmark"
TOPIC, DEAD_LETTERS = "enrolments", "enrolments.dead-letters"
WATCH_SECONDS = 0.05
FIRST_COHORTS = 100_000
BATCH = 5_000
"""Messages in one transaction, as the worker does by default."""
PROCESSES = multiprocessing.get_context("spawn")  # a fork would copy the threads' locks

Seen = dict[tuple[str, str], float]
"""When each membership (cohort idnumber, username) was first seen, in seconds since the epoch."""


def settings(*, ledger: str, moodle: str = "http://127.0.0.1:9", **more: Any) -> Settings:  # noqa: ANN401 - as TOML gives them
    """Return the settings of a university with one platform, and default values except for `more`."""
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
                "guard": more.pop("guard", {}),
            }
        },
        ledger={"url": ledger},
        web={"port": 0},
        **more,
    )


def record(ours: Settings, ledger: Ledger, messages: Iterable[Message]) -> None:
    """Record messages as a worker does."""
    records, now = recorder(ours, ledger), time.time()
    records.apply_policy(now=now)  # else the next worker, with a policy, would project everything again
    left = iter(messages)
    while batch := list(islice(left, BATCH)):
        changes = [cloudevents.parse(value=message.payload(), origin="bench") for message in batch]
        records.record([Received(change=change, published_at=now) for change in changes], now=now)


class Moodle:
    """A sandbox Moodle in another process, so that it doesn't share the interpreter lock with its callers."""

    def __init__(self, url: str, accounts: Mapping[str, int], pipe: Connection) -> None:
        self.url = url
        self.accounts = accounts
        """Ids by username."""
        self._pipe = pipe

    def watch(self) -> None:
        """From now on, look at the memberships after each call, which takes some of Moodle's time."""
        self._ask("watch")

    def seen(self) -> Seen:
        """Look, and return everything that has been seen."""
        seen: Seen = self._ask("look")
        return seen

    def create_cohort(self, idnumber: str) -> int:
        """Create a cohort without a call; returns its id."""
        number: int = self._ask("create", idnumber)
        return number

    def memberships(self) -> dict[str, set[str]]:
        """Return the usernames of members by cohort idnumber."""
        memberships: dict[str, set[str]] = self._ask("memberships")
        return memberships

    def charge(self, cost: Cost) -> None:
        """Let calls take that long from now on."""
        self._ask("charge", cost)

    def disturb(self, changes: int) -> None:
        """Change so many memberships without a call: half of them end, the others are new."""
        self._ask("disturb", changes)

    def calls(self) -> list[tuple[float, float]]:
        """Return when each call since the last time began and ended, by `time.monotonic()`."""
        calls: list[tuple[float, float]] = self._ask("calls")
        return calls

    def _ask(self, *words: Any) -> Any:  # noqa: ANN401 - each question has an answer of its own
        self._pipe.send(words)
        return self._pipe.recv()


def command(work: Callable[..., None], *arguments: object) -> SpawnProcess:
    """Start work in a process of its own, with the Python set up as for the commands."""
    process = PROCESSES.Process(target=_settled, args=(work, *arguments))
    process.start()
    return process


def _settled(work: Callable[..., None], *arguments: object) -> None:
    settle()
    work(*arguments)


@contextmanager
def served(usernames: list[str], *, cost: Cost, courses: int = 0) -> Iterator[Moodle]:
    """Serve a Moodle whose cohorts are all synchronised into so many courses."""
    pipe, served_pipe = PROCESSES.Pipe()
    process = PROCESSES.Process(target=_serve, args=(served_pipe, usernames, cost, courses))
    process.start()
    try:
        url, accounts = pipe.recv()
        yield Moodle(url, accounts, pipe)
        pipe.send(None)
    finally:
        process.join(10)
        process.kill()


def _serve(pipe: Connection, usernames: list[str], cost: Cost, courses: int) -> None:
    moodle = SandboxMoodle(token=TOKEN, cost=cost)
    accounts = dict(zip(usernames, moodle.add_users((name, name[1:]) for name in usernames), strict=True))
    moodle.courses.update(dict.fromkeys(range(FIRST_COHORTS), courses))  # including cohorts that don't exist yet
    site = _Site(moodle)
    with moodle.serving() as url:
        pipe.send((url, accounts))
        while True:
            if site.watching and not pipe.poll(WATCH_SECONDS):
                site.look_again()
            elif request := pipe.recv():
                name, *arguments = request
                pipe.send(getattr(site, name)(*arguments))
            else:
                return


class _Site:
    """What another process may call: see `Moodle`."""

    def __init__(self, moodle: SandboxMoodle) -> None:
        self._moodle = moodle
        self.memberships = moodle.memberships
        self.watching = False
        self._seen: Seen = {}
        self._ended = 0

    def watch(self) -> None:
        self.watching = True

    def look_again(self) -> None:
        ended = sum(call.writes and not isnan(call.ended) for call in self._moodle.calls)
        if ended != self._ended:
            self._ended = ended
            self.look()

    def look(self) -> Seen:
        now = time.time()
        for cohort, members in self._moodle.memberships().items():
            for name in members:
                self._seen.setdefault((cohort, name), now)
        return self._seen

    def create(self, idnumber: str) -> int:
        return self._moodle.create_cohort(name=idnumber, idnumber=idnumber)

    def charge(self, cost: Cost) -> None:
        self._moodle.cost = cost

    def calls(self) -> list[tuple[float, float]]:
        calls = [(call.started, call.ended) for call in self._moodle.calls]
        self._moodle.calls.clear()
        return calls

    def disturb(self, changes: int) -> None:
        random = Random(1)
        members = {cohort.id: set(self._moodle.members(cohort.id)) for cohort in self._moodle.cohorts()}
        pairs = [(cohort_id, user_id) for cohort_id, users in members.items() for user_id in sorted(users)]
        for cohort_id, user_id in random.sample(pairs, changes // 2):
            self._moodle.remove_member(cohort_id, user_id)
        cohort_ids, user_ids, added = [*members], [*self._moodle.users], 0
        while added < changes // 2:
            cohort_id, user_id = random.choice(cohort_ids), random.choice(user_ids)
            if user_id not in members[cohort_id]:
                members[cohort_id].add(user_id)
                self._moodle.add_member(cohort_id, user_id)
                added += 1
