"""Persons and their student numbers: an enrolment that names a person follows the person, whatever their number.

Nothing here depends on the order of the messages. Who loses their number keeps it, until it is another's: from then on
their enrolments wait until they have one again.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import sqlalchemy as sa

from worker.domain.changes import NumberChange, PersonEnrolled, PersonNumbered, Received
from worker.domain.instants import Instant
from worker.domain.merges import Person
from worker.domain.states import Cause
from worker.ledger.database import among, select_in, update, upsert
from worker.ledger.enrolments import Counts, Touched, Trigger
from worker.ledger.schema import NO_NUMBER, enrolment, of_person, person

T = TypeVar("T")


class _Claim(NamedTuple):
    """That a person has a number, as it was said last; newer ones are greater."""

    version: int
    changed_at: Instant
    sequence: str
    since: Instant = 0.0


OVERRULED = -1
"""Version of what was said of a number before a snapshot: any message comes after it."""
Claims = dict[tuple[Person, str], _Claim]
"""By person and number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedBatch:
    """A batch in which every enrolment names a student, or nobody, and what its numbers of persons changed."""

    changes: Sequence[Received]
    merges: Sequence[Received]
    """Of the former numbers of persons into their present ones."""
    claimed: Mapping[str, Trigger]
    """The numbers that a person has had whom nobody knew to."""
    touched: Touched
    counts: Counts


def named(connection: sa.Connection, batch: Sequence[Received]) -> NamedBatch:
    """Write who has which number, lead their enrolments there, and name the students of this batch."""
    changes = [item for item in batch if not isinstance(item.change, PersonEnrolled | PersonNumbered)]
    numbered = _of_kind(batch, PersonNumbered)
    enrolled = _of_kind(batch, PersonEnrolled)
    if not numbered and not enrolled:
        return NamedBatch(changes=changes, merges=[], claimed={}, touched=Touched(), counts=Counts())
    persons = {_person(change) for change, _ in numbered}
    persons |= {(change.enrolment.uai, change.person) for change, _ in enrolled}
    claims = _claims(connection, persons, {change.student_id for change, _ in numbered})
    before, known = _present(claims), {*claims}
    told = _tell(connection, claims, numbered)
    numbers = _present(claims)
    moved = {who: number for who, number in numbers.items() if number != before.get(who, NO_NUMBER)}
    own = {_person(change): _trigger(change, published_at) for change, published_at in numbered}
    takers = {change.student_id: _trigger(change, published_at) for change, published_at in numbered}
    for change, published_at in enrolled:
        who = (change.enrolment.uai, change.person)
        of_student = change.enrolment._replace(student_id=numbers.get(who, NO_NUMBER), cod_ind=change.person)
        waited_for = own[who].published_at if who in moved and who in own else published_at
        changes.append(Received(change=of_student, published_at=max(published_at, waited_for)))
    return NamedBatch(
        changes=changes,
        merges=_merges(claims, numbered, known, before),
        claimed={
            change.student_id: _trigger(change, published_at)
            for change, published_at in numbered
            if change.student_id != NO_NUMBER and (_person(change), change.student_id) not in known
        },
        touched=_lead(connection, moved, {who: own[who] if who in own else takers[before[who]] for who in moved}),
        counts=told,
    )


def _of_kind(batch: Iterable[Received], kind: type[T]) -> list[tuple[T, Instant]]:
    return [(item.change, item.published_at) for item in batch if isinstance(item.change, kind)]


def _person(change: PersonNumbered) -> Person:
    return change.uai, change.person


def _trigger(change: PersonNumbered, published_at: Instant) -> Trigger:
    return Trigger(Cause.REKEYED, change.origin, published_at)


def _claims(connection: sa.Connection, persons: Collection[Person], numbers: Collection[str]) -> Claims:
    """Return all that is known of the numbers of these persons, and of who else has had one of them, or of these."""
    claims = _read(connection, person.c.cod_ind, {cod_ind for _, cod_ind in persons})
    numbers = {*numbers, *(number for _, number in claims)} - {NO_NUMBER}
    claims |= _read(connection, person.c.student_id, numbers)
    return claims | _read(connection, person.c.cod_ind, {cod_ind for (_, cod_ind), _ in claims})


def _read(connection: sa.Connection, column: sa.Column[str] | sa.Column[int], values: Collection[object]) -> Claims:
    columns = sa.select(*person.primary_key, *(person.c[name] for name in _Claim._fields))
    return {
        ((uai, cod_ind), number): _Claim._make(claim)
        for uai, cod_ind, number, *claim in map(tuple, select_in(connection, columns, column, values))
    }


def _present(claims: Claims) -> dict[Person, str]:
    """Return the number of each person now. Who lost theirs has none once it was said of another person."""
    latest: dict[Person, tuple[_Claim, str]] = {}
    numbered: dict[Person, tuple[_Claim, str]] = {}
    bearers: dict[tuple[str, str], tuple[_Claim, Person]] = {}
    for (who, number), claim in claims.items():
        latest[who] = max(latest.get(who, (claim, number)), (claim, number))
        if number != NO_NUMBER:
            numbered[who] = max(numbered.get(who, (claim, number)), (claim, number))
            bearers[who[0], number] = max(bearers.get((who[0], number), (claim, who)), (claim, who))
    present = {}
    for who, (_, number) in numbered.items():
        lost = latest[who][1] == NO_NUMBER and bearers[who[0], number][1] != who
        present[who] = NO_NUMBER if lost else number
    return present


def _tell(connection: sa.Connection, claims: Claims, numbered: Iterable[tuple[PersonNumbered, Instant]]) -> Counts:
    """Write what a batch says of numbers, here and in the ledger."""
    written: set[tuple[Person, str]] = set()
    applied = stale = 0
    for change, _ in numbered:
        key = (_person(change), change.student_id)
        claim = _Claim(change.version, change.changed_at, change.sequence, change.changed_at)
        known = claims.get(key)
        if known is not None:
            since = min(known.since, claim.since)
            claim = max(known, claim)._replace(since=since)
        if claim == known:
            stale += 1
            continue
        applied += 1
        claims[key] = claim
        written.add(key)
    _write(connection, {key: claims[key] for key in written})
    return Counts(applied=applied, stale=stale)


def _merges(
    claims: Claims,
    numbered: Iterable[tuple[PersonNumbered, Instant]],
    known: Collection[tuple[Person, str]],
    before: Mapping[Person, str],
) -> list[Received]:
    """Return the merges of all former numbers of the persons who got another one into that."""
    numbers: defaultdict[Person, dict[str, _Claim]] = defaultdict(dict)
    for (who, number), claim in claims.items():
        numbers[who][number] = claim
    merges: list[Received] = []
    for change, published_at in {_person(item[0]): item for item in numbered}.values():
        had = numbers[_person(change)]
        had.pop(NO_NUMBER, None)
        if not had:
            continue
        present = max(had, key=lambda number: (had[number], number))
        if present == before.get(_person(change)) and all((_person(change), number) in known for number in had):
            continue
        for former in sorted(had.keys() - {present}):
            merge = NumberChange(
                uai=change.uai,
                previous_student_id=former,
                student_id=present,
                changed_at=had[present].changed_at,
                origin=change.origin,
            )
            merges.append(Received(change=merge, published_at=published_at))
    return merges


def _lead(connection: sa.Connection, moved: Mapping[Person, str], triggers: Mapping[Person, Trigger]) -> Touched:
    """Lead the enrolments of persons to the numbers that they have now."""
    touched = Touched()
    rows = []
    for row in select_in(connection, _FOLLOWING, enrolment.c.cod_ind, {cod_ind for _, cod_ind in moved}):
        who = (row.uai, row.cod_ind)
        number = moved.get(who, row.student_id)
        if number == row.student_id:
            continue
        trigger = triggers[who]
        if row.student_id == NO_NUMBER:  # it waited for this: what it says is the news
            told_at = max(trigger.published_at, row.recorded_at)
            touched.touch(number, Trigger(Cause(row.status), row.origin, told_at, trigger.run), row.etape)
        else:
            touched.touch(row.student_id, trigger, row.etape)
            touched.touch(number, trigger, row.etape)
        key = {"uai": row.uai, "enrolment_id": row.enrolment_id, "system": row.system}
        rows.append({**key, "student_id": number})
    update(connection, enrolment, rows)
    return touched


def overrule(connection: sa.Connection, numbers: Mapping[Person, str], trigger: Trigger) -> Touched:
    """Write the numbers that a snapshot gave persons, and lead their enrolments there; `trigger` is of its instant.

    What was said later stays. What was said before, in however high a version, is heard no more.
    """
    claims = _claims(connection, numbers.keys(), ())
    later = {who for (who, _), claim in claims.items() if claim.changed_at > trigger.published_at}
    present = _present(claims)
    moved = {who: n for who, n in numbers.items() if who not in later and present.get(who) != n}
    overruled = {key: claim._replace(version=OVERRULED) for key, claim in claims.items() if key[0] in moved}
    for key in moved.items():
        since = min(trigger.published_at, claims[key].since) if key in claims else trigger.published_at
        overruled[key] = _Claim(OVERRULED, trigger.published_at, "", since)
    _write(connection, overruled)
    return _lead(connection, moved, dict.fromkeys(moved, trigger))


def _write(connection: sa.Connection, claims: Claims) -> None:
    rows = [
        {"uai": uai, "cod_ind": cod_ind, "student_id": number, **claim._asdict()}
        for ((uai, cod_ind), number), claim in sorted(claims.items())
    ]
    upsert(connection, person, rows, update=_Claim._fields)


def persons_of(connection: sa.Connection, numbers: Collection[str]) -> dict[str, set[Person]]:
    """Return everybody who has, or had, each of these numbers."""
    found: defaultdict[str, set[Person]] = defaultdict(set)
    for who, number in _read(connection, person.c.student_id, numbers):
        found[number].add(who)
    return found


def forget_numberless(connection: sa.Connection, before: Instant) -> None:
    """Delete the persons who have no number, nor had one, as was said last before an instant."""
    another = person.alias()
    numbered = sa.exists().where(
        another.c.uai == person.c.uai, another.c.cod_ind == person.c.cod_ind, another.c.student_id != NO_NUMBER
    )
    old = sa.and_(person.c.student_id == NO_NUMBER, person.c.changed_at < before)
    connection.execute(sa.delete(person).where(old, ~numbered))


def forget(connection: sa.Connection, numbers: Sequence[str]) -> int:
    """Delete that anybody has had these numbers, and all numbers of those whose number is one of them."""
    claims = _claims(connection, (), numbers)
    owners = sorted(who for who, number in _present(claims).items() if number in {*numbers})
    gone = connection.execute(sa.delete(person).where(among(connection, person.c.student_id, numbers))).rowcount
    for uai, cod_ind in owners:
        rest = sa.delete(person).where(person.c.uai == uai, person.c.cod_ind == cod_ind)
        gone += connection.execute(rest).rowcount
    return gone


_FOLLOWING = sa.select(
    *enrolment.primary_key,
    *(enrolment.c[name] for name in ("cod_ind", "student_id", "status", "etape", "origin", "recorded_at")),
).where(of_person)
"""Enrolments that follow a person."""
