"""A SupAnn directory as a source: one paged search, each entry told as it comes."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from schemas import EnrolmentRow, SnapshotRow
from worker.domain.errors import SourceIncomplete
from worker.domain.snapshots import SnapshotScope
from worker.sources.directory import Directory, DirectoryOptions
from worker.sources.supann import Supann


@dataclass(frozen=True, slots=True)
class LdapSource:
    """The students of a directory. Several entries of one student number add up; the first one's login counts."""

    directory: DirectoryOptions
    supann: Supann

    def read(self, scope: SnapshotScope, left_out: Counter[str]) -> Iterator[SnapshotRow]:
        """Give all enrolments within the scope, and who is unknown; see Source.read.

        A directory that shows no entry, none that has the attribute of enrolments, or none of an establishment of the
        scope, is incomplete too: its access rules may have changed, and absence would end what it doesn't show.
        """
        entries = with_enrolments = 0
        establishments: set[str] = set()
        told_before: set[tuple[str, str]] = set()
        with Directory(self.directory) as directory:
            for attributes in directory.read(self.supann.attributes):
                entries += 1
                with_enrolments += self.supann.says_anything(attributes)
                told = self.supann.tell(attributes)
                if told.left_out:  # seldom, and even of nothing an update takes its time
                    left_out.update(told.left_out)
                yield from told.unknown
                for row in told.rows:
                    key = row.source.uai, row.enrolment_id
                    establishments.add(row.source.uai)
                    if reason := _outside(row, scope) or ("repeated" if key in told_before else ""):
                        left_out[reason] += 1
                    else:
                        told_before.add(key)
                        yield row
        if not with_enrolments:
            found = f"{entries} entries, none of which has {self.supann.attributes[-1]}" if entries else "no entry"
            raise SourceIncomplete(
                f"the directory shows {found}: look at base, filter and composite, and at what whom we bind as may see"
            )
        if missing := scope.uais - establishments:
            raise SourceIncomplete(
                f"the directory shows no enrolment at {', '.join(sorted(missing))}: look at uais, or name with --uai "
                "the establishments that it is complete for"
            )


def _outside(row: EnrolmentRow, scope: SnapshotScope) -> str:
    """Give why a row isn't within the scope, if so."""
    if row.academic_year not in scope.academic_years:
        return "other_year"
    if row.source.uai not in scope.uais:
        return "foreign_etab"
    return "" if scope.covers_etape(row.etape.code) else "other_etape"
