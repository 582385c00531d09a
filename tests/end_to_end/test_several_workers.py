"""A September day of several workers on one ledger, who come, go, die, and stand still; with commands beside them."""

import math
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import pytest
import sqlalchemy as sa
from confluent_kafka import KafkaException

from tests.support.installation import Installation, Process, eventually, installed, pairs, platform
from tests.support.servers.kafka import Kafka
from worker.domain.states import Action, RunState
from worker.ledger import runs, status
from worker.ledger.schema import cohort
from worker.sandbox.moodle.server import Cost, SandboxMoodle
from worker.sandbox.university.generator import University
from worker.sandbox.university.records import Message

pytestmark = pytest.mark.end_to_end

SEED, PARTITIONS, HOUR = 29, 6, 3600.0
STUDENTS, ETAPES, CHANGES = 3_000, 120, 150
TIMEOUT = 1.5
STOPPED = 2 * TIMEOUT + 30 + 1  # seconds that outlast a lease (build.lanes) and any session
COST = Cost(call=0.15, added=0.001, removed=0.001, looked_up=0.0002, created=0.0003)
SLOW = replace(COST, call=0.6)
"""So that workers are mostly in calls when they are stopped."""
LIMITS = {"calls_per_second": 1000, "timeout_seconds": TIMEOUT, "fields": 100}  # many small calls
COMMANDS = (
    ("status",), ("plan",), ("held",), ("runs",), ("positions",), ("plan", "--json"), ("status", "--json"),
)  # fmt: skip
QUIET = 300.0


class Day:
    """The university, its Moodle, its installation, and what must be true of them in the end."""

    def __init__(self, installation: Installation, moodle: SandboxMoodle, university: University) -> None:
        self.installation = installation
        self.moodle = moodle
        self.university = university
        self.published: list[Message] = []

    def tell(self, messages: Iterator[Message]) -> None:
        some = list(messages)
        self.published += some
        self.installation.publish(some)

    def writing(self) -> int:
        """Count the writing calls in flight."""
        return sum(call.writes and math.isnan(call.ended) for call in self.moodle.calls[-20:])

    def calls_more(self, count: int) -> None:
        """Wait until so many more calls were made."""
        before = len(self.moodle.calls)
        eventually(lambda: len(self.moodle.calls) >= before + count, every=0.01)

    def in_step(self, *workers: Process) -> None:
        """Wait until every message is recorded and every cohort equal to the truth."""
        published = self.installation.published()
        known = self.moodle.user_ids
        truth = self.university.truth()
        expected = {
            (code, f"e{number}") for code, numbers in truth.items() for number in numbers if f"e{number}" in known
        }

        def look() -> bool:
            for worker in workers:
                worker.must_run()
            assert self.installation.recorded() == published
            differing = pairs(self.moodle.memberships()) ^ expected
            assert not differing, f"{len(differing)} memberships differ, as {sorted(differing)[:3]}"
            left = {state: count for state, count in self.installation.state_of("ecampus").gaps.items() if count}
            assert left.keys() <= {"parked"}, left
            return True

        eventually(look, within=QUIET, every=0.5)


def stop(worker: Process, installation: Installation) -> None:
    """Freeze a worker while it holds leases, but outside of a transaction.

    For the end of one, which PostgreSQL makes, all others would wait a minute; so would we, to open the ledger.
    """
    ledger = installation.ledger
    busy = sa.text("SELECT count(*) FROM pg_stat_activity WHERE application_name = :name AND state <> 'idle'")
    leased = sa.select(sa.func.count()).where(cohort.c.lease_holder.contains(f":{worker.pid}:"))

    def is_between_transactions() -> bool:
        with ledger.read() as connection:
            return not connection.scalar(busy, {"name": worker.name}) and bool(connection.scalar(leased))

    def stopped() -> bool:
        worker.must_run()
        worker.stop()
        if is_between_transactions():
            threading.Event().wait(0.5)  # what it has just sent arrives, on a busy machine too
            if is_between_transactions():
                return True
        worker.go_on()
        return False

    eventually(stopped)


@contextmanager
def commands(installation: Installation) -> Iterator[None]:
    """Run commands that look, one after another, until the block ends; each must succeed."""
    over = threading.Event()
    failed: list[str] = []

    def look() -> None:
        student = next(iter(next(iter(status.desired(installation.ledger, "ecampus").values()))))
        for arguments in (*COMMANDS, ("explain", student)) * 99:
            if over.is_set():
                return
            done = installation.run(*arguments)
            if done.returncode:
                failed.append(f"{arguments}: {done.returncode} {done.stderr}")

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    assert failed == []


def share(kafka: Kafka, group: str, protocol: str, *workers: Process) -> None:
    """Wait until these are the group's members, as far as one can count, who share all partitions, each with some."""
    admin = kafka.admin()

    def look() -> bool:
        for worker in workers:
            worker.must_run()
        try:
            described = admin.describe_consumer_groups([group], request_timeout=2)[group].result()
        except KafkaException as error:  # until the group has a coordinator
            raise AssertionError(str(error)) from None
        shares = [{each.partition for each in member.assignment.topic_partitions} for member in described.members]
        assert len(shares) == len(workers), shares
        assert sorted(partition for some in shares for partition in some) == [*range(PARTITIONS)], shares
        assert all(shares), shares
        assert described.type.name == protocol.upper()
        return True

    eventually(look)


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_several_workers_who_come_and_go_and_stand_still_leave_every_cohort_true(
    kafka: Kafka, topic: str, tmp_path: Path, postgres_url: str, protocol: str
) -> None:
    random = Random(SEED)
    opening = time.time() - 36 * HOUR
    university = University(seed=SEED, students=STUDENTS, etapes=ETAPES, opening=datetime.fromtimestamp(opening, UTC))
    moodle = SandboxMoodle(name="Ecampus", token="secret-of-ecampus", cost=SLOW, php_workers=6)
    moodle.add_users((username, number) for username, number, _ in university.accounts())
    more: dict[str, dict[str, Any]] = {
        "ledger": {"url": postgres_url},
        "kafka": {"client": {"group.protocol": protocol}},
    }
    with ExitStack() as stack:
        stack.enter_context(moodle.serving())
        platforms = {"ecampus": platform(moodle, limits=LIMITS)}
        installation = stack.enter_context(installed(tmp_path, kafka, topic, platforms, more, partitions=PARTITIONS))
        day = Day(installation, moodle, university)
        first, second, third = (installation.worker() for _ in range(3))
        share(kafka, topic, protocol, first, second, third)
        day.tell(university.initial())
        eventually(lambda: day.writing() == 6, every=0.01)  # all that three workers may have in flight
        stop(first, installation)
        day.calls_more(random.randint(3, 9))
        stop(second, installation)
        moodle.cost = COST
        stopped_at = time.monotonic()

        with commands(installation):
            day.tell(university.september_day(CHANGES))
            day.calls_more(random.randint(5, 20))
            third.kill()
            fourth, fifth = installation.worker(), installation.worker()
            fourth.started()
            installation.publish_snapshot(university.snapshot_rows(), years=(2025, 2026), taken_at=opening + 20 * HOUR)
            moodle.add_users((username, number) for username, number, _ in university.late_accounts())
            share(kafka, topic, protocol, fourth, fifth)
            night = installation.reconciliation()
            day.tell(university.september_day(CHANGES))
            assert fifth.terminate() == 0
            sixth = installation.worker()
            assert night.wait(within=QUIET) == 0, night.text()
            day.in_step(fourth, sixth)
        eventually(lambda: time.monotonic() > stopped_at + STOPPED)
        first.go_on()
        second.go_on()
        eventually(lambda: first.events("lease lost, work discarded") and second.events("lease lost, work discarded"))
        share(kafka, topic, protocol, first, second, fourth, sixth)
        day.in_step(first, second, fourth, sixth)
        assert [worker.terminate() for worker in (first, second)] == [0, 0]
        assert_nothing_went_wrong(day)


def assert_nothing_went_wrong(day: Day) -> None:
    installation, moodle, university = day.installation, day.moodle, day.university
    assert moodle.collisions == []
    assert len({cohort.idnumber for cohort in moodle.cohorts()}) == len(moodle.cohorts())
    assert set(status.applied(installation.ledger, "ecampus", Action.REMOVE)) <= university.removals_asked()
    assert installation.letters() == []
    assert installation.missing("ecampus") - pairs(university.truth()) == set()
    [night] = runs.listed(installation.ledger, most=9)
    assert night.state is RunState.DONE
    report = runs.report(installation.ledger)
    assert report is not None
    assert report.platforms[0].drift == {}
