"""A university with a ledger and sandbox Moodles over HTTP; time is a number that tests advance."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any, cast

import httpx

from worker.domain.changes import EnrolmentChange, EtapeChange, NumberChange, Received
from worker.domain.guard import Guard
from worker.domain.rules import CohortTemplate, Mapper, Mode, PlatformPolicy, Policy
from worker.domain.states import Payment, Status
from worker.ledger import Ledger, Recorder, WorkQueue, status
from worker.ledger.status import PlatformStatus, read_status
from worker.moodle import CallLimits, MoodleReader, MoodleWriter, Transport
from worker.moodle.transport import Reply
from worker.sandbox.moodle.server import Fault, SandboxMoodle
from worker.sync import adoption
from worker.sync.adoption import NotAdopted, Survey
from worker.sync.converge.backoff import Backoff
from worker.sync.converge.lane import Lane

UNGUARDED = Guard(enabled=False)
TOKEN = "0123456789abcdef0123456789abcdef"
START = 1_800_000_000.0
UAI, YEAR = "0141408E", 2026
COALESCE, REMOVAL_DELAY, PARK, PARK_MOST = 2.0, 120.0, 300.0, 86_400.0
TIMEOUT, LEASE = 60.0, 150.0
REAL_TIMEOUT = 0.25
HOUR = 3600.0
TEMPLATE = CohortTemplate(idnumber="{etape}", name="{component_label}: {etape_label}")
CREATE, UPDATE = "core_cohort_create_cohorts", "core_cohort_update_cohorts"
ADD, REMOVE = "core_cohort_add_cohort_members", "core_cohort_delete_cohort_members"
WRITES = (CREATE, UPDATE, ADD, REMOVE)
MANY = 200
"""Turns in a row, without time passing, that no scenario here needs."""


def platform(name: str = "ecampus", mode: Mode = Mode.AUTOMATIC, **changes: Any) -> PlatformPolicy:  # noqa: ANN401 # fields
    return replace(PlatformPolicy(name=name, mode=mode, templates=(TEMPLATE,)), **changes)


class SandboxTransport(Transport):
    """A transport whose calls can be surrounded by what a test needs."""

    around: Callable[[str], AbstractContextManager[None]] = staticmethod(lambda _function: nullcontext())
    sending: Callable[[str], None] = staticmethod(lambda _function: None)
    """Called when nothing keeps a writing call back any more, before its first byte."""

    def read(self, function: str, **arguments: Any) -> Any:  # noqa: ANN401 # idem
        with self.around(function):
            return super().read(function, **arguments)

    def write(self, function: str, arguments: dict[str, Any], *, before: Callable[[], None] = lambda: None) -> Reply:
        def checked() -> None:
            before()
            self.sending(function)

        with self.around(function):
            return super().write(function, arguments, before=checked)


def queue_around(queue: WorkQueue, around: Callable[[str], AbstractContextManager[None]]) -> WorkQueue:
    """Return a work queue, each of whose calls, and of its parts', is made within `around` of its name."""

    class Around:
        def __init__(self, part: object) -> None:
            self._part = part

        def __getattr__(self, name: str) -> object:
            found = getattr(self._part, name)
            if not callable(found):
                return Around(found)

            def call(*arguments: Any, **named: Any) -> object:  # noqa: ANN401 # those of the method
                with around(name):
                    return found(*arguments, **named)

            return call

    return cast("WorkQueue", Around(queue))


@dataclass
class World:
    """A university with a ledger and a Moodle for each platform, and the truth about its students.

    `lanes` are by platform. An enrolment's id is made of the student and the étape.
    """

    url: str
    platforms: list[PlatformPolicy]
    stack: ExitStack
    aliases: dict[str, str] = field(default_factory=dict)
    guard: Guard = UNGUARDED
    now: float = START
    enrolled: dict[tuple[str, str], bool] = field(default_factory=dict)
    moodles: dict[str, SandboxMoodle] = field(default_factory=dict)
    lanes: dict[str, list[Lane]] = field(default_factory=lambda: defaultdict(list))
    versions: Iterator[int] = field(default_factory=lambda: count(1))

    def __post_init__(self) -> None:
        self.ledger = Ledger(self.url)
        self.stack.callback(self.ledger.close)
        self.transports: dict[str, SandboxTransport] = {}
        for policy in self.platforms:
            if policy.name not in self.moodles:
                self.moodles[policy.name] = moodle = SandboxMoodle(token=TOKEN, name=policy.name)
                self.stack.enter_context(moodle.serving())
            self.transports[policy.name] = self.connect(policy.name)
            self.lanes[policy.name].append(self.lane(policy))
        self.recorder = self.record_with()

    @property
    def moodle(self) -> SandboxMoodle:
        return self.moodles[self.platforms[0].name]

    # The parts, built as the worker builds them.

    def connect(self, name: str) -> SandboxTransport:
        limits = CallLimits(calls_per_second=10_000.0, timeout_seconds=TIMEOUT)
        transport = SandboxTransport(name, self.moodles[name].url, TOKEN, limits)
        self.stack.callback(transport.close)
        return transport

    def lane(
        self,
        policy: PlatformPolicy,
        holder: str = "worker-0",
        *,
        transport: Transport | None = None,
        queue: Callable[[WorkQueue], WorkQueue] = lambda queue: queue,
    ) -> Lane:
        transport = transport or self.transports[policy.name]
        writes = policy.mode is Mode.AUTOMATIC
        writer = MoodleWriter(transport, policy.mode, instance=self.ledger.instance) if writes else None
        return Lane(
            policy,
            queue(WorkQueue(self.ledger, policy.name, holder, lease=LEASE, guard=self.guard)),
            writer or MoodleReader(transport),
            writer,
            backoff=Backoff(first=PARK, most=PARK_MOST),
            clock=lambda: self.now,
        )

    def record_with(self) -> Recorder:
        policy = Policy(
            uais=frozenset({UAI}),
            active_years=frozenset({YEAR}),
            aliases=self.aliases,
            platforms=tuple(self.platforms),
        )
        self.mapper = Mapper(policy)
        recorder = Recorder(self.ledger, self.mapper, coalesce=COALESCE, removal_delay=REMOVAL_DELAY)
        recorder.apply_policy(now=self.now)
        return recorder

    def restart(self, *platforms: PlatformPolicy, aliases: dict[str, str] | None = None) -> None:
        """Start again with other settings."""
        self.platforms = list(platforms) or self.platforms
        self.aliases = aliases or self.aliases
        self.lanes = {policy.name: [self.lane(policy)] for policy in self.platforms}
        self.recorder = self.record_with()

    # What happens at the university.

    def say(self, change: EnrolmentChange | NumberChange | EtapeChange) -> None:
        self.recorder.record([Received(change=change, published_at=self.now)], now=self.now)

    def enrol(self, student: str, etape: str, status: Status = Status.ACTIVE, **more: Any) -> None:  # noqa: ANN401 # fields
        self.enrolled[student, etape] = status is Status.ACTIVE
        self.say(
            EnrolmentChange(
                uai=UAI,
                enrolment_id=f"{student}-{etape}",
                system="apogee",
                version=next(self.versions),
                changed_at=self.now,
                student_id=student,
                status=status,
                academic_year=YEAR,
                etape=etape,
                payment=Payment.PAID,
                origin="test",
                **more,
            )
        )

    def resign(self, student: str, etape: str) -> None:
        self.enrol(student, etape, Status.RESIGNED)

    def describe(self, etape: str, label: str) -> None:
        self.say(
            EtapeChange(
                uai=UAI,
                etape=etape,
                changed_at=self.now,
                origin="test",
                etape_label=label,
                component="DRT",
                component_label="UFR Droit",
            )
        )

    def merge(self, previous: str, survivor: str) -> None:
        self.say(
            NumberChange(uai=UAI, previous_student_id=previous, student_id=survivor, changed_at=self.now, origin="test")
        )

    def accounts(self, *usernames: str) -> list[int]:
        return self.moodle.add_users((name, "") for name in usernames)

    # What a person does.

    def survey(self, *globs: str, reader: MoodleReader | None = None) -> Survey:
        first = self.platforms[0]
        reader = reader or MoodleReader(self.transports[first.name])
        return adoption.survey(self.ledger, self.mapper, first, reader, globs or ("*",))

    def adopt(self, *globs: str, reader: MoodleReader | None = None) -> list[NotAdopted]:
        first = self.platforms[0]
        reader = reader or MoodleReader(self.transports[first.name])
        chosen = self.survey(*globs, reader=reader)
        return adoption.adopt(self.ledger, first, reader, chosen, by="cemu")

    # Time.

    def turns(self, *names: str) -> None:
        """Take turns until nothing is due; a lane that never ends is a busy loop."""
        for name in names or self.lanes:
            for lane in self.lanes[name]:
                assert any(not lane.run_once() for _ in range(MANY)), "turns without an end"

    def wait(self, seconds: float, *names: str) -> None:
        self.now += seconds
        self.turns(*names)

    def a_minute_later(self) -> None:
        self.wait(60.0)

    def days_later(self, days: int = 3) -> None:
        for _ in range(days * 4):
            self.wait(6 * HOUR)

    # Trouble.

    def shorten_the_timeout(self) -> None:
        """Give up calls after a moment; to the ledger that is still a minute."""
        for name, transport in self.transports.items():
            transport._http.timeout = httpx.Timeout(REAL_TIMEOUT)
            self.moodles[name].late = 2 * REAL_TIMEOUT

    @contextmanager
    def around(self, what: Callable[[str], AbstractContextManager[None]]) -> Iterator[None]:
        transport = self.transports[self.platforms[0].name]
        before, transport.around = transport.around, what
        try:
            yield
        finally:
            transport.around = before

    @contextmanager
    def faults(self, function: str, fault: Fault) -> Iterator[None]:
        """Let the fault strike every call of a function, and no other."""

        @contextmanager
        def striking(called: str) -> Iterator[None]:
            self.moodle.fault = fault if called == function else None
            try:
                yield
            finally:
                self.moodle.fault = None

        with self.around(striking):
            yield

    # What can be seen.

    def members(self, name: str | None = None) -> dict[str, set[str]]:
        """Usernames by idnumber."""
        return self.moodles[name or self.platforms[0].name].memberships()

    def truth(self) -> dict[str, set[str]]:
        """Students by étape, as enrolled."""
        found: dict[str, set[str]] = {}
        for (student, etape), enrolled in self.enrolled.items():
            found.setdefault(etape, set()).update({student} if enrolled else ())
        return found

    def status(self, name: str | None = None) -> PlatformStatus:
        return read_status(self.ledger, [name or self.platforms[0].name], self.now).platforms[0]

    def gaps(self) -> dict[str, int]:
        return {state: number for state, number in self.status().gaps.items() if number}

    def applied(self, action: str) -> list[tuple[str, str]]:
        return status.applied(self.ledger, self.platforms[0].name, action)

    def cohort_id(self, idnumber: str) -> int:
        (found,) = [cohort.id for cohort in self.moodle.cohorts() if cohort.idnumber == idnumber]
        return found

    def cohort_name(self, idnumber: str) -> str:
        (found,) = [cohort.name for cohort in self.moodle.cohorts() if cohort.idnumber == idnumber]
        return found

    def written(self) -> set[int | str]:
        """Cohorts that a call has tried to change."""
        return {cohort for call in self.moodle.calls if call.function in WRITES for cohort in call.cohorts}


Build = Callable[..., World]


@contextmanager
def building(url: Callable[[], str]) -> Iterator[Build]:
    with ExitStack() as stack:

        def build(*platforms: PlatformPolicy, **more: Any) -> World:  # noqa: ANN401 # fields of World
            return World(url(), list(platforms) or [platform()], stack, **more)

        yield build
