"""A small university that goes on while things break, and the verdict on the outcome."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any, TypeVar

from tests.support.installation import Installation, Process, eventually, installed, pairs, platform
from tests.support.servers.kafka import Kafka
from tests.support.servers.postgres import Postgres
from tools.chaos.launcher import Orders, command
from worker.domain.errors import LedgerError
from worker.domain.states import Action
from worker.ledger import status
from worker.sandbox.moodle.server import Cost, SandboxMoodle
from worker.sandbox.university.generator import University
from worker.sandbox.university.records import Message

PLATFORM = "ecampus"
STUDENTS, ETAPES, CHANGES = 300, 30, 15
TIMEOUT, LATE, DRIP = 1.0, 1.5, 0.4  # seconds: nobody waits for a late response
EFFECT = 60.0  # seconds within which a fault must have an effect
RECOVERY = 60.0  # seconds after a fault; what isn't right by then is lost
COST = Cost(call=0.02, added=0.001, removed=0.001)
# Batches are small, so that a fault can strike in the middle of one. Parts of the worker wait for seconds.
SETTINGS: dict[str, dict[str, Any]] = {
    "kafka": {"batch": 20, "client": {"topic.metadata.refresh.interval.ms": "2000"}},
    "converge": {"removal_delay_seconds": 2.0, "park_seconds": 2.0, "park_most_seconds": 10.0},
}
LIMITS = {"calls_per_second": 1000, "timeout_seconds": TIMEOUT, "fields": 60}
GUARD = {"cohort_percent": 80, "platform_percent": 100}
"""Removals are held only when everybody leaves a cohort."""

Pairs = set[tuple[str, str]]
"""(étape, student number)."""
T = TypeVar("T")


class Campus(University):
    """A university where no version changes: a membership that a message ends stays ended."""

    def _change_version(self, at: float) -> list[Message]:
        return self._take_another(at)

    def close(self, etape: str) -> list[Message]:
        """Delete all enrolments in an étape; returns the messages."""
        leaving = [
            (student, row)
            for student in sorted(self.truth()[etape])
            for row in self._records.current(student)
            if row.etape.code == etape
        ]
        return [self._write(row.at + 1, student, row, status="deleted") for student, row in leaving]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What isn't as it must be."""

    lost: list[str]
    """Members who are missing, messages that weren't recorded, dead letters that aren't there."""
    wrong: list[str]
    """Members who must not be there, removals that nobody requested, foreign cohorts that were touched."""


class World:
    """A university, its Moodle, and a worker that is restarted whenever it ends, as a supervisor does."""

    def __init__(
        self, installation: Installation, kafka: Kafka, moodle: SandboxMoodle, campus: Campus, postgres: Postgres | None
    ) -> None:
        self.installation, self.kafka, self.moodle = installation, kafka, moodle
        self.campus, self.postgres = campus, postgres
        self.random = Random(campus.seed)
        self.orders = Orders()
        """Of the workers that are started from now on."""
        self.expected_removals: Pairs = set()
        """Removals that are right although the university didn't request them."""
        self.restored: Pairs = set()
        """Members whom a person's decision has put back."""
        self.ends = 0
        """How often a worker ended."""
        self.peak = 0
        """The most memory that a worker had, in kB."""
        self.end_offsets: dict[tuple[str, int], int] = {}
        """Of the topic, by partition."""
        self._poison: set[bytes] = set()
        self._students: dict[int, str] = {}
        self._merged: dict[str, str] = {}
        self.create_accounts()
        self._foreign_ids = {
            moodle.create_cohort(name="Lecteurs de la bibliothèque", idnumber="BU"),
            moodle.create_cohort(name="Faite à la main", idnumber=min(campus.truth())),
        }
        visitors = [*self._students][:5]
        for cohort in self._foreign_ids:
            for user in visitors:
                moodle.add_member(cohort, user)
        self.visitors = {self._students[user] for user in visitors}
        """Students in the foreign cohorts: deleting their accounts would change these."""
        self._foreign_before = self._foreign_cohorts()
        self.worker = self._started()

    # The university

    def create_accounts(self) -> None:
        """Create the missing accounts of everybody who ever gets one."""
        for username, idnumber, student in [*self.campus.accounts(), *self.campus.late_accounts()]:
            if username not in self.moodle.user_ids:
                self._students[self.moodle.add_user(username=username, idnumber=idnumber)] = student

    def exchange_accounts(self, one: str, other: str) -> None:
        """Give the accounts of two students each other's usernames, so that each is the other's from now on.

        Until that is noticed, each may be added and removed in the other's place.
        """
        accounts = {self.account_of(student): student for student in (one, other)}
        if len(accounts) == 1:
            return
        usernames = {account: self.moodle.users[account].username for account in accounts}
        for account, rival in zip(accounts, reversed(accounts), strict=True):
            self.moodle.change_user(account, username=usernames[rival])
            self._students[account] = accounts[rival]
        both = self.numbers(one) | self.numbers(other)
        self.expected_removals |= {(etape, student) for etape in self.campus.truth() for student in both}

    def live_a_day(self, changes: int) -> list[Message]:
        """Let a day with so many changes pass; returns its messages."""
        messages = list(self.campus.september_day(changes))
        self.create_accounts()
        for message in messages:
            if former := message.value["data"].get("previous_student_id"):
                self._merged[former] = message.key
        return messages

    def day_in_parts(self, parts: int) -> Iterator[list[Message]]:
        """Let a day pass; yields its messages in so many parts, all those of one student in the same part."""
        messages = self.live_a_day(CHANGES * parts)

        def part_of(message: Message) -> int:
            return sum(self._survivor(message.key).encode()) % parts

        return ([message for message in messages if part_of(message) == part] for part in range(parts))

    def subjects(self, messages: Iterable[Message]) -> Pairs:
        """Return (étape, student) of the messages of enrolments, under both numbers of a merged student."""
        about = [message for message in messages if "enrolment_id" in message.value["data"]]
        etapes = [message.value["data"]["enrolment_id"].split("-")[2] for message in about]
        numbers = [self.numbers(message.key) for message in about]
        return {(etape, number) for etape, both in zip(etapes, numbers, strict=True) for number in both}

    def numbers(self, student: str) -> set[str]:
        """Return the student's number and the one that it was merged into: actions may be recorded under either."""
        return {student, self._survivor(student)}

    def _survivor(self, number: str) -> str:
        while number in self._merged:
            number = self._merged[number]
        return number

    def publish(self, messages: Iterable[Message]) -> None:
        """Publish messages, and unreadable ones. A message about a membership overrules a person's decision on it."""
        messages = list(messages)
        self.restored -= self.subjects(messages)
        poison = self.random.choices([payload for _, payload in self.campus.poison()], k=2)
        self._poison |= set(poison)
        self.installation.publish(messages)
        self.installation.produce((b"poison", payload, ()) for payload in poison)
        self.end_offsets = self.installation.published()

    # The worker

    def restart(self, **orders: Any) -> None:  # noqa: ANN401 - those of Orders
        """Stop the worker and start one under these orders."""
        self.orders = Orders(**orders)  # type: ignore[typeddict-item] # the same names
        if self.worker.is_running():
            self.worker.terminate()
        self.worker = self._started()

    def supervise(self) -> None:
        """Restart the worker if it has ended; note its memory."""
        if self.worker.is_running():
            self.peak = max(self.peak, memory(self.worker))
        else:
            self.ends += 1
            self.worker = self._started()

    def eventually(self, probe: Callable[[], T], *, within: float = EFFECT) -> T:
        """Probe until the result is true, while the worker is supervised; returns it."""

        def supervised() -> T:
            self.supervise()
            try:
                return probe()
            except LedgerError as error:
                raise AssertionError(f"the ledger is unavailable: {error}") from None

        return eventually(supervised, within=within)

    def wait_for_end(self) -> None:
        """Wait until the worker has ended; the next one is started without orders."""
        before = self.ends
        self.orders = Orders()
        self.eventually(lambda: self.ends > before)

    def wait_for_failures(self, calls: int = 2) -> None:
        """Wait until so many more calls to Moodle have failed."""
        before = self._failed()
        self.eventually(lambda: self._failed() >= before + calls)

    def _failed(self) -> int:
        return sum(1 for call in self.moodle.calls if call.error is not None)

    def _started(self) -> Process:
        self.installation.program = command(self.orders)
        return self.installation.worker()

    # The verdict

    def has_read(self) -> bool:
        """Whether everything published is recorded."""
        return self.installation.recorded() == self.end_offsets

    def state(self) -> str:
        """Return the state of the platform, according to the ledger."""
        return self.installation.state_of(PLATFORM).state.value

    def in_step(self) -> bool:
        """Return true if everything is as it must be and no work is left; raises AssertionError otherwise."""
        assert self.worker.events("started"), "the worker has not started: its ledger may be of an older version"
        verdict, state = self.verdict(), self.installation.state_of(PLATFORM)
        assert not verdict.lost, f"{len(verdict.lost)} are missing, such as {verdict.lost[:3]}; gaps: {state.gaps}"
        assert not verdict.wrong, f"{len(verdict.wrong)} are wrong, such as {verdict.wrong[:3]}; gaps: {state.gaps}"
        assert not any(state.gaps[kind] for kind in ("ready", "waiting", "retrying", "held")), f"gaps: {state.gaps}"
        assert state.state == "up", state.sentence
        return True

    def verdict(self) -> Verdict:
        """Compare everything with the truth."""
        members, wanted = self.members(), self._wanted()
        return Verdict(lost=self._lost(members, wanted), wrong=self._wrong(members, wanted))

    def _lost(self, members: Pairs, wanted: Pairs) -> list[str]:
        recorded = self.installation.recorded()
        unread = {partition for partition, end in self.end_offsets.items() if recorded.get(partition) != end}
        # Dead letters take long to read: only once the members are right.
        letters = {letter.value for letter in self.installation.letters()} if wanted == members else self._poison
        return [
            *(f"{student} in {etape}" for etape, student in sorted(wanted - members)),
            *(f"messages of {topic}[{number}]" for topic, number in sorted(unread)),
            *("a dead letter" for _ in self._poison - letters),
        ]

    def _wrong(self, members: Pairs, wanted: Pairs) -> list[str]:
        unrequested = self._removed() - self.campus.removals_asked() - self.expected_removals
        now = self._foreign_cohorts()
        touched = [number for number, before in self._foreign_before.items() if now[number] != before]
        on_foreign = [call for call in self.moodle.calls if call.writes and call.cohorts & self._foreign_ids]
        return [
            *(f"{student} in {etape}" for etape, student in sorted(members - wanted)),
            *(f"{student} removed from {etape}" for etape, student in sorted(unrequested)),
            *(f"foreign cohort {number} changed" for number in touched),
            *(f"{call.function} on a foreign cohort" for call in on_foreign),
            *(f"{one.function} and {other.function} at once" for one, other in self.moodle.collisions),
        ]

    def cohort_of(self, etape: str) -> int:
        """Return Moodle's id of an étape's cohort that isn't foreign."""
        return next(c.id for c in self.moodle.cohorts() if c.idnumber == etape and c.id not in self._foreign_ids)

    def account_of(self, student: str) -> int:
        """Return the id of a student's account."""
        return self.moodle.user_ids[f"e{student}"]

    def members(self) -> Pairs:
        """Return the members of every cohort that isn't foreign."""
        with self.moodle.lock:
            cohorts = [cohort for cohort in self.moodle.cohorts() if cohort.id not in self._foreign_ids]
            return {(c.idnumber, self._students[user]) for c in cohorts for user in self.moodle.members(c.id)}

    def _wanted(self) -> Pairs:
        with_account = {username.removeprefix("e") for username in self.moodle.user_ids}
        taken = {self.moodle.cohort_rows[number].idnumber for number in self._foreign_ids}
        wanted = pairs(self.campus.truth()) | self.restored
        return {(etape, student) for etape, student in wanted if student in with_account and etape not in taken}

    def _removed(self) -> Pairs:
        """Return the removals in the journal, and those that Moodle was asked for."""
        by_calls = {
            (self.moodle.cohort_rows[cohort].idnumber, self._students[user])
            for call in self.moodle.calls
            for cohort, user in call.removed
            if cohort in self.moodle.cohort_rows
        }
        return by_calls | set(status.applied(self.installation.ledger, PLATFORM, Action.REMOVE))

    def _foreign_cohorts(self) -> dict[int, object]:
        with self.moodle.lock:
            return {
                number: (self.moodle.cohort_rows[number], self.moodle.members(number)) for number in self._foreign_ids
            }


def memory(process: Process) -> int:
    """Return the most memory that a process had, in kB; 0 when it has ended."""
    try:
        status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
    except FileNotFoundError:
        return 0
    return next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")), 0)


@contextmanager
def living(
    directory: Path, kafka: Kafka, topic: str, *, seed: int, postgres: Postgres | None = None
) -> Iterator[World]:
    """Yield a university, with its ledger in a file or in PostgreSQL, once everything is in step."""
    opening = datetime.now(UTC) - timedelta(days=300)  # every day that passes here is in the past
    campus = Campus(seed=seed, students=STUDENTS, etapes=ETAPES, opening=opening)
    moodle = SandboxMoodle(name="Ecampus", token="secret-of-ecampus", cost=COST)
    moodle.late, moodle.drip = LATE, DRIP
    with ExitStack() as stack:
        stack.enter_context(moodle.serving())
        platforms = {PLATFORM: platform(moodle, limits=LIMITS, guard=GUARD)}
        ledger = {"ledger": {"url": stack.enter_context(postgres.database())}} if postgres else {}
        installation = stack.enter_context(installed(directory, kafka, topic, platforms, SETTINGS | ledger))
        world = World(installation, kafka, moodle, campus, postgres)
        world.publish(campus.initial())
        world.eventually(world.in_step, within=RECOVERY)
        yield world
