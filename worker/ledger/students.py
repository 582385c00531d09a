"""Write what messages say of students: their logins, and the numbers that became other numbers."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import sqlalchemy as sa

from worker.domain.changes import EnrolmentChange, NumberChange, Received
from worker.domain.instants import Instant
from worker.domain.rules import survivors
from worker.domain.states import Cause
from worker.ledger.database import chunks, select_in, upsert
from worker.ledger.enrolments import Counts, Touched, Trigger
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


_Graph = dict[str, tuple[str, Instant]]
"""What each number became, and when."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedMerges:
    """What the merges of a batch changed."""

    touched: Touched
    counts: Counts


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


def record_merges(connection: sa.Connection, batch: Iterable[Received], uais: frozenset[str]) -> RecordedMerges:
    """Write the latest merge of each number, and the number that each leads to in the end.

    Merges are rare (some a day), so the whole graph is read: chains and circles resolve alike whatever came first.
    """
    received = [(item.change, item.published_at) for item in batch if isinstance(item.change, NumberChange)]
    ours = [(change, published_at) for change, published_at in received if change.uai in uais]
    if not ours:
        return RecordedMerges(touched=Touched(), counts=Counts(stale=len(received)))
    graph, before = _merged_numbers(connection)
    triggers: list[Trigger] = []
    for change, published_at in ours:
        old_number, old_at = graph.get(change.previous_student_id, ("", 0.0))
        if (change.changed_at, change.student_id) > (old_at, old_number):
            graph[change.previous_student_id] = (change.student_id, change.changed_at)
            triggers.append(Trigger(Cause.REKEYED, change.origin, published_at))
    after = survivors(graph)
    touched = Touched()
    for number in _led_elsewhere(before, after):
        touched.touch(number, triggers[-1])
    _save_merges(connection, graph, after)
    counts = Counts(applied=len(triggers), stale=len(received) - len(triggers))
    return RecordedMerges(touched=touched, counts=counts)


def _merged_numbers(connection: sa.Connection) -> tuple[_Graph, dict[str, str]]:
    """Return the graph of merges, and the survivor of each number in it."""
    columns = student.c.student_id, student.c.merged_into, student.c.merged_at, student.c.survivor
    rows = connection.execute(sa.select(*columns).where(student.c.merged_into.is_not(None))).all()
    graph = {row.student_id: (row.merged_into, row.merged_at) for row in rows}
    return graph, {row.student_id: row.survivor or row.student_id for row in rows}


def _led_elsewhere(before: Mapping[str, str], after: Mapping[str, str]) -> Iterable[str]:
    """Find the numbers with another survivor, and both survivors: a new merge may lead whole chains elsewhere."""
    for number, survivor in after.items():
        former = before.get(number, number)
        if former != survivor:
            yield from (number, former, survivor)


def _save_merges(connection: sa.Connection, graph: _Graph, final: Mapping[str, str]) -> None:
    rows = [
        {
            "student_id": number,
            "merged_into": successor,
            "merged_at": at,
            "survivor": final[number] if final[number] != number else None,
        }
        for number, (successor, at) in graph.items()
    ]
    upsert(connection, student, rows, update=["merged_into", "merged_at", "survivor"])
