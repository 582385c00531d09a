"""A small university that lives on while things break, and the judgement of what came of it."""

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
TIMEOUT, LATE, DRIP = 1.0, 1.5, 0.4  # seconds: an answer that comes late is never waited for
BITING = 60.0  # seconds within which a fault is felt
RECOVERY = 60.0  # seconds after a fault; what isn't true by then is lost
COST = Cost(call=0.02, added=0.001, removed=0.001)
# Batches are small, so that there is something to be in the middle of. Parts of the worker wait for seconds.
SETTINGS: dict[str, dict[str, Any]] = {
    "kafka": {"batch": 20, "client": {"topic.metadata.refresh.interval.ms": "2000"}},
    "converge": {"removal_delay_seconds": 2.0, "park_seconds": 2.0, "park_most_seconds": 10.0},
}
LIMITS = {"calls_per_second": 1000, "timeout_seconds": TIMEOUT, "fields": 60}
GUARD = {"cohort_percent": 80, "platform_percent": 100}
"""Nothing is held but what everybody leaves."""

Pairs = set[tuple[str, str]]
"""(étape, student number)."""
T = TypeVar("T")


class Campus(University):
    """No enrolment changes its version: a membership that ends by a message ends, however long the next one takes."""

    def _change_version(self, at: float) -> list[Message]:
        return self._take_another(at)

    def close(self, etape: str) -> list[Message]:
        """Let everybody leave an étape."""
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
    """Members who must not be there, removals that nobody asked for, what isn't ours and was touched."""


class World:
    """One university, its Moodle, and a worker that is started again whenever it ends, as a supervisor does."""

    def __init__(
        self, here: Installation, kafka: Kafka, moodle: SandboxMoodle, campus: Campus, postgres: Postgres | None
    ) -> None:
        self.here, self.kafka, self.moodle, self.campus, self.postgres = here, kafka, moodle, campus, postgres
        self.random = Random(campus.seed)
        self.orders = Orders()
        """Those of the workers that are started from now on."""
        self.asked: Pairs = set()
        """Removals that somebody else than the university asked for."""
        self.kept: Pairs = set()
        """Members who stay by a person's decision."""
        self.ends = 0
        """How often a worker ended."""
        self.peak = 0
        """The most memory that a worker had, in kB."""
        self.end: dict[tuple[str, int], int] = {}
        """Where the topic ends."""
        self._poison: set[bytes] = set()
        self._students: dict[int, str] = {}
        self._merged: dict[str, str] = {}
        self.welcome()
        self._theirs = {
            moodle.create_cohort(name="Lecteurs de la bibliothèque", idnumber="BU"),
            moodle.create_cohort(name="Faite à la main", idnumber=min(campus.truth())),
        }
        for cohort in self._theirs:
            for user in [*self._students][:5]:
                moodle.add_member(cohort, user)
        self._as_they_made_it = self._foreign()
        self.worker = self._started()

    # The university

    def welcome(self) -> None:
        """Give everybody an account who ever gets one."""
        for username, idnumber, student in [*self.campus.accounts(), *self.campus.late_accounts()]:
            if username not in self.moodle.user_ids:
                self._students[self.moodle.add_user(username=username, idnumber=idnumber)] = student

    def live(self, changes: int) -> list[Message]:
        """Live a day of so many changes, and give what tells it."""
        told = list(self.campus.september_day(changes))
        self.welcome()
        for message in told:
            if former := message.value["data"].get("previous_student_id"):
                self._merged[former] = message.key
        return told

    def day(self, parts: int) -> Iterator[list[Message]]:
        """Live a day, and give its messages in so many parts; what befalls one student is all in one of them."""
        told = self.live(CHANGES * parts)

        def part_of(message: Message) -> int:
            return sum(self._survivor(message.key).encode()) % parts

        return ([message for message in told if part_of(message) == part] for part in range(parts))

    def subjects(self, messages: Iterable[Message]) -> Pairs:
        """Give étape and student of those that are about an enrolment, under both of the student's numbers."""
        about = [message for message in messages if "enrolment_id" in message.value["data"]]
        etapes = [message.value["data"]["enrolment_id"].split("-")[2] for message in about]
        numbers = [self.numbers(message.key) for message in about]
        return {(etape, number) for etape, some in zip(etapes, numbers, strict=True) for number in some}

    def numbers(self, student: str) -> set[str]:
        """Give the student's number, and the one that it was merged into: what is done may be told under either."""
        return {student, self._survivor(student)}

    def _survivor(self, number: str) -> str:
        while number in self._merged:
            number = self._merged[number]
        return number

    def publish(self, messages: Iterable[Message]) -> None:
        """Tell them, and what nobody can read. News of a membership ends what a person decided about it."""
        messages = list(messages)
        self.kept -= self.subjects(messages)
        poison = self.random.choices([payload for _, payload in self.campus.poison()], k=2)
        self._poison |= set(poison)
        self.here.publish(messages)
        self.here.produce((b"poison", payload, ()) for payload in poison)
        self.end = self.here.published()

    # The worker

    def restart(self, **orders: Any) -> None:  # noqa: ANN401 - those of Orders
        """Start a worker under these orders in place of the one that runs, which is told to stop."""
        self.orders = Orders(**orders)  # type: ignore[typeddict-item] # the same names
        if self.worker.is_running():
            self.worker.terminate()
        self.worker = self._started()

    def tend(self) -> None:
        """Start the worker again if it has ended; look at its memory."""
        if self.worker.is_running():
            self.peak = max(self.peak, memory(self.worker))
        else:
            self.ends += 1
            self.worker = self._started()

    def eventually(self, look: Callable[[], T], *, within: float = BITING) -> T:
        """Look until something is found, while the worker is tended."""

        def tended() -> T:
            self.tend()
            try:
                return look()
            except LedgerError as error:
                raise AssertionError(f"the ledger is away: {error}") from None

        return eventually(tended, within=within)

    def dies(self) -> None:
        """Wait until a worker has ended, and start the next one without orders."""
        before = self.ends
        self.orders = Orders()
        self.eventually(lambda: self.ends > before)

    def fails(self, calls: int = 2) -> None:
        """Wait until so many more calls to Moodle have failed."""
        before = self._failed()
        self.eventually(lambda: self._failed() >= before + calls)

    def _failed(self) -> int:
        return sum(1 for call in self.moodle.calls if call.error is not None)

    def _started(self) -> Process:
        self.here.program = command(self.orders)
        return self.here.worker()

    # The judgement

    def has_read(self) -> bool:
        """Say whether everything published is recorded."""
        return self.here.recorded() == self.end

    def state(self) -> str:
        """Say how the ledger takes the platform to be."""
        return self.here.state_of(PLATFORM).state.value

    def in_step(self) -> bool:
        """Say whether all is as it must be, with nothing left to do; an AssertionError says what isn't."""
        assert self.worker.said("started"), "the worker has not started: its ledger may be an older version's"
        verdict, state = self.verdict(), self.here.state_of(PLATFORM)
        assert not verdict.lost, f"{len(verdict.lost)} are missing, as {verdict.lost[:3]}; gaps: {state.gaps}"
        assert not verdict.wrong, f"{len(verdict.wrong)} are wrong, as {verdict.wrong[:3]}; gaps: {state.gaps}"
        assert not any(state.gaps[which] for which in ("ready", "waiting", "retrying", "held")), f"gaps: {state.gaps}"
        assert state.state == "up", state.sentence
        return True

    def verdict(self) -> Verdict:
        """Compare everything with the truth."""
        there, wanted = self.members(), self._wanted()
        read = self.here.recorded()
        unread = {partition for partition, end in self.end.items() if read.get(partition) != end}
        letters = {letter.value for letter in self.here.letters()} if wanted == there else self._poison
        foreign = self._foreign()
        calls = [call for call in self.moodle.calls if call.writes]
        return Verdict(
            lost=[
                *(f"{student} in {etape}" for etape, student in sorted(wanted - there)),
                *(f"messages of {topic}[{number}]" for topic, number in sorted(unread)),
                *("a dead letter" for _ in self._poison - letters),
            ],
            wrong=[
                *(f"{student} in {etape}" for etape, student in sorted(there - wanted)),
                *(f"{student} removed from {etape}" for etape, student in sorted(self._removed() - self._may_leave())),
                *(
                    f"cohort {number}, not ours"
                    for number in foreign
                    if foreign[number] != self._as_they_made_it[number]
                ),
                *(f"{call.function} of a cohort that isn't ours" for call in calls if call.cohorts & self._theirs),
                *(f"{one.function} and {other.function} at once" for one, other in self.moodle.collisions),
            ],
        )

    def cohort_of(self, etape: str) -> int:
        """Give Moodle's number of the cohort that nobody made by hand."""
        return next(c.id for c in self.moodle.cohorts() if c.idnumber == etape and c.id not in self._theirs)

    def account_of(self, student: str) -> int:
        """Give the number of a student's account."""
        return self.moodle.user_ids[f"e{student}"]

    def members(self) -> Pairs:
        """Give the members of every cohort that nobody made by hand."""
        with self.moodle.lock:
            cohorts = [cohort for cohort in self.moodle.cohorts() if cohort.id not in self._theirs]
            return {(c.idnumber, self._students[user]) for c in cohorts for user in self.moodle.members(c.id)}

    def _wanted(self) -> Pairs:
        known = {username.removeprefix("e") for username in self.moodle.user_ids}
        taken = {self.moodle.cohort_rows[number].idnumber for number in self._theirs}
        wanted = pairs(self.campus.truth()) | self.kept
        return {(etape, student) for etape, student in wanted if student in known and etape not in taken}

    def _removed(self) -> Pairs:
        """Give whom the journal says to have been removed, and whom Moodle was asked to remove."""
        by_calls = {
            (self.moodle.cohort_rows[cohort].idnumber, self._students[user])
            for call in self.moodle.calls
            for cohort, user in call.removed
            if cohort in self.moodle.cohort_rows
        }
        return by_calls | set(status.applied(self.here.ledger, PLATFORM, Action.REMOVE))

    def _may_leave(self) -> Pairs:
        return self.campus.removals_asked() | self.asked

    def _foreign(self) -> dict[int, object]:
        with self.moodle.lock:
            return {number: (self.moodle.cohort_rows[number], self.moodle.members(number)) for number in self._theirs}


def memory(process: Process) -> int:
    """Give the most memory that a process had, in kB; 0 when it has ended."""
    try:
        status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
    except FileNotFoundError:
        return 0
    return next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")), 0)


@contextmanager
def living(
    directory: Path, kafka: Kafka, topic: str, *, seed: int, postgres: Postgres | None = None
) -> Iterator[World]:
    """Let a university live, whose ledger is a file or in PostgreSQL, once all is in step."""
    opening = datetime.now(UTC) - timedelta(days=300)  # every day of its life is over
    campus = Campus(seed=seed, students=STUDENTS, etapes=ETAPES, opening=opening)
    moodle = SandboxMoodle(name="Ecampus", token="secret-of-ecampus", cost=COST)
    moodle.late, moodle.drip = LATE, DRIP
    with ExitStack() as stack:
        stack.enter_context(moodle.serving())
        platforms = {PLATFORM: platform(moodle, limits=LIMITS, guard=GUARD)}
        ledger = {"ledger": {"url": stack.enter_context(postgres.database())}} if postgres else {}
        here = stack.enter_context(installed(directory, kafka, topic, platforms, SETTINGS | ledger))
        world = World(here, kafka, moodle, campus, postgres)
        world.publish(campus.initial())
        world.eventually(world.in_step, within=RECOVERY)
        yield world
