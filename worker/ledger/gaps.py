"""The life of a gap: how it opens, when it is retried, and what happens to it when its cohort was deleted."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from worker.domain.cohorts import Gap, unmatched_key
from worker.domain.instants import Instant
from worker.domain.removals import source_of
from worker.domain.states import OF_ACCOUNTS, Cause, CohortState, Reason
from worker.ledger import deletions
from worker.ledger.cohorts import UNDECIDED
from worker.ledger.database import among, select_in, upsert
from worker.ledger.schema import cohort, gap, in_cohort, inherited, membership

PROMISE_SECONDS = 24 * 3600
"""A change is on Moodle this long after its publication, at most."""
FRESH, DRIFT = 0, 1
"""Priorities: what a message has announced goes before what was found in Moodle."""

CLOSABLE = sa.and_(
    gap, membership.c.held.is_(None), membership.c.reason.is_(None) | membership.c.reason.not_in(OF_ACCOUNTS)
)
"""A gap that can be closed: neither held nor parked until an account becomes known."""

RELEASED = {"held": None, "approved": None, "approved_until": None}
"""An approval is for one removal: whoever is put back by hand isn't removed again by it."""


def opened(
    *, cause: Cause, origin: str, since: Instant, next_attempt_at: Instant, run: int | None = None
) -> dict[str, Any]:
    """Return the columns of a gap that opens now: why, since when, and nothing of what an earlier gap went through.

    `desired`, `observed` and a person's decision (`kept`) are the caller's to set.
    """
    announced = run is None and cause is not Cause.DRIFT
    return {
        "cause": cause.value,
        "origin": origin,
        "source": source_of(origin),
        "since": since,
        "due_by": since + PROMISE_SECONDS,
        "priority": FRESH if announced else DRIFT,
        "attempts": 0,
        "next_attempt_at": next_attempt_at,
        "reason": None,
        "run": run,
        **RELEASED,
    }


def awaits_account(platforms: Collection[str]) -> sa.ColumnElement[bool]:
    """Match the gaps of these platforms that are parked until an account, or another name for it, becomes known.

    A gap in observe mode, or one whose last call timed out, waits for something else: an account doesn't hurry it.
    """
    return sa.and_(gap, membership.c.reason.in_(OF_ACCOUNTS), in_cohort(cohort.c.platform.in_(platforms)))


def retry(connection: sa.Connection, students: Sequence[str], platforms: Collection[str], at: Instant) -> None:
    """Retry at that instant what is parked until the accounts of these students become known."""
    if students:
        parked = sa.update(membership).where(
            awaits_account(platforms), among(connection, membership.c.student_id, students)
        )
        connection.execute(parked.values(next_attempt_at=at))


def retry_refused(connection: sa.Connection, platform: str, at: Instant) -> None:
    """Retry at that instant what the platform refused with a code of its own, members and cohorts.

    Cohorts that let others go first don't any more. A call whose outcome is unknown may still be running: it is waited
    for.
    """
    codes = membership.c.reason.not_in([reason.value for reason in Reason])  # none of ours; null is no match
    ours = in_cohort(cohort.c.platform == platform)
    refused = sa.update(membership).where(gap, codes, membership.c.next_attempt_at > at, ours)
    connection.execute(refused.values(next_attempt_at=at))
    waiting = sa.and_(cohort.c.platform == platform, cohort.c.next_attempt_at > at)
    connection.execute(sa.update(cohort).where(waiting).values(next_attempt_at=at))


def unconfirm(
    connection: sa.Connection,
    student_id: str,
    platforms: Collection[str],
    next_attempt_at: Instant,
    *,
    origin: str,
    since: Instant,
    run: int | None,
) -> None:
    """Have it looked up anew, at that instant, whether a member's account is still theirs: their login changed."""
    there = sa.update(membership).where(
        membership.c.student_id == student_id,
        membership.c.desired,
        membership.c.observed,
        membership.c.user_id.is_not(None),
        in_cohort(cohort.c.platform.in_(platforms), cohort.c.state == CohortState.OWNED),
    )
    values = opened(cause=Cause.LOGIN, origin=origin, since=since, next_attempt_at=next_attempt_at, run=run)
    connection.execute(there.values(observed=None, **values | {"reason": Reason.UNCONFIRMED.value}))


@dataclass(frozen=True, slots=True, kw_only=True)
class FormerAccount:
    """The account by which a member is in a cohort, or may be, who turned out to have another one."""

    gap: Gap
    user_id: int
    joined_at: Instant | None


def leave(connection: sa.Connection, former: Sequence[FormerAccount], now: Instant) -> None:
    """Have these accounts leave the cohorts. One that a person keeps there stays."""
    keys = {unmatched_key(each.user_id) for each in former}
    columns = sa.select(membership.c.cohort_id, membership.c.student_id).where(membership.c.desired)
    kept = set(map(tuple, select_in(connection, columns, membership.c.student_id, keys)))
    there = {"desired": False, "observed": True, "observed_at": now}
    rows = [
        opened(cause=Cause.CHANGED_HANDS, origin=each.gap.origin, since=now, next_attempt_at=now)
        | there
        | {"cohort_id": each.gap.cohort_id, "student_id": unmatched_key(each.user_id)}
        | {"user_id": each.user_id, "joined_at": each.joined_at}
        for each in former
        if (each.gap.cohort_id, unmatched_key(each.user_id)) not in kept
    ]
    update = [
        column.name for column in membership.c if not column.primary_key and column.name not in {"kept", "kept_at"}
    ]
    upsert(connection, membership, rows, update=update)


def vanish(
    connection: sa.Connection, cohort_ids: Collection[int], now: Instant, *, origin: str, run: int | None = None
) -> None:
    """Write that these cohorts were deleted on Moodle: nobody is in them, and they are created again if wanted.

    A gap that was open already keeps its cause and its promise, and is retried at once. For a member who was there, a
    gap opens now. The deletion is journalled, and noted until a person acknowledges it.
    """
    deletions.note(connection, cohort_ids, now, run=run)
    recreated = sa.update(cohort).where(cohort.c.id.in_(cohort_ids))
    connection.execute(
        recreated.values(
            state=CohortState.WANTED.value,
            moodle_id=None,
            moodle_name=None,
            moodle_idnumber=None,
            refusal=None,
            blocker_id=None,
            blocker=None,
            unread=False,
            held=None,
            **UNDECIDED,
        )
    )
    connection.execute(sa.delete(inherited).where(inherited.c.cohort_id.in_(cohort_ids)))
    absent = {"observed": False, "observed_at": now}
    members = sa.update(membership).where(membership.c.cohort_id.in_(cohort_ids))
    lost = opened(cause=Cause.DRIFT, origin=origin, since=now, next_attempt_at=now, run=run)
    connection.execute(members.where(~membership.c.desired).values(**absent, **RELEASED))
    connection.execute(members.where(membership.c.desired, gap).values(**absent, next_attempt_at=now))
    connection.execute(members.where(membership.c.desired, membership.c.observed).values(**absent, **lost))
