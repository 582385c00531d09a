"""Cohorts of ours that somebody deleted on Moodle: noted when that is noticed, until a person acknowledges it.

There is no other end to it: only a person can synchronise courses anew, and until then nobody is in them.
"""

from collections.abc import Collection
from fnmatch import fnmatchcase

import sqlalchemy as sa

from worker.domain.cohorts import DeletedCohort
from worker.domain.instants import Instant
from worker.domain.states import Action, CohortState
from worker.ledger.database import Ledger
from worker.ledger.journal import NewEntry, write_entries
from worker.ledger.schema import cohort, membership


def note(connection: sa.Connection, cohort_ids: Collection[int], now: Instant, *, run: int | None) -> None:
    """Note that these cohorts were found to have been deleted; to be called while their members are still known.

    One that is deleted again before a person has acknowledged it keeps the larger number of lost members.
    """
    members = (
        sa.select(membership.c.cohort_id, sa.func.count())
        .where(membership.c.cohort_id.in_(cohort_ids), membership.c.observed.is_distinct_from(sa.false()))
        .group_by(membership.c.cohort_id)
    )
    lost = dict(map(tuple, connection.execute(members)))
    entries = []
    for row in connection.execute(sa.select(cohort).where(cohort.c.id.in_(cohort_ids)).order_by(cohort.c.id)).all():
        number = lost.get(row.id, 0)
        this = sa.update(cohort).where(cohort.c.id == row.id)
        connection.execute(this.values(deleted_at=now, lost=max(number, row.lost or 0)))
        entries.append(
            NewEntry(
                at=now,
                platform=row.platform,
                cohort=row.idnumber,
                cohort_id=row.id,
                action=Action.COHORT_DELETED,
                detail=f"id {row.moodle_id}, {number} members",
                run=run,
            )
        )
    write_entries(connection, entries)


def read(connection: sa.Connection, platform: str) -> tuple[DeletedCohort, ...]:
    """Return the deleted cohorts of a platform that no person has acknowledged, by idnumber."""
    rows = sa.select(cohort).where(cohort.c.platform == platform, cohort.c.deleted_at.is_not(None))
    return tuple(
        DeletedCohort(
            idnumber=row.idnumber,
            name=row.moodle_name or row.wanted_name,
            etape=row.etape,
            deleted_at=row.deleted_at,
            lost=row.lost or 0,
            state=CohortState(row.state),
            moodle_id=row.moodle_id,
        )
        for row in connection.execute(rows.order_by(cohort.c.idnumber))
    )


def acknowledge(ledger: Ledger, platform: str, globs: Collection[str], *, by: str, now: Instant) -> list[str]:
    """Note that a person has seen to the courses of the deleted cohorts that match; returns their idnumbers."""
    with ledger.write() as connection:
        rows = connection.execute(
            sa.select(cohort.c.id, cohort.c.idnumber)
            .where(cohort.c.platform == platform, cohort.c.deleted_at.is_not(None))
            .order_by(cohort.c.idnumber)
        ).all()
        chosen = [row for row in rows if any(fnmatchcase(row.idnumber, glob) for glob in globs)]
        acknowledged = sa.update(cohort).where(cohort.c.id.in_([row.id for row in chosen]))
        connection.execute(acknowledged.values(deleted_at=None, lost=None))
        write_entries(
            connection,
            [
                NewEntry(
                    at=now,
                    platform=platform,
                    cohort=row.idnumber,
                    cohort_id=row.id,
                    action=Action.ACKNOWLEDGE,
                    detail=f"by {by}",
                )
                for row in chosen
            ],
        )
    return [row.idnumber for row in chosen]
