"""The ledger's database stops, has a full disk, or is locked by another process."""

import resource
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager

import sqlalchemy as sa

from tools.chaos.campaign import Fault
from tools.chaos.world import World

LOG_BYTES = 32_768
"""By how much the log of a worker may still grow, while its ledger may not."""
CUT = sa.text(
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE datname = current_database() AND backend_xid IS NOT NULL AND wait_event_type = 'Lock'"
)
"""Ends the connections that have written something and wait for a lock."""


@contextmanager
def disk_full(world: World) -> Iterator[None]:
    """Forbid the ledger's files to grow, until two workers in a row have ended because of it."""
    _limit(world)
    yield
    world.wait_for_end()
    _limit(world)
    world.wait_for_end()


def _limit(world: World) -> None:
    most = len(world.worker.text().encode()) + LOG_BYTES
    resource.prlimit(world.worker.pid, resource.RLIMIT_FSIZE, (most, most))


@contextmanager
def locked(world: World) -> Iterator[None]:
    """Lock the ledger's file for longer than the worker waits for it."""
    with closing(sqlite3.connect(world.installation.directory / "ledger.db", isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        world.wait_for_end()


@contextmanager
def connection_cut(world: World) -> Iterator[None]:
    """Cut the connection that has recorded messages but not committed: it waits for a lock to write its position."""
    engine = sa.create_engine(world.installation.settings["ledger"]["url"])
    with engine.begin() as locking:
        locking.execute(sa.text("LOCK TABLE position IN SHARE MODE"))
        yield
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as other:
            world.eventually(lambda: other.execute(CUT).all())
    engine.dispose()
    world.wait_for_end()


@contextmanager
def postgres_restarted(world: World) -> Iterator[None]:
    """Stop the server, and start it again once a worker has ended because of it."""
    assert world.postgres
    world.postgres.stop()
    try:
        yield
        world.wait_for_end()
    finally:
        world.postgres.start()


FAULTS = (
    Fault(name="SQLite: disk full", strike=disk_full, brief=True),
    Fault(name="SQLite: file locked by another process", strike=locked),
    Fault(name="PostgreSQL: connection cut in a transaction", strike=connection_cut, postgres=True, brief=True),
    Fault(name="PostgreSQL: restarted", strike=postgres_restarted, postgres=True, brief=True),
)
