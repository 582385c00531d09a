"""What the guard is shown of the ledger, and the removals that it holds."""

import sqlalchemy as sa

from worker.domain.guard import WINDOW_SECONDS, Guard, Judgement, Removals, judge
from worker.domain.instants import Instant
from worker.domain.states import Action, CohortState, Limit
from worker.ledger import cohort_guard
from worker.ledger.inherited import is_inherited
from worker.ledger.schema import cohort, gap, journal, membership

leaving = sa.and_(gap, ~membership.c.desired)
"""A membership that is to end."""


_COHORT_ID = (membership.c.cohort_id + 0).label("cohort_id")
"""The cohort, so that SQLite doesn't group in the order of its index, with a look-up for every member."""


def approved(now: Instant) -> sa.ColumnElement[bool]:
    """Match removals that a person has approved, while the approval lasts."""
    return membership.c.approved_until > now


def _pending(now: Instant) -> sa.ColumnElement[bool]:
    """Match removals due within a day that no person has approved; those of a year in its grace are not due yet."""
    soon = membership.c.next_attempt_at <= now + WINDOW_SECONDS
    return sa.and_(leaving, soon, sa.not_(sa.func.coalesce(approved(now), sa.false())))


def members_by_cohort(connection: sa.Connection) -> dict[int, int]:
    """Count the members that Moodle shows, or may show, of all platforms; cohorts without any are missing."""
    present = sa.select(_COHORT_ID, sa.func.count()).where(membership.c.observed.is_distinct_from(sa.false()))
    return dict(map(tuple, connection.execute(present.group_by(_COHORT_ID))))


def _members_of_yesterday(connection: sa.Connection, platform: str, now: Instant) -> dict[int, int]:
    """Count the members that Moodle shows, or may show, and who were there a day ago, of all platforms.

    On the first day of a platform nobody was there yesterday: all who are there count.
    """
    if cohort_guard.is_first_day(connection, platform, now):
        return members_by_cohort(connection)
    before = sa.func.coalesce(membership.c.joined_at <= now - WINDOW_SECONDS, sa.true())
    present = sa.select(_COHORT_ID, sa.func.count()).where(membership.c.observed.is_distinct_from(sa.false()), before)
    return dict(map(tuple, connection.execute(present.group_by(_COHORT_ID))))


def judged(connection: sa.Connection, platform: str, guard: Guard, now: Instant) -> Judgement:
    """Judge all removals of a platform: of each cohort of ours that somebody leaves or has left within a day.

    Nothing is written. This is asked before every batch of removals, so each table is read once, without joins, which
    take SQLite ten times as long.
    """
    cohorts = connection.execute(
        sa.select(cohort.c.id, cohort.c.idnumber, cohort.c.state)
        .where(cohort.c.platform == platform)
        .order_by(cohort.c.id)
    ).all()
    ours = {row.id for row in cohorts if row.state == CohortState.OWNED}
    members = _members_of_yesterday(connection, platform, now)
    pending = _pending_by_cohort(connection, now)
    removed = _removed_by_cohort(connection, platform, now)
    removals = []
    for row in cohorts:
        waiting, held, inherited = pending.get(row.id, (0, 0, 0)) if row.id in ours else (0, 0, 0)
        if waiting or row.id in removed:
            removals.append(
                Removals(
                    cohort_id=row.id,
                    idnumber=row.idnumber,
                    members=members.get(row.id, 0),
                    removed=removed.get(row.id, 0),
                    pending=waiting,
                    held=held,
                    inherited=inherited,
                )
            )
    return judge(guard, removals, now, members=sum(members.get(cohort_id, 0) for cohort_id in ours))


def _pending_by_cohort(connection: sa.Connection, now: Instant) -> dict[int, tuple[int, int, int]]:
    """Count the removals to come, and those of them that are held, and of inherited members, on all platforms."""
    inherited = sa.func.count(sa.case((is_inherited, 1)))
    counts = sa.select(_COHORT_ID, sa.func.count(), sa.func.count(membership.c.held), inherited).where(_pending(now))
    rows = connection.execute(counts.group_by(_COHORT_ID))
    return {cohort_id: (pending, held, inherited) for cohort_id, pending, held, inherited in rows}


def _removed_by_cohort(connection: sa.Connection, platform: str, now: Instant) -> dict[int, int]:
    """Count the removals of the last day that no person had approved."""
    # Counted, not asked for: given the choice, SQLite would go through all that was never approved, of a year.
    unapproved = sa.func.count().filter(journal.c.approved.is_(None))
    gone = sa.select(journal.c.cohort_id, unapproved).where(
        journal.c.platform == platform, journal.c.action == Action.REMOVE, journal.c.at > now - WINDOW_SECONDS
    )
    rows = connection.execute(gone.group_by(journal.c.cohort_id))
    return {cohort_id: removals for cohort_id, removals in rows if removals}


def hold(connection: sa.Connection, platform: str, guard: Guard, now: Instant) -> dict[Limit, int]:
    """Hold what the guard doesn't let pass on the platform; returns how many removals are newly held, by limit."""
    held = judged(connection, platform, guard, now).held
    newly: dict[Limit, int] = {}
    for limit in Limit:
        ids = [cohort_id for cohort_id, exceeded in held.items() if exceeded is limit]
        if ids:
            beyond = sa.update(membership).where(
                _pending(now), membership.c.cohort_id.in_(ids), membership.c.held.is_(None)
            )
            newly[limit] = connection.execute(beyond.values(held=limit.value)).rowcount
    return {limit: removals for limit, removals in newly.items() if removals}
