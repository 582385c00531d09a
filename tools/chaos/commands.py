"""A command is killed half-way and run again; or people change Moodle during a reconciliation."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

from tests.support.installation import YEAR
from tools.chaos.campaign import Fault
from tools.chaos.launcher import command
from tools.chaos.world import Pairs, World

KILLED, REFUSED = -9, 6
YEARS = (YEAR - 1, YEAR)


def run_and_kill(world: World, step: str, nth: int, *arguments: str) -> None:
    """Run a command that is killed after the nth call of a step."""
    world.installation.program = command({"dies": (step, "after", nth)})
    done = world.installation.run(*arguments, within=120)
    world.installation.program = command({})
    assert done.returncode == KILLED, f"{arguments}: {done.returncode} {done.stdout[-500:]} {done.stderr[-500:]}"


# The night


@contextmanager
def snapshot_cut(world: World, nth: int) -> Iterator[None]:
    """Kill the publisher of a snapshot: it is refused, and the next one repairs what lost messages left."""
    lose_messages(world)
    yield
    run_and_kill(
        world,
        "worker.kafka:RecordProducer.send_to",
        nth,
        *world.installation.snapshot(world.campus.snapshot_rows(), years=YEARS),
    )
    refused = world.installation.run("reconcile", within=120)
    assert refused.returncode == REFUSED, refused.stdout + refused.stderr
    night(world)


@contextmanager
def night_cut(world: World, step: str) -> Iterator[None]:
    """Kill a reconciliation that would repair what lost messages left, and run another."""
    lose_messages(world)
    yield
    world.eventually(world.has_read)
    world.installation.publish_snapshot(world.campus.snapshot_rows(), years=YEARS)
    run_and_kill(world, step, 1, "reconcile")
    reconcile(world)


@contextmanager
def meddling(world: World) -> Iterator[None]:
    """Let people change accounts and cohorts before and during a reconciliation; the next one repairs it."""
    meddle(world)
    yield
    world.eventually(world.has_read)
    world.installation.publish_snapshot(world.campus.snapshot_rows(), years=YEARS)
    calls = len(world.moodle.calls)
    process = world.installation.reconciliation()
    world.eventually(lambda: any(call.function.endswith("cohort_members") for call in world.moodle.calls[calls:]))
    meddle(world)
    assert process.wait(within=120) == 0, process.text()
    night(world)


def meddle(world: World) -> None:
    """Remove and add members, delete accounts and create them again, exchange two, delete and rename a cohort."""
    members = sorted(member for member in world.members() if member[1] not in world.visitors)
    drawn = world.random.sample(members, 30)
    for (etape, student), (other, _) in zip(drawn[:10], drawn[10:20], strict=True):
        world.moodle.remove_member(world.cohort_of(etape), world.account_of(student))
        if (other, student) not in members:
            world.moodle.add_member(world.cohort_of(other), world.account_of(student))
            world.expected_removals |= {(other, number) for number in world.numbers(student)}
    for _, student in drawn[20:23]:
        world.moodle.delete_user(world.account_of(student))
    world.create_accounts()
    world.exchange_accounts(drawn[25][1], drawn[26][1])
    world.moodle.rename_cohort(world.cohort_of(drawn[23][0]), "Renommée à la main")
    world.moodle.delete_cohort(world.cohort_of(drawn[24][0]))


def lose_messages(world: World) -> None:
    """Let half a day pass, and publish only the messages that no snapshot replaces."""
    messages = world.live_a_day(20)
    lost = [message for message in messages if "enrolment_id" in message.value["data"]]
    world.expected_removals |= world.subjects(lost)
    world.publish([message for message in messages if message not in lost])


def night(world: World) -> None:
    """Publish a snapshot and reconcile."""
    world.eventually(world.has_read)
    world.installation.publish_snapshot(world.campus.snapshot_rows(), years=YEARS)
    reconcile(world)


def reconcile(world: World) -> None:
    done = world.installation.run("reconcile", within=120)
    assert done.returncode == 0, done.stdout + done.stderr


# What a person decides


def close_largest(world: World) -> tuple[Pairs, str]:
    """Let everybody leave the largest étape; returns the removals that are held, and their hash."""
    etape = max(sorted(world.campus.truth()), key=lambda code: len(world.campus.truth()[code]))
    world.publish(world.campus.close(etape))

    def held() -> tuple[Pairs, str] | None:
        done = world.installation.run("held", "--json", "--students")
        assert done.returncode == 0, done.stderr
        for cohort in json.loads(done.stdout)["cohorts"]:
            if cohort["cohort"] == etape:  # an earlier fault may have left held removals of other cohorts
                leaving = {student for students in cohort["removals"].values() for student in students}
                return {(etape, student) for student in leaving}, cohort["hash"]
        return None

    plan = world.eventually(held)
    assert plan
    return plan


@contextmanager
def approval_cut(world: World, step: str) -> Iterator[None]:
    """Kill an approval and give it again: it was recorded as a whole, or not at all."""
    yield
    removals, plan_hash = close_largest(world)
    run_and_kill(world, step, 1, "approve", plan_hash)
    again = world.installation.run("approve", plan_hash)
    assert again.returncode == 0 or not removals & world.members() or "approved already" in again.stderr


@contextmanager
def undo_cut(world: World, step: str) -> Iterator[None]:
    """Approve, kill an undo once all have left, and give it again."""
    yield
    removals, plan_hash = close_largest(world)
    assert world.installation.run("approve", plan_hash).returncode == 0
    world.eventually(lambda: not removals & world.members())
    run_and_kill(world, step, 1, "undo", plan_hash)
    world.installation.run("undo", plan_hash)
    world.restored |= removals


# The first start


@contextmanager
def migration_cut(world: World, *, by_the_worker: bool) -> Iterator[None]:
    """Kill the migration of a new ledger twice, let it end the third time, and bring back what the ledger held."""
    world.worker.terminate()
    world.installation.ledger.engine.dispose()
    directory = world.installation.directory
    backup = (directory / "ledger.db").rename(directory / "backup.db")
    for nth in (3, 9):
        run_and_kill(world, "alembic.op:create_table", nth, "run" if by_the_worker else "migrate")
    migrated = world.installation.run("migrate")
    assert migrated.returncode == 0, migrated.stderr
    copy_rows(backup, directory / "ledger.db")
    backup.unlink()
    yield


def copy_rows(source: Path, target: Path) -> None:
    """Copy the rows of every table into a ledger that has the same tables, all empty."""
    with closing(sqlite3.connect(target, isolation_level=None)) as connection:
        connection.execute("ATTACH ? AS source", (str(source),))
        for (table,) in connection.execute("SELECT name FROM main.sqlite_master WHERE type = 'table'").fetchall():
            connection.execute(f"DELETE FROM main.{table}")  # noqa: S608 - our own names
            connection.execute(f"INSERT INTO main.{table} SELECT * FROM source.{table}")  # noqa: S608 - idem


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
            ("in the middle of reading Moodle", "worker.moodle.reader:MoodleReader.cohorts", False),
            ("once what was observed is recorded", "worker.ledger.observations:Observer.write", False),
        )
    ),
    Fault(name="Moodle: accounts and cohorts changed behind our back", strike=meddling, last=True),
)
