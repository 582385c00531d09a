"""The cohorts of the work that is handed out: read as values, and written with their entries in the journal."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

import sqlalchemy as sa

from worker.domain.cohorts import Cohort
from worker.domain.idnumbers import HasIdnumber
from worker.domain.instants import Instant
from worker.domain.states import Action, CohortState
from worker.ledger.journal import NewEntry, write_entries
from worker.ledger.schema import cohort

needs_rename = sa.and_(
    cohort.c.state == CohortState.OWNED,
    sa.or_(
        cohort.c.moodle_idnumber != cohort.c.idnumber,
        sa.and_(cohort.c.name_is_ours, sa.func.coalesce(cohort.c.wanted_name != cohort.c.moodle_name, sa.false())),
    ),
)
"""An owned cohort whose étape got its label, another label, or another code."""
UNBLOCKED: Mapping[str, Any] = {"attempts": 0, "refusal": None, "blocker_id": None, "blocker": None}
"""The columns of a cohort that nothing keeps from being as it is wanted."""
UNDECIDED: Mapping[str, Any] = {"approved": None, "approved_until": None, "rejected": None}
"""The columns of a cohort about which no decision of a person is in force."""


def owned(moodle_id: int, name: str, idnumber: str, now: Instant) -> dict[str, Any]:
    """Return the columns of a cohort that becomes ours now, and is on Moodle under these labels."""
    return {
        "state": CohortState.OWNED.value,
        "moodle_id": moodle_id,
        "moodle_name": name,
        "moodle_idnumber": idnumber,
        "owned_at": sa.func.coalesce(cohort.c.owned_at, now),
        "first_load": False,
        "held": None,
        **UNDECIDED,
        **UNBLOCKED,
    }


def read(connection: sa.Connection, cohort_ids: Collection[int], now: Instant) -> dict[int, Cohort]:
    """Return these cohorts by id."""
    rows = connection.execute(sa.select(cohort).where(cohort.c.id.in_(cohort_ids)))
    return {row.id: _cohort(row, now) for row in rows}


class _Row(Protocol):
    """A cohort of ours, as a value or as a row."""

    @property
    def id(self) -> int: ...
    @property
    def platform(self) -> str: ...


def is_of_ours(connection: sa.Connection, item: _Row, holder: HasIdnumber) -> bool:
    """Return whether a cohort on Moodle is another cohort of ours, or has the idnumber that another étape leads to."""
    theirs = sa.or_(
        sa.and_(cohort.c.state == CohortState.OWNED, cohort.c.moodle_id == holder.id),
        cohort.c.idnumber == holder.idnumber,
    )
    others = sa.select(cohort.c.id).where(cohort.c.platform == item.platform, cohort.c.id != item.id, theirs)
    return connection.scalar(others.limit(1)) is not None


def blocked_by(connection: sa.Connection, item: _Row, holder: HasIdnumber) -> dict[str, Any]:
    """Return the columns of a cohort whose idnumber this one on Moodle has, or one that its database takes for it."""
    state = CohortState.COLLIDING if is_of_ours(connection, item, holder) else CohortState.FOREIGN
    return {**UNBLOCKED, "state": state.value, "blocker_id": holder.id, "blocker": holder.idnumber}


def write(
    connection: sa.Connection, rows: Sequence[tuple[Cohort, dict[str, Any]]], now: Instant, action: Action | None
) -> None:
    """Set columns of cohorts, journalled under `action` when that was done on Moodle."""
    for item, values in rows:
        connection.execute(sa.update(cohort).where(cohort.c.id == item.id).values(**values))
    if action is not None:
        write_entries(
            connection,
            [
                NewEntry(
                    at=now,
                    platform=item.platform,
                    cohort=item.idnumber,
                    cohort_id=item.id,
                    action=action,
                    detail=values.get("moodle_name"),
                    approved=item.approved,
                )
                for item, values in rows
            ],
        )


def _cohort(row: sa.Row[Any], now: Instant) -> Cohort:
    approved = row.approved if (row.approved_until or 0.0) > now else None
    return Cohort(
        id=row.id,
        platform=row.platform,
        idnumber=row.idnumber,
        etape=row.etape,
        wanted_name=row.wanted_name,
        state=CohortState(row.state),
        moodle_id=row.moodle_id,
        moodle_name=row.moodle_name,
        moodle_idnumber=row.moodle_idnumber,
        name_is_ours=row.name_is_ours,
        attempts=row.attempts,
        held=row.rejected is not None or (row.held is not None and approved is None),
        approved=approved,
        creation_at=row.creation_at,
        renaming_at=row.renaming_at,
    )
