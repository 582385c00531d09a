"""Snapshots: all enrolments of a scope at one instant."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from worker.domain.changes import EnrolmentChange
from worker.domain.errors import Refusal
from worker.domain.instants import Instant


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotScope:
    """What a snapshot is complete for: within it, an absent enrolment is over.

    `etapes` are globs on the étape's code; None means every étape.
    """

    uais: frozenset[str]
    academic_years: frozenset[int]
    etapes: tuple[str, ...] | None = None

    def covers(self, *, uai: str, academic_year: int | None, etape: str | None) -> bool:
        """Return whether an enrolment lies within; one without a known étape does only if `etapes` is None."""
        return uai in self.uais and academic_year in self.academic_years and self.covers_etape(etape)

    def covers_etape(self, etape: str | None) -> bool:
        """Return whether an étape lies within."""
        if self.etapes is None:
            return True
        return etape is not None and any(fnmatchcase(etape, glob) for glob in self.etapes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unknown:
    """What the source of a snapshot could not read: its absence from the snapshot means nothing."""

    students: frozenset[str] = frozenset()
    enrolments: frozenset[str] = frozenset()

    def __len__(self) -> int:
        """Count the students and the enrolments."""
        return len(self.students) + len(self.enrolments)

    def holds(self, *, student_id: str, enrolment_id: str) -> bool:
        """Return whether an enrolment is among them."""
        return enrolment_id in self.enrolments or student_id in self.students


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptedSnapshot:
    """What is remembered of an accepted snapshot, to compare the next one with."""

    id: str
    taken_at: Instant
    system: str
    scope: SnapshotScope
    rows_by_year: Mapping[int, int]
    unknown: Unknown = Unknown()

    def speaks_of(
        self, *, uai: str, academic_year: int | None, etape: str | None, student_id: str, enrolment_id: str
    ) -> bool:
        """Return whether the snapshot would hold this enrolment if it existed."""
        return self.scope.covers(uai=uai, academic_year=academic_year, etape=etape) and not self.unknown.holds(
            student_id=student_id, enrolment_id=enrolment_id
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """All enrolments of a scope, as one system held them at `taken_at`.

    A row's `changed_at` is `taken_at`. Its version is the source's, or 0 where the source has none: it orders nothing,
    because a snapshot overrules by time. Its origin is `snapshot ID[partition]#row`. No enrolment is there twice.
    `passed_over` tells why newer snapshots were not accepted; `ignored` counts messages that belong to no snapshot.
    """

    id: str
    taken_at: Instant
    system: str
    scope: SnapshotScope
    rows: Sequence[EnrolmentChange]
    unknown: Unknown = Unknown()
    passed_over: Sequence[Refusal] = ()
    ignored: int = 0

    def accepted(self) -> AcceptedSnapshot:
        """Return what to remember of it."""
        return AcceptedSnapshot(
            id=self.id,
            taken_at=self.taken_at,
            system=self.system,
            scope=self.scope,
            rows_by_year=Counter(row.academic_year for row in self.rows if row.academic_year is not None),
            unknown=self.unknown,
        )
