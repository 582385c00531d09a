"""The servers that tests run against: embedded ones everywhere, real ones where they are available and in CI."""

import logging
import uuid
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import structlog

from tests.support.requirements import needed
from tests.support.servers.kafka import Kafka, real_kafka
from tests.support.servers.postgres import Postgres, real_postgres
from tests.support.servers.slapd import Slapd, real_slapd
from worker.sandbox.broker import EmbeddedBroker

# No test says how long something may take: beside a busy neighbour it takes longer.
hypothesis.settings.register_profile("whole", deadline=None)
hypothesis.settings.register_profile("unit", deadline=None, max_examples=20)  # of 100: what `make unit` asks for
hypothesis.settings.load_profile("whole")

REAL = {"kafka": pytest.mark.kafka, "postgres_url": pytest.mark.postgres, "slapd": pytest.mark.slapd}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test that needs a real server."""
    for item in items:
        for fixture in REAL.keys() & set(getattr(item, "fixturenames", ())):
            item.add_marker(REAL[fixture])


@pytest.fixture(autouse=True)
def _restored_logging() -> Iterator[None]:
    """Restore the logging after a command in this process: its level would hide lines from other tests."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def embedded_broker() -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker() as broker:
        yield broker


@pytest.fixture(scope="session")
def kafka_of_the_session() -> Iterator[Kafka]:
    with needed(), real_kafka() as kafka:
        yield kafka


@pytest.fixture
def kafka(kafka_of_the_session: Kafka) -> Iterator[Kafka]:
    yield kafka_of_the_session
    kafka_of_the_session.start()  # a test may have stopped it


@pytest.fixture(params=["embedded", pytest.param("real", marks=pytest.mark.kafka)])
def broker(request: pytest.FixtureRequest) -> EmbeddedBroker | Kafka:
    """Each of the two brokers; both create topics, stop and start by the same calls."""
    broker: EmbeddedBroker | Kafka = request.getfixturevalue(
        "embedded_broker" if request.param == "embedded" else "kafka"
    )
    return broker


@pytest.fixture
def topic() -> str:
    """A name that no other test uses, because the real Kafka serves the whole session."""
    return f"topic-{uuid.uuid4().hex}"


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    with needed(), real_postgres() as server:
        yield server


@pytest.fixture
def postgres_url(postgres: Postgres) -> Iterator[str]:
    """A new, empty PostgreSQL database."""
    with postgres.database() as url:
        yield url


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def ledger_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A new, empty database of each kind that a ledger can use."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'ledger.db'}"
    url: str = request.getfixturevalue("postgres_url")
    return url


@pytest.fixture(scope="session")
def slapd() -> Iterator[Slapd]:
    """A directory for the whole session, in which each test creates a branch of its own."""
    with needed(), real_slapd() as server:
        yield server
