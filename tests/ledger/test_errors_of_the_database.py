"""An error of the database, which may reach the log with all that it came from, holds nobody's number."""

import traceback
from collections.abc import Callable

import pytest
import sqlalchemy as sa

from worker.ledger import Ledger
from worker.ledger.engine import upsert
from worker.sql.tables import enrolment, membership, student

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
