"""The tables and the migrations say the same."""

from typing import Any

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from worker.ledger import Ledger
from worker.sql.tables import metadata


def test_all_migrations_together_give_the_tables_as_they_are_declared(ledger: Ledger) -> None:
    with ledger.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        differences: list[Any] = compare_metadata(context, metadata)
    assert differences == []
