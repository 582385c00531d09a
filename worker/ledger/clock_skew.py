"""A clock that was set back: what waits for an instant that the clock had shown before would wait for too long.

The ledger notes the latest instant at which it was asked for work. A worker whose clock is behind that brings forward,
by the difference, whatever waits. It doesn't matter which clock was wrong: trying too early is harmless, not trying
isn't.
"""

import sqlalchemy as sa
import structlog

from worker.domain.instants import Instant
from worker.ledger.database import upsert
from worker.ledger.gaps import PROMISE_SECONDS
from worker.ledger.schema import cohort, membership, meta, platform, run

APART_SECONDS = 60.0
"""How far the clocks of workers may differ, and how old the note may be."""

log = structlog.get_logger()


def is_to_be_noted(connection: sa.Connection, now: Instant) -> bool:
    """Return whether the clock is behind the note, or well ahead of it."""
    return abs(now - _noted(connection)) > APART_SECONDS


def note(connection: sa.Connection, now: Instant, *, lease: float) -> None:
    """Write this instant; when the clock was set back, let what waits wait no longer than it was meant to.

    A year's time of grace isn't touched. A cohort stays leased for as long as a lease taken now would last.
    """
    back = _noted(connection) - now
    if back > APART_SECONDS:
        log.warning("clock was set back", seconds=round(back))
        ordinary = membership.c.due_by - membership.c.since <= PROMISE_SECONDS + 1
        for column, affected in (
            (membership.c.next_attempt_at, ordinary),
            (cohort.c.next_attempt_at, sa.true()),
            (platform.c.next_attempt_at, sa.true()),
            (run.c.lease_until, sa.true()),
        ):
            sooner = sa.case((column - back > now, column - back), else_=now)
            connection.execute(sa.update(column.table).where(column > now, affected).values({column.name: sooner}))
        observed_later = sa.update(membership).where(membership.c.observed_at > now)
        connection.execute(observed_later.values(observed_at=now))
        leased = sa.update(cohort).where(cohort.c.lease_until > now + lease)
        connection.execute(leased.values(lease_until=now + lease))
    upsert(connection, meta, [{"key": "clock", "value": repr(now)}], update=["value"])


def _noted(connection: sa.Connection) -> Instant:
    return float(connection.scalar(sa.select(meta.c.value).where(meta.c.key == "clock")) or 0.0)
