"""The tables and the migrations say the same."""

from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from worker.domain.errors import LedgerError
from worker.ledger import Ledger
from worker.ledger.schema import REVISION, REVISIONS, metadata
from worker.ledger.upgrade import configured


def test_all_migrations_together_give_the_tables_as_they_are_declared(ledger: Ledger) -> None:
    with ledger.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        differences: list[Any] = compare_metadata(context, metadata)
    assert differences == []


def test_the_newest_migration_is_the_one_that_a_ledger_is_expected_to_have() -> None:
    assert ScriptDirectory.from_config(configured()).get_current_head() == REVISION


@pytest.mark.parametrize("revision", ["0001", "0007", "9999"])
def test_a_ledger_of_another_version_is_refused_and_stays_as_it_is(ledger_url: str, revision: str) -> None:
    ledger = Ledger(ledger_url)
    with ledger.write() as connection:
        connection.execute(sa.update(REVISIONS).values(version_num=revision))
    with pytest.raises(LedgerError, match=rf"another version of this program wrote the ledger: .*{revision}.*"):
        Ledger(ledger_url)
    with ledger.read() as connection:
        assert connection.scalars(sa.select(REVISIONS.c.version_num)).all() == [revision]
    ledger.close()
