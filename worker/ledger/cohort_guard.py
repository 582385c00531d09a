"""What the guard is shown of the cohorts that are to be created or renamed, what it holds, and what it lets pass.

It judges right before each call, in the transaction that notes that the call is about to be sent: whatever was claimed
before, or is unknown of an earlier call, no more cohorts than the limit are changed within a day.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from worker.domain.cohorts import Cohort
from worker.domain.guard import LIMIT_OF, WINDOW_SECONDS, CohortJudgement, Guard, judge_cohorts
from worker.domain.instants import Instant
from worker.domain.states import BLOCKED, CohortChange, CohortState
from worker.ledger.cohorts import UNDECIDED, needs_rename
from worker.ledger.database import among, select_in
from worker.ledger.schema import cohort, membership

_member = membership.alias()  # of its own, or it would be taken for that of the query around it
_joins = sa.exists().where(
    _member.c.cohort_id == cohort.c.id, _member.c.desired, _member.c.observed.is_distinct_from(sa.true())
)
TO_CHANGE = {
    CohortChange.CREATION: sa.and_(
        cohort.c.state == CohortState.WANTED, sa.or_(_joins, cohort.c.rejected.is_not(None))
    ),
    CohortChange.RENAME: needs_rename,
}
"""The cohorts that are to be changed so: somebody is to join one that Moodle hasn't, or one has another label.

A creation that a person rejected stays among them while nobody is to join: the decision is in force until it is undone.
"""
_SENT_AT = {CohortChange.CREATION: cohort.c.creation_at, CohortChange.RENAME: cohort.c.renaming_at}


@dataclass(frozen=True, slots=True, kw_only=True)
class Permit:
    """What the guard lets pass of a call."""

    cohort_ids: frozenset[int]
    """Those that may be changed now."""
    held: int
    """Cohorts of the platform that it has just held."""


def let_pass(now: Instant) -> sa.ColumnElement[bool]:
    """Match cohorts that nothing keeps from being created or renamed: not held, or approved, and not rejected."""
    return sa.and_(cohort.c.rejected.is_(None), sa.or_(cohort.c.held.is_(None), _approved(now)))


def takes_members(now: Instant) -> sa.ColumnElement[bool]:
    """Match cohorts that members may join: those that Moodle has, and those that may be created."""
    creatable = sa.or_(cohort.c.state != CohortState.WANTED, let_pass(now))
    return sa.and_(cohort.c.state.not_in(BLOCKED), creatable)


def is_held(now: Instant) -> sa.ColumnElement[bool]:
    """Match cohorts whose creation or new label waits for a person."""
    to_change = sa.or_(*TO_CHANGE.values())
    return sa.and_(to_change, cohort.c.held.is_not(None), cohort.c.rejected.is_(None), sa.not_(_approved(now)))


def _approved(now: Instant) -> sa.ColumnElement[bool]:
    return sa.func.coalesce(cohort.c.approved_until > now, sa.false())


def first_load_goes_on(connection: sa.Connection, platform: str, now: Instant) -> bool:
    """Return whether a cohort that is wanted now belongs to the first load of the platform.

    That goes on while no cohort there has ever been ours, and then until for the first time none of those waits to be
    created; a day at most. One that a person holds back, or that Moodle refuses, doesn't wait.
    """
    if _first_owned_at(connection, platform) is None:
        return True
    unfinished = sa.select(cohort.c.id).where(
        cohort.c.platform == platform,
        cohort.c.first_load,
        cohort.c.refusal.is_(None),
        let_pass(now),
        TO_CHANGE[CohortChange.CREATION],
    )
    return is_first_day(connection, platform, now) and connection.scalar(unfinished.limit(1)) is not None


def is_first_day(connection: sa.Connection, platform: str, now: Instant) -> bool:
    """Return whether no cohort of the platform was ours a day ago. One that was deleted since counts."""
    first = _first_owned_at(connection, platform)
    return first is None or first > now - WINDOW_SECONDS


def _first_owned_at(connection: sa.Connection, platform: str) -> Instant | None:
    first = sa.select(sa.func.min(cohort.c.owned_at)).where(cohort.c.platform == platform)
    owned_at: Instant | None = connection.scalar(first)
    return owned_at


def _exempt(connection: sa.Connection, platform: str, change: CohortChange, now: Instant) -> sa.ColumnElement[bool]:
    """Match the cohorts that no limit is for: those of the first load, and those that get their first name."""
    if change is CohortChange.CREATION:
        return cohort.c.first_load if is_first_day(connection, platform, now) else sa.false()
    return sa.and_(
        cohort.c.owned_at > now - WINDOW_SECONDS,
        cohort.c.moodle_name == cohort.c.moodle_idnumber,  # for want of a label
        cohort.c.moodle_idnumber == cohort.c.idnumber,
    )


def judged(
    connection: sa.Connection,
    platform: str,
    guard: Guard,
    change: CohortChange,
    now: Instant,
    *,
    sending: Collection[int] = (),
) -> CohortJudgement:
    """Judge what is to be done to the cohorts of a platform. Nothing is written.

    What Moodle has refused, and is tried again later, counts only while it is among those that are about to be sent.
    """
    on_platform = cohort.c.platform == platform
    since = now - WINDOW_SECONDS
    sent_at = _SENT_AT[change]
    owned = sa.and_(cohort.c.state == CohortState.OWNED, cohort.c.owned_at <= since)
    ours, made = connection.execute(
        sa.select(sa.func.count(sa.case((owned, 1))), sa.func.count(sa.case((sent_at > since, 1)))).where(on_platform)
    ).one()
    pending = sa.select(cohort.c.id).where(
        on_platform,
        TO_CHANGE[change],
        cohort.c.held.is_(None),
        cohort.c.rejected.is_(None),
        sa.not_(_approved(now)),
        sa.not_(sa.func.coalesce(_exempt(connection, platform, change, now), sa.false())),
        sa.func.coalesce(sent_at <= since, sa.true()),  # it is counted as made
        sa.or_(cohort.c.refusal.is_(None), cohort.c.id.in_(sending)),
    )
    return judge_cohorts(guard, change, now, ours=ours, made=made, pending=set(connection.scalars(pending)))


def begin(
    connection: sa.Connection,
    change: CohortChange,
    items: Sequence[Cohort],
    now: Instant,
    *,
    platform: str,
    guard: Guard,
) -> Permit:
    """Judge all cohorts of the platform, and note that those of these which pass are about to be changed.

    A cohort that is wanted otherwise by now than it was read, or no longer, isn't among them.
    """
    ids = [item.id for item in items]
    held = _hold(connection, platform, judged(connection, platform, guard, change, now, sending=ids))
    exempt = sa.or_(_approved(now), sa.func.coalesce(_exempt(connection, platform, change, now), sa.false()))
    passing = sa.select(cohort.c.id, cohort.c.idnumber, cohort.c.wanted_name, exempt.label("exempt"))
    rows = select_in(connection, passing.where(TO_CHANGE[change], let_pass(now)), cohort.c.id, ids)
    read = {(item.id, item.idnumber, item.wanted_name) for item in items}
    permitted = [row for row in rows if (row.id, row.idnumber, row.wanted_name) in read]
    counted = [row.id for row in permitted if not row.exempt]
    if counted:
        sent = sa.update(cohort).where(among(connection, cohort.c.id, counted))
        connection.execute(sent.values({_SENT_AT[change]: now}))
    return Permit(cohort_ids=frozenset(row.id for row in permitted), held=held)


def _hold(connection: sa.Connection, platform: str, judgement: CohortJudgement) -> int:
    """Hold what the guard doesn't let pass; returns how many cohorts. What is no longer to be done is released."""
    done = sa.not_(sa.or_(*TO_CHANGE.values()))
    connection.execute(
        sa.update(cohort)
        .where(cohort.c.platform == platform, cohort.c.held.is_not(None), done)
        .values(held=None, **UNDECIDED)
    )
    if judgement.held:
        beyond = sa.update(cohort).where(among(connection, cohort.c.id, sorted(judgement.held)))
        connection.execute(beyond.values(held=LIMIT_OF[judgement.change].value))
    return len(judgement.held)


def held(connection: sa.Connection, platform: str, now: Instant) -> dict[CohortChange, int]:
    """Count the cohorts of a platform whose creation or new label waits for a person."""
    counts = sa.select(cohort.c.state, sa.func.count()).where(cohort.c.platform == platform, is_held(now))
    by_state: dict[str, int] = dict(map(tuple, connection.execute(counts.group_by(cohort.c.state))))
    return {
        CohortChange.CREATION: by_state.get(CohortState.WANTED, 0),
        CohortChange.RENAME: by_state.get(CohortState.OWNED, 0),
    }
