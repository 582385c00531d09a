"""A SupAnn directory as a source: one paged search, whose entries are read one by one."""

from collections.abc import Iterator
from dataclasses import dataclass

from schemas import EnrolmentRow, SnapshotRow
from worker.domain.errors import SourceIncomplete
from worker.domain.snapshots import SnapshotScope
from worker.sources.directory import Directory, DirectoryOptions
from worker.sources.reading import LeftOut, SourceReading
from worker.sources.supann import EntryFacts, Supann


@dataclass(frozen=True, slots=True)
class LdapSource:
    """The students of a directory. The entries of one student number add up; the login of the first one counts."""

    directory: DirectoryOptions
    supann: Supann

    def read(self, scope: SnapshotScope) -> SourceReading:
        """Read the enrolments within the scope, and the students who are unknown; see SnapshotSource.read.

        The directory is incomplete, too, when it shows no entry, none with the attribute of enrolments, or none of an
        establishment of the scope: its access rules may have changed, and absence would end what it doesn't show.
        """
        return SourceReading(self._items(scope))

    def _items(self, scope: SnapshotScope) -> Iterator[SnapshotRow | LeftOut]:
        entries = with_enrolments = 0
        filtered = _ScopeFilter(scope)
        with Directory(self.directory) as directory:
            for attributes in directory.read(self.supann.attributes):
                entries += 1
                with_enrolments += self.supann.has_enrolments(attributes)
                yield from filtered.items(self.supann.read(attributes))
        if not with_enrolments:
            shown = f"{entries} entries, none of which has {self.supann.attributes[-1]}" if entries else "no entry"
            raise SourceIncomplete(
                f"the directory shows {shown}: check base, filter and composite, and what the bind account may read"
            )
        if missing := scope.uais - filtered.establishments:
            raise SourceIncomplete(
                f"the directory shows no enrolment at {', '.join(sorted(missing))}: check uais, or name with --uai "
                "the establishments that it is complete for"
            )


class _ScopeFilter:
    """Passes on each enrolment of a scope once."""

    def __init__(self, scope: SnapshotScope) -> None:
        self.establishments: set[str] = set()
        """Those of all enrolments so far, within the scope or not."""
        self._scope = scope
        self._passed: set[tuple[str, str]] = set()

    def items(self, facts: EntryFacts) -> Iterator[SnapshotRow | LeftOut]:
        yield from map(LeftOut, facts.left_out)
        yield from facts.unknown
        for row in facts.rows:
            self.establishments.add(row.source.uai)
            key = row.source.uai, row.enrolment_id
            if reason := _outside(row, self._scope) or ("repeated" if key in self._passed else ""):
                yield LeftOut(reason)
            else:
                self._passed.add(key)
                yield row


def _outside(row: EnrolmentRow, scope: SnapshotScope) -> str:
    """Return why a row isn't within the scope; empty when it is."""
    if row.academic_year not in scope.academic_years:
        return "other_year"
    if row.source.uai not in scope.uais:
        return "foreign_etab"
    return "" if scope.covers_etape(row.etape.code) else "other_etape"
