"""Hands out gaps and settles them: the converging side of the ledger.

A holder (one lane of one worker) claims cohorts for a while; nobody else works on them until it releases them or the
lease runs out. Before a call it writes what it intends (`observed` becomes null: unknown), after it the outcome; a
holder that dies in between leaves a gap, never a false certainty.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import sqlalchemy as sa

from worker.domain.cohorts import Cohort, Gap
from worker.domain.errors import LeaseLost
from worker.domain.guard import Guard
from worker.domain.idnumbers import HasIdnumber
from worker.domain.instants import Instant
from worker.domain.states import Action, CohortChange, CohortState, Limit, Reason
from worker.ledger import clock_skew, cohort_guard, cohorts, gaps, outcomes
from worker.ledger.accounts import Accounts
from worker.ledger.availability import Availability
from worker.ledger.cohort_guard import Permit
from worker.ledger.database import Ledger, select_in
from worker.ledger.gaps import FormerAccount
from worker.ledger.guard import approved, hold
from worker.ledger.leases import LEASE_LOST, Leases
from worker.ledger.outcomes import Applied, CallOutcome, Parked
from worker.ledger.schema import at_membership, cohort, gap, in_cohort, membership, student

__all__ = ["Applied", "Parked", "Work", "WorkQueue"]

COHORT_DELETED = "cohort deleted on Moodle"
"""Origin of the gaps of a cohort that turned out, in converging, to have been deleted."""
LOOKED_AT = 4
"""Gaps read for each one claimed, to choose those of few cohorts: others are left for other holders."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a holder has claimed: cohorts, and their gaps that are due."""

    cohorts: Mapping[int, Cohort] = field(default_factory=dict)
    gaps: Sequence[Gap] = ()
    held: Mapping[Limit, int] = field(default_factory=dict)
    """Removals that the guard has just held, by limit, on the whole platform."""

    def __bool__(self) -> bool:
        return bool(self.cohorts)


class WorkQueue:
    """The work of one platform, for one holder."""

    def __init__(self, ledger: Ledger, platform_name: str, holder: str, *, lease: float, guard: Guard) -> None:
        self.accounts = Accounts(ledger, platform_name)
        self.availability = Availability(ledger, platform_name)
        self._ledger = ledger
        self._platform = platform_name
        self._lease_seconds = lease
        self._leases = Leases(platform_name, holder, seconds=lease)
        self._guard = guard

    # Claiming

    def claim(self, now: Instant, *, limit: int) -> Work:
        """Lease the dirty cohorts that wait longest, up to `limit` of their due gaps.

        Before any removal is handed out the guard has judged all removals of the platform, in the same transaction.
        """
        self._note_clock(now)
        if not self._has_work(now):
            return Work()
        with self._ledger.write() as connection:
            due = self._oldest(connection, now, limit=limit)
            held: dict[Limit, int] = {}
            if not all(item.desired for item in due):
                held = hold(connection, self._platform, self._guard, now)
            if held:
                due = self._oldest(connection, now, limit=limit)
            ids = {item.cohort_id for item in due}
            ids.update(self._misnamed(connection, now, limit=limit - len(ids)))
            if not ids:
                return Work(held=held)
            self._leases.take(connection, ids, now)
            return Work(cohorts=cohorts.read(connection, ids, now), gaps=due, held=held)

    def _note_clock(self, now: Instant) -> None:
        with self._ledger.read() as connection:
            to_be_noted = clock_skew.is_to_be_noted(connection, now)
        if to_be_noted:
            with self._ledger.write() as connection:
                clock_skew.note(connection, now, lease=self._lease_seconds)

    def _has_work(self, now: Instant) -> bool:
        """Return whether there is anything to claim. Mostly there isn't, and reading doesn't hold up writers."""
        with self._ledger.read() as connection:
            return self.availability.is_open(connection, now) and bool(
                self._oldest(connection, now, limit=1) or self._misnamed(connection, now, limit=1)
            )

    def _free(self, now: Instant) -> sa.ColumnElement[bool]:
        return sa.and_(
            cohort.c.platform == self._platform,
            cohort.c.lease_until <= now,
            cohort.c.next_attempt_at <= now,
        )

    def _fillable(self, now: Instant) -> sa.ColumnElement[bool]:
        return sa.and_(self._free(now), cohort_guard.takes_members(now))

    def _oldest(self, connection: sa.Connection, now: Instant, *, limit: int) -> list[Gap]:
        """Return the due gaps that wait longest, of the fewest cohorts that hold as many of those that are read.

        An index has them in their order: however many gaps there are, only the first of them are read. Cohorts
        aren't joined: SQLite would go through them, and sort all their gaps.
        """
        let_pass = sa.or_(membership.c.held.is_(None), approved(now))
        rows = connection.execute(
            sa.select(membership, student.c.login)
            .join(student, student.c.student_id == membership.c.student_id, isouter=True)
            .where(gap, membership.c.next_attempt_at <= now, let_pass, in_cohort(self._fillable(now)))
            .order_by(membership.c.priority, membership.c.due_by, membership.c.cohort_id)
            .limit(LOOKED_AT * limit)
        ).all()
        chosen, total = set(), 0
        for cohort_id, size in Counter(row.cohort_id for row in rows).items():  # by their first gap
            if total >= limit:
                break
            chosen.add(cohort_id)
            total += size
        return [_gap(row, now) for row in rows if row.cohort_id in chosen][:limit]

    def _misnamed(self, connection: sa.Connection, now: Instant, *, limit: int) -> Sequence[int]:
        misnamed = sa.select(cohort.c.id).where(self._free(now), cohorts.needs_rename, cohort_guard.let_pass(now))
        return connection.scalars(misnamed.limit(limit)).all()

    def stays(self, cohort_ids: Collection[int]) -> list[sa.Row[Any]]:
        """Return desired members of these cohorts (cohort_id, student_id, login, user_id): their accounts must stay."""
        members = (
            sa.select(membership.c.cohort_id, membership.c.student_id, membership.c.user_id, student.c.login)
            .join(student, student.c.student_id == membership.c.student_id, isouter=True)
            .where(membership.c.desired)
        )
        with self._ledger.read() as connection:
            return select_in(connection, members, membership.c.cohort_id, cohort_ids)

    # Before a call

    def mark_in_flight(self, items: Collection[tuple[Gap, int]], now: Instant) -> list[tuple[Gap, int]]:
        """Write that a call is about to close these gaps for these accounts, and renew the leases.

        Returns those that are still to be closed; the others are not to be sent. A member who may be there by another
        account is to leave with that one. Raises LeaseLost as `renew` does.
        """
        with self._ledger.write() as connection:
            self._renew(connection, {item.cohort_id for item, _ in items}, now)
            known = _known(connection, [item for item, _ in items])
            current = [
                (item, user_id) for item, user_id in items if known.get(_key(item), _NONE).desired is item.desired
            ]
            former = []
            for item, user_id in current:
                before = known[_key(item)]
                other = before.account_besides(user_id)
                if item.desired and other is not None:
                    former.append(FormerAccount(gap=item, user_id=other, joined_at=before.joined_at))
            gaps.leave(connection, former, now)
            if current:
                connection.execute(
                    at_membership.values(
                        observed=None,
                        observed_at=now,
                        # Before the call: whatever its answer is, nobody was there before it.
                        joined_at=sa.case((membership.c.desired, now), else_=membership.c.joined_at),
                        user_id=sa.bindparam("b_user"),
                        reason=sa.case((membership.c.reason == Reason.UNCONFIRMED, None), else_=membership.c.reason),
                    ),
                    [outcomes.key(item) | {"b_user": user_id} for item, user_id in current],
                )
        return current

    def renew(self, cohort_ids: Collection[int], now: Instant) -> None:
        """Lease these claimed cohorts anew; raises LeaseLost when others have taken one of them over."""
        with self._ledger.write() as connection:
            self._renew(connection, cohort_ids, now)

    def _renew(self, connection: sa.Connection, cohort_ids: Collection[int], now: Instant) -> None:
        self._leases.require(connection, cohort_ids)
        self._leases.renew(connection, now)

    # After a call

    def settle(
        self,
        *,
        applied: Sequence[Applied] = (),
        closed: Sequence[Gap] = (),
        confirmed: Sequence[Gap] = (),
        parked: Sequence[Parked] = (),
        now: Instant,
    ) -> None:
        """Write the outcome of a call. Where what is desired has changed meanwhile, the gap stays by itself.

        `closed` are removals that needed no call, `confirmed` members whose account is as it was: nothing was applied,
        so nothing is journalled.

        No outcome is written for cohorts that others have taken over, since theirs may be the later one: what a call
        has changed, or may have, is unknown again, hence done again by them. Then it raises LeaseLost.
        """
        outcome = CallOutcome(applied=applied, closed=closed, confirmed=confirmed, parked=parked)
        if not outcome.cohort_ids:
            return
        with self._ledger.write() as connection:
            lost = self._leases.lost(connection, outcome.cohort_ids)
            outcomes.doubt(connection, outcome.called_in(lost), now)
            ours = outcome.outside(lost)
            outcomes.close(connection, ours.closed, now)
            outcomes.confirm(connection, ours.confirmed, now)
            outcomes.apply(connection, ours.applied, now, platform=self._platform)
            outcomes.park(connection, ours.parked, now)
        if lost:
            raise LeaseLost(LEASE_LOST)

    def retry_now(self, students: Collection[str], now: Instant) -> None:
        """Try at once what was parked until the accounts of these students became known."""
        if students:
            with self._ledger.write() as connection:
                gaps.retry(connection, [*students], [self._platform], now)

    # Cohorts

    def begin(self, change: CohortChange, items: Sequence[Cohort], now: Instant) -> Permit:
        """Write that a call is about to change these claimed cohorts so, as far as the guard lets it.

        The guard judges all cohorts of the platform that are to be changed so, in the same transaction. Raises
        LeaseLost as `renew` does.
        """
        with self._ledger.write() as connection:
            self._leases.require(connection, {item.id for item in items})
            return cohort_guard.begin(connection, change, items, now, platform=self._platform, guard=self._guard)

    def write_cohorts(
        self, rows: Sequence[tuple[Cohort, dict[str, Any]]], now: Instant, action: Action | None = None
    ) -> None:
        """Set columns of claimed cohorts, journalled under `action` when that was done on Moodle.

        Raises LeaseLost, and writes nothing, when others have taken one of them over.
        """
        if rows:
            with self._ledger.write() as connection:
                self._leases.require(connection, {item.id for item, _ in rows})
                cohorts.write(connection, rows, now, action)

    def blocked_by(self, item: Cohort, holder: HasIdnumber) -> dict[str, Any]:
        """Return the columns of a cohort that this one on Moodle keeps from being created."""
        with self._ledger.read() as connection:
            return cohorts.blocked_by(connection, item, holder)

    def owned(self) -> set[int]:
        """Return Moodle's ids of our cohorts."""
        ours = sa.select(cohort.c.moodle_id).where(
            cohort.c.platform == self._platform, cohort.c.state == CohortState.OWNED
        )
        with self._ledger.read() as connection:
            return set(connection.scalars(ours))

    def vanished(self, item: Cohort, now: Instant) -> None:
        """Write that this cohort was deleted on Moodle.

        Raises LeaseLost, and writes nothing, when others have taken it over.
        """
        with self._ledger.write() as connection:
            self._leases.require(connection, [item.id])
            gaps.vanish(connection, [item.id], now, origin=COHORT_DELETED)

    def hold_off(self, cohort_ids: Collection[int], until: Instant) -> None:
        """Lease these cohorts to nobody until then: a call for them may still be running on Moodle."""
        with self._ledger.write() as connection:
            self._leases.hold_off(connection, cohort_ids, until)

    def step_back(self, cohort_ids: Collection[int], until: Instant) -> None:
        """Let other cohorts go before these claimed ones until then, or until the platform is retried."""
        with self._ledger.write() as connection:
            self._leases.require(connection, cohort_ids)
            back = sa.update(cohort).where(cohort.c.id.in_(cohort_ids))
            connection.execute(back.values(next_attempt_at=until))

    def release(self) -> None:
        """Release the claimed cohorts."""
        with self._ledger.write() as connection:
            self._leases.release(connection)


class _Known(NamedTuple):
    """What is known of a membership before a call; the names are those of the columns."""

    desired: bool | None
    observed: bool | None
    user_id: int | None
    joined_at: Instant | None

    def account_besides(self, user_id: int) -> int | None:
        """Return another account by which the member is there, or may be."""
        return None if self.user_id == user_id or self.observed is False else self.user_id


_NONE = _Known(desired=None, observed=None, user_id=None, joined_at=None)


def _known(connection: sa.Connection, items: Iterable[Gap]) -> dict[tuple[int, str], _Known]:
    columns = sa.select(
        membership.c.cohort_id, membership.c.student_id, *(membership.c[name] for name in _Known._fields)
    )
    rows = select_in(connection, columns, membership.c.student_id, {item.student_id for item in items})
    return {(cohort_id, number): _Known._make(known) for cohort_id, number, *known in map(tuple, rows)}


def _key(item: Gap) -> tuple[int, str]:
    return item.cohort_id, item.student_id


def _gap(row: sa.Row[Any], now: Instant) -> Gap:
    return Gap(
        cohort_id=row.cohort_id,
        student_id=row.student_id,
        login=row.login,
        desired=row.desired,
        user_id=row.user_id,
        cause=row.cause,
        origin=row.origin,
        since=row.since,
        attempts=row.attempts,
        run=row.run,
        approved=row.approved if (row.approved_until or 0.0) > now else None,
        reason=row.reason,
    )
