"""Outcomes of calls, written to the memberships that they were about."""

from collections import defaultdict
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from worker.domain.cohorts import Gap
from worker.domain.instants import Instant
from worker.domain.removals import source_of
from worker.domain.states import Action, Reason
from worker.ledger import inherited
from worker.ledger.database import select_in
from worker.ledger.gaps import RELEASED
from worker.ledger.journal import NewEntry, write_entries
from worker.ledger.schema import at_membership, cohort, membership


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """A gap that a call closed, with the account that it was closed for."""

    gap: Gap
    user_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Parked:
    """A gap that stays, why, and when to try again. `observed` is what is known of Moodle, None for unknown."""

    gap: Gap
    reason: str
    retry_at: Instant
    observed: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CallOutcome:
    """What became of gaps; `closed` are removals, and `confirmed` additions, that needed no call."""

    applied: Sequence[Applied]
    closed: Sequence[Gap]
    confirmed: Sequence[Gap]
    parked: Sequence[Parked]

    @property
    def cohort_ids(self) -> set[int]:
        """All cohorts that it is about."""
        gaps = [*(done.gap for done in self.applied), *self.closed, *self.confirmed]
        gaps += [item.gap for item in self.parked]
        return {gap.cohort_id for gap in gaps}

    def called_in(self, cohort_ids: AbstractSet[int]) -> list[Gap]:
        """Return the gaps of these cohorts that a call has closed, or may have."""
        called = [*(done.gap for done in self.applied), *(item.gap for item in self.parked if item.observed is None)]
        return [gap for gap in called if gap.cohort_id in cohort_ids]

    def outside(self, cohort_ids: AbstractSet[int]) -> "CallOutcome":
        """Return what it says of all other cohorts."""
        return CallOutcome(
            applied=[done for done in self.applied if done.gap.cohort_id not in cohort_ids],
            closed=[gap for gap in self.closed if gap.cohort_id not in cohort_ids],
            confirmed=[gap for gap in self.confirmed if gap.cohort_id not in cohort_ids],
            parked=[item for item in self.parked if item.gap.cohort_id not in cohort_ids],
        )


def key(gap: Gap) -> dict[str, Any]:
    """Return the parameters of `at_membership`."""
    return {"b_cohort": gap.cohort_id, "b_student": gap.student_id}


def doubt(connection: sa.Connection, called: Sequence[Gap], now: Instant) -> None:
    """Write that nobody knows what became of these gaps."""
    _execute_each(connection, at_membership.values(observed=None, observed_at=now), [key(gap) for gap in called])


def close(connection: sa.Connection, closed: Sequence[Gap], now: Instant) -> None:
    """Write that these members are gone, without a call of ours."""
    gone = at_membership.values(observed=False, observed_at=now, user_id=sa.bindparam("b_user"), **RELEASED)
    _execute_each(connection, gone, [key(gap) | {"b_user": _account_left(gap, gap.user_id)} for gap in closed])


def confirm(connection: sa.Connection, confirmed: Sequence[Gap], now: Instant) -> None:
    """Write that these members are there as before, by the account that they had."""
    there = at_membership.where(membership.c.desired, membership.c.reason == Reason.UNCONFIRMED)
    values = there.values(observed=True, observed_at=now, attempts=0, reason=None)
    _execute_each(connection, values, [key(gap) for gap in confirmed])


def apply(connection: sa.Connection, applied: Sequence[Applied], now: Instant, *, platform: str) -> None:
    """Write that calls closed these gaps, and journal it."""
    gone: defaultdict[int, list[int]] = defaultdict(list)
    for done in applied:
        if not done.gap.desired:
            gone[done.gap.cohort_id].append(done.user_id)
    inherited.forget(connection, gone)
    as_desired = at_membership.values(
        observed=sa.bindparam("b_observed"),
        observed_at=now,
        user_id=sa.bindparam("b_user"),
        attempts=0,
        reason=None,
        **RELEASED,
    )
    rows = [
        key(done.gap) | {"b_observed": done.gap.desired, "b_user": _account_left(done.gap, done.user_id)}
        for done in applied
    ]
    _execute_each(connection, as_desired, rows)
    named = sa.select(cohort.c.id, cohort.c.idnumber)
    cohorts = select_in(connection, named, cohort.c.id, {done.gap.cohort_id for done in applied})
    idnumbers = {row.id: row.idnumber for row in cohorts}
    write_entries(connection, (_entry(done, now, platform, idnumbers[done.gap.cohort_id]) for done in applied))


def park(connection: sa.Connection, parked: Sequence[Parked], now: Instant) -> None:
    """Write that these gaps stay, unless something else is desired by now."""
    unchanged = at_membership.where(membership.c.desired == sa.bindparam("b_desired"))
    waiting = unchanged.values(
        observed=sa.bindparam("b_observed"),
        observed_at=now,
        attempts=sa.bindparam("b_attempts"),
        next_attempt_at=sa.bindparam("b_retry"),
        reason=sa.bindparam("b_reason"),
    )
    rows = [
        key(item.gap)
        | {
            "b_desired": item.gap.desired,
            "b_observed": item.observed,
            "b_attempts": item.gap.attempts + (item.reason != Reason.TIMEOUT),  # the platform's fault, not its own
            "b_retry": item.retry_at,
            "b_reason": item.reason,
        }
        for item in parked
    ]
    _execute_each(connection, waiting, rows)


def _account_left(gap: Gap, user_id: int | None) -> int | None:
    """Return the account that a closed gap leaves in its row: nothing else knows that of an unmatched member."""
    return user_id if gap.desired or gap.is_unmatched else None


def _entry(done: Applied, now: Instant, platform: str, idnumber: str) -> NewEntry:
    return NewEntry(
        at=now,
        platform=platform,
        cohort=idnumber,
        cohort_id=done.gap.cohort_id,
        action=Action.ADD if done.gap.desired else Action.REMOVE,
        student_id=done.gap.student_id,
        user_id=done.user_id,
        cause=done.gap.cause,
        origin=done.gap.origin,
        source=source_of(done.gap.origin),
        run=done.gap.run,
        approved=done.gap.approved,
    )


def _execute_each(connection: sa.Connection, statement: sa.Update, rows: Sequence[dict[str, Any]]) -> None:
    if rows:  # else the statement would be executed once, without parameters
        connection.execute(statement, rows)
