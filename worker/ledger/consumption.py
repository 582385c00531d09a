"""Whether messages are read: a worker that must stop reading says so here, until one starts again."""

from dataclasses import asdict, dataclass

import orjson
import sqlalchemy as sa

from worker.domain.instants import Instant
from worker.ledger.database import Ledger, upsert
from worker.ledger.schema import meta

_KEY = "halt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Halt:
    """Since when no message is read, why, and what a person must do."""

    since: Instant
    reason: str
    sentence: str


def halt(ledger: Ledger, noticed: Halt) -> None:
    """Write that a worker has stopped reading messages."""
    with ledger.write() as connection:
        upsert(connection, meta, [{"key": _KEY, "value": orjson.dumps(asdict(noticed)).decode()}], update=["value"])


def resume(ledger: Ledger) -> None:
    """Write that a worker begins to read messages."""
    with ledger.write() as connection:
        connection.execute(sa.delete(meta).where(meta.c.key == _KEY))


def halted(connection: sa.Connection) -> Halt | None:
    """Return why no message is read; None if nothing is known to stop it."""
    value = connection.scalar(sa.select(meta.c.value).where(meta.c.key == _KEY))
    return None if value is None else Halt(**orjson.loads(value))
