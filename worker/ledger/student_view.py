"""All that the ledger knows of one student, read in one transaction; `worker.explain` judges it."""

import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, fields
from operator import attrgetter
from typing import Any, TypeVar

import sqlalchemy as sa

from worker.domain.instants import Instant
from worker.domain.rules import Policy, account_key, canonical
from worker.domain.snapshots import AcceptedSnapshot
from worker.ledger.database import Ledger, select_in
from worker.ledger.enrolments import accepted_snapshots
from worker.ledger.identities import numbers_of
from worker.ledger.merges import KnownMerge, of_numbers
from worker.ledger.schema import account, cohort, enrolment, etape, journal, membership, platform, proposal, student


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """What one source says of one enrolment; the names are those of the table."""

    uai: str
    enrolment_id: str
    system: str
    version: int
    changed_at: Instant
    student_id: str
    status: str
    payment: str
    academic_year: int | None
    etape: str | None
    etape_version: str | None
    component: str | None
    origin: str
    recorded_at: Instant


@dataclass(frozen=True, slots=True, kw_only=True)
class Number:
    """One student number, and its login."""

    student_id: str
    login: str | None
    login_at: Instant | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """What is known of an étape."""

    code: str
    label: str | None
    component: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CohortFact:
    """A cohort of a platform; the names are those of the table."""

    id: int
    platform: str
    idnumber: str
    template: int
    etape: str | None
    component: str | None
    wanted_name: str | None
    state: str
    moodle_id: int | None
    moodle_name: str | None
    moodle_idnumber: str | None
    refusal: str | None
    blocker_id: int | None
    blocker: str | None
    deleted_at: Instant | None
    lost: int | None
    held: str | None
    approved_until: Instant | None
    rejected: str | None
    attempts: int
    next_attempt_at: Instant
    lease_holder: str | None
    lease_until: Instant


@dataclass(frozen=True, slots=True, kw_only=True)
class MembershipFact:
    """One number in one cohort; the names are those of the table."""

    cohort_id: int
    student_id: str
    desired: bool
    observed: bool | None
    observed_at: Instant
    user_id: int | None
    cause: str
    origin: str
    since: Instant
    due_by: Instant
    attempts: int
    next_attempt_at: Instant
    reason: str | None
    run: int | None
    held: str | None
    approved: str | None
    approved_until: Instant | None
    kept: str | None
    kept_at: Instant | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlatformFact:
    """How a platform answered last."""

    name: str
    state: str
    since: Instant
    attempts: int
    next_attempt_at: Instant
    code: str | None
    sentence: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountFact:
    """What was found when the student's account was looked for on a platform; `key` is None without a login."""

    platform: str
    key: str | None
    user_id: int | None = None
    looked_up_at: Instant | None = None
    reason: str | None = None
    """Why the last look-up found none that can be used."""
    near_id: int | None = None
    """An account that Moodle found although its name is another."""

    def confirms(self, user_id: int | None) -> bool:
        """Whether this account is the student's, as far as is known; before any look-up it is believed."""
        return self.looked_up_at is None or (self.reason is None and self.user_id == user_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalEntry:
    """One line of the journal; without a student number it is about the cohort as a whole."""

    id: int
    at: Instant
    platform: str
    cohort: str
    action: str
    student_id: str | None
    user_id: int | None
    cause: str | None
    origin: str | None
    detail: str | None
    run: int | None
    approved: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionFact:
    """What a person decided about a removal of the student, among others that they were shown."""

    hash: str
    verdict: str
    """An `Action`."""
    decided_by: str | None
    decided_at: Instant
    cohort_ids: frozenset[int]
    """Cohorts that it was about the student leaving."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentView:
    """Everything about one student, and about the cohort that was asked for."""

    asked: str
    survivor: str
    """The number that the memberships are under; the one asked for unless it was merged."""
    numbers: tuple[str, ...]
    """All numbers of this person, the survivor first."""
    known_numbers: tuple[Number, ...]
    merges: tuple[KnownMerge, ...]
    """Of these numbers, and into them, in force or not."""
    facts: tuple[Fact, ...]
    """What sources say of the enrolments of these numbers, and what other sources say of the same enrolments."""
    etapes: tuple[Described, ...]
    memberships: tuple[MembershipFact, ...]
    cohorts: tuple[CohortFact, ...]
    """Those of the memberships, and those that were asked for."""
    named: frozenset[int]
    """Ids of the cohorts that were asked for: by idnumber or name, as we want it or as Moodle has it."""
    idnumbers: tuple[tuple[str, str], ...]
    """Every cohort's platform and idnumber, when the one asked for is nowhere."""
    platforms: tuple[PlatformFact, ...]
    accounts: tuple[AccountFact, ...]
    journal: tuple[JournalEntry, ...]
    decisions: tuple[DecisionFact, ...]
    snapshots: tuple[AcceptedSnapshot, ...]
    """Accepted snapshots, newest first."""


def read(ledger: Ledger, policy: Policy, student_id: str, cohort_asked: str | None = None) -> StudentView:
    """Read everything that is known of a student.

    The policy gives the names of accounts, and the present code of the cohort that is asked for.
    """
    with ledger.read() as connection:
        numbers = numbers_of(connection, student_id)
        survivor = numbers[0]
        known = _all(connection, Number, student, student.c.student_id, numbers)
        facts = _facts(connection, numbers)
        memberships = _all(connection, MembershipFact, membership, membership.c.student_id, numbers)
        asked = set() if cohort_asked is None else {cohort_asked, canonical(cohort_asked, policy.aliases)}
        named = _named(connection, asked)
        cohorts = _all(connection, CohortFact, cohort, cohort.c.id, named | {m.cohort_id for m in memberships})
        codes = {fact.etape for fact in facts if fact.etape} | {c.etape for c in cohorts if c.etape}
        entries = _journal(connection, numbers, cohorts)
        return StudentView(
            asked=student_id,
            survivor=survivor,
            numbers=tuple(numbers),
            known_numbers=tuple(sorted(known, key=attrgetter("student_id"))),
            merges=tuple(of_numbers(connection, numbers)),
            facts=tuple(facts),
            etapes=tuple(_all(connection, Described, etape, etape.c.code, codes)),
            memberships=tuple(memberships),
            cohorts=tuple(cohorts),
            named=named,
            idnumbers=_idnumbers(connection) if asked and not named else (),
            platforms=tuple(_as(PlatformFact, row) for row in connection.execute(sa.select(platform))),
            accounts=tuple(_accounts(connection, policy, survivor, known)),
            journal=tuple(entries),
            decisions=tuple(_decisions(connection, numbers)),
            snapshots=tuple(accepted_snapshots(connection)),
        )


def _facts(connection: sa.Connection, numbers: Collection[str]) -> list[Fact]:
    own = _all(connection, Fact, enrolment, enrolment.c.student_id, numbers)
    keys = {(fact.uai, fact.enrolment_id) for fact in own}
    all_sources = _all(connection, Fact, enrolment, enrolment.c.enrolment_id, {fact.enrolment_id for fact in own})
    rows = [fact for fact in all_sources if (fact.uai, fact.enrolment_id) in keys]
    return sorted(rows, key=lambda fact: (-(fact.academic_year or 0), fact.enrolment_id, fact.system))


def _named(connection: sa.Connection, asked: Collection[str]) -> frozenset[int]:
    by = [cohort.c.idnumber, cohort.c.moodle_idnumber, cohort.c.wanted_name, cohort.c.moodle_name]
    return frozenset(connection.scalars(sa.select(cohort.c.id).where(sa.or_(*(column.in_(asked) for column in by)))))


def _idnumbers(connection: sa.Connection) -> tuple[tuple[str, str], ...]:
    rows = connection.execute(sa.select(cohort.c.platform, cohort.c.idnumber).order_by(cohort.c.idnumber))
    return tuple((row.platform, row.idnumber) for row in rows)


def _journal(connection: sa.Connection, numbers: Sequence[str], cohorts: Sequence[CohortFact]) -> list[JournalEntry]:
    """Return what was done for these numbers, and with these cohorts, in order."""
    about = sa.and_(journal.c.student_id.is_(None), journal.c.cohort.in_([each.idnumber for each in cohorts]))
    rows = connection.execute(
        sa.select(journal).where(sa.or_(journal.c.student_id.in_(numbers), about)).order_by(journal.c.id)
    )
    places = {(each.platform, each.idnumber) for each in cohorts}
    return [
        _as(JournalEntry, row) for row in rows if row.student_id is not None or (row.platform, row.cohort) in places
    ]


def _accounts(connection: sa.Connection, policy: Policy, survivor: str, known: Iterable[Number]) -> list[AccountFact]:
    login = next((number.login for number in known if number.student_id == survivor), None)
    found = []
    for place in policy.platforms:
        key = account_key(place, survivor, login)
        asked = sa.select(account).where(account.c.platform == place.name, account.c.key == key)
        row = connection.execute(asked).first()
        found.append(_as(AccountFact, row) if row is not None else AccountFact(platform=place.name, key=key))
    return found


def _decisions(connection: sa.Connection, numbers: Sequence[str]) -> list[DecisionFact]:
    about = sa.or_(*(proposal.c.removals.contains(f'"{number}"', autoescape=True) for number in numbers))
    rows = connection.execute(
        sa.select(proposal).where(proposal.c.verdict.is_not(None), about).order_by(proposal.c.decided_at)
    )
    return [
        DecisionFact(
            hash=row.hash,
            verdict=row.verdict,
            decided_by=row.decided_by,
            decided_at=row.decided_at,
            cohort_ids=frozenset(cohort_id for cohort_id, number in json.loads(row.removals) if number in numbers),
        )
        for row in rows
    ]


_T = TypeVar("_T", Fact, Number, Described, CohortFact, MembershipFact, PlatformFact, AccountFact, JournalEntry)


def _as(kind: type[_T], row: sa.Row[Any]) -> _T:
    return kind(**{field.name: getattr(row, field.name) for field in fields(kind)})


def _all(
    connection: sa.Connection, kind: type[_T], table: sa.Table, column: sa.Column[Any], values: Iterable[Any]
) -> list[_T]:
    return [_as(kind, row) for row in select_in(connection, sa.select(table), column, values)]
