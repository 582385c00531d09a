"""All numbers of a person: student numbers are merged, and the survivor stands for the others."""

from collections.abc import Collection

import sqlalchemy as sa

from worker.ledger.database import select_in
from worker.ledger.schema import student

_MERGED = sa.select(student.c.student_id, student.c.survivor).where(student.c.survivor.is_not(None))


def survivors_of(connection: sa.Connection, numbers: Collection[str]) -> dict[str, str]:
    """Return the survivor of each of these numbers that was merged into another."""
    return {row.student_id: row.survivor for row in select_in(connection, _MERGED, student.c.student_id, numbers)}


def merged_into(connection: sa.Connection, survivors: Collection[str]) -> dict[str, str]:
    """Return the numbers that were merged into these, each with its survivor."""
    return {row.student_id: row.survivor for row in select_in(connection, _MERGED, student.c.survivor, survivors)}


def every_survivor(connection: sa.Connection) -> dict[str, str]:
    """Return every number that was merged into another, with its survivor."""
    return {row.student_id: row.survivor for row in connection.execute(_MERGED)}


def numbers_of(connection: sa.Connection, number: str) -> list[str]:
    """Return all numbers of the person who has this one, the survivor first."""
    survivor = survivors_of(connection, [number]).get(number, number)
    return [survivor, *sorted({number, *merged_into(connection, [survivor])} - {survivor})]


def with_all_numbers(connection: sa.Connection, numbers: Collection[str]) -> set[str]:
    """Return these numbers and all others of the same persons."""
    known = {*numbers, *survivors_of(connection, numbers).values()}
    return known.union(merged_into(connection, known))
