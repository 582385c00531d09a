"""The ledger's database goes away, finds its disk full, or is kept by somebody else."""

import resource
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager

import sqlalchemy as sa

from tools.chaos.campaign import Fault
from tools.chaos.world import World

LOG_BYTES = 32_768
"""What the log of a worker may still grow by where its ledger may not."""
CUT = sa.text(
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE datname = current_database() AND backend_xid IS NOT NULL AND wait_event_type = 'Lock'"
)
"""Ends the connections that have written something and wait for a lock."""


@contextmanager
def disk_full(world: World) -> Iterator[None]:
    """Let the ledger's files take nothing more, until a worker and the next one have ended for it."""
    _limit(world)
    yield
    world.dies()
    _limit(world)
    world.dies()


def _limit(world: World) -> None:
    most = len(world.worker.text().encode()) + LOG_BYTES
    resource.prlimit(world.worker.pid, resource.RLIMIT_FSIZE, (most, most))


@contextmanager
def locked(world: World) -> Iterator[None]:
    """Keep the ledger's file for longer than the worker waits for it."""
    with closing(sqlite3.connect(world.here.directory / "ledger.db", isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        world.dies()


@contextmanager
def connection_cut(world: World) -> Iterator[None]:
    """Cut the connection that has recorded messages and not committed them: it waits to write how far it has read."""
    engine = sa.create_engine(world.here.settings["ledger"]["url"])
    with engine.begin() as keeper:
        keeper.execute(sa.text("LOCK TABLE position IN SHARE MODE"))
        yield
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as other:
            world.eventually(lambda: other.execute(CUT).all())
    engine.dispose()
    world.dies()


@contextmanager
def postgres_restarted(world: World) -> Iterator[None]:
    """Stop the server, and start it again once a worker has ended for it."""
    assert world.postgres
    world.postgres.stop()
    try:
        yield
        world.dies()
    finally:
        world.postgres.start()


FAULTS = (
    Fault(name="SQLite: disk full", strike=disk_full, brief=True),
    Fault(name="SQLite: file locked by another process", strike=locked),
    Fault(name="PostgreSQL: connection cut in a transaction", strike=connection_cut, postgres=True, brief=True),
    Fault(name="PostgreSQL: restarted", strike=postgres_restarted, postgres=True, brief=True),
)
