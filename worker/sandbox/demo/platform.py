"""One of the demo's Moodles: whose accounts are whose, what people do there by hand, and what it must look like."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from worker.sandbox.moodle.server import SandboxMoodle
from worker.sandbox.moodle.site import SiteCohort

Members = frozenset[str | int]
"""Students, and ids of accounts that are no student's."""
Print = dict[int, tuple[SiteCohort, Members]]
"""Cohorts by id, as they are with their members: equal prints, nothing was touched."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A platform's cohorts, people's own aside, against what they must be."""

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
    """A sandbox Moodle, whose accounts are whose, and the cohorts that people made there."""

    name: str
    moodle: SandboxMoodle
    components: frozenset[str] | None = None
    """Components that lead here; None for every one."""
    students: dict[int, str] = field(default_factory=dict)
    """Student by id of the account."""
    by_hand: Print = field(default_factory=dict)
    strangers: set[tuple[str, int]] = field(default_factory=set)
    """Accounts of no student, each with the idnumber of the étape's cohort that a person put it in: it stays there."""

    def add_accounts(self, accounts: Iterable[tuple[str, str]]) -> None:
        """Create the accounts (username, student id) that are not there yet."""
        there = set(self.students.values())
        for username, student in accounts:
            if student not in there:
                self.students[self.moodle.add_user(username=username, idnumber=student)] = student

    def add_by_hand(self, name: str, idnumber: str, students: Iterable[str]) -> None:
        """Let a person make a cohort."""
        cohort = self.moodle.create_cohort(name=name, idnumber=idnumber)
        accounts = self.accounts()
        for student in students:
            self.moodle.add_member(cohort, accounts[student])
        self.by_hand[cohort] = self.print()[cohort]

    def add_stranger(self, username: str, idnumber: str) -> None:
        """Let a person put somebody who is no student in an étape's cohort."""
        account = self.moodle.add_user(username=username)
        self.moodle.add_member(self.etapes()[idnumber], account)
        self.strangers.add((idnumber, account))

    def delete_account(self, student: str) -> None:
        """Let a person delete a student's account."""
        account = self.accounts()[student]
        self.moodle.delete_user(account)
        del self.students[account]

    def accounts(self) -> dict[str, int]:
        """Account by student."""
        return {student: account for account, student in self.students.items()}

    def etapes(self) -> dict[str, int]:
        """Id by idnumber of the cohorts that no person made."""
        return {cohort.idnumber: cohort.id for cohort in self.moodle.cohorts() if cohort.id not in self.by_hand}

    def memberships(self) -> set[tuple[str, str]]:
        """Each (étape, student) that Moodle shows in these."""
        return {
            (code, self.students[account])
            for code, cohort in self.etapes().items()
            for account in self.moodle.members(cohort)
            if account in self.students
        }

    def print(self) -> Print:
        """Every cohort, with its members."""
        return {
            cohort.id: (cohort, frozenset(self.students.get(user, user) for user in self.moodle.members(cohort.id)))
            for cohort in self.moodle.cohorts()
        }

    def touched(self) -> list[str]:
        """Names of the cohorts made by hand that are no longer what they were."""
        now = self.print()
        return [cohort.name for id_, (cohort, _) in self.by_hand.items() if now.get(id_) != self.by_hand[id_]]

    def compare(self, members: Mapping[str, frozenset[str]], labels: Mapping[str, tuple[str, str, str]]) -> Comparison:
        """Compare every cohort that no person made, its members and its name, with the members by étape."""
        here = {
            code: who for code, who in members.items() if self.components is None or labels[code][1] in self.components
        }
        taken = {cohort.idnumber for cohort, _ in self.by_hand.values()}
        students = frozenset(self.students.values())
        wanted = {code: who & students for code, who in here.items() if code not in taken}
        strangers = {code: frozenset(account for where, account in self.strangers if where == code) for code in wanted}
        shown: dict[str, list[tuple[SiteCohort, Members]]] = {code: [] for code in wanted}
        for id_, (cohort, who) in self.print().items():
            if id_ not in self.by_hand:
                shown.setdefault(cohort.idnumber, []).append((cohort, who))
        return Comparison(
            cohorts=sum(map(len, shown.values())),
            wanted=sum(map(len, wanted.values())),
            right=sum(len(wanted.get(code, frozenset()) & found[0][1]) for code, found in shown.items() if found),
            accountless=sum(len(here[code] - students) for code in wanted),
            foreign=sum(len(who) for code, who in here.items() if code in taken),
            differences=tuple(
                f"{self.name}: {code}: {difference}"
                for code in sorted(shown)
                for difference in _differences(
                    wanted.get(code, frozenset()) | strangers.get(code, frozenset()), shown[code], labels.get(code)
                )
            ),
        )


def _differences(
    wanted: Members, shown: list[tuple[SiteCohort, Members]], label: tuple[str, str, str] | None
) -> Iterator[str]:
    """Say how the cohorts of one idnumber differ from the one that must be there."""
    if len(shown) != 1:
        if wanted or shown:
            yield f"{len(shown)} cohorts instead of one, which has {len(wanted)} members"
        return
    [(cohort, members)] = shown
    if missing := wanted - members:
        yield f"{len(missing)} missing: {_some(missing)}"
    if extra := members - wanted:
        yield f"{len(extra)} too many: {_some(extra)}"
    name = f"{label[2]}: {label[0]}" if label else None
    if cohort.name != name:
        yield f"is named «{cohort.name}», not «{name}»"


def _some(members: Members) -> str:
    names = sorted(map(str, members))
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")  # noqa: PLR2004 - enough to look into it
