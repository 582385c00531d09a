"""A ledger in a file is for its owner alone: who else has a shell on the machine reads nothing of it."""

import os
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.builders import received, recorder, told
from worker.ledger import Ledger


@pytest.mark.parametrize("umask", [0o000, 0o022])
def test_a_new_ledger_and_what_sqlite_puts_beside_it_are_read_by_nobody_else(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
        recorder(ledger).record(received(told()), now=1.0)
        modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()}
        ledger.close()
    finally:
        os.umask(before)
    assert modes == dict.fromkeys(("ledger.db", "ledger.db-shm", "ledger.db-wal"), 0o600)


def test_permissions_that_a_person_set_stay(tmp_path: Path) -> None:
    file = tmp_path / "ledger.db"
    file.touch()
    file.chmod(0o640)
    Ledger(f"sqlite:///{file}").close()
    assert stat.S_IMODE(file.stat().st_mode) == 0o640


def test_a_ledger_that_is_opened_twice_in_one_process_stays_locked_for_the_others(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    with closing(Ledger(url)) as first:
        recorder(first).record(received(told()), now=1.0)
        Ledger(url).close()
        another = f"from worker.ledger import Ledger; Ledger({url!r}).close()"
        # The last to close a ledger clears up its log.
        subprocess.run([sys.executable, "-c", another], check=True)  # noqa: S603 - the program is our own
        assert (tmp_path / "ledger.db-wal").exists()
