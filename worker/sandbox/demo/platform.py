"""One of the demo's Moodles: who owns which account, what people do there by hand, and what it must look like."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from worker.sandbox.moodle.server import SandboxMoodle
from worker.sandbox.moodle.site import CohortRow

Members = frozenset[str | int]
"""Students, and ids of accounts that belong to no student."""
CohortState = tuple[CohortRow, Members]
Fingerprint = dict[int, CohortState]
"""Cohorts and their members by cohort id; equal before and after: nothing was touched."""
Labels = Mapping[str, tuple[str, str, str]]
"""By code of étape: its label, the code of its component and the component's label."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The cohorts of a platform, those made by hand aside, against what they must be."""

    cohorts: int
    wanted: int
    """Memberships of students with an account."""
    right: int
    """Those of them that Moodle shows."""
    accountless: int
    """Memberships of students without an account: they are parked."""
    foreign: int
    """Memberships in étape cohorts that people made and nobody adopted: they wait."""
    differences: tuple[str, ...]


@dataclass(kw_only=True)
class Platform:
    """A sandbox Moodle, the owners of its accounts, and the cohorts that people made there."""

    name: str
    moodle: SandboxMoodle
    components: frozenset[str] | None = None
    """Components whose étapes have a cohort on this platform; None for all."""
    students: dict[int, str] = field(default_factory=dict)
    """Student by id of the account."""
    by_hand: Fingerprint = field(default_factory=dict)
    """The cohorts that people made, as they made them."""
    unmatched: set[tuple[str, int]] = field(default_factory=set)
    """(idnumber, account) of each member whom a person added and who is no student: the account stays."""

    unclean: set[str] = field(default_factory=set)
    """Students whose accounts Moodle no longer returns: they stay where they are."""

    def add_accounts(self, accounts: Iterable[tuple[str, str]]) -> None:
        """Create the accounts (username, student id) that don't exist yet."""
        known = set(self.students.values())
        for username, student in accounts:
            if student not in known:
                self.students[self.moodle.add_user(username=username, idnumber=student)] = student

    def add_by_hand(self, name: str, idnumber: str, students: Iterable[str]) -> None:
        """Let a person create a cohort."""
        cohort = self.moodle.create_cohort(name=name, idnumber=idnumber)
        accounts = self.accounts()
        for student in students:
            self.moodle.add_member(cohort, accounts[student])
        self.by_hand[cohort] = self.fingerprint()[cohort]

    def add_unmatched(self, username: str, idnumber: str) -> None:
        """Let a person add somebody who is no student to the cohort of an étape."""
        account = self.moodle.add_user(username=username)
        self.moodle.add_member(self.etapes()[idnumber], account)
        self.unmatched.add((idnumber, account))

    def delete_account(self, student: str) -> None:
        """Let a person delete the account of a student."""
        account = self.accounts()[student]
        self.moodle.delete_user(account)
        del self.students[account]

    def make_unclean(self, student: str) -> None:
        """Let a person write something into a student's profile for which Moodle no longer returns the account."""
        self.moodle.change_user(self.accounts()[student], city="<Caen>")
        self.unclean.add(student)

    def exchange_accounts(self, one: str, other: str) -> None:
        """Let a person give the accounts of two students each other's usernames: each is the other student's then."""
        accounts = self.accounts()
        first, second = accounts[one], accounts[other]
        usernames = {account: self.moodle.users[account].username for account in (first, second)}
        self.moodle.change_user(first, username=usernames[second])
        self.moodle.change_user(second, username=usernames[first])
        self.students |= {first: other, second: one}

    def accounts(self) -> dict[str, int]:
        """Account by student."""
        return {student: account for account, student in self.students.items()}

    def etapes(self) -> dict[str, int]:
        """Cohort id by idnumber, of the cohorts that no person made."""
        return {cohort.idnumber: cohort.id for cohort in self.moodle.cohorts() if cohort.id not in self.by_hand}

    def memberships(self) -> set[tuple[str, str]]:
        """Each (étape, student) that Moodle shows in the cohorts that no person made."""
        return {
            (code, self.students[account])
            for code, cohort in self.etapes().items()
            for account in self.moodle.members(cohort)
            if account in self.students
        }

    def fingerprint(self) -> Fingerprint:
        """Every cohort, with its members."""
        return {
            cohort.id: (cohort, frozenset(self.students.get(user, user) for user in self.moodle.members(cohort.id)))
            for cohort in self.moodle.cohorts()
        }

    def touched(self) -> list[str]:
        """Names of the cohorts made by hand that have changed."""
        now = self.fingerprint()
        return [cohort.name for id_, (cohort, _) in self.by_hand.items() if now.get(id_) != self.by_hand[id_]]

    def routed(self, members: Mapping[str, frozenset[str]], labels: Labels) -> dict[str, frozenset[str]]:
        """Members by étape, of the étapes that have a cohort on this platform."""
        if self.components is None:
            return dict(members)
        return {code: students for code, students in members.items() if labels[code][1] in self.components}

    def compare(self, members: Mapping[str, frozenset[str]], labels: Labels) -> Comparison:
        """Compare name and members of every cohort that no person made with the true members by étape."""
        routed = self.routed(members, labels)
        taken = {cohort.idnumber for cohort, _ in self.by_hand.values()}
        ours = {code: students for code, students in routed.items() if code not in taken}
        with_account = frozenset(self.students.values())
        wanted = {code: students & with_account for code, students in ours.items()}
        shown = self._shown()
        differences: list[str] = []
        for code in sorted(wanted.keys() | shown.keys()):
            expected = self._expected_members(code, wanted)
            lines = _differences(expected, shown.get(code, []), labels.get(code))
            differences += [f"{self.name}: {code}: {line}" for line in lines]
        return Comparison(
            cohorts=_total(shown),
            wanted=_total(wanted),
            right=sum(len(wanted[code] & shown[code][0][1]) for code in wanted.keys() & shown.keys()),
            accountless=_total(ours) - _total(wanted),
            foreign=_total(routed) - _total(ours),
            differences=tuple(differences),
        )

    def _shown(self) -> dict[str, list[CohortState]]:
        """Return the cohorts that no person made, by idnumber."""
        shown: dict[str, list[CohortState]] = {}
        for id_, (cohort, members) in self.fingerprint().items():
            if id_ not in self.by_hand:
                shown.setdefault(cohort.idnumber, []).append((cohort, members))
        return shown

    def _expected_members(self, code: str, wanted: Mapping[str, frozenset[str]]) -> Members:
        if code not in wanted:
            return frozenset()
        return wanted[code] | {account for idnumber, account in self.unmatched if idnumber == code}


def _total(by_code: Mapping[str, frozenset[str] | list[CohortState]]) -> int:
    return sum(map(len, by_code.values()))


def _differences(expected: Members, shown: list[CohortState], label: tuple[str, str, str] | None) -> Iterator[str]:
    """Yield how the cohorts of one idnumber differ from the one that must exist."""
    if len(shown) != 1:
        if expected or shown:
            yield f"{len(shown)} cohorts instead of one with {len(expected)} members"
        return
    [(cohort, members)] = shown
    if missing := expected - members:
        yield f"{len(missing)} missing: {_first_few(missing)}"
    if extra := members - expected:
        yield f"{len(extra)} too many: {_first_few(extra)}"
    name = f"{label[2]}: {label[0]}" if label else None
    if cohort.name != name:
        yield f"is named «{cohort.name}», not «{name}»"


def _first_few(members: Members) -> str:
    names = sorted(map(str, members))
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")  # noqa: PLR2004 - enough to look into it
