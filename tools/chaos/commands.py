"""A person's or a timer's command is killed half-way, and given again; or other people change Moodle meanwhile."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import sqlalchemy as sa
from alembic.command import upgrade

from tests.support.installation import YEAR
from tools.chaos.campaign import Fault
from tools.chaos.launcher import command
from tools.chaos.world import Pairs, World
from worker.ledger.upgrade import configured

KILLED, REFUSED = -9, 6
YEARS = (YEAR - 1, YEAR)


def killed(world: World, step: str, nth: int, *arguments: str) -> None:
    """Run a command that dies after the nth call of a step."""
    world.here.program = command({"dies": (step, "after", nth)})
    done = world.here.run(*arguments, within=120)
    world.here.program = command({})
    assert done.returncode == KILLED, f"{arguments}: {done.returncode} {done.stdout[-500:]} {done.stderr[-500:]}"


# The night


@contextmanager
def snapshot_cut(world: World, nth: int) -> Iterator[None]:
    """Kill whoever publishes a snapshot; what was sent is refused, the next one mends what no message told."""
    lose_messages(world)
    yield
    killed(
        world,
        "worker.kafka:RecordProducer.send_to",
        nth,
        *world.here.snapshot(world.campus.snapshot_rows(), years=YEARS),
    )
    refused = world.here.run("reconcile", within=120)
    assert refused.returncode == REFUSED, refused.stdout + refused.stderr
    night(world)


@contextmanager
def night_cut(world: World, step: str) -> Iterator[None]:
    """Kill a reconciliation that is to mend what no message told, and run another one."""
    lose_messages(world)
    yield
    world.eventually(world.has_read)
    world.here.publish_snapshot(world.campus.snapshot_rows(), years=YEARS)
    killed(world, step, 1, "reconcile")
    reconcile(world)


@contextmanager
def meddling(world: World) -> Iterator[None]:
    """Let people change accounts and cohorts, before and while a reconciliation runs; the next one mends it."""
    meddle(world)
    yield
    world.eventually(world.has_read)
    world.here.publish_snapshot(world.campus.snapshot_rows(), years=YEARS)
    calls = len(world.moodle.calls)
    process = world.here.reconciliation()
    world.eventually(lambda: any(call.function.endswith("cohort_members") for call in world.moodle.calls[calls:]))
    meddle(world)
    assert process.wait(within=120) == 0, process.text()
    night(world)


def meddle(world: World) -> None:
    """Take members out and put others in, delete accounts and make them anew, delete and rename a cohort."""
    there = sorted(world.members())
    some = world.random.sample(there, 30)
    for (etape, student), (other, _) in zip(some[:10], some[10:20], strict=True):
        world.moodle.remove_member(world.cohort_of(etape), world.account_of(student))
        if (other, student) not in there:
            world.moodle.add_member(world.cohort_of(other), world.account_of(student))
            world.asked |= {(other, number) for number in world.numbers(student)}
    for _, student in some[20:23]:
        world.moodle.delete_user(world.account_of(student))
    world.welcome()
    world.moodle.rename_cohort(world.cohort_of(some[23][0]), "Renommée à la main")
    world.moodle.delete_cohort(world.cohort_of(some[24][0]))


def lose_messages(world: World) -> None:
    """Live half a day of which only what no snapshot tells is told."""
    told = world.live(20)
    lost = [message for message in told if "enrolment_id" in message.value["data"]]
    world.asked |= world.subjects(lost)
    world.publish([message for message in told if message not in lost])


def night(world: World) -> None:
    """Publish a snapshot and reconcile."""
    world.eventually(world.has_read)
    world.here.publish_snapshot(world.campus.snapshot_rows(), years=YEARS)
    reconcile(world)


def reconcile(world: World) -> None:
    done = world.here.run("reconcile", within=120)
    assert done.returncode == 0, done.stdout + done.stderr


# What a person decides


def closed(world: World) -> tuple[Pairs, str]:
    """Let everybody leave the largest étape, and give the removals that are held for it, with their hash."""
    etape = max(sorted(world.campus.truth()), key=lambda code: len(world.campus.truth()[code]))
    world.publish(world.campus.close(etape))

    def held() -> tuple[Pairs, str] | None:
        done = world.here.run("held", "--json", "--students")
        assert done.returncode == 0, done.stderr
        for cohort in json.loads(done.stdout)["cohorts"]:
            if cohort["cohort"] == etape:  # of another one, too, a removal may be held since an earlier fault
                students = {student for some in cohort["removals"].values() for student in some}
                return {(etape, student) for student in students}, cohort["hash"]
        return None

    found = world.eventually(held)
    assert found
    return found


@contextmanager
def approval_cut(world: World, step: str) -> Iterator[None]:
    """Kill an approval, and give it again: it was given whole, or not at all."""
    yield
    removals, name = closed(world)
    killed(world, step, 1, "approve", name)
    again = world.here.run("approve", name)
    assert again.returncode == 0 or not removals & world.members() or "approved already" in again.stderr


@contextmanager
def undo_cut(world: World, step: str) -> Iterator[None]:
    """Approve, kill an undo once all have left, and give it again."""
    yield
    removals, name = closed(world)
    assert world.here.run("approve", name).returncode == 0
    world.eventually(lambda: not removals & world.members())
    killed(world, step, 1, "undo", name)
    world.here.run("undo", name)
    world.kept |= removals


# A new version of the program


@contextmanager
def migration_cut(world: World, *, by_the_worker: bool) -> Iterator[None]:
    """Put the ledger back to what the first version would have written, and kill its migration twice."""
    world.worker.terminate()
    world.here.ledger.engine.dispose()
    grow_older(world.here.directory)
    steps = (("alembic.op:add_column", 3), ("alembic.op:create_table", 5))
    for step, nth in steps:
        if by_the_worker:
            killed(world, step, nth, "run")
        else:
            killed(world, step, nth, "migrate")
    yield


def grow_older(directory: Path) -> None:
    """Copy a ledger's rows into one of the first revision, as far as that has the columns."""
    ledger, old = directory / "ledger.db", directory / "old.db"
    config = configured()
    engine = sa.create_engine(f"sqlite:///{old}")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        upgrade(config, "0001")
    engine.dispose()
    with closing(sqlite3.connect(old, isolation_level=None)) as connection:
        connection.execute("ATTACH ? AS newer", (str(ledger),))
        for (table,) in connection.execute("SELECT name FROM main.sqlite_master WHERE type = 'table'").fetchall():
            if table == "alembic_version":
                continue
            columns = {row[1] for row in connection.execute(f"PRAGMA main.table_info({table})")}
            common = ", ".join(
                row[1] for row in connection.execute(f"PRAGMA newer.table_info({table})") if row[1] in columns
            )
            connection.execute(
                f"INSERT INTO main.{table} ({common}) SELECT {common} FROM newer.{table}"  # noqa: S608 - our own names
            )
    for path in directory.glob("ledger.db*"):
        path.unlink()
    old.rename(ledger)


FAULTS = (
    Fault(name="migration: `cohorts migrate` killed", strike=partial(migration_cut, by_the_worker=False)),
    Fault(
        name="migration: killed at the worker's start", strike=partial(migration_cut, by_the_worker=True), brief=True
    ),
    *(
        Fault(
            name=f"{name}: killed {when}",
            strike=partial(strike, step=f"worker.ledger.decisions:{step}"),
            last=True,
            brief=brief,
        )
        for name, strike, when, step, brief in (
            ("approval", approval_cut, "in its transaction", "_update", True),
            ("approval", approval_cut, "after it", "approve", False),
            ("undo", undo_cut, "in its transaction", "_update", False),
            ("undo", undo_cut, "after it", "undo", False),
        )
    ),
    Fault(name="snapshot: its publisher killed after its begins", strike=partial(snapshot_cut, nth=1), last=True),
    Fault(name="snapshot: its publisher killed after its rows", strike=partial(snapshot_cut, nth=2), last=True),
    *(
        Fault(name=f"night: killed {when}", strike=partial(night_cut, step=step), last=True, brief=brief)
        for when, step, brief in (
            ("in the snapshot's transaction", "worker.ledger.snapshots:remember", False),
            ("once the snapshot is recorded", "worker.ledger.recorder:Recorder.record_snapshot", True),
            ("in the middle of reading Moodle", "worker.moodle.client:MoodleReader.cohorts", False),
            ("once what was observed is recorded", "worker.ledger.observations:Observer.write", False),
        )
    ),
    Fault(name="Moodle: accounts and cohorts changed behind our back", strike=meddling, last=True),
)
