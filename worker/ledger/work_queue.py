"""Handing out gaps and settling them: the converging side of the ledger.

A holder (one lane of one worker) claims cohorts for a while; nobody else works on them until it releases them or the
lease runs out. Before a call it says what it intends (`observed` becomes null: unknown), after it what happened; a
holder that dies in between leaves a gap, never a false certainty.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from worker.domain.cohorts import Cohort, Gap
from worker.domain.errors import LeaseLost
from worker.domain.guard import Guard
from worker.domain.instants import Instant
from worker.domain.states import Action, CohortState, Limit, Reason
from worker.ledger import clock_skew
from worker.ledger.accounts import Accounts
from worker.ledger.availability import Availability
from worker.ledger.database import Ledger, among, select_in
from worker.ledger.guard import approved, hold
from worker.ledger.schema import at_membership, cohort, gap, in_cohort, journal, membership, student

Key = tuple[int, str]
"""A membership: cohort id, student id."""
STOOD_STILL = "this worker stood still for longer than its lease, and others have taken its cohorts over"
LOOKED_AT = 4
"""Times as many gaps as one claims are looked at, so that one leases a share of the cohorts and others have theirs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a holder has claimed: cohorts, the gaps of theirs that are due, and accounts that must stay."""

    cohorts: Mapping[int, Cohort] = field(default_factory=dict)
    gaps: Sequence[Gap] = ()
    held: Mapping[Limit, int] = field(default_factory=dict)
    """Removals that the guard has just held, by limit, whoever works on their cohorts."""

    def __bool__(self) -> bool:
        return bool(self.cohorts)


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


class WorkQueue:
    """The work of one platform, for one holder."""

    def __init__(self, ledger: Ledger, platform_name: str, holder: str, *, lease: float, guard: Guard) -> None:
        self.accounts = Accounts(ledger, platform_name)
        self.availability = Availability(ledger, platform_name)
        self._ledger = ledger
        self._platform = platform_name
        self._holder = holder
        self._lease = lease
        self._guard = guard
        self._mine = sa.and_(cohort.c.platform == platform_name, cohort.c.lease_holder == holder)

    def claim(self, now: Instant, *, limit: int) -> Work:
        """Lease the dirty cohorts that wait longest, up to `limit` of their due gaps.

        Before any removal is handed out the guard has judged all removals of the platform, in the same transaction.
        """
        free = sa.and_(
            cohort.c.platform == self._platform,
            cohort.c.state != CohortState.FOREIGN,
            cohort.c.lease_until <= now,
            cohort.c.next_attempt_at <= now,
        )
        with self._ledger.read() as connection:
            to_be_noted = clock_skew.is_to_be_noted(connection, now)
        if to_be_noted:
            with self._ledger.write() as connection:
                clock_skew.note(connection, now, lease=self._lease)
        with self._ledger.read() as connection:  # most looks find nothing: don't hold up writers for them
            if not self.availability.is_open(connection, now) or not (
                self._oldest(connection, free, now, limit=1) or self._misnamed(connection, free, limit=1)
            ):
                return Work()
        with self._ledger.write() as connection:
            gaps = self._oldest(connection, free, now, limit=limit)
            held: dict[Limit, int] = {}
            if not all(gap.desired for gap in gaps):
                held = hold(connection, self._platform, self._guard, now)
            if held:
                gaps = self._oldest(connection, free, now, limit=limit)
            ids = {gap.cohort_id for gap in gaps}
            ids.update(self._misnamed(connection, free, limit=limit - len(ids)))
            if not ids:
                return Work(held=held)
            leased = sa.update(cohort).where(cohort.c.id.in_(ids))
            connection.execute(leased.values(lease_holder=self._holder, lease_until=now + self._lease))
            rows = connection.execute(sa.select(cohort).where(cohort.c.id.in_(ids)))
            return Work(cohorts={row.id: _cohort(row) for row in rows}, gaps=gaps, held=held)

    def _oldest(
        self, connection: sa.Connection, free: sa.ColumnElement[bool], now: Instant, *, limit: int
    ) -> list[Gap]:
        """Give the due gaps that wait longest, of as few cohorts as hold so many of those that are looked at.

        An index gives them in their order: however many gaps there are, only the first of them are read. Cohorts
        aren't joined: SQLite would go through them, and sort all their gaps.
        """
        let_pass = sa.or_(membership.c.held.is_(None), approved(now))
        of_free = in_cohort(free)
        rows = connection.execute(
            sa.select(membership, student.c.login)
            .join(student, student.c.student_id == membership.c.student_id, isouter=True)
            .where(gap, membership.c.next_attempt_at <= now, let_pass, of_free)
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

    def _misnamed(self, connection: sa.Connection, free: sa.ColumnElement[bool], *, limit: int) -> Sequence[int]:
        misnamed = sa.select(cohort.c.id).where(free, cohort.c.state == CohortState.OWNED, needs_rename)
        return connection.scalars(misnamed.limit(limit)).all()

    def mark_in_flight(self, items: Collection[tuple[Gap, int]], now: Instant) -> list[tuple[Gap, int]]:
        """Note that a call is about to close these gaps for these accounts, and renew the leases.

        Returns those that are still to be closed; the others are not to be sent. Raises LeaseLost as `renew` does.
        """
        ids = {gap.cohort_id for gap, _ in items}
        with self._ledger.write() as connection:
            self._renew(connection, ids, now)
            wanted = {
                (row.cohort_id, row.student_id): row.desired
                for row in select_in(
                    connection,
                    sa.select(membership.c.cohort_id, membership.c.student_id, membership.c.desired),
                    membership.c.student_id,
                    {gap.student_id for gap, _ in items},
                )
            }
            kept = [
                (gap, user_id) for gap, user_id in items if wanted.get((gap.cohort_id, gap.student_id)) is gap.desired
            ]
            if kept:
                connection.execute(
                    at_membership.values(observed=None, observed_at=now, user_id=sa.bindparam("b_user")),
                    [_key(gap) | {"b_user": user_id} for gap, user_id in kept],
                )
        return kept

    def renew(self, cohort_ids: Collection[int], now: Instant) -> None:
        """Lease these claimed cohorts anew; raises LeaseLost when others have taken one of them over."""
        with self._ledger.write() as connection:
            self._renew(connection, cohort_ids, now)

    def _renew(self, connection: sa.Connection, cohort_ids: Collection[int], now: Instant) -> None:
        if self._lost(connection, cohort_ids):
            raise LeaseLost(STOOD_STILL)
        connection.execute(sa.update(cohort).where(self._mine).values(lease_until=now + self._lease))

    def _lost(self, connection: sa.Connection, cohort_ids: Iterable[int]) -> set[int]:
        """Give those of the cohorts that aren't this holder's any more; nobody was there as long as they are."""
        return {*cohort_ids} - set(connection.scalars(sa.select(cohort.c.id).where(self._mine)))

    def settle(
        self,
        *,
        applied: Sequence[Applied] = (),
        closed: Sequence[Gap] = (),
        parked: Sequence[Parked] = (),
        now: Instant,
    ) -> None:
        """Write the outcome of a call. What changed its mind meanwhile stays a gap by itself.

        `closed` are removals that needed no call: nothing was applied, so nothing is journalled.

        Of cohorts that others have taken over it writes no outcome, since theirs may be the later one: what a call has
        changed, or may have, is unknown again, hence done again by them. Then it raises LeaseLost.
        """
        if not (applied or closed or parked):
            return
        with self._ledger.write() as connection:
            told = [*(done.gap for done in applied), *closed, *(item.gap for item in parked)]
            lost = self._lost(connection, {item.cohort_id for item in told})
            if lost:
                called = [*(done.gap for done in applied), *(item.gap for item in parked if item.observed is None)]
                if doubtful := [_key(item) for item in called if item.cohort_id in lost]:
                    connection.execute(at_membership.values(observed=None, observed_at=now), doubtful)
                applied = [done for done in applied if done.gap.cohort_id not in lost]
                closed = [item for item in closed if item.cohort_id not in lost]
                parked = [item for item in parked if item.gap.cohort_id not in lost]
            if closed:
                over = at_membership.values(observed=False, observed_at=now, user_id=None, **_LET_GO)
                connection.execute(over, [_key(item) for item in closed])
            if applied:
                connection.execute(
                    at_membership.values(
                        observed=sa.bindparam("b_observed"),
                        observed_at=now,
                        user_id=sa.bindparam("b_user"),
                        attempts=0,
                        reason=None,
                        **_LET_GO,
                    ),
                    [
                        _key(done.gap)
                        | {
                            "b_observed": done.gap.desired,
                            "b_user": done.user_id if done.gap.desired else None,
                        }
                        for done in applied
                    ],
                )
                names = {
                    row.id: row.idnumber
                    for row in select_in(
                        connection,
                        sa.select(cohort.c.id, cohort.c.idnumber),
                        cohort.c.id,
                        {done.gap.cohort_id for done in applied},
                    )
                }
                connection.execute(
                    sa.insert(journal),
                    [
                        {
                            "at": now,
                            "platform": self._platform,
                            "cohort": names[done.gap.cohort_id],
                            "cohort_id": done.gap.cohort_id,
                            "action": Action.ADD if done.gap.desired else Action.REMOVE,
                            "student_id": done.gap.student_id,
                            "user_id": done.user_id,
                            "cause": done.gap.cause,
                            "origin": done.gap.origin,
                            "run": done.gap.run,
                            "approved": done.gap.approved,
                        }
                        for done in applied
                    ],
                )
            if parked:
                connection.execute(
                    at_membership.where(membership.c.desired == sa.bindparam("b_desired")).values(
                        observed=sa.bindparam("b_observed"),
                        observed_at=now,
                        attempts=sa.bindparam("b_attempts"),
                        next_attempt_at=sa.bindparam("b_retry"),
                        reason=sa.bindparam("b_reason"),
                    ),
                    [
                        _key(item.gap)
                        | {
                            "b_desired": item.gap.desired,
                            "b_observed": item.observed,
                            "b_attempts": item.gap.attempts + 1,
                            "b_retry": item.retry_at,
                            "b_reason": item.reason,
                        }
                        for item in parked
                    ],
                )
        if lost:
            raise LeaseLost(STOOD_STILL)

    def hold_off(self, cohort_ids: Collection[int], until: Instant) -> None:
        """Leave these cohorts alone until then, whoever asks: a call for them may still be running on Moodle."""
        with self._ledger.write() as connection:
            resting = sa.update(cohort).where(self._mine, cohort.c.id.in_(cohort_ids))
            connection.execute(resting.values(lease_holder=None, lease_until=until))

    def release(self) -> None:
        """Give the claimed cohorts back."""
        with self._ledger.write() as connection:
            connection.execute(sa.update(cohort).where(self._mine).values(lease_holder=None, lease_until=0.0))

    def retry_now(self, students: Collection[str], now: Instant) -> None:
        """Try at once what was parked for want of the accounts of these students."""
        if not students:
            return
        here = in_cohort(cohort.c.platform == self._platform)
        parked = sa.and_(gap, membership.c.reason.in_([r.value for r in Reason]), here)
        with self._ledger.write() as connection:
            theirs = among(connection, membership.c.student_id, list(students))
            connection.execute(sa.update(membership).where(parked, theirs).values(next_attempt_at=now))

    def stays(self, cohort_ids: Collection[int]) -> list[sa.Row[Any]]:
        """Desired members of these cohorts (cohort_id, student_id, login, user_id): their accounts must stay."""
        members = (
            sa.select(membership.c.cohort_id, membership.c.student_id, membership.c.user_id, student.c.login)
            .join(student, student.c.student_id == membership.c.student_id, isouter=True)
            .where(membership.c.desired)
        )
        with self._ledger.read() as connection:
            return select_in(connection, members, membership.c.cohort_id, cohort_ids)

    def write_cohorts(
        self, rows: Sequence[tuple[Cohort, dict[str, Any]]], now: Instant, action: Action | None = None
    ) -> None:
        """Set columns of claimed cohorts, journalled under `action` when that was done on Moodle.

        Raises LeaseLost, and writes nothing, when others have taken one of them over.
        """
        if not rows:
            return
        with self._ledger.write() as connection:
            if self._lost(connection, [item.id for item, _ in rows]):
                raise LeaseLost(STOOD_STILL)
            for item, values in rows:
                connection.execute(sa.update(cohort).where(cohort.c.id == item.id).values(**values))
            if action is not None:
                connection.execute(
                    sa.insert(journal),
                    [
                        {
                            "at": now,
                            "platform": self._platform,
                            "cohort": item.idnumber,
                            "cohort_id": item.id,
                            "action": action,
                            "detail": values.get("moodle_name"),
                        }
                        for item, values in rows
                    ],
                )

    def vanished(self, item: Cohort, now: Instant) -> None:
        """Somebody deleted this cohort on Moodle: nobody is in it, and it is to be made again if it is wanted.

        Raises LeaseLost, and writes nothing, when others have taken it over.
        """
        with self._ledger.write() as connection:
            if self._lost(connection, [item.id]):
                raise LeaseLost(STOOD_STILL)
            connection.execute(
                sa.update(cohort)
                .where(cohort.c.id == item.id)
                .values(state=CohortState.WANTED, moodle_id=None, moodle_name=None, moodle_idnumber=None)
            )
            connection.execute(
                sa.update(membership)
                .where(membership.c.cohort_id == item.id)
                .values(observed=False, observed_at=now, next_attempt_at=now)
            )


needs_rename = sa.or_(
    cohort.c.moodle_idnumber != cohort.c.idnumber,
    sa.and_(cohort.c.name_is_ours, cohort.c.wanted_name != cohort.c.moodle_name),
)
"""An owned cohort whose étape got its label, another label, or another code."""

_LET_GO = {"held": None, "approved": None, "approved_until": None}
"""An approval is for one removal: whoever is put back by hand isn't removed again by it."""


def _key(item: Gap) -> dict[str, Any]:
    return {"b_cohort": item.cohort_id, "b_student": item.student_id}


def _cohort(row: sa.Row[Any]) -> Cohort:
    return Cohort(
        id=row.id,
        platform=row.platform,
        idnumber=row.idnumber,
        etape=row.etape,
        wanted_name=row.wanted_name,
        state=CohortState(row.state),
        moodle_id=row.moodle_id,
        moodle_name=row.moodle_name,
        moodle_idnumber=row.moodle_idnumber,
        name_is_ours=row.name_is_ours,
        attempts=row.attempts,
    )


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
