"""What the guard is shown of the ledger, and the removals that it holds."""

from collections import Counter, defaultdict
from typing import NamedTuple

import sqlalchemy as sa

from worker.domain.guard import MONTH_SECONDS, WINDOW_SECONDS, Guard
from worker.domain.instants import Instant
from worker.domain.removals import Judgement, Leaving, Removals, Window, judge
from worker.domain.states import CohortState, Limit
from worker.ledger import cohort_guard
from worker.ledger.database import among
from worker.ledger.inherited import is_inherited
from worker.ledger.schema import cohort, gap, is_removal, journal, membership

leaving = sa.and_(gap, ~membership.c.desired)
"""A membership that is to end."""


_COHORT_ID = (membership.c.cohort_id + 0).label("cohort_id")
"""The cohort, so that SQLite doesn't group in the order of its index, with a look-up for every member."""


def approved(now: Instant) -> sa.ColumnElement[bool]:
    """Match removals that a person has approved, while the approval lasts."""
    return membership.c.approved_until > now


def _is_pending(now: Instant) -> sa.ColumnElement[bool]:
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
    """Judge all removals of a platform: of each cohort of ours that somebody leaves or has left within 30 days.

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
    pending = _pending(connection, now)
    removed = _removed(connection, platform, now)
    removals = []
    for row in cohorts:
        to_come = pending.get(row.id, {}) if row.id in ours else {}
        done = removed.get(row.id, {})
        by_source = {}
        for source in to_come.keys() | done.keys():
            waiting = to_come.get(source, _NOTHING)
            gone = done.get(source, _NOBODY)
            by_source[source] = Leaving(removed=gone, pending=waiting.pending, held=waiting.held)
        if by_source:
            removals.append(
                Removals(
                    cohort_id=row.id,
                    idnumber=row.idnumber,
                    members=members.get(row.id, 0),
                    by_source=by_source,
                    inherited=sum(waiting.inherited for waiting in to_come.values()),
                )
            )
    return judge(guard, removals, now, members=sum(members.get(cohort_id, 0) for cohort_id in ours))


class _ToCome(NamedTuple):
    """Removals to come, those of them that are held, and those of inherited members."""

    pending: int
    held: int
    inherited: int


_NOTHING = _ToCome(0, 0, 0)
_NOBODY = dict.fromkeys(Window, 0)


def _pending(connection: sa.Connection, now: Instant) -> dict[int, dict[str, _ToCome]]:
    """Count the removals to come, by cohort and source, on all platforms."""
    inherited = sa.func.count(sa.case((is_inherited, 1)))
    source = membership.c.source
    counts = sa.select(_COHORT_ID, source, sa.func.count(), sa.func.count(membership.c.held), inherited)
    found: defaultdict[int, dict[str, _ToCome]] = defaultdict(dict)
    for cohort_id, of, *numbers in connection.execute(counts.where(_is_pending(now)).group_by(_COHORT_ID, source)):
        found[cohort_id][of] = _ToCome._make(numbers)
    return found


def _removed(connection: sa.Connection, platform: str, now: Instant) -> dict[int, dict[str, dict[Window, int]]]:
    """Count the removals that no person had approved, by cohort and source."""
    # Counted, not asked for: given the choice, SQLite would go through all that was never approved, of a year.
    unapproved = journal.c.approved.is_(None)
    today = sa.and_(unapproved, journal.c.at > now - WINDOW_SECONDS)
    source = sa.func.coalesce(journal.c.source, "").label("source")
    gone = sa.select(journal.c.cohort_id, source, sa.func.count().filter(today), sa.func.count().filter(unapproved))
    rows = connection.execute(
        gone.where(journal.c.platform == platform, is_removal, journal.c.at > now - MONTH_SECONDS).group_by(
            journal.c.cohort_id, source
        )
    )
    found: defaultdict[int, dict[str, dict[Window, int]]] = defaultdict(dict)
    for cohort_id, of, in_day, in_month in rows:
        if in_month:
            found[cohort_id][of] = {Window.DAY: in_day, Window.MONTH: in_month}
    return found


def hold(connection: sa.Connection, platform: str, guard: Guard, now: Instant) -> dict[Limit, int]:
    """Hold what the guard doesn't let pass on the platform; returns how many removals are newly held, by limit."""
    parts: defaultdict[tuple[Limit, str], list[int]] = defaultdict(list)
    for (cohort_id, source), limit in judged(connection, platform, guard, now).held.items():
        parts[limit, source].append(cohort_id)
    newly: Counter[Limit] = Counter()
    for (limit, source), ids in parts.items():
        beyond = sa.update(membership).where(
            _is_pending(now),
            among(connection, membership.c.cohort_id, ids),
            membership.c.source == source,
            membership.c.held.is_(None),
        )
        newly[limit] += connection.execute(beyond.values(held=limit.value)).rowcount
    return dict(newly)
