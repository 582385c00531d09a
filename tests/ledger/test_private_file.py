"""A ledger in a file is for its owner alone: who else has a shell on the machine reads nothing of it."""

import os
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.builders import received, recorder, told
from worker.domain.errors import LedgerError
from worker.ledger import Ledger
from worker.ledger.database import exposed_files, has_password


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
    Ledger(f"sqlite:///{file}").close()
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


def test_a_ledger_that_is_made_in_an_empty_file_is_read_by_nobody_else(tmp_path: Path) -> None:
    file = tmp_path / "ledger.db"
    for name in ("ledger.db", "ledger.db-wal"):
        (tmp_path / name).touch()
        (tmp_path / name).chmod(0o644)
    with closing(Ledger(f"sqlite:///{file}")) as ledger:
        recorder(ledger).record(received(told()), now=1.0)
        assert {stat.S_IMODE(each.stat().st_mode) for each in tmp_path.iterdir()} == {0o600}


def test_hostile_link_to_a_file_that_does_not_exist_makes_no_ledger_there(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere.db"
    (tmp_path / "ledger.db").symlink_to(elsewhere)
    with pytest.raises(LedgerError, match="is a link to a file that doesn't exist"):
        Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    assert not elsewhere.exists()


def test_files_that_others_may_read_are_named_with_their_mode(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    with closing(Ledger(url)) as ledger:
        recorder(ledger).record(received(told()), now=1.0)
        assert exposed_files(url) == {}
        (tmp_path / "ledger.db-wal").chmod(0o640)
        assert exposed_files(url) == {f"{tmp_path / 'ledger.db-wal'}": 0o640}
    assert exposed_files("postgresql://localhost/cohorts") == {}


@pytest.mark.parametrize(
    ("url", "has"),
    [
        ("postgresql://a:secret@host/db", True), ("postgresql://host/db?password=secret", True),
        ("postgresql://a@host/db", False), ("sqlite:////tmp/copy.db", False),
    ],
)  # fmt: skip
def test_a_password_in_an_address_is_seen(url: str, *, has: bool) -> None:
    assert has_password(url) is has
