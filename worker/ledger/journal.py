"""Entries of the journal: what was applied on Moodle, or decided by a person, with its cause."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import sqlalchemy as sa

from worker.domain.instants import Instant
from worker.domain.states import Action
from worker.ledger.schema import cohort, journal, membership


@dataclass(frozen=True, slots=True, kw_only=True)
class NewEntry:
    """An entry to be written, by the names of the columns; without a student it is about the cohort as a whole."""

    at: Instant
    platform: str
    cohort: str
    cohort_id: int
    action: Action
    student_id: str | None = None
    user_id: int | None = None
    cause: str | None = None
    origin: str | None = None
    source: str | None = None
    detail: str | None = None
    run: int | None = None
    approved: str | None = None


_COLUMNS = [field.name for field in fields(NewEntry)]


def write_entries(connection: sa.Connection, entries: Iterable[NewEntry]) -> None:
    """Write entries, in their order."""
    rows = [{name: getattr(entry, name) for name in _COLUMNS} for entry in entries]
    if rows:
        connection.execute(sa.insert(journal), rows)


def write_confirmed(connection: sa.Connection, memberships: Sequence[dict[str, Any]], now: Instant) -> None:
    """Write what calls of ours did to these memberships, whose outcome was unknown until now.

    Each has the parameters `b_cohort`, `b_student` and `b_user`. To be called before the memberships are written: the
    action and its cause are taken from them.
    """
    if not memberships:
        return
    values = {
        "at": sa.literal(now),
        "platform": cohort.c.platform,
        "cohort": cohort.c.idnumber,
        "cohort_id": cohort.c.id,
        "action": sa.case((membership.c.desired, Action.ADD.value), else_=Action.REMOVE.value),
        "user_id": sa.cast(sa.bindparam("b_user"), sa.BigInteger),
        **{name: membership.c[name] for name in ("student_id", "cause", "origin", "source", "run", "approved")},
    }
    entry = (
        sa.select(*values.values())
        .join_from(membership, cohort)
        .where(cohort.c.id == sa.bindparam("b_cohort"), membership.c.student_id == sa.bindparam("b_student"))
    )
    connection.execute(sa.insert(journal).from_select([*values], entry), memberships)
