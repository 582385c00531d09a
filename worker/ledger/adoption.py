"""The ledger's side of adoption: which cohorts may be taken over, and taking them."""

from collections.abc import Collection, Mapping
from fnmatch import fnmatchcase
from typing import Any

import sqlalchemy as sa

from worker.domain.instants import Instant
from worker.domain.states import Action, CohortState
from worker.ledger.cohorts import UNBLOCKED
from worker.ledger.database import Ledger, select_in
from worker.ledger.journal import NewEntry, write_entries
from worker.ledger.schema import cohort, membership, student


def not_owned(ledger: Ledger, platform: str, globs: Collection[str]) -> dict[str, int]:
    """Return the ids of the matching cohorts that the rules lead to and that aren't ours, by idnumber."""
    rows = sa.select(cohort.c.idnumber, cohort.c.id).where(
        cohort.c.platform == platform, cohort.c.state != CohortState.OWNED
    )
    with ledger.read() as connection:
        return {
            row.idnumber: row.id
            for row in connection.execute(rows)
            if any(fnmatchcase(row.idnumber, glob) for glob in globs)
        }


def misspelled(ledger: Ledger, platform: str) -> dict[str, int]:
    """Return Moodle's ids of the cohorts that aren't ours and that its database takes for these of ours, by idnumber.

    Whoever adopts one takes it over under another idnumber, which converging then gives it.
    """
    rows = sa.select(cohort.c.idnumber, cohort.c.blocker_id).where(
        cohort.c.platform == platform, cohort.c.state == CohortState.FOREIGN, cohort.c.blocker != cohort.c.idnumber
    )
    with ledger.read() as connection:
        return {row.idnumber: row.blocker_id for row in connection.execute(rows)}


def desired(ledger: Ledger, cohort_ids: Collection[int]) -> dict[int, set[tuple[str, str | None]]]:
    """Return the desired members by cohort id, each with their login when it is known."""
    rows = (
        sa.select(membership.c.cohort_id, membership.c.student_id, student.c.login)
        .join(student, student.c.student_id == membership.c.student_id, isouter=True)
        .where(membership.c.desired)
    )
    found: dict[int, set[tuple[str, str | None]]] = {}
    with ledger.read() as connection:
        for row in select_in(connection, rows, membership.c.cohort_id, cohort_ids):
            found.setdefault(row.cohort_id, set()).add((row.student_id, row.login))
    return found


def take(
    ledger: Ledger,
    cohort_id: int,
    *,
    platform: str,
    values: Mapping[str, Any],
    present: Mapping[str, int],
    now: Instant,
    by: str,
) -> None:
    """Make a cohort ours: write its columns, the desired members it has (student to account) and who adopted it."""
    with ledger.write() as connection:
        # Whoever works on it saw it as it was before: what they would write is out of date.
        connection.execute(
            sa.update(cohort).where(cohort.c.id == cohort_id).values(lease_holder=None, **UNBLOCKED, **values)
        )
        if present:
            connection.execute(
                sa.update(membership)
                .where(
                    membership.c.cohort_id == cohort_id,
                    membership.c.student_id == sa.bindparam("b_student"),
                    membership.c.desired,
                )
                .values(observed=True, observed_at=now, user_id=sa.bindparam("b_user"), attempts=0, reason=None),
                [{"b_student": number, "b_user": user_id} for number, user_id in present.items()],
            )
        adopted = NewEntry(
            at=now,
            platform=platform,
            cohort=values["moodle_idnumber"],
            cohort_id=cohort_id,
            action=Action.ADOPT_COHORT,
            detail=f"by {by}",
        )
        write_entries(connection, [adopted])
