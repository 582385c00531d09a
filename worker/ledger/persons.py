"""Enrolments that name a person: told of a student once the person's number is known, and waiting until then.

Nothing here depends on the order of the messages. What is told under a former number is led to the present one by the
merge of both, and of each enrolment that waits the newest word is kept: a fold of some of it is the fold of all.
"""

from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Any, NamedTuple, TypeVar

import sqlalchemy as sa

from worker.domain.changes import EnrolmentChange, NumberChange, PersonEnrolled, PersonNumbered, Received
from worker.domain.instants import Instant
from worker.domain.states import Payment, Status
from worker.ledger.database import among, select_in, upsert
from worker.ledger.enrolments import Counts
from worker.ledger.schema import person, waiting

Person = tuple[str, int]
"""UAI and COD_IND."""
T = TypeVar("T")


class _Number(NamedTuple):
    """The newest word on a person's number; the names are those of the columns, newer ones are greater."""

    version: int
    changed_at: Instant
    sequence: str
    student_id: str


def named(connection: sa.Connection, batch: Sequence[Received], counts: Counts) -> list[Received]:
    """Give a batch in which every change names a student; what can't yet is put to wait.

    Beside the changes of the batch are those that waited for a number which it tells, and the merges of two numbers
    of one person. The clock of what waited starts at the later of the two messages that it took.
    """
    told = [item for item in batch if not isinstance(item.change, PersonEnrolled | PersonNumbered)]
    numbered = _of_kind(batch, PersonNumbered)
    enrolled = _of_kind(batch, PersonEnrolled)
    if not numbered and not enrolled:
        return told
    numbers = _numbers(
        connection,
        {(change.uai, change.person) for change, _ in numbered}
        | {(change.enrolment.uai, change.person) for change, _ in enrolled},
    )
    rekeyed, known_since = _number(connection, numbered, numbers, counts)
    enrolled += _taken(connection, known_since)
    untold = []
    for change, published_at in enrolled:
        who = (change.enrolment.uai, change.person)
        if who in numbers:
            student = change.enrolment._replace(student_id=numbers[who].student_id)
            told.append(Received(change=student, published_at=max(published_at, known_since.get(who, published_at))))
        else:
            untold.append((change, published_at))
    _wait(connection, untold, counts)
    return [*told, *rekeyed]


def _of_kind(batch: Iterable[Received], kind: type[T]) -> list[tuple[T, Instant]]:
    return [(item.change, item.published_at) for item in batch if isinstance(item.change, kind)]


def _numbers(connection: sa.Connection, persons: Iterable[Person]) -> dict[Person, _Number]:
    columns = sa.select(*person.primary_key, *(person.c[name] for name in _Number._fields))
    rows = select_in(connection, columns, person.c.cod_ind, {cod_ind for _, cod_ind in persons})
    return {(uai, cod_ind): _Number._make(rest) for uai, cod_ind, *rest in map(tuple, rows)}


def _number(
    connection: sa.Connection,
    numbered: Iterable[tuple[PersonNumbered, Instant]],
    numbers: dict[Person, _Number],
    counts: Counts,
) -> tuple[list[Received], dict[Person, Instant]]:
    """Keep the newest number of each person; gives the merges, and since when persons are known who weren't.

    A number that comes too late is merged into the present one all the same: facts may have been told under it.
    """
    rekeyed: list[Received] = []
    known_since: dict[Person, Instant] = {}
    newer: set[Person] = set()
    for change, published_at in numbered:
        who = (change.uai, change.person)
        new, old = _Number._make(_number_of(change)), numbers.get(who)
        if old is None:
            known_since[who] = published_at
        if old is not None and new.student_id != old.student_id:  # counted where merges are
            former, present = sorted((new, old))
            merge = NumberChange(
                uai=change.uai,
                previous_student_id=former.student_id,
                student_id=present.student_id,
                changed_at=present.changed_at,
                origin=change.origin,
            )
            rekeyed.append(Received(change=merge, published_at=published_at))
        elif old is None or new > old:
            counts.applied += 1
        else:
            counts.stale += 1
        if old is None or new > old:
            numbers[who] = new
            newer.add(who)
    rows = [{"uai": uai, "cod_ind": cod_ind, **numbers[uai, cod_ind]._asdict()} for uai, cod_ind in sorted(newer)]
    upsert(connection, person, rows, update=_Number._fields)
    return rekeyed, known_since


def _taken(connection: sa.Connection, persons: Mapping[Person, Instant]) -> list[tuple[PersonEnrolled, Instant]]:
    """Take out what waits for these persons."""
    if not persons:
        return []
    found = select_in(connection, sa.select(waiting), waiting.c.cod_ind, {cod_ind for _, cod_ind in persons})
    rows = [row for row in found if (row.uai, row.cod_ind) in persons]
    for uai in {row.uai for row in rows}:
        ids = [row.enrolment_id for row in rows if row.uai == uai]
        theirs = among(connection, waiting.c.enrolment_id, ids)
        connection.execute(sa.delete(waiting).where(waiting.c.uai == uai, theirs))
    return [(_enrolled(row), row.published_at) for row in rows]


def _enrolled(row: sa.Row[Any]) -> PersonEnrolled:
    facts = {name: getattr(row, name) for name in _FACTS}
    facts |= {"status": Status(row.status), "payment": Payment(row.payment), "student_id": ""}
    return PersonEnrolled(person=row.cod_ind, enrolment=EnrolmentChange(**facts))


def _wait(connection: sa.Connection, untold: Iterable[tuple[PersonEnrolled, Instant]], counts: Counts) -> None:
    """Keep the newest word on each enrolment."""
    newest: dict[tuple[str, str], dict[str, Any]] = {}
    ids = {change.enrolment.enrolment_id for change, _ in untold}
    columns = sa.select(*waiting.primary_key, *(waiting.c[name] for name in _ORDER))
    known = {
        (row.uai, row.enrolment_id): _order(row) for row in select_in(connection, columns, waiting.c.enrolment_id, ids)
    }
    for change, published_at in untold:
        said = change.enrolment
        key = (said.uai, said.enrolment_id)
        if key in known and _order(said) <= known[key]:
            counts.stale += 1
            continue
        counts.waiting += 1
        known[key] = _order(said)
        facts = {name: getattr(said, name) for name in _FACTS}
        facts |= {"status": said.status.value, "payment": said.payment.value}
        newest[key] = facts | {"cod_ind": change.person, "published_at": published_at}
    update = [column.name for column in waiting.c if not column.primary_key]
    upsert(connection, waiting, list(newest.values()), update=update)


_number_of = attrgetter(*_Number._fields)
_ORDER = ("version", "changed_at", "sequence")
_order = attrgetter(*_ORDER)
_FACTS = [column.name for column in waiting.c if column.name not in {"cod_ind", "published_at"}]
"""Columns that are fields of an `EnrolmentChange`."""
