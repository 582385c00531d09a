"""Opening a ledger reads; it writes only what is missing."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

from worker.ledger import Ledger


def test_a_ledger_opens_while_another_process_writes(ledger: Ledger) -> None:
    url = ledger.engine.url.render_as_string(hide_password=False)
    with ledger.write(), ThreadPoolExecutor() as threads:
        other = threads.submit(Ledger, url).result(timeout=30)
    with closing(other):
        assert other.instance == ledger.instance
