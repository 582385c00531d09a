"""A writer that is stopped in the middle of a transaction, or whose machine is gone, while all others wait for it."""

import pytest
import sqlalchemy as sa

from worker.domain.errors import LedgerError
from worker.ledger import Ledger
from worker.ledger.schema import meta


def test_a_writer_that_falls_silent_is_rolled_back_and_the_others_go_on(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent, other = Ledger(postgres_url), Ledger(postgres_url)
    monkeypatch.setattr("worker.ledger.database.SILENT_SECONDS", 1)

    def the_other_writes_while_one_says_nothing() -> None:
        with silent.write() as stopped:
            stopped.execute(sa.insert(meta), {"key": "held", "value": "up"})
            with other.write() as connection:
                connection.execute(sa.insert(meta), {"key": "held", "value": "by nobody"})
            stopped.execute(sa.update(meta).values(value="late"))

    with pytest.raises(
        LedgerError, match="the ledger failed: terminating connection due to idle-in-transaction timeout"
    ):
        the_other_writes_while_one_says_nothing()
    with silent.write() as connection:  # on another connection
        assert connection.scalar(sa.select(meta.c.value).where(meta.c.key == "held")) == "by nobody"
    silent.close()
    other.close()
