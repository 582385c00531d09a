"""What was last seen of a directory that is watched, and told."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import sqlalchemy as sa

from worker.domain.directory import KnownEntry
from worker.domain.instants import Instant
from worker.ledger.database import Ledger, select_in, upsert
from worker.ledger.schema import watched


class Sighting(NamedTuple):
    """Which state of an entry was seen last."""

    csn: str
    terms: str
    missed_at: Instant | None


class DirectoryState:
    """The entries of one directory."""

    def __init__(self, ledger: Ledger, source: str) -> None:
        self._ledger = ledger
        self._source = source
        self._mine = watched.c.source == source

    def seen(self) -> dict[str, Sighting]:
        """Give what was seen of each entry that isn't gone, by uuid."""
        columns = sa.select(watched.c.uuid, watched.c.csn, watched.c.terms, watched.c.missed_at)
        with self._ledger.read() as connection:
            rows = connection.execute(columns.where(self._mine, ~watched.c.gone))
            return {uuid: Sighting(csn, terms, missed_at) for uuid, csn, terms, missed_at in map(tuple, rows)}

    def entries(self, uuids: Iterable[str]) -> dict[str, KnownEntry]:
        """Give these entries, gone ones too, by uuid."""
        with self._ledger.read() as connection:
            rows = select_in(connection, sa.select(watched).where(self._mine), watched.c.uuid, uuids)
        return {row.uuid: _entry(row) for row in rows}

    def of_students(self, numbers: Iterable[str]) -> dict[str, KnownEntry]:
        """Give every entry of these students, gone ones too, by uuid."""
        with self._ledger.read() as connection:
            rows = select_in(connection, sa.select(watched).where(self._mine), watched.c.student_id, numbers)
        return {row.uuid: _entry(row) for row in rows}

    def highest_version(self) -> int:
        """Give the highest version that was told."""
        with self._ledger.read() as connection:
            return connection.scalar(sa.select(sa.func.max(watched.c.version)).where(self._mine)) or 0

    def write(self, entries: Iterable[KnownEntry]) -> None:
        """Keep these entries as they were told."""
        rows = [{name: getattr(entry, name) for name in _COLUMNS} | {"source": self._source} for entry in entries]
        with self._ledger.write() as connection:
            upsert(connection, watched, rows, update=[name for name in _COLUMNS if name != "uuid"])

    def miss(self, entries: Mapping[str, Instant | None]) -> None:
        """Note since when entries are missed, by uuid; None that they are there after all."""
        rows = [{"b_uuid": uuid, "b_at": at} for uuid, at in entries.items()]
        if rows:
            noted = sa.update(watched).where(self._mine, watched.c.uuid == sa.bindparam("b_uuid"))
            with self._ledger.write() as connection:
                connection.execute(noted.values(missed_at=sa.bindparam("b_at")), rows)


_COLUMNS = [column.name for column in watched.c if column.name != "source"]


def _entry(row: sa.Row[tuple[object, ...]]) -> KnownEntry:
    return KnownEntry(**{name: getattr(row, name) for name in _COLUMNS})
