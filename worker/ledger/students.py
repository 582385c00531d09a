"""Write what messages say of students: their logins."""

from collections.abc import Iterable
from typing import NamedTuple

import sqlalchemy as sa

from worker.domain.changes import EnrolmentChange, Received
from worker.domain.instants import Instant
from worker.domain.states import Cause
from worker.ledger.database import chunks, select_in, upsert
from worker.ledger.enrolments import Trigger
from worker.ledger.schema import student

STUDENTS = 5_000
"""Whose logins are looked up at a time: a batch has no more, a snapshot all."""
_Logins = dict[str, tuple[Instant, str]]
"""The login of each student, after the instant since when it is known."""
Relogins = dict[str, "Relogin"]
"""What is new of the logins of students, by number."""


class Relogin(NamedTuple):
    """A student's login, new or changed."""

    former: str | None
    login: str
    trigger: Trigger


def record_logins(
    connection: sa.Connection, batch: Iterable[Received], uais: frozenset[str], *, run: int | None = None
) -> Relogins:
    """Write the latest login of each student; return those who have another one than before.

    A message without a login says nothing about it. `run` is the reconciliation whose snapshot the batch is.
    """
    latest: _Logins = {}
    triggers: dict[str, Trigger] = {}
    for item in batch:
        change = item.change
        if isinstance(change, EnrolmentChange) and change.login is not None and change.uai in uais:
            login = (change.changed_at, change.login)
            if change.student_id not in latest or login > latest[change.student_id]:
                latest[change.student_id] = login
                triggers[change.student_id] = Trigger(Cause.LOGIN, change.origin, item.published_at, run)
    relogins: Relogins = {}
    for numbers in chunks(sorted(latest), STUDENTS):
        former = _save_logins(connection, {number: latest[number] for number in numbers})
        for number, before in former.items():
            relogins[number] = Relogin(before, latest[number][1], triggers[number])
    return relogins


def _save_logins(connection: sa.Connection, latest: _Logins) -> dict[str, str | None]:
    """Write the logins that are newer; return the former one of each student who has another by now."""
    columns = sa.select(student.c.student_id, student.c.login_at, student.c.login)
    known = {
        number: (at or 0.0, login or "")
        for number, at, login in map(tuple, select_in(connection, columns, student.c.student_id, latest))
    }
    rows = []
    former: dict[str, str | None] = {}
    for number, (at, login) in latest.items():
        old_at, old_login = known.get(number, (0.0, ""))
        if (at, login) > (old_at, old_login):
            rows.append({"student_id": number, "login": login, "login_at": at})
            if login != old_login:
                former[number] = old_login or None
    upsert(connection, student, rows, update=["login", "login_at"])
    return former
