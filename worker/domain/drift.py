"""One cohort's members as Moodle shows them, compared with what we left there. Pure: no I/O, no clock."""

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import NamedTuple

from worker.domain.cohorts import is_unmatched, unmatched_key
from worker.domain.instants import Instant
from worker.domain.states import Drift


class KnownMembership(NamedTuple):
    """A membership in the ledger. The names are those of its columns, which are read in this order."""

    student_id: str
    desired: bool
    observed: bool | None
    observed_at: Instant
    user_id: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MembershipDiff:
    """A membership of which the reading shows something new; `drift` when no message had announced it."""

    student_id: str
    present: bool
    user_id: int | None
    drift: Drift | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CohortDiff:
    """What a reading shows of one cohort that is new."""

    seen: tuple[MembershipDiff, ...]
    extras: tuple[tuple[str, int], ...]
    """Members whom we know and who were never desired there: student id and account."""
    unmatched: tuple[int, ...]
    """Accounts of members whom we can't tie to a student."""
    unclean: tuple[int, ...] = ()
    """Accounts of members whom Moodle doesn't show, so that nobody can tie them to anybody: they stay."""
    desired: frozenset[int] = field(default=frozenset(), compare=False)
    """Accounts of the members who are desired there, which is nothing new."""
    misplaced: tuple[tuple[str, int], ...] = ()
    """Accounts of members that turned out not to be theirs and are to leave: their student, or their key, and they."""
    unconfirmed: int = 0
    """Members whose account has their name no more, while nobody else's account is known to be theirs: they stay."""


@dataclass(frozen=True, slots=True, kw_only=True)
class People:
    """Who is who on a platform."""

    accounts: Mapping[str, int]
    """Accounts by student."""
    students: Mapping[int, str]
    """Students by account; of merged numbers, the one that lives on."""
    gone: AbstractSet[int]
    """Accounts that we knew and that were deleted."""
    unclean: AbstractSet[int] = frozenset()
    """Accounts that exist and that Moodle doesn't show, so that nobody knows whose they are."""
    shared: Mapping[int, AbstractSet[str]] = field(default_factory=dict)
    """All students by account, of accounts that several are called by."""
    survivors: Mapping[str, str] = field(default_factory=dict)
    """What merged numbers have become."""

    def is_anothers(self, user_id: int, student_id: str) -> bool:
        """Whether an account is surely not this student's: it is another's, or theirs is another account."""
        if is_unmatched(student_id):
            return False
        number = self.survivors.get(student_id, student_id)
        if user_id in self.students:
            return number != self.students[user_id] and number not in self.shared.get(user_id, ())
        return self.accounts.get(number, user_id) != user_id


def compare(
    known: Iterable[KnownMembership], members: AbstractSet[int], people: People, *, at: Instant, in_flight: bool
) -> CohortDiff:
    """Compare one cohort. `at` is when the reading began: what was learnt since is newer, and stays.

    `in_flight` says that somebody holds the cohort's lease, so a membership of unknown outcome may be in a call.
    """
    present = {people.students[user_id]: user_id for user_id in sorted(members & people.students.keys())}
    present |= {number: account for number, account in people.accounts.items() if account in members}
    reading = _CohortReading(members=members, people=people, present=present, at=at, in_flight=in_flight)
    rows = [(row, reading.account(row)) for row in known]
    staying = {user_id for row, user_id in rows if row.desired}
    seen = []
    for row, user_id in rows:
        diff = reading.classify(row, user_id, staying)
        if diff is not None:
            seen.append(diff)
    untied = _untied(rows, members, people)
    ours = {row.user_id for row, _ in rows if row.observed is not False and reading.changed_hands(row)}
    misplaced = [user_id for user_id in untied if user_id in ours]
    others = [user_id for user_id in untied if user_id not in ours]
    return CohortDiff(
        seen=tuple(seen),
        extras=tuple((people.students[user_id], user_id) for user_id in others if user_id in people.students),
        unmatched=tuple(each for each in others if each not in people.students and each not in people.unclean),
        unclean=tuple(each for each in others if each in people.unclean),
        misplaced=tuple((people.students.get(each, unmatched_key(each)), each) for each in misplaced),
        unconfirmed=sum(reading.is_unconfirmed(row) for row, _ in rows),
        desired=frozenset(user_id for user_id in members if user_id in staying),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _CohortReading:
    """What a reading showed of a cohort, to compare its known memberships with."""

    members: AbstractSet[int]
    people: People
    present: Mapping[str, int]
    """Members by student; of several accounts, the one that is known as theirs."""
    at: Instant
    in_flight: bool

    def account(self, row: KnownMembership) -> int | None:
        """Return the account that stands for a membership: one that is there, or else the one it was given to.

        An account that was made anew takes the place of the one that the membership was given to. That of a former
        number doesn't stand for a student who is to be there and has an account of their own.
        """
        given = None if self.changed_hands(row) else row.user_id
        if given in self.members:
            return given
        theirs = self.people.accounts.get(row.student_id)
        known = [user_id for user_id in (given, theirs) if user_id is not None]
        if row.student_id in self.present and not (row.desired and known):
            known.append(self.present[row.student_id])
        return next((user_id for user_id in known if user_id in self.members), known[0] if known else None)

    def changed_hands(self, row: KnownMembership) -> bool:
        """Whether a member who is to be there was given an account that is there and isn't theirs."""
        if not row.desired or row.user_id is None or row.user_id not in self.members or self._is_newer(row):
            return False
        return self.people.is_anothers(row.user_id, row.student_id)

    def is_unconfirmed(self, row: KnownMembership) -> bool:
        """Whether a member's account has nobody's name, and nobody knows another one of theirs."""
        if not row.desired or is_unmatched(row.student_id) or row.user_id not in self.members:
            return False
        named = row.user_id in self.people.students or row.user_id in self.people.unclean
        return not named and row.student_id not in self.people.accounts

    def classify(
        self, row: KnownMembership, user_id: int | None, staying: AbstractSet[int | None]
    ) -> MembershipDiff | None:
        """Return what is new of a membership, for which this account stands; None when nothing is.

        `staying` are the accounts of the memberships that are desired.
        """
        present = user_id in self.members
        if self._is_as_left(row, user_id) or self._is_newer(row):
            return None
        if present and not row.desired and user_id in staying:
            return None  # the account stays for another student number of the same person
        gone = user_id in self.people.gone
        drift = Drift.CHANGED_HANDS if self.changed_hands(row) else _drift(row, present=present, gone=gone)
        return MembershipDiff(
            student_id=row.student_id,
            present=present,
            user_id=user_id if present or (row.desired and not gone) else None,
            drift=drift,
        )

    def _is_as_left(self, row: KnownMembership, user_id: int | None) -> bool:
        present = user_id in self.members
        return present is row.observed and (user_id == row.user_id or not present)

    def _is_newer(self, row: KnownMembership) -> bool:
        """Whether the row was written after the reading began, or may be once a call has ended."""
        return row.observed_at > self.at or (row.observed is None and self.in_flight)


def _untied(rows: Sequence[tuple[KnownMembership, int | None]], members: AbstractSet[int], people: People) -> list[int]:
    """Return the members whom no known membership stands for.

    A second account of somebody whose membership is known isn't among them: that is no reason to end the membership.
    """
    tied = {user_id for _, user_id in rows}
    noted = {row.student_id for row, _ in rows}
    return sorted(user_id for user_id in members - tied if people.students.get(user_id) not in noted)


def _drift(row: KnownMembership, *, present: bool, gone: bool) -> Drift | None:
    """Return the drift; None when Moodle has come nearer to what is desired, or when its former state was unknown."""
    if row.observed in {None, present} or present == row.desired:
        return None
    if present:
        return Drift.EXTRA
    return Drift.GONE_ACCOUNT if gone else Drift.MISSING
