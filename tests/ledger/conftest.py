"""A new ledger for each test, emptied or copied, because migrations take longer than most tests."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.support.servers.postgres import Postgres
from worker.ledger import Ledger
from worker.ledger.schema import meta, metadata

TABLES = ", ".join(f'"{table.name}"' for table in metadata.sorted_tables)


@pytest.fixture(scope="session")
def sqlite_of_the_session(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with every table, all empty."""
    path = tmp_path_factory.mktemp("ledger") / "ledger.db"
    opened = Ledger(f"sqlite:///{path}")
    with opened.write() as connection:
        connection.execute(sa.delete(meta))
    opened.close()
    return path


@pytest.fixture(scope="session")
def postgres_of_the_session(postgres: Postgres) -> Iterator[str]:
    """A database with every table."""
    with postgres.database() as url:
        Ledger(url).close()
        yield url


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ledger]:
    """A new ledger, on SQLite and on PostgreSQL."""
    if request.param == "sqlite":
        shutil.copy(request.getfixturevalue("sqlite_of_the_session"), tmp_path / "ledger.db")
        url = f"sqlite:///{tmp_path / 'ledger.db'}"
    else:
        url = request.getfixturevalue("postgres_of_the_session")
        engine = sa.create_engine(url)
        with engine.begin() as connection:
            connection.execute(sa.text(f"TRUNCATE {TABLES} RESTART IDENTITY"))
        engine.dispose()
    opened = Ledger(url)
    yield opened
    opened.close()
