"""Enrolments that name a person: recorded of a student once the person's number is known, and waiting until then.

Nothing here depends on the order of the messages. What was recorded under a former number is led to the present one
by the merge of both, and of each enrolment that waits the newest state is kept: folding twice gives what folding once
would have given.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, NamedTuple, TypeVar

import sqlalchemy as sa

from worker.domain.changes import EnrolmentChange, NumberChange, PersonEnrolled, PersonNumbered, Received
from worker.domain.instants import Instant
from worker.domain.states import Payment, Status
from worker.ledger.database import among, select_in, upsert
from worker.ledger.enrolments import ENROLMENT_ORDER, Counts, order_of
from worker.ledger.schema import person, waiting

Person = tuple[str, int]
"""UAI and COD_IND."""
T = TypeVar("T")


class _Number(NamedTuple):
    """A person's number; the names are those of the columns, newer ones are greater."""

    version: int
    changed_at: Instant
    sequence: str
    student_id: str


class _Numbering(NamedTuple):
    """What a batch changed of the numbers of persons."""

    numbers: Mapping[Person, _Number]
    """The present ones."""
    merges: Sequence[Received]
    """Of two numbers of one person."""
    known_since: Mapping[Person, Instant]
    """When the number of persons without one was published."""
    counts: Counts


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedBatch:
    """A batch in which every change names a student."""

    changes: Sequence[Received]
    counts: Counts


def named(connection: sa.Connection, batch: Sequence[Received]) -> NamedBatch:
    """Return a batch in which every change names a student, and let wait what can't name one yet.

    It also holds the changes that waited for a number of this batch, and the merges of two numbers of one person.
    The clock of what waited starts at the later of the two messages that it took.
    """
    changes = [item for item in batch if not isinstance(item.change, PersonEnrolled | PersonNumbered)]
    numbered = _of_kind(batch, PersonNumbered)
    enrolled = _of_kind(batch, PersonEnrolled)
    if not numbered and not enrolled:
        return NamedBatch(changes=changes, counts=Counts())
    numbering = _record_numbers(
        connection,
        numbered,
        _numbers(
            connection,
            {(change.uai, change.person) for change, _ in numbered}
            | {(change.enrolment.uai, change.person) for change, _ in enrolled},
        ),
    )
    enrolled += _take_out(connection, numbering.known_since)
    unnamed = []
    for change, published_at in enrolled:
        owner = (change.enrolment.uai, change.person)
        number = numbering.numbers.get(owner)
        if number is None:
            unnamed.append((change, published_at))
        else:
            of_student = change.enrolment._replace(student_id=number.student_id)
            since = max(published_at, numbering.known_since.get(owner, published_at))
            changes.append(Received(change=of_student, published_at=since))
    return NamedBatch(changes=[*changes, *numbering.merges], counts=numbering.counts + _wait(connection, unnamed))


def _of_kind(batch: Iterable[Received], kind: type[T]) -> list[tuple[T, Instant]]:
    return [(item.change, item.published_at) for item in batch if isinstance(item.change, kind)]


def _numbers(connection: sa.Connection, persons: Iterable[Person]) -> dict[Person, _Number]:
    columns = sa.select(*person.primary_key, *(person.c[name] for name in _Number._fields))
    rows = select_in(connection, columns, person.c.cod_ind, {cod_ind for _, cod_ind in persons})
    return {(uai, cod_ind): _Number._make(number) for uai, cod_ind, *number in map(tuple, rows)}


def _record_numbers(
    connection: sa.Connection, numbered: Iterable[tuple[PersonNumbered, Instant]], known: Mapping[Person, _Number]
) -> _Numbering:
    """Write the newest number of each person.

    A number that comes too late is merged into the present one all the same: enrolments may have been recorded under
    it.
    """
    numbers = {**known}
    merges: list[Received] = []
    known_since: dict[Person, Instant] = {}
    newer: set[Person] = set()
    applied = stale = 0
    for change, published_at in numbered:
        owner = (change.uai, change.person)
        new, old = _Number._make(_number_of(change)), numbers.get(owner)
        is_newer = old is None or new > old
        if old is None:
            known_since[owner] = published_at
        if old is not None and new.student_id != old.student_id:  # counted where merges are
            merges.append(_merge_of(old, new, change, published_at))
        else:
            applied += is_newer
            stale += not is_newer
        if is_newer:
            numbers[owner] = new
            newer.add(owner)
    rows = [{"uai": uai, "cod_ind": cod_ind, **numbers[uai, cod_ind]._asdict()} for uai, cod_ind in sorted(newer)]
    upsert(connection, person, rows, update=_Number._fields)
    return _Numbering(numbers, merges, known_since, Counts(applied=applied, stale=stale))


def _merge_of(old: _Number, new: _Number, change: PersonNumbered, published_at: Instant) -> Received:
    """Return the merge of two numbers of a person, into the newer one."""
    former, present = sorted((new, old))
    merge = NumberChange(
        uai=change.uai,
        previous_student_id=former.student_id,
        student_id=present.student_id,
        changed_at=present.changed_at,
        origin=change.origin,
    )
    return Received(change=merge, published_at=published_at)


def _take_out(connection: sa.Connection, persons: Mapping[Person, Instant]) -> list[tuple[PersonEnrolled, Instant]]:
    """Delete what waits for these persons, and return it."""
    if not persons:
        return []
    same_cod_ind = select_in(connection, sa.select(waiting), waiting.c.cod_ind, {cod_ind for _, cod_ind in persons})
    rows = [row for row in same_cod_ind if (row.uai, row.cod_ind) in persons]
    for uai in {row.uai for row in rows}:
        ids = [row.enrolment_id for row in rows if row.uai == uai]
        taken = among(connection, waiting.c.enrolment_id, ids)
        connection.execute(sa.delete(waiting).where(waiting.c.uai == uai, taken))
    return [(_enrolled(row), row.published_at) for row in rows]


def _enrolled(row: sa.Row[Any]) -> PersonEnrolled:
    fields = {name: getattr(row, name) for name in _FIELDS}
    fields |= {"status": Status(row.status), "payment": Payment(row.payment), "student_id": ""}
    return PersonEnrolled(person=row.cod_ind, enrolment=EnrolmentChange(**fields))


def _wait(connection: sa.Connection, unnamed: Iterable[tuple[PersonEnrolled, Instant]]) -> Counts:
    """Write the newest state of each enrolment."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    ids = {change.enrolment.enrolment_id for change, _ in unnamed}
    columns = sa.select(*waiting.primary_key, *(waiting.c[name] for name in ENROLMENT_ORDER))
    known = {
        (row.uai, row.enrolment_id): order_of(row)
        for row in select_in(connection, columns, waiting.c.enrolment_id, ids)
    }
    newer = stale = 0
    for change, published_at in unnamed:
        enrolment = change.enrolment
        key = (enrolment.uai, enrolment.enrolment_id)
        order = order_of(enrolment)
        if key in known and order <= known[key]:
            stale += 1
            continue
        newer += 1
        known[key] = order
        rows[key] = _waiting_row(change, published_at)
    upsert(connection, waiting, list(rows.values()), update=_REPLACED)
    return Counts(waiting=newer, stale=stale)


def _waiting_row(change: PersonEnrolled, published_at: Instant) -> dict[str, Any]:
    enrolment = change.enrolment
    fields = {name: getattr(enrolment, name) for name in _FIELDS}
    return fields | {
        "status": enrolment.status.value,
        "payment": enrolment.payment.value,
        "cod_ind": change.person,
        "published_at": published_at,
    }


_number_of = attrgetter(*_Number._fields)
_FIELDS = [column.name for column in waiting.c if column.name not in {"cod_ind", "published_at"}]
"""Columns that are fields of an `EnrolmentChange`."""
_REPLACED = [column.name for column in waiting.c if not column.primary_key]
