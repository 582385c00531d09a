"""Taking over étape cohorts that exist already: a person's explicit decision, never a guess."""

import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from worker.domain.rules import PlatformPolicy, account_key
from worker.domain.states import CohortState
from worker.ledger import Ledger, adoption
from worker.ledger.accounts import Accounts
from worker.moodle import MoodleReader


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A cohort on Moodle that carries an idnumber of ours and isn't ours."""

    cohort_id: int
    idnumber: str
    moodle_id: int | None
    """None when several cohorts carry the idnumber: a person must settle that on Moodle first."""
    name: str
    members: int
    present: int
    """Members that are desired there."""
    absent: int
    """Desired ones that would be added."""
    others: int
    """Members that we don't desire there. They stay: adopting removes nobody."""
    accounts: dict[str, int]
    """Moodle accounts of the desired students that were found, by student id."""
    present_students: frozenset[str]


def candidates(
    ledger: Ledger, platform: PlatformPolicy, reader: MoodleReader, globs: Collection[str]
) -> list[Candidate]:
    """Read the cohorts on Moodle whose idnumber the rules lead to, among those that match one of the globs."""
    wanted = adoption.not_owned(ledger, platform.name, globs)
    there: dict[str, list[tuple[int, str]]] = {}
    for remote in reader.cohorts():
        if remote.idnumber in wanted:
            there.setdefault(remote.idnumber, []).append((remote.id, remote.name))
    single = {idnumber: found[0] for idnumber, found in there.items() if len(found) == 1}
    members = reader.members([moodle_id for moodle_id, _ in single.values()])
    desired = adoption.desired(ledger, [wanted[idnumber] for idnumber in there])
    accounts = _accounts(ledger, platform, reader, {row for rows in desired.values() for row in rows})
    found = []
    for idnumber in sorted(there):
        cohort_id = wanted[idnumber]
        moodle_id, name = single.get(idnumber, (None, f"{len(there[idnumber])} cohorts with this idnumber"))
        users = members[moodle_id] if moodle_id is not None else set()
        students = {student for student, _ in desired.get(cohort_id, ())}
        present = frozenset(student for student in students if accounts.get(student) in users)
        found.append(
            Candidate(
                cohort_id=cohort_id,
                idnumber=idnumber,
                moodle_id=moodle_id,
                name=name,
                members=len(users),
                present=len(present),
                absent=len(students) - len(present),
                others=len(users - {accounts[student] for student in present}),
                accounts={student: accounts[student] for student in students & accounts.keys()},
                present_students=present,
            )
        )
    return found


def adopt(ledger: Ledger, platform: PlatformPolicy, chosen: Iterable[Candidate], *, by: str) -> int:
    """Make these cohorts ours, with what Moodle showed of them; returns how many. Nobody is removed."""
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
                    "moodle_idnumber": candidate.idnumber,
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
    keys = {student: account_key(platform, student, login) for student, login in students}
    found = reader.users(platform.account_field, sorted({key for key in keys.values() if key is not None}))
    single = {key: ids[0] for key, ids in found.items() if len(ids) == 1}
    Accounts(ledger, platform.name).remember(single, time.time())
    return {student: single[key] for student, key in keys.items() if key in single}
