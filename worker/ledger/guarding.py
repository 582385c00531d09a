"""The guard's side of the ledger: what it looks at, and holding what it doesn't let pass."""

import sqlalchemy as sa

from worker.model import Action, CohortState, Instant, Limit
from worker.plan import WINDOW_SECONDS, Guard, Judgement, Removals, judge
from worker.sql.tables import cohort, gap, journal, membership

leaving = sa.and_(gap, ~membership.c.desired)
"""A membership that is to end."""


def approved(now: Instant) -> sa.ColumnElement[bool]:
    """Say that a person has approved the removal, and that the approval has not expired."""
    return membership.c.approved_until > now


def _pending(now: Instant) -> sa.ColumnElement[bool]:
    """Say which removals are to come within a day and no person has approved; those of a year in its grace are not."""
    soon = membership.c.next_attempt_at <= now + WINDOW_SECONDS
    return sa.and_(leaving, soon, sa.not_(sa.func.coalesce(approved(now), sa.false())))


def judged(connection: sa.Connection, platform: str, guard: Guard, now: Instant) -> Judgement:
    """Judge all removals of a platform; nothing is written."""
    owned = sa.and_(cohort.c.platform == platform, cohort.c.state == CohortState.OWNED)
    there = membership.c.observed.is_distinct_from(sa.false())
    members = sa.select(sa.func.count()).select_from(membership.join(cohort)).where(owned, there)
    return judge(guard, removals(connection, platform, now), now, members=connection.scalar(members) or 0)


def removals(connection: sa.Connection, platform: str, now: Instant) -> list[Removals]:
    """Give, of each cohort of a platform that somebody leaves or has left in the last 24 h, what the guard looks at."""
    pending = {
        row.cohort_id: (row.pending, row.held)
        for row in connection.execute(
            sa.select(
                membership.c.cohort_id,
                sa.func.count().label("pending"),
                sa.func.count(membership.c.held).label("held"),
            )
            .join(cohort)
            .where(cohort.c.platform == platform, cohort.c.state == CohortState.OWNED, _pending(now))
            .group_by(membership.c.cohort_id)
        )
    }
    removed = {
        row.cohort_id: row.removed
        for row in connection.execute(
            sa.select(journal.c.cohort_id, sa.func.count().label("removed"))
            .where(
                journal.c.platform == platform,
                journal.c.action == Action.REMOVE,
                journal.c.at > now - WINDOW_SECONDS,
                journal.c.approved.is_(None),
            )
            .group_by(journal.c.cohort_id)
        )
    }
    if not pending and not removed:
        return []
    concerned = cohort.c.id.in_(pending.keys() | removed.keys())
    rows = connection.execute(
        sa.select(cohort.c.id, cohort.c.idnumber, sa.func.count(membership.c.student_id).label("members"))
        .join(
            membership,
            sa.and_(membership.c.cohort_id == cohort.c.id, membership.c.observed.is_distinct_from(sa.false())),
            isouter=True,
        )
        .where(cohort.c.platform == platform, concerned)
        .group_by(cohort.c.id, cohort.c.idnumber)
        .order_by(cohort.c.id)
    )
    return [
        Removals(
            cohort_id=row.id,
            idnumber=row.idnumber,
            members=row.members,
            removed=removed.get(row.id, 0),
            pending=pending.get(row.id, (0, 0))[0],
            held=pending.get(row.id, (0, 0))[1],
        )
        for row in rows
    ]


def hold(connection: sa.Connection, platform: str, guard: Guard, now: Instant) -> dict[Limit, int]:
    """Hold what the guard doesn't let pass, on the whole platform; gives how many removals are held anew, by limit."""
    held = judged(connection, platform, guard, now).held
    anew: dict[Limit, int] = {}
    for limit in Limit:
        ids = [cohort_id for cohort_id, by in held.items() if by is limit]
        if ids:
            beyond = sa.update(membership).where(
                _pending(now), membership.c.cohort_id.in_(ids), membership.c.held.is_(None)
            )
            anew[limit] = connection.execute(beyond.values(held=limit.value)).rowcount
    return {limit: removals for limit, removals in anew.items() if removals}
