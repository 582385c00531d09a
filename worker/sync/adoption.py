"""Adopting étape cohorts that exist already: a person's explicit decision, never a guess."""

import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from worker.domain.idnumbers import alike
from worker.domain.rules import PlatformPolicy
from worker.domain.states import CohortState
from worker.ledger import Ledger, adoption
from worker.ledger.accounts import Accounts
from worker.moodle import MoodleReader, RemoteCohort
from worker.sync.accounts import by_student, keys_of, look_up


@dataclass(frozen=True, slots=True, kw_only=True)
class AdoptionCandidate:
    """A cohort on Moodle that carries an idnumber of ours and isn't ours."""

    cohort_id: int
    idnumber: str
    """Ours, which the cohort gets if it has another spelling of it."""
    moodle_idnumber: str
    moodle_id: int | None
    """None when several cohorts carry the idnumber: a person must put that right on Moodle first."""
    name: str
    members: int
    present: int
    """Members that are desired there."""
    absent: int
    """Desired members who would be added."""
    others: int
    """Members who aren't desired there. They stay: adopting removes nobody."""
    accounts: dict[str, int]
    """Moodle accounts of the desired students that were found, by student id."""
    present_students: frozenset[str]


def candidates(
    ledger: Ledger, platform: PlatformPolicy, reader: MoodleReader, globs: Collection[str]
) -> list[AdoptionCandidate]:
    """Read the cohorts on Moodle whose idnumber the rules lead to, among those that match one of the globs.

    A cohort with another spelling is among them if Moodle's database has taken it for ours.
    """
    wanted = adoption.not_owned(ledger, platform.name, globs)
    misspelled = adoption.misspelled(ledger, platform.name)
    remote: defaultdict[str, list[RemoteCohort]] = defaultdict(list)
    on_moodle = {cohort.id: cohort for cohort in reader.cohorts()}
    for cohort in on_moodle.values():
        if cohort.idnumber in wanted:
            remote[cohort.idnumber].append(cohort)
    for idnumber in misspelled.keys() & (wanted.keys() - remote.keys()):
        for holder in alike(idnumber, on_moodle.values()):
            if holder.id == misspelled[idnumber]:
                remote[idnumber].append(holder)
    members = reader.members([cohorts[0].id for cohorts in remote.values() if len(cohorts) == 1])
    desired = adoption.desired(ledger, [wanted[idnumber] for idnumber in remote])
    accounts = _accounts(ledger, platform, reader, set().union(*desired.values()))
    found = []
    for idnumber, cohorts in sorted(remote.items()):
        cohort_id = wanted[idnumber]
        students = {student for student, _ in desired.get(cohort_id, ())}
        known = {student: accounts[student] for student in students & accounts.keys()}
        found.append(_candidate(cohort_id, idnumber, cohorts, members, students=students, accounts=known))
    return found


def _candidate(
    cohort_id: int,
    idnumber: str,
    cohorts: Sequence[RemoteCohort],
    members: Mapping[int, set[int]],
    *,
    students: Collection[str],
    accounts: dict[str, int],
) -> AdoptionCandidate:
    """Compare the cohorts that carry an idnumber with the students who are desired there."""
    first, *more = cohorts
    users = set() if more else members[first.id]
    present = frozenset(student for student, account in accounts.items() if account in users)
    return AdoptionCandidate(
        cohort_id=cohort_id,
        idnumber=idnumber,
        moodle_idnumber=first.idnumber,
        moodle_id=None if more else first.id,
        name=f"{len(cohorts)} cohorts with this idnumber" if more else first.name,
        members=len(users),
        present=len(present),
        absent=len(students) - len(present),
        others=len(users - {accounts[student] for student in present}),
        accounts=accounts,
        present_students=present,
    )


def adopt(ledger: Ledger, platform: PlatformPolicy, chosen: Iterable[AdoptionCandidate], *, by: str) -> int:
    """Make these cohorts ours, as Moodle showed them; returns how many. Nobody is removed."""
    taken = 0
    for candidate in chosen:
        if candidate.moodle_id is not None:
            adoption.take(
                ledger,
                candidate.cohort_id,
                platform=platform.name,
                values={
                    "state": CohortState.OWNED,
                    "moodle_id": candidate.moodle_id,
                    "moodle_name": candidate.name,
                    "moodle_idnumber": candidate.moodle_idnumber,
                },
                present={student: candidate.accounts[student] for student in candidate.present_students},
                now=time.time(),
                by=by,
            )
            taken += 1
    return taken


def _accounts(
    ledger: Ledger, platform: PlatformPolicy, reader: MoodleReader, students: Iterable[tuple[str, str | None]]
) -> dict[str, int]:
    """Look up the accounts of students, given with their logins, and remember them."""
    keys = keys_of(platform, students)
    accounts = look_up(reader, platform.account_field, set(keys.values())).accounts
    Accounts(ledger, platform.name).remember(accounts, time.time())
    return by_student(keys, accounts)
