"""Writes what Moodle showed into the ledger: what is observed, and gaps where that differs from what we left there.

A reading is of an instant: what converging wrote later is newer, and stays.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any, Protocol

import sqlalchemy as sa

from worker.domain.cohorts import is_unmatched, unmatched_key
from worker.domain.drift import CohortDiff, KnownMembership, MembershipDiff, People, compare
from worker.domain.idnumbers import fold
from worker.domain.instants import Instant
from worker.domain.rules import PlatformPolicy, account_key
from worker.domain.states import BLOCKED, Cause, CohortState, Drift
from worker.ledger import gaps, inherited
from worker.ledger.accounts import Accounts
from worker.ledger.cohorts import blocked_by
from worker.ledger.database import Ledger, among, chunks, stream, upsert
from worker.ledger.journal import write_confirmed
from worker.ledger.schema import NO_NUMBER, at_membership, cohort, enrolment, gap, in_cohort, membership, student

COHORTS = 1_000
"""How many are compared at a time, so that the members of a whole platform aren't in memory at once."""


class SeenCohort(Protocol):
    """A cohort as Moodle shows it."""

    @property
    def id(self) -> int: ...  # noqa: D102 - Moodle's
    @property
    def name(self) -> str: ...  # noqa: D102 - idem
    @property
    def idnumber(self) -> str: ...  # noqa: D102 - idem


@dataclass(frozen=True, slots=True, kw_only=True)
class PlatformReading:
    """What Moodle showed of one platform, by Moodle's ids. `at` is when the reading began."""

    at: Instant
    ours: Mapping[int, tuple[str | None, str | None]]
    """The cohorts that were ours when it began, with the name and the idnumber that we had left there."""
    cohorts: Mapping[int, SeenCohort]
    """Every cohort of the site."""
    members: Mapping[int, AbstractSet[int]]
    """Accounts in each cohort that was ours when it began and exists; the reading knows of no later one."""
    people: People


@dataclass(slots=True)
class ObservationReport:
    """What a reading showed that we did not know, by cohort idnumber."""

    drift: defaultdict[str, Counter[Drift]] = field(default_factory=lambda: defaultdict(Counter))
    unmatched: Counter[str] = field(default_factory=Counter)
    unclean: Counter[str] = field(default_factory=Counter)
    unconfirmed: Counter[str] = field(default_factory=Counter)
    members: int = 0
    cohorts: int = 0

    def note(self, idnumber: str, members: int, diff: CohortDiff) -> None:
        """Count what a cohort showed."""
        self.members += members
        self.drift[idnumber].update([one.drift for one in diff.seen if one.drift is not None])
        self.drift[idnumber].update([Drift.EXTRA] * len(diff.extras))
        if diff.unmatched:
            self.unmatched[idnumber] = len(diff.unmatched)
        if diff.unclean:
            self.unclean[idnumber] = len(diff.unclean)
        if diff.unconfirmed:
            self.unconfirmed[idnumber] = diff.unconfirmed

    def note_cohorts(self, drift: Drift, idnumbers: Iterable[str]) -> None:
        """Count what happened to cohorts as a whole."""
        for idnumber in idnumbers:
            self.drift[idnumber][drift] += 1

    def total(self) -> Counter[Drift]:
        """Add up the drift of all cohorts."""
        return sum(self.drift.values(), Counter[Drift]())


@dataclass(slots=True)
class Called:
    """What students' accounts are called, on one platform."""

    students: dict[str, str] = field(default_factory=dict)
    """A student by each key."""
    shared: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    """All students of the keys that several have."""
    former: dict[str, str] = field(default_factory=dict)
    """By the keys of merged numbers, the number that lives on."""
    survivors: dict[str, str] = field(default_factory=dict)
    """What merged numbers have become."""

    def add(self, key: str | None, number: str, survivor: str | None) -> None:
        """Note a student's key."""
        if survivor is not None:
            self.survivors[number] = survivor
            if key is not None:
                self.former[key] = survivor
        elif key is not None:
            first = self.students.setdefault(key, number)
            if first != number:
                self.shared[key] |= {first, number}

    def owner(self, key: str) -> str | None:
        """Return whose the account with this key is: whoever is called so now comes before who was."""
        return self.students.get(key, self.former.get(key))


class Observer:
    """Writes readings of one platform, for one reconciliation."""

    def __init__(self, ledger: Ledger, platform: PlatformPolicy, *, run: int, remove_unmatched: bool) -> None:
        self.accounts = Accounts(ledger, platform.name)
        self._ledger = ledger
        self._platform = platform
        self._run = run
        self._remove_unmatched = remove_unmatched
        self._ours = sa.and_(cohort.c.platform == platform.name, cohort.c.state == CohortState.OWNED)

    def owned(self) -> dict[int, tuple[str | None, str | None]]:
        """Return our cohorts by Moodle's id, each with the name and the idnumber that we left there."""
        columns = sa.select(cohort.c.moodle_id, cohort.c.moodle_name, cohort.c.moodle_idnumber).where(self._ours)
        with self._ledger.read() as connection:
            return {row.moodle_id: (row.moodle_name, row.moodle_idnumber) for row in connection.execute(columns)}

    def left(self) -> set[int]:
        """Return the accounts that, as far as we know, are members of our cohorts."""
        present = sa.select(membership.c.user_id).join(cohort).where(self._ours, membership.c.observed)
        with self._ledger.read() as connection:
            return {user_id for (user_id,) in stream(connection, present.where(membership.c.user_id.is_not(None)))}

    def called(self) -> Called:
        """Return every student we have heard of, by the key of their account; merged ones as their survivor."""
        return known_students(self._ledger, self._platform)

    def wanted(self) -> set[str]:
        """Return the account keys of those who must be in our cohorts."""
        desired = (
            sa.select(membership.c.student_id, student.c.login)
            .join(cohort)
            .join(student, student.c.student_id == membership.c.student_id, isouter=True)
            .where(self._ours, membership.c.desired)
            .distinct()
        )
        with self._ledger.read() as connection:
            keys = {account_key(self._platform, number, login) for number, login in stream(connection, desired)}
        return {key for key in keys if key is not None}

    def write(self, reading: PlatformReading, now: Instant) -> ObservationReport:
        """Write a reading, and return what it showed that we did not know."""
        report = ObservationReport()
        self.accounts.forget(reading.people.gone)
        with self._ledger.write() as connection:
            rows = connection.execute(sa.select(cohort).where(cohort.c.platform == self._platform.name)).all()
            self._free(connection, rows, reading)
            owned = [row for row in rows if row.state == CohortState.OWNED and row.moodle_id in reading.ours]
            report.cohorts = len(owned)
            vanished = [row for row in owned if row.moodle_id not in reading.cohorts]
            self._vanish(connection, vanished, now)
            report.note_cohorts(Drift.VANISHED, [row.idnumber for row in vanished])
            read = [row for row in owned if row.moodle_id in reading.members]
            report.note_cohorts(Drift.RENAMED, self._rename(connection, read, reading))
            for some in chunks(read, COHORTS):
                compared = _compare(connection, some, reading)
                _inherit(connection, compared)
                for each in compared:
                    report.note(each.idnumber, each.members, each.diff)
                self._members(connection, compared, now)
            self._retry(connection, reading.people, now)
        return report

    def _free(self, connection: sa.Connection, rows: Iterable[sa.Row[Any]], reading: PlatformReading) -> None:
        """Look anew at who blocks our cohorts: one whose blocker is gone can be created, if it is wanted.

        The night then waits for its members.
        """
        free = []
        for row in rows:
            if row.state not in BLOCKED:
                continue
            blocker = reading.cohorts.get(row.blocker_id)
            if blocker is None or fold(blocker.idnumber) != fold(row.idnumber):
                free.append(row.id)
            else:
                connection.execute(
                    sa.update(cohort).where(cohort.c.id == row.id).values(**blocked_by(connection, row, blocker))
                )
        if free:
            this = among(connection, cohort.c.id, free)
            connection.execute(
                sa.update(cohort)
                .where(this)
                .values(state=CohortState.WANTED.value, blocker_id=None, blocker=None, next_attempt_at=0.0)
            )
            joining = sa.update(membership).where(gap, membership.c.desired, in_cohort(this))
            connection.execute(joining.values(run=self._run))

    def _vanish(self, connection: sa.Connection, rows: Sequence[sa.Row[Any]], now: Instant) -> None:
        if rows:
            gaps.vanish(connection, [row.id for row in rows], now, origin=f"run {self._run}", run=self._run)

    def _rename(self, connection: sa.Connection, rows: Iterable[sa.Row[Any]], reading: PlatformReading) -> list[str]:
        """Write the names that Moodle shows, and return the idnumbers of the cohorts that a person renamed.

        A name that a person gave stays; an idnumber is what teachers find the cohort by, and ours to put back.
        """
        renamed = []
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
                    renamed.append(row.idnumber)
                connection.execute(sa.update(cohort).where(cohort.c.id == row.id).values(**values))
        return renamed

    def _members(self, connection: sa.Connection, compared: Sequence["_Compared"], now: Instant) -> None:
        write_confirmed(connection, [row for each in compared for row in each.confirmed()], now)
        opened = self._opened(now) | {"cause": sa.bindparam("b_cause")}
        for opens, values in ((False, {}), (True, opened)):
            seen = [row for each in compared for row in each.seen(opens=opens)]
            if seen:
                connection.execute(_SEEN.values(observed_at=now, **values), seen)
        blank = dict.fromkeys(_NEW) | opened | {"desired": False, "observed": True, "observed_at": now}
        new = [blank | row for each in compared for row in each.new(unmatched=self._remove_unmatched)]
        upsert(connection, membership, new, update=[name for name in _NEW if name not in {"cohort_id", "student_id"}])

    def _retry(self, connection: sa.Connection, people: People, now: Instant) -> None:
        """Try at once what was parked for want of an account that there is now."""
        platforms = [self._platform.name]
        parked = connection.scalars(sa.select(membership.c.student_id).where(gaps.awaits_account(platforms)))
        gaps.retry(connection, [number for number in parked if number in people.accounts], platforms, now)

    def _opened(self, now: Instant) -> dict[str, Any]:
        return gaps.opened(cause=Cause.DRIFT, origin=f"run {self._run}", since=now, next_attempt_at=now, run=self._run)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Compared:
    """A cohort with what is known of its members, and how a reading differs from that."""

    cohort_id: int
    idnumber: str
    members: int
    known: Mapping[str, KnownMembership]
    diff: CohortDiff
    unread: bool
    """Whether it is read for the first time since it became ours."""
    joined_at: Instant | None
    """When whoever is new to the reading joined, as far as is known."""
    undesired: AbstractSet[int]
    """Accounts of the members who aren't desired there."""
    inherited: set[int]
    """Those of them whom it had when it became ours."""

    def cause(self, user_id: int | None, otherwise: Cause = Cause.DRIFT) -> str:
        """Return why a member with this account, whom the reading shows, is to leave."""
        return (Cause.ADOPTED if user_id in self.inherited else otherwise).value

    def confirmed(self) -> Iterator[dict[str, Any]]:
        """Return the memberships for which the reading shows that a call of ours succeeded, for `write_confirmed`."""
        for one in self.diff.seen:
            before = self.known[one.student_id]
            if before.observed is None and before.desired == one.present:
                user_id = one.user_id if one.present else before.user_id
                yield {"b_cohort": self.cohort_id, "b_student": one.student_id, "b_user": user_id}

    def seen(self, *, opens: bool) -> Iterator[dict[str, Any]]:
        """Return what the reading showed of the memberships whose gap it opens, or not, as parameters of `_SEEN`."""
        for one in self.diff.seen:
            if self._opens(one) is opens:
                unmatched = is_unmatched(one.student_id)  # whose account is known from nowhere else
                user_id = self.known[one.student_id].user_id if unmatched else one.user_id
                cause = Cause.CHANGED_HANDS if one.drift is Drift.CHANGED_HANDS else Cause.DRIFT
                yield {
                    "b_cohort": self.cohort_id,
                    "b_student": one.student_id,
                    "b_seen": one.present,
                    "b_joined": self.joined_at,
                    "b_user": user_id,
                } | ({"b_cause": self.cause(user_id, cause)} if opens else {})

    def _opens(self, one: MembershipDiff) -> bool:
        return one.drift is not None and one.present is not self.known[one.student_id].desired

    def new(self, *, unmatched: bool) -> Iterator[dict[str, Any]]:
        """Return the members who have no membership yet and are to leave."""
        for student_id, user_id in self.diff.extras:
            yield self._new(student_id, user_id, self.cause(user_id))
        for student_id, user_id in self.diff.misplaced:
            yield self._new(student_id, user_id, self.cause(user_id, Cause.CHANGED_HANDS))
        for user_id in self.diff.unmatched if unmatched else ():
            yield self._new(unmatched_key(user_id), user_id, self.cause(user_id))

    def _new(self, student_id: str, user_id: int, cause: str) -> dict[str, Any]:
        return {
            "cohort_id": self.cohort_id,
            "student_id": student_id,
            "user_id": user_id,
            "joined_at": self.joined_at,
            "cause": cause,
        }


def known_students(ledger: Ledger, platform: PlatformPolicy) -> Called:
    """Return every student we have heard of, by the key of their account."""
    known = sa.select(student.c.student_id, student.c.login, student.c.survivor)
    named = enrolment.c.student_id != NO_NUMBER
    only_enrolled = sa.select(enrolment.c.student_id, sa.null(), sa.null()).where(named).distinct()
    called = Called()
    with ledger.read() as connection:
        for statement in (
            known.where(student.c.survivor.is_(None)),
            only_enrolled.where(~sa.exists().where(student.c.student_id == enrolment.c.student_id)),
            known.where(student.c.survivor.is_not(None)),
        ):
            for number, login, survivor in stream(connection, statement):
                called.add(account_key(platform, number, login), number, survivor)
    return called


def _compare(connection: sa.Connection, cohorts: Sequence[sa.Row[Any]], reading: PlatformReading) -> list[_Compared]:
    ids = [row.id for row in cohorts]
    known, inherited_members = known_memberships(connection, ids, reading.at), inherited.by_cohort(connection, ids)
    compared = []
    for row in cohorts:
        members = reading.members[row.moodle_id]
        in_flight = row.lease_until > reading.at
        diff = compare(known[row.id].values(), members, reading.people, at=reading.at, in_flight=in_flight)
        compared.append(
            _Compared(
                cohort_id=row.id,
                idnumber=row.idnumber,
                members=len(members),
                known=known[row.id],
                diff=diff,
                unread=row.unread,
                joined_at=None if row.unread else reading.at,
                undesired=members - diff.desired,
                inherited=inherited_members.get(row.id, set()),
            )
        )
    return compared


def _inherit(connection: sa.Connection, compared: Iterable["_Compared"]) -> None:
    """Note whom cohorts had when they became ours, and forget those who are desired by now, or gone."""
    unread, forgotten = {}, {}
    for each in compared:
        forgotten[each.cohort_id] = each.inherited - each.undesired
        each.inherited.intersection_update(each.undesired)
        if each.unread:
            unread[each.cohort_id] = each.undesired - each.inherited
            each.inherited.update(each.undesired)
    inherited.forget(connection, forgotten)
    if unread:
        inherited.note(connection, unread)


def known_memberships(
    connection: sa.Connection, cohorts: Sequence[int], at: Instant
) -> Mapping[int, dict[str, KnownMembership]]:
    """Return what is known of the members of these cohorts, by student.

    An unmatched member who was removed before the reading began is left out: when the account is back, today's settings
    decide whether it is removed again.
    """
    known: defaultdict[int, dict[str, KnownMembership]] = defaultdict(dict)
    columns = sa.select(membership.c.cohort_id, *(membership.c[name] for name in KnownMembership._fields))
    for cohort_id, *values in stream(connection, columns.where(among(connection, membership.c.cohort_id, cohorts))):
        row = KnownMembership._make(values)
        removed = not row.desired and row.observed is False and row.observed_at <= at
        if not (removed and is_unmatched(row.student_id)):
            known[cohort_id][row.student_id] = row
    return known


_NEW = [column.name for column in membership.c]
_appears = sa.and_(sa.bindparam("b_seen", type_=sa.Boolean), ~membership.c.observed)
_SEEN = at_membership.values(
    observed=sa.bindparam("b_seen"),
    joined_at=sa.case((_appears, sa.bindparam("b_joined", type_=sa.Float)), else_=membership.c.joined_at),
    user_id=sa.bindparam("b_user"),
)
