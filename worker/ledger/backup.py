"""Copies the whole ledger to another database: to move it, or as a backup while workers run."""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import sqlalchemy as sa

from worker.domain.errors import LedgerError
from worker.ledger.database import Ledger
from worker.ledger.schema import meta, metadata

ROWS = 5_000
"""Rows read and written at a time."""


def copy(source: Ledger, target: Ledger, progress: Callable[[str, int, int], None]) -> dict[str, int]:
    """Copy everything, as it is at one instant, in one transaction; return the number of rows by table.

    The copy is the same ledger: the cohorts that the one created are the other's. `progress` gets a table, its rows
    so far and all of them. Raises LedgerError when the target isn't empty.
    """
    counts: dict[str, int] = {}
    with source.read() as reader, target.write() as writer:
        _must_be_empty(writer)
        writer.execute(sa.delete(meta))  # the name that a new ledger gives itself
        for table in metadata.sorted_tables:
            total = reader.scalar(sa.select(sa.func.count()).select_from(table)) or 0
            done = 0
            rows = reader.execute(sa.select(table).execution_options(yield_per=ROWS))
            for some in rows.mappings().partitions():
                writer.execute(sa.insert(table), [dict(row) for row in some])
                done += len(some)
                progress(table.name, done, total)
            counts[table.name] = done
            _number_on(writer, table)
    return counts


@contextmanager
def temporary_copy(source: Ledger) -> Iterator[Ledger]:
    """Yield a copy to try something on; nobody waits for it. However the process ends, no file of it is left."""
    with closing(Ledger(None)) as target:
        copy(source, target, lambda _table, _done, _total: None)
        yield target


def _must_be_empty(connection: sa.Connection) -> None:
    for table in metadata.sorted_tables:
        rows = connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0
        if rows and table is not meta:
            raise LedgerError(
                f"the target is a ledger in use, with {rows} rows in {table.name}: name an empty database"
            )


def _number_on(connection: sa.Connection, table: sa.Table) -> None:
    """Make PostgreSQL number new rows after the copied ones; SQLite does so by itself."""
    column = table.autoincrement_column
    if column is None or connection.dialect.name == "sqlite":
        return
    sequence = sa.func.pg_get_serial_sequence(table.name, column.name)
    # Null, for a table without rows, leaves the sequence as it is.
    connection.execute(sa.select(sa.func.setval(sequence, sa.select(sa.func.max(column)).scalar_subquery())))
