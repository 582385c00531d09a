"""The entries of a watched directory, as they were last seen and published."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import sqlalchemy as sa

from worker.domain.directory import KnownEntry
from worker.domain.instants import Instant
from worker.ledger.database import Ledger, select_in, upsert
from worker.ledger.schema import watched


class Sighting(NamedTuple):
    """The state in which an entry was seen last."""

    csn: str
    terms: str
    missed_at: Instant | None


class DirectoryState:
    """The entries of one directory."""

    def __init__(self, ledger: Ledger, source: str) -> None:
        self._ledger = ledger
        self._source = source
        self._of_source = watched.c.source == source

    def seen(self) -> dict[str, Sighting]:
        """Return the last sighting of each entry that isn't gone, by uuid."""
        columns = sa.select(watched.c.uuid, watched.c.csn, watched.c.terms, watched.c.missed_at)
        with self._ledger.read() as connection:
            rows = connection.execute(columns.where(self._of_source, ~watched.c.gone))
            return {uuid: Sighting(csn, terms, missed_at) for uuid, csn, terms, missed_at in map(tuple, rows)}

    def entries(self, uuids: Iterable[str]) -> dict[str, KnownEntry]:
        """Return these entries, gone ones included, by uuid."""
        with self._ledger.read() as connection:
            rows = select_in(connection, sa.select(watched).where(self._of_source), watched.c.uuid, uuids)
        return {row.uuid: _entry(row) for row in rows}

    def of_students(self, numbers: Iterable[str]) -> dict[str, KnownEntry]:
        """Return every entry of these students, gone ones included, by uuid."""
        with self._ledger.read() as connection:
            rows = select_in(connection, sa.select(watched).where(self._of_source), watched.c.student_id, numbers)
        return {row.uuid: _entry(row) for row in rows}

    def highest_version(self) -> int:
        """Return the highest version that was published."""
        with self._ledger.read() as connection:
            return connection.scalar(sa.select(sa.func.max(watched.c.version)).where(self._of_source)) or 0

    def write(self, entries: Iterable[KnownEntry]) -> None:
        """Save these entries as they were published."""
        rows = [{name: getattr(entry, name) for name in _COLUMNS} | {"source": self._source} for entry in entries]
        with self._ledger.write() as connection:
            upsert(connection, watched, rows, update=[name for name in _COLUMNS if name != "uuid"])

    def miss(self, entries: Mapping[str, Instant | None]) -> None:
        """Note since when entries are missing, by uuid; None for those that are there again."""
        rows = [{"b_uuid": uuid, "b_at": at} for uuid, at in entries.items()]
        if rows:
            noted = sa.update(watched).where(self._of_source, watched.c.uuid == sa.bindparam("b_uuid"))
            with self._ledger.write() as connection:
                connection.execute(noted.values(missed_at=sa.bindparam("b_at")), rows)


_COLUMNS = [column.name for column in watched.c if column.name != "source"]


def _entry(row: sa.Row[tuple[object, ...]]) -> KnownEntry:
    return KnownEntry(**{name: getattr(row, name) for name in _COLUMNS})
