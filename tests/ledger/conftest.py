from collections.abc import Iterator

import pytest

from worker.ledger import Ledger


@pytest.fixture
def ledger(ledger_url: str) -> Iterator[Ledger]:
    """A new ledger, on SQLite and on PostgreSQL."""
    opened = Ledger(ledger_url)
    yield opened
    opened.close()
