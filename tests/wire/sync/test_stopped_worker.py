"""A worker that is stopped for longer than its lease, as by SIGSTOP or a frozen machine, and then goes on.

Meanwhile others have taken its cohorts over: it must change nothing, wherever it stood.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from tests.support.world import (
    ADD,
    COALESCE,
    CREATE,
    LEASE,
    REMOVAL_DELAY,
    REMOVE,
    TOKEN,
    UPDATE,
    World,
    platform,
    queue_around,
)
from worker.domain.states import CohortState
from worker.ledger import status
from worker.moodle import MoodleReader
from worker.sandbox.moodle.server import SandboxMoodle

BEFORE, HALFWAY = "UFR Droit: Licence 1 Droit", "UFR Droit: Licence 1 Droit (Caen)"


@dataclass
class Stop:
    """Stands still once, before a step towards the ledger or Moodle, when it has made `left` of them."""

    left: int
    meanwhile: Callable[[], None]
    where: str = ""

    def step(self, where: str) -> None:
        if self.left == 0:
            self.where = where
            self.meanwhile()
        self.left -= 1

    @contextmanager
    def around(self, called: str) -> Iterator[None]:
        self.step(called)
        yield


def busy(world: World) -> None:
    """Leave work of every kind for whoever comes next."""
    world.describe("L1DROI", "Licence 1 Droit")
    world.enrol("s1", "L1DROI")
    world.enrol("s2", "L1DROI")
    world.a_minute_later()
    world.resign("s1", "L1DROI")
    world.now += REMOVAL_DELAY
    world.describe("L1DROI", "Licence 1 Droit (Caen)")
    for student, etape in (("s3", "L1DROI"), ("s4", "L1DROI"), ("s4", "L1ADPU"), ("new", "L1ADPU")):
        world.enrol(student, etape)
    world.now += COALESCE


def others_go_on(world: World, *, back: bool) -> None:
    """Let the leases run out and others do that work, then its opposite; at last have it wanted again, if asked."""
    world.lanes["ecampus"] = [world.lane(world.platforms[0], "successor")]
    world.wait(LEASE)
    assert world.members() == {"L1DROI": {"s2", "s3", "s4"}, "L1ADPU": {"s4"}}
    assert world.cohort_name("L1DROI") == HALFWAY
    world.enrol("s1", "L1DROI")
    world.resign("s3", "L1DROI")
    world.resign("s4", "L1ADPU")
    world.wait(COALESCE)
    world.wait(REMOVAL_DELAY)
    assert world.members() == {"L1DROI": {"s1", "s2", "s4"}, "L1ADPU": set()}
    if back:
        world.resign("s1", "L1DROI")
        world.enrol("s3", "L1DROI")
        world.enrol("s4", "L1ADPU")


def goes_on(world: World, left: int, *, back: bool) -> str:
    """Have a worker stand still at a step and go on, then the others, without a night; says where, if anywhere."""
    busy(world)
    stop = Stop(left, lambda: others_go_on(world, back=back))
    transport = world.connect("ecampus")
    transport.around = stop.around
    zombie = world.lane(
        world.platforms[0], "zombie", transport=transport, queue=partial(queue_around, around=stop.around)
    )
    while zombie.run_once():
        pass
    world.lanes["ecampus"] = [world.lane(world.platforms[0], "successor")]
    world.wait(LEASE)
    world.wait(REMOVAL_DELAY)
    return stop.where


def assert_true(world: World, point: str) -> None:
    truth = {etape: students - {"new"} for etape, students in world.truth().items()}
    assert world.members() == truth, point
    assert status.observed(world.ledger, "ecampus") == {etape: some for etape, some in truth.items() if some}, point
    assert {name: count for name, count in world.gaps().items() if name != "parked"} == {}, point
    assert len(world.moodle.cohorts()) == 2, point
    assert world.cohort_name("L1DROI") == HALFWAY, point
    assert world.status().cohorts[CohortState.OWNED] == 2, point
    assert world.moodle.collisions == [], point


@pytest.mark.parametrize("back", [False, True])
def test_a_worker_that_stood_still_at_any_moment_changes_nothing(
    tmp_path: Path, empty_ledger: Path, *, back: bool
) -> None:
    moments: list[str] = []
    moodle = SandboxMoodle(token=TOKEN)
    moodle.add_users((name, "") for name in ("s1", "s2", "s3", "s4"))
    with moodle.serving():
        while True:
            url = f"sqlite:///{shutil.copy(empty_ledger, tmp_path / f'{len(moments)}.db')}"
            for cohort in moodle.cohorts():
                moodle.delete_cohort(cohort.id)
            with ExitStack() as stack:
                world = World(url, [platform()], stack, moodles={"ecampus": moodle})
                where = goes_on(world, len(moments), back=back)
                if not where:
                    break
                moments.append(where)
                assert_true(world, f"{len(moments)}: {where}")
    assert {CREATE, UPDATE, ADD, REMOVE, "claim", "mark_in_flight", "settle", "write_cohorts", "release"} <= {*moments}


@pytest.mark.parametrize("back", [False, True])
@pytest.mark.parametrize("function", [CREATE, ADD, REMOVE])
def test_what_was_sent_too_late_all_the_same_is_put_right_at_once(world: World, function: str, *, back: bool) -> None:
    busy(world)
    transport = world.connect("ecampus")
    stop = Stop(0, lambda: others_go_on(world, back=back))
    transport.sending = lambda called: stop.step(called) if called == function else None
    zombie = world.lane(world.platforms[0], "zombie", transport=transport)
    late = len(world.moodle.calls)
    while zombie.run_once():
        pass
    assert stop.where == function
    assert function in {call.function for call in world.moodle.calls[late:]}
    world.wait(COALESCE)
    world.wait(REMOVAL_DELAY)
    assert_true(world, function)


def test_a_worker_that_finds_its_cohorts_taken_over_sends_nothing_and_says_so(world: World) -> None:
    world.enrol("s1", "L1DROI")
    world.now += COALESCE
    transport = world.connect("ecampus")
    zombie = world.lane(world.platforms[0], "zombie", transport=transport)
    sent: list[int] = []

    def meanwhile() -> None:
        world.lanes["ecampus"] = [world.lane(world.platforms[0], "successor")]
        world.wait(LEASE)
        sent.append(len(world.moodle.calls))

    stop = Stop(0, meanwhile)

    @contextmanager
    def around(called: str) -> Iterator[None]:
        if called == ADD:
            stop.step(called)
        yield

    transport.around = around
    with capture_logs() as logs:
        zombie.run_once()
    assert [len(world.moodle.calls)] == sent
    [said] = [line for line in logs if line["event"] == "lease lost, work discarded"]
    assert "lease expired" in said["error"]
    assert world.gaps() == {}
    assert world.applied("add") == [("L1DROI", "s1")]


def test_a_worker_whose_calls_take_long_keeps_its_cohorts(world: World) -> None:
    for etape in ("L1DROI", "L1ADPU", "L1ECO"):
        world.enrol("s1", etape)
        world.describe(etape, "n")
    world.a_minute_later()
    other = world.lane(world.platforms[0], "other", transport=world.connect("ecampus"))
    for etape in ("L1DROI", "L1ADPU", "L1ECO"):
        world.describe(etape, "Licence")

    @contextmanager
    def slow(called: str) -> Iterator[None]:
        yield
        if called == UPDATE:
            world.now += LEASE - 1
            assert not other.run_once()

    with world.around(slow):
        world.turns()
    assert {cohort.name for cohort in world.moodle.cohorts()} == {"UFR Droit: Licence"}
    assert world.moodle.collisions == []


def test_a_cohort_that_a_person_adopts_while_a_worker_finds_it_foreign_stays_adopted(world: World) -> None:
    world.moodle.create_cohort(name="Faite à la main", idnumber="L1DROI")
    world.enrol("s1", "L1DROI")
    world.now += COALESCE
    adopted: list[str] = []
    transport = world.connect("ecampus")

    @contextmanager
    def meanwhile(called: str) -> Iterator[None]:
        yield
        if called == "core_cohort_get_cohorts" and not adopted:
            adopted.append(called)
            assert world.adopt("L1DROI", reader=MoodleReader(transport)) == []

    with world.around(meanwhile):
        world.turns()
    world.wait(LEASE)
    assert world.status().cohorts[CohortState.OWNED] == 1
    assert world.members() == {"L1DROI": {"s1"}}
