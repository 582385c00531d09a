"""Adopting étape cohorts that exist already: a person's explicit decision, never a guess.

Who would stay, leave or join is found as a night finds it, so that the first night brings nothing unannounced.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase

from worker.domain.accounts import FoundAccount
from worker.domain.departure import Departure, departure
from worker.domain.drift import CohortDiff, compare
from worker.domain.errors import MoodleRejected
from worker.domain.idnumbers import alike
from worker.domain.rules import Mapper, PlatformPolicy
from worker.domain.states import CohortState
from worker.ledger import Ledger, adoption
from worker.ledger.accounts import Accounts
from worker.ledger.adoption import KnownStudents, WantedCohort
from worker.ledger.observations import known_students
from worker.moodle import MoodleReader, RemoteCohort
from worker.sync.accounts import check_sight
from worker.sync.people import single, tie

EVERYTHING = "*"
"""The glob that chooses every cohort."""


class Obstacle(StrEnum):
    """Why a cohort that was chosen isn't adopted."""

    OWNED = "owned"
    """It is ours already."""
    ABSENT = "absent"
    """There is no such cohort on Moodle: it will be created."""
    COLLIDING = "colliding"
    """There is none, and Moodle's database takes its idnumber for that of another cohort of ours."""
    SEVERAL = "several"
    """Several cohorts on Moodle have its idnumber."""
    ANOTHERS = "anothers"
    """The cohort on Moodle is another one of ours, to which somebody gave this idnumber."""
    NO_RULE = "no_rule"
    """It is on Moodle, and no rule leads to it."""
    NO_MATCH = "no_match"
    """Neither a rule's nor Moodle's idnumbers match the pattern."""
    VANISHED = "vanished"
    """It was deleted, or given another name or idnumber, after it was looked at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NotAdopted:
    """A cohort, or a pattern, that was chosen and isn't adopted."""

    what: str
    """Idnumber, or pattern."""
    why: Obstacle
    moodle_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class AdoptionCandidate:
    """A cohort on Moodle that carries an idnumber of ours and isn't ours.

    Each member stays, leaves, or is unmatched or unclean.
    """

    cohort_id: int
    moodle_id: int
    idnumber: str
    """Ours, which it gets if it has another spelling of it."""
    moodle_idnumber: str
    name: str
    """Its name on Moodle."""
    new_name: str | None
    """The name that it gets; None when it keeps its own."""
    is_movable: bool
    """Whether it is in the system context: any other cohort keeps its name and its idnumber."""
    members: int
    staying: int
    """Members who are desired there."""
    leaving: Mapping[Departure, int]
    """Known students who aren't. The first reading finds them, and holds their removals until a person decides."""
    unmatched: int
    """Members who match no known student. They stay, unless the settings say otherwise."""
    unclean: int
    """Members whose account Moodle doesn't return: they stay."""
    joining: int
    """Desired students who aren't members."""
    present: Mapping[str, int]
    """Accounts of desired members, by student."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Match:
    """A cohort of the rules, and the one on Moodle that may be adopted for it."""

    wanted: WantedCohort
    remote: RemoteCohort


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """The cohorts that were chosen: those that can be adopted, and the others."""

    candidates: tuple[AdoptionCandidate, ...]
    others: tuple[NotAdopted, ...]
    accounts: Mapping[str, FoundAccount]
    """Accounts of known students that were found, by key."""


def survey(
    ledger: Ledger, mapper: Mapper, platform: PlatformPolicy, reader: MoodleReader, globs: Collection[str]
) -> Survey:
    """Look at the cohorts that match one of the globs, on Moodle and in the ledger. Nothing is written.

    A cohort with another spelling is among them if Moodle's database has taken it for ours.
    """
    matches, others, members = _read(reader, adoption.wanted(ledger, platform.name), globs)
    movable = reader.system_cohort_ids() if matches else set()
    now = time.time()
    users = set().union(*members.values())
    shown = reader.account_keys(platform.account_field, sorted(users))
    if users and not any(shown.keys.values()):
        check_sight(reader)
    called = known_students(ledger, platform)
    bearers: defaultdict[str, set[int]] = defaultdict(set)
    for user_id, key in shown.keys.items():
        bearers[key].add(user_id)
    alone = single(bearers)
    tied = tie(called, bearers, alone, gone=frozenset(), unclean=shown.unclean)
    known = adoption.members(ledger, [match.wanted.id for match in matches], now)
    diffs = {
        match.wanted.id: compare(
            known[match.wanted.id].values(), members[match.remote.id], tied, at=now, in_flight=False
        )
        for match in matches
    }
    leaving = {cohort_id: _leaving(diff) for cohort_id, diff in diffs.items()}
    sources = adoption.students(ledger, platform.name, set().union(*leaving.values()))
    candidates = []
    for match in matches:
        cohort_id = match.wanted.id
        candidates.append(
            _candidate(
                match,
                diffs[cohort_id],
                _departures(match.wanted, leaving[cohort_id], sources, mapper, platform.name),
                members=len(members[match.remote.id]),
                desired=sum(row.desired for row in known[cohort_id].values()),
                is_movable=match.remote.id in movable,
            )
        )
    found = {key: FoundAccount(user_id=user_id) for key, user_id in alone.items() if called.owner(key) is not None}
    return Survey(candidates=tuple(candidates), others=tuple(others), accounts=found)


def adopt(
    ledger: Ledger, platform: PlatformPolicy, reader: MoodleReader, chosen: Survey, *, by: str
) -> list[NotAdopted]:
    """Make these cohorts ours, as Moodle showed them; returns those that changed since. Nobody is removed."""
    now = time.time()
    remote = {cohort.id: cohort for cohort in reader.cohorts()}
    holders = Counter(cohort.idnumber for cohort in remote.values())
    missed = []
    for candidate in chosen.candidates:
        found = remote.get(candidate.moodle_id)
        if found is None or (found.name, found.idnumber) != (candidate.name, candidate.moodle_idnumber):
            why = Obstacle.VANISHED
        elif holders[found.idnumber] > 1:
            why = Obstacle.SEVERAL
        elif not _take(ledger, platform, candidate, now, by=by):
            why = Obstacle.OWNED
        else:
            continue
        missed.append(NotAdopted(what=candidate.idnumber, why=why, moodle_ids=(candidate.moodle_id,)))
    Accounts(ledger, platform.name).remember(chosen.accounts, now)
    return missed


def _take(ledger: Ledger, platform: PlatformPolicy, candidate: AdoptionCandidate, now: float, *, by: str) -> bool:
    return adoption.take(
        ledger,
        candidate.cohort_id,
        platform=platform.name,
        values={
            "moodle_id": candidate.moodle_id,
            "moodle_name": candidate.name,
            "moodle_idnumber": candidate.moodle_idnumber,
        },
        present=candidate.present,
        now=now,
        by=by,
    )


# Which cohorts

_Chosen = tuple[list[_Match], list[NotAdopted], dict[int, set[int]]]


def _read(reader: MoodleReader, wanted: Sequence[WantedCohort], globs: Collection[str]) -> _Chosen:
    """Read the chosen cohorts with their members, once more when one is deleted in between."""
    for last in (False, True):
        remote = reader.cohorts()
        matches, others = _match(wanted, remote, globs)
        try:
            return (
                matches,
                [*others, *_unmatched(wanted, remote, globs)],
                reader.members([match.remote.id for match in matches]),
            )
        except MoodleRejected:
            if last:
                raise
    raise AssertionError  # pragma: no cover - the second round returns or raises


def _match(
    wanted: Iterable[WantedCohort], remote: Iterable[RemoteCohort], globs: Collection[str]
) -> tuple[list[_Match], list[NotAdopted]]:
    """Match the chosen cohorts of the rules with those of a platform. Pure."""
    by_id, by_idnumber = {cohort.id: cohort for cohort in remote}, defaultdict(list)
    for cohort in by_id.values():
        by_idnumber[cohort.idnumber].append(cohort)
    taken = {each.moodle_id for each in wanted if each.state is CohortState.OWNED}
    matches, others = [], []
    chosen = [each for each in wanted if _is_chosen(each.idnumber, globs)]
    # Those whose very idnumber is there come first: a cohort goes to one étape at most.
    for each in sorted(chosen, key=lambda each: each.idnumber not in by_idnumber):
        holders = by_idnumber.get(each.idnumber) or _misspelled(each, by_id)
        why = _obstacle(each, holders, taken)
        if why is None:
            taken.add(holders[0].id)
            matches.append(_Match(wanted=each, remote=holders[0]))
        else:
            ids = tuple(holder.id for holder in holders)
            others.append(NotAdopted(what=each.idnumber, why=why, moodle_ids=ids))
    return sorted(matches, key=lambda match: match.wanted.idnumber), others


def _misspelled(wanted: WantedCohort, remote: Mapping[int, RemoteCohort]) -> list[RemoteCohort]:
    """Return the cohort that Moodle's database takes for a foreign one of ours, under another idnumber."""
    holder = remote.get(wanted.blocker_id or 0)
    return alike(wanted.idnumber, [holder]) if holder is not None and wanted.state is CohortState.FOREIGN else []


def _obstacle(wanted: WantedCohort, holders: Sequence[RemoteCohort], taken: Collection[int | None]) -> Obstacle | None:
    """Return what keeps a cohort from being adopted; `taken` are Moodle's ids of those that are ours, or will be."""
    if wanted.state is CohortState.OWNED:
        return Obstacle.OWNED
    if not holders:
        return Obstacle.COLLIDING if wanted.state is CohortState.COLLIDING else Obstacle.ABSENT
    if len(holders) > 1:
        return Obstacle.SEVERAL
    return Obstacle.ANOTHERS if holders[0].id in taken else None


def _unmatched(
    wanted: Iterable[WantedCohort], remote: Iterable[RemoteCohort], globs: Collection[str]
) -> Iterator[NotAdopted]:
    """Yield what was chosen and no rule leads to: cohorts of Moodle, and patterns that match nothing."""
    idnumbers = {each.idnumber for each in wanted}
    theirs = {cohort.id: cohort.idnumber for cohort in remote if cohort.idnumber not in idnumbers}
    for glob in globs:
        found = {number: idnumber for number, idnumber in theirs.items() if fnmatchcase(idnumber, glob)}
        if found and glob != EVERYTHING:
            for idnumber in sorted(set(found.values())):
                ids = tuple(number for number, each in found.items() if each == idnumber)
                yield NotAdopted(what=idnumber, why=Obstacle.NO_RULE, moodle_ids=ids)
        elif not any(fnmatchcase(idnumber, glob) for idnumber in idnumbers):
            yield NotAdopted(what=glob, why=Obstacle.NO_MATCH)


def _is_chosen(idnumber: str, globs: Iterable[str]) -> bool:
    return any(fnmatchcase(idnumber, glob) for glob in globs)


# Who is in them


def _leaving(diff: CohortDiff) -> set[str]:
    """Return the students whose removal the first reading finds."""
    leaving = {one.student_id for one in diff.seen if one.present and one.user_id not in diff.desired}
    return leaving | {student for student, _ in diff.extras}


def _departures(
    wanted: WantedCohort, leaving: Iterable[str], sources: KnownStudents, mapper: Mapper, platform: str
) -> Counter[Departure]:
    """Count the students who leave a cohort, by why."""
    return Counter(
        departure(
            sources.enrolments.get(student, ()),
            sources.components,
            mapper,
            platform=platform,
            idnumber=wanted.idnumber,
            elsewhere=bool(sources.places.get(student, frozenset()) - {wanted.id}),
        )
        for student in leaving
    )


def _candidate(
    match: _Match, diff: CohortDiff, leaving: Counter[Departure], *, members: int, desired: int, is_movable: bool
) -> AdoptionCandidate:
    """Describe a candidate; `members` and `desired` are counts. One that isn't `is_movable` keeps what it is called."""
    wanted, remote = match.wanted, match.remote
    present = {
        one.student_id: one.user_id
        for one in diff.seen
        if one.present and one.user_id is not None and one.user_id in diff.desired
    }
    is_renamed = is_movable and wanted.name_is_ours and wanted.wanted_name not in {None, remote.name}
    return AdoptionCandidate(
        cohort_id=wanted.id,
        moodle_id=remote.id,
        idnumber=wanted.idnumber,
        moodle_idnumber=remote.idnumber,
        name=remote.name,
        new_name=wanted.wanted_name if is_renamed else None,
        is_movable=is_movable,
        members=members,
        staying=members - leaving.total() - len(diff.unmatched) - len(diff.unclean),
        leaving=dict(leaving),
        unmatched=len(diff.unmatched),
        unclean=len(diff.unclean),
        joining=desired - len(present),
        present=present,
    )
