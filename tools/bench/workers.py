"""Memberships per second of one, two and three worker processes that share a PostgreSQL ledger and a real Kafka.

The Moodle runs any number of calls at once, at measured costs, and its cohorts are synchronised into a course. Each
worker has two connections, so that the time is spent waiting for Moodle.
"""

import io
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, redirect_stdout
from pathlib import Path

from tests.support.installation import eventually, installed, platform
from tests.support.servers.kafka import Kafka, real_kafka
from tests.support.servers.postgres import Postgres, real_postgres
from tools.bench import Figure, Quantity, scaled
from tools.bench.parts import FIRST_COHORTS, PLATFORM, TOKEN
from worker.sandbox.moodle.server import MEASURED, SandboxMoodle
from worker.sandbox.university.generator import University

TITLE = "Several workers"
WORKERS = (1, 2, 3)
PARTITIONS = 6
STUDENTS, ETAPES = scaled(8_000), 320
COURSES = 1
MOST_SECONDS = 300.0


def run() -> Iterator[Figure]:
    """Yield the rate of each number of workers, from the first message to the last membership, against one worker."""
    with real_kafka() as kafka, real_postgres() as postgres:
        rates = {workers: _rate(kafka, postgres, workers) for workers in WORKERS}
    for workers, rate in rates.items():
        yield Figure(
            what=f"workers: {workers}, calls at once: {2 * workers}, {COURSES} course per cohort",
            figure=f"{rate:,.0f} memberships/s",
            against=f"{rates[1]:,.0f}/s, one worker",
            ratio=Quantity(rate / rates[1], "times as fast"),
        )


def _rate(kafka: Kafka, postgres: Postgres, workers: int) -> float:
    """Let so many workers fill an empty Moodle; returns memberships per second."""
    university = University(students=STUDENTS, etapes=ETAPES)
    members = {(etape, f"e{number}") for etape, numbers in university.truth().items() for number in numbers}
    moodle = SandboxMoodle(token=TOKEN, cost=MEASURED, php_workers=32)
    moodle.add_users((username, username[1:]) for username in {username for _, username in members})
    moodle.courses.update(dict.fromkeys(range(FIRST_COHORTS), COURSES))
    with ExitStack() as stack:
        stack.enter_context(moodle.serving())
        stack.enter_context(redirect_stdout(io.StringIO()))  # an installation prints its logs at its end
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        extra_settings = {"ledger": {"url": stack.enter_context(postgres.database())}}
        platforms = {PLATFORM: platform(moodle, timeout=60.0)}
        topic = f"bench-{uuid.uuid4().hex}"
        installation = stack.enter_context(
            installed(directory, kafka, topic, platforms, extra_settings, partitions=PARTITIONS)
        )
        for worker in [installation.worker() for _ in range(workers)]:
            worker.started()
        started = time.monotonic()
        installation.publish(university.initial())
        eventually(lambda: sum(map(len, moodle.memberships().values())) == len(members), within=MOST_SECONDS)
        return len(members) / (time.monotonic() - started)
