"""What goes wrong with the database: an outage is a sentence, a defect of ours is none, and neither holds a number."""

import sqlite3
import traceback
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa

from worker.domain.errors import LedgerError
from worker.ledger import Ledger
from worker.ledger.database import upsert
from worker.ledger.schema import enrolment, membership, meta, student

SECRET = "22001234-exemple"


def twice(connection: sa.Connection) -> None:
    for _ in range(2):
        connection.execute(sa.insert(student).values(student_id=SECRET))


def without_what_it_needs(connection: sa.Connection) -> None:
    connection.execute(sa.insert(enrolment).values(student_id=SECRET, uai=SECRET, enrolment_id=SECRET, system="apogee"))


def of_another_type(connection: sa.Connection) -> None:
    upsert(connection, membership, [{"cohort_id": SECRET, "student_id": SECRET}], update=["student_id"])


@pytest.mark.parametrize("write", [twice, without_what_it_needs, of_another_type])
def test_what_the_database_refuses_to_write_is_not_quoted(
    ledger: Ledger, write: Callable[[sa.Connection], None]
) -> None:
    with pytest.raises(sa.exc.DBAPIError) as caught, ledger.write() as connection:
        write(connection)
    told = "".join(traceback.format_exception(caught.value)) + repr(caught.value) + repr(caught.value.orig)
    assert SECRET not in told
    assert any(word in told for word in ("UNIQUE", "NOT NULL", "violates", "InvalidTextRepresentation"))


def note(connection: sa.Connection, value: str) -> None:
    upsert(connection, meta, [{"key": "note", "value": value}], update=["value"])


def noted(ledger: Ledger) -> str | None:
    with ledger.read() as connection:
        found: str | None = connection.scalar(sa.select(meta.c.value).where(meta.c.key == "note"))
        return found


def test_a_full_disk_is_a_sentence_and_what_was_begun_is_undone(tmp_path: Path) -> None:
    with closing(Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")) as ledger:
        with ledger.write() as connection:
            note(connection, "there was room")
            connection.exec_driver_sql("PRAGMA max_page_count = 1")  # as many as there are
        sentence = r"ledger.db: the ledger failed: database or disk is full; repair the database"
        with pytest.raises(LedgerError, match=sentence), ledger.write() as connection:
            note(connection, "x" * 1_000_000)
        assert noted(ledger) == "there was room"


def test_a_file_that_others_keep_locked_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.ledger.database.BUSY_SECONDS", 0)
    path = tmp_path / "ledger.db"
    with closing(Ledger(f"sqlite:///{path}")) as ledger, closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(LedgerError, match="the ledger failed: database is locked"), ledger.write():
            pass
        other.execute("ROLLBACK")
        with ledger.write() as connection:
            note(connection, "free again")
        assert noted(ledger) == "free again"


def test_a_connection_that_is_cut_is_a_sentence_and_the_next_one_is_new(postgres_url: str) -> None:
    with closing(Ledger(postgres_url)) as ledger, closing(Ledger(postgres_url)) as other:

        def cut(connection: sa.Connection) -> None:
            note(connection, "cut")
            mine = connection.scalar(sa.select(sa.func.pg_backend_pid()))
            with other.read() as administrator:
                administrator.execute(sa.select(sa.func.pg_terminate_backend(mine)))
            connection.execute(sa.select(meta.c.key))

        sentence = "the ledger failed: terminating connection due to administrator command"
        with pytest.raises(LedgerError, match=sentence), ledger.write() as connection:
            cut(connection)
        assert noted(ledger) is None
