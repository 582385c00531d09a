"""The guard's side of the ledger: what it looks at, and holding what it doesn't let pass."""

import sqlalchemy as sa

from worker.domain.guard import WINDOW_SECONDS, Guard, Judgement, Removals, judge
from worker.domain.instants import Instant
from worker.domain.states import Action, CohortState, Limit
from worker.ledger.schema import cohort, gap, journal, membership

leaving = sa.and_(gap, ~membership.c.desired)
"""A membership that is to end."""


_OF = (membership.c.cohort_id + 0).label("cohort_id")
"""The cohort, so that SQLite doesn't group in the order of its index, with a look-up for every member."""


def approved(now: Instant) -> sa.ColumnElement[bool]:
    """Say that a person has approved the removal, and that the approval has not expired."""
    return membership.c.approved_until > now


def _pending(now: Instant) -> sa.ColumnElement[bool]:
    """Say which removals are to come within a day and no person has approved; those of a year in its grace are not."""
    soon = membership.c.next_attempt_at <= now + WINDOW_SECONDS
    return sa.and_(leaving, soon, sa.not_(sa.func.coalesce(approved(now), sa.false())))


def members_by_cohort(connection: sa.Connection) -> dict[int, int]:
    """Count the members that Moodle shows, or may show, of all platforms; cohorts without any are missing."""
    there = sa.select(_OF, sa.func.count()).where(membership.c.observed.is_distinct_from(sa.false()))
    return dict(map(tuple, connection.execute(there.group_by(_OF))))


def judged(connection: sa.Connection, platform: str, guard: Guard, now: Instant) -> Judgement:
    """Judge all removals of a platform; nothing is written."""
    found, members = _seen(connection, platform, now)
    return judge(guard, found, now, members=members)


def _seen(connection: sa.Connection, platform: str, now: Instant) -> tuple[list[Removals], int]:
    """Give what the guard looks at: each cohort that somebody leaves or has left in the last 24 h, and all members.

    Those are of the cohorts that are ours. This is asked before every batch of removals, so that each table is read
    once, without joins, which take SQLite ten times as long.
    """
    cohorts = {
        row.id: row
        for row in connection.execute(
            sa.select(cohort.c.id, cohort.c.idnumber, cohort.c.state)
            .where(cohort.c.platform == platform)
            .order_by(cohort.c.id)
        )
    }
    ours = {row.id for row in cohorts.values() if row.state == CohortState.OWNED}
    members = members_by_cohort(connection)
    coming = sa.select(_OF, sa.func.count(), sa.func.count(membership.c.held)).where(_pending(now)).group_by(_OF)
    pending = {of: (number, held) for of, number, held in connection.execute(coming) if of in ours}
    # Counted, not asked for: given the choice, SQLite would go through all that was never approved, of a year.
    unapproved = sa.func.count().filter(journal.c.approved.is_(None))
    gone = sa.select(journal.c.cohort_id, unapproved).where(
        journal.c.platform == platform, journal.c.action == Action.REMOVE, journal.c.at > now - WINDOW_SECONDS
    )
    removed = {of: number for of, number in connection.execute(gone.group_by(journal.c.cohort_id)) if number}
    found = [
        Removals(
            cohort_id=row.id,
            idnumber=row.idnumber,
            members=members.get(row.id, 0),
            removed=removed.get(row.id, 0),
            pending=pending.get(row.id, (0, 0))[0],
            held=pending.get(row.id, (0, 0))[1],
        )
        for row in cohorts.values()
        if row.id in pending or row.id in removed
    ]
    return found, sum(members.get(of, 0) for of in ours)


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
