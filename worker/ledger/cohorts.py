"""The cohorts of the work that is handed out: read as values, and written with their entries in the journal."""

from collections.abc import Collection, Sequence
from typing import Any

import sqlalchemy as sa

from worker.domain.cohorts import Cohort
from worker.domain.instants import Instant
from worker.domain.states import Action, CohortState
from worker.ledger.journal import NewEntry, write_entries
from worker.ledger.schema import cohort

needs_rename = sa.and_(
    cohort.c.state == CohortState.OWNED,
    sa.or_(
        cohort.c.moodle_idnumber != cohort.c.idnumber,
        sa.and_(cohort.c.name_is_ours, cohort.c.wanted_name != cohort.c.moodle_name),
    ),
)
"""An owned cohort whose étape got its label, another label, or another code."""


def read(connection: sa.Connection, cohort_ids: Collection[int]) -> dict[int, Cohort]:
    """Return these cohorts by id."""
    rows = connection.execute(sa.select(cohort).where(cohort.c.id.in_(cohort_ids)))
    return {row.id: _cohort(row) for row in rows}


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
                )
                for item, values in rows
            ],
        )


def _cohort(row: sa.Row[Any]) -> Cohort:
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
    )
