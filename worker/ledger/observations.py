"""What Moodle showed, into the ledger: `observed` anew, and gaps where it differs from what we had left there.

A reading is of an instant: what was written later, by converging, is newer and stays.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any, Protocol

import sqlalchemy as sa

from worker.domain.cohorts import STRANGER
from worker.domain.drift import CohortDiff, KnownMembership, People, compare
from worker.domain.instants import Instant
from worker.domain.rules import PlatformPolicy, account_key
from worker.domain.states import OF_ACCOUNTS, Action, Cause, CohortState, Drift
from worker.ledger.accounts import Accounts
from worker.ledger.database import Ledger, among, chunks, stream, upsert
from worker.ledger.memberships import DRIFT, PROMISE_SECONDS
from worker.ledger.schema import at_membership, cohort, enrolment, gap, journal, membership, student

COHORTS = 1_000
"""Whose members are compared at a time, so that what is known of a whole platform isn't held at once."""


class SeenCohort(Protocol):
    """A cohort as Moodle shows it."""

    @property
    def id(self) -> int: ...  # noqa: D102 - Moodle's
    @property
    def name(self) -> str: ...  # noqa: D102 - idem
    @property
    def idnumber(self) -> str: ...  # noqa: D102 - idem


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What Moodle showed of one platform, by Moodle's ids. `at` is when the reading began."""

    at: Instant
    ours: Mapping[int, tuple[str | None, str | None]]
    """The cohorts that were ours when it began, with the name and the idnumber that we had left there."""
    cohorts: Mapping[int, SeenCohort]
    """Every cohort of the site."""
    members: Mapping[int, AbstractSet[int]]
    """Accounts in each of the cohorts that were ours when it began and are there; of no later one it says anything."""
    people: People


@dataclass(slots=True)
class ObservationReport:
    """What a reading showed that we did not know, by cohort idnumber."""

    drift: defaultdict[str, Counter[Drift]] = field(default_factory=lambda: defaultdict(Counter))
    strangers: Counter[str] = field(default_factory=Counter)
    members: int = 0
    cohorts: int = 0

    def note(self, idnumber: str, members: int, sight: CohortDiff) -> None:
        """Count what a cohort showed."""
        self.members += members
        self.drift[idnumber].update([one.drift for one in sight.seen if one.drift is not None])
        self.drift[idnumber].update([Drift.EXTRA] * len(sight.extras))
        if sight.strangers:
            self.strangers[idnumber] = len(sight.strangers)

    def total(self) -> Counter[Drift]:
        """Add the drift of all cohorts up."""
        return sum(self.drift.values(), Counter[Drift]())


class Observer:
    """Writes readings of one platform, for one reconciliation."""

    def __init__(self, ledger: Ledger, platform: PlatformPolicy, *, run: int, remove_strangers: bool) -> None:
        self.accounts = Accounts(ledger, platform.name)
        self._ledger = ledger
        self._platform = platform
        self._run = run
        self._remove_strangers = remove_strangers
        self.found = ObservationReport()
        self._mine = sa.and_(cohort.c.platform == platform.name, cohort.c.state == CohortState.OWNED)

    def owned(self) -> dict[int, tuple[str | None, str | None]]:
        """Give our cohorts by Moodle's id, each with the name and the idnumber that we left there."""
        columns = sa.select(cohort.c.moodle_id, cohort.c.moodle_name, cohort.c.moodle_idnumber).where(self._mine)
        with self._ledger.read() as connection:
            return {row.moodle_id: (row.moodle_name, row.moodle_idnumber) for row in connection.execute(columns)}

    def left(self) -> set[int]:
        """Give the accounts that, as far as we know, are members of our cohorts."""
        there = sa.select(membership.c.user_id).join(cohort).where(self._mine, membership.c.observed)
        with self._ledger.read() as connection:
            return {user_id for (user_id,) in stream(connection, there.where(membership.c.user_id.is_not(None)))}

    def students(self) -> dict[str, str]:
        """Give every student that we have heard of, by what their account is called; merged ones as their survivor."""
        told = sa.select(student.c.student_id, student.c.login, student.c.survivor)
        untold = sa.select(enrolment.c.student_id, sa.null(), sa.null()).distinct()
        keys: dict[str, str] = {}
        with self._ledger.read() as connection:
            for statement in (
                told.where(student.c.survivor.is_not(None)),  # who bears a number now comes after who bore it
                told.where(student.c.survivor.is_(None)),
                untold.where(~sa.exists().where(student.c.student_id == enrolment.c.student_id)),
            ):
                for number, login, survivor in stream(connection, statement):
                    key = account_key(self._platform, number, login)
                    if key is not None:
                        keys[key] = survivor or number
        return keys

    def unplaced(self) -> dict[str, str]:
        """Give what their accounts are called of those who must be in our cohorts and were never put there."""
        wanted = (
            sa.select(membership.c.student_id, student.c.login)
            .join(cohort)
            .join(student, student.c.student_id == membership.c.student_id, isouter=True)
            .where(self._mine, membership.c.desired, membership.c.user_id.is_(None))
            .distinct()
        )
        with self._ledger.read() as connection:
            rows = connection.execute(wanted).all()
        keys = {row.student_id: account_key(self._platform, row.student_id, row.login) for row in rows}
        return {number: key for number, key in keys.items() if key is not None}

    def write(self, reading: Reading, now: Instant) -> ObservationReport:
        """Write a reading, and say what it showed that we did not know."""
        self.found = ObservationReport()
        self.accounts.forget(reading.people.gone)
        with self._ledger.write() as connection:
            rows = connection.execute(sa.select(cohort).where(cohort.c.platform == self._platform.name)).all()
            self._free(connection, rows, reading)
            owned = [row for row in rows if row.state == CohortState.OWNED and row.moodle_id in reading.ours]
            self._vanish(connection, [row for row in owned if row.moodle_id not in reading.cohorts], now)
            here = [row for row in owned if row.moodle_id in reading.members]
            self._rename(connection, here, reading)
            for some in chunks(here, COHORTS):
                self._members(connection, some, reading, now)
            self._wake(connection, reading.people, now)
        self.found.cohorts = len(owned)
        return self.found

    def _free(self, connection: sa.Connection, rows: Iterable[sa.Row[Any]], reading: Reading) -> None:
        """Let a cohort that was foreign and is there no more be created, if it is wanted."""
        taken = {seen.idnumber for seen in reading.cohorts.values()}
        free = [row.id for row in rows if row.state == CohortState.FOREIGN and row.idnumber not in taken]
        if free:
            wanted = sa.update(cohort).where(cohort.c.id.in_(free))
            connection.execute(wanted.values(state=CohortState.WANTED.value, next_attempt_at=0.0))

    def _vanish(self, connection: sa.Connection, rows: Iterable[sa.Row[Any]], now: Instant) -> None:
        """Nobody is in a cohort that was deleted, and it is made again if it is wanted."""
        for row in rows:
            self.found.drift[row.idnumber][Drift.VANISHED] += 1
        ids = [row.id for row in rows]
        again = {"state": CohortState.WANTED.value, "moodle_id": None, "moodle_name": None, "moodle_idnumber": None}
        connection.execute(sa.update(cohort).where(cohort.c.id.in_(ids)).values(**again))
        lost = sa.update(membership).where(membership.c.cohort_id.in_(ids))
        connection.execute(lost.where(~membership.c.desired).values(observed=False, observed_at=now, held=None))
        connection.execute(lost.where(membership.c.desired).values(observed=False, observed_at=now, **self._gap(now)))

    def _rename(self, connection: sa.Connection, rows: Iterable[sa.Row[Any]], reading: Reading) -> None:
        """Leave a name that a person gave; an idnumber is what teachers find the cohort by, and ours to put back."""
        for row in rows:
            seen, (name, idnumber) = reading.cohorts[row.moodle_id], reading.ours[row.moodle_id]
            values: dict[str, Any] = {}
            # What we have renamed since the reading began is newer.
            if seen.name != row.moodle_name == name:
                values |= {"moodle_name": seen.name, "name_is_ours": row.name_is_ours and seen.name == row.wanted_name}
            if seen.idnumber != row.moodle_idnumber == idnumber:
                values |= {"moodle_idnumber": seen.idnumber, "next_attempt_at": 0.0}
            if values:
                # As wanted: renamed by a call of ours whose answer was lost, or is still to come.
                by_us = {"moodle_name": row.wanted_name, "moodle_idnumber": row.idnumber}
                if any(values.get(what, wanted) != wanted for what, wanted in by_us.items()):
                    self.found.drift[row.idnumber][Drift.RENAMED] += 1
                connection.execute(sa.update(cohort).where(cohort.c.id == row.id).values(**values))

    def _members(
        self, connection: sa.Connection, cohorts: Sequence[sa.Row[Any]], reading: Reading, now: Instant
    ) -> None:
        known = _known(connection, [its.id for its in cohorts])
        seen: dict[bool, list[dict[str, Any]]] = {True: [], False: []}  # by whether it is a drift
        new: list[dict[str, Any]] = []
        done: list[dict[str, Any]] = []
        for its in cohorts:
            members = reading.members[its.moodle_id]
            in_flight = its.lease_until > reading.at
            sight = compare(known[its.id], members, reading.people, at=reading.at, in_flight=in_flight)
            self.found.note(its.idnumber, len(members), sight)
            unsure = {row.student_id: row for row in known[its.id] if row.observed is None}
            for one in sight.seen:
                before = unsure.get(one.student_id)
                if before is not None and before.desired == one.present:
                    user_id = one.user_id if one.present else before.user_id
                    done.append({"b_cohort": its.id, "b_student": one.student_id, "b_user": user_id})
                row = {"b_cohort": its.id, "b_student": one.student_id, "b_seen": one.present, "b_user": one.user_id}
                seen[one.drift is not None].append(row)
            new += [self._extra(its.id, number, user_id, now) for number, user_id in sight.extras]
            if self._remove_strangers:
                new += [self._extra(its.id, f"{STRANGER}{user_id}", user_id, now) for user_id in sight.strangers]
        self._journal(connection, done, now)
        for drifted, values in ((False, {}), (True, {"held": None, **self._gap(now)})):
            if seen[drifted]:
                connection.execute(_SEEN.values(observed_at=now, **values), seen[drifted])
        upsert(connection, membership, new, update=[name for name in _NEW if name not in {"cohort_id", "student_id"}])

    def _journal(self, connection: sa.Connection, done: Sequence[dict[str, Any]], now: Instant) -> None:
        """Note what calls of ours have done whose outcome was unknown until now."""
        if done:
            action = sa.case((membership.c.desired, Action.ADD.value), else_=Action.REMOVE.value)
            of_membership = (membership.c[name] for name in ("student_id", "cause", "origin", "run", "approved"))
            entry = (
                sa.select(sa.literal(now), cohort.c.platform, cohort.c.idnumber, cohort.c.id, action, *of_membership)
                .add_columns(sa.cast(sa.bindparam("b_user"), sa.BigInteger))
                .join(cohort)
                .where(cohort.c.id == sa.bindparam("b_cohort"), membership.c.student_id == sa.bindparam("b_student"))
            )
            columns = ("at", "platform", "cohort", "cohort_id", "action", "student_id", "cause", "origin", "run")
            connection.execute(sa.insert(journal).from_select([*columns, "approved", "user_id"], entry), done)

    def _wake(self, connection: sa.Connection, people: People, now: Instant) -> None:
        """Try at once what was parked for want of an account that there is now."""
        parked = (
            sa.select(membership.c.cohort_id, membership.c.student_id)
            .join(cohort)
            .where(self._mine, gap, membership.c.desired, membership.c.reason.in_(OF_ACCOUNTS))
        )
        rows = [
            {"b_cohort": row.cohort_id, "b_student": row.student_id}
            for row in connection.execute(parked)
            if row.student_id in people.accounts
        ]
        if rows:
            connection.execute(at_membership.values(next_attempt_at=now), rows)

    def _gap(self, now: Instant) -> dict[str, Any]:
        return {
            "cause": Cause.DRIFT.value,
            "origin": f"run {self._run}",
            "since": now,
            "due_by": now + PROMISE_SECONDS,
            "priority": DRIFT,
            "attempts": 0,
            "next_attempt_at": now,
            "reason": None,
            "run": self._run,
        }

    def _extra(self, cohort_id: int, number: str, user_id: int, now: Instant) -> dict[str, Any]:
        row = dict.fromkeys(_NEW) | self._gap(now)
        return row | {
            "cohort_id": cohort_id,
            "student_id": number,
            "desired": False,
            "observed": True,
            "observed_at": now,
            "user_id": user_id,
        }


def _known(connection: sa.Connection, cohorts: Sequence[int]) -> Mapping[int, list[KnownMembership]]:
    known: defaultdict[int, list[KnownMembership]] = defaultdict(list)
    columns = sa.select(membership.c.cohort_id, *(membership.c[name] for name in KnownMembership._fields))
    for cohort_id, *told in stream(connection, columns.where(among(connection, membership.c.cohort_id, cohorts))):
        known[cohort_id].append(KnownMembership._make(told))
    return known


_NEW = [column.name for column in membership.c]
_SEEN = at_membership.values(observed=sa.bindparam("b_seen"), user_id=sa.bindparam("b_user"))
