"""Is a snapshot whole, of ours and in time? Pure: no I/O, no clock.

What a reading of the topic saw of a snapshot is gathered in a `Seen`, message by message and in any order; then
`announced_fault`, `fault` and `contents_fault` each give the first thing that is wrong, or None.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from itertools import pairwise

import schemas
from worker.errors import Refusal, SnapshotFault
from worker.model import AcceptedSnapshot, Instant, SnapshotScope

CLOCK_SKEW_SECONDS = 60.0
"""How far the producer's clock may be ahead of ours."""
MOST_GAPS = 5

Found = tuple[SnapshotFault, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How old a snapshot may be, and how many rows fewer than the last accepted one it may have in a year."""

    max_age_seconds: float
    max_shrink_percent: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a snapshot is held against; `years` and `uais` are those that it may speak of."""

    now: Instant
    accepted: AcceptedSnapshot | None
    uais: frozenset[str]
    years: frozenset[int]
    limits: Limits


@dataclass(frozen=True, slots=True)
class Place:
    """Where a row is kept for later: its start and length in the file of the reader."""

    start: int
    length: int


class Seen:
    """What was seen of one snapshot on the topic. Repeated messages change nothing."""

    def __init__(self, snapshot_id: str) -> None:
        self.id = snapshot_id
        self.announced: schemas.SnapshotBeginData | None = None
        self.begun: dict[int, int] = {}  # partition -> offset of its first begin
        self.ended: dict[int, schemas.SnapshotEndData] = {}
        self.rows: defaultdict[int, dict[int, tuple[bytes, Place]]] = defaultdict(dict)  # digest and place by number
        self.contradiction: str | None = None
        self.invalid: Counter[str] = Counter()

    def begin(self, partition: int, offset: int, data: schemas.SnapshotBeginData) -> None:
        """Take note of a begin."""
        if self.announced is None:
            self.announced = data
        elif self.announced != data:
            self.contradiction = f"a begin in partition {partition} announces something else than an earlier one"
        self.begun.setdefault(partition, offset)

    def row(self, partition: int, number: int, value: bytes, place: Place) -> bool:
        """Take note of a row, by its message's value; say whether it is new, and so to be kept at its place."""
        told, rows = sha256(value).digest(), self.rows[partition]
        known, _ = rows.setdefault(number, (told, place))
        if known != told:
            self.contradiction = f"row {number} of partition {partition} is there twice, differently"
        return rows[number][1] is place

    def end(self, partition: int, data: schemas.SnapshotEndData) -> None:
        """Take note of an end."""
        if self.ended.setdefault(partition, data) != data:
            self.contradiction = f"the ends in partition {partition} count differently"

    def refusal(self, found: Found) -> Refusal:
        """Say it of this snapshot."""
        fault, sentence = found
        when = f" (taken at {_shown(self.announced.taken_at.timestamp())})" if self.announced else ""
        return Refusal(snapshot_id=self.id, fault=fault, sentence=sentence + when)


def digest(hashes: Iterable[bytes]) -> str:
    """Give the digest of a partition from the SHA-256 of each of its rows, in any order."""
    return digest_text(sum(map(int.from_bytes, hashes)))


def digest_text(total: int) -> str:
    """Give the digest as messages hold it, from the sum of the hashes."""
    return f"{total % 2**256:064x}"


def announced_fault(data: schemas.SnapshotBeginData, terms: Terms) -> Found | None:
    """Find what is wrong with what a begin announces, before any row is read."""
    taken_at = data.taken_at.timestamp()
    age = terms.now - taken_at
    last = terms.accepted
    if last is not None and taken_at <= last.taken_at:
        said = f"it is not newer than the one accepted last, {last.id}, taken at {_shown(last.taken_at)}"
        return SnapshotFault.NOT_NEWER, said
    if age < -CLOCK_SKEW_SECONDS:
        return SnapshotFault.FUTURE, f"it says that it was taken {_hours(-age)} from now: look at its producer's clock"
    if age > terms.limits.max_age_seconds:
        most = _hours(terms.limits.max_age_seconds)
        return SnapshotFault.OLD, f"it was taken {_hours(age)} ago, and snapshot.max_age_hours allows {most}"
    if foreign := set(data.scope.uais) - terms.uais:
        return SnapshotFault.SCOPE, f"it speaks of {_list(foreign)}, and the settings only of {_list(terms.uais)}"
    if foreign_years := set(data.scope.academic_years) - terms.years:
        said = f"it speaks of the year {_list(foreign_years)}, and the settings only of {_list(terms.years)}"
        return SnapshotFault.SCOPE, said
    return None


def fault(seen: Seen, terms: Terms, first_offsets: Mapping[int, int]) -> Found | None:
    """Find why it isn't acceptable or not whole. `first_offsets` is where each partition began after the reading."""
    if seen.announced is not None and (found := announced_fault(seen.announced, terms)):
        return found
    if seen.invalid:
        kinds = ", ".join(f"{problem} ({number})" for problem, number in seen.invalid.most_common(MOST_GAPS))
        return SnapshotFault.INVALID, f"{seen.invalid.total()} problems in messages under its id: {kinds}"
    if seen.contradiction is not None:
        return SnapshotFault.CONTRADICTORY, seen.contradiction
    if seen.announced is None:
        return next(_begins(seen, 1 + max(seen.rows.keys() | seen.ended.keys()), first_offsets))
    count = seen.announced.partitions
    if beyond := [p for p in seen.begun.keys() | seen.rows.keys() | seen.ended.keys() if p >= count]:
        said = f"partition {min(beyond)} holds messages of it, and it announced {count} partitions"
        return SnapshotFault.CONTRADICTORY, said
    return next(_begins(seen, count, first_offsets), None) or next(_counts(seen, count), None)


def _begins(seen: Seen, count: int, first_offsets: Mapping[int, int]) -> Iterator[Found]:
    for partition in range(count):
        begun, first = seen.begun.get(partition), first_offsets.get(partition, 0)
        if begun is None and not first:
            yield SnapshotFault.INCOMPLETE, f"partition {partition} has no begin of it"
        elif begun is None or begun < first:
            said = f"its begin is no longer in partition {partition}, which now starts at offset {first}: "
            yield SnapshotFault.FORGOTTEN, said + "the topic must keep its messages for longer"


def _counts(seen: Seen, count: int) -> Iterator[Found]:
    for partition in range(count):
        rows, end = seen.rows.get(partition, {}), seen.ended.get(partition)
        if end is None:
            said = f"partition {partition} has no end of it, after {len(rows)} rows: its producer did not finish"
            yield SnapshotFault.INCOMPLETE, said
            continue
        if gaps := list(_gaps(rows, end.rows)):
            missing = end.rows - sum(number < end.rows for number in rows)
            said = f"partition {partition} lacks {missing} of its {end.rows} rows: {', '.join(gaps[:MOST_GAPS])}"
            yield SnapshotFault.INCOMPLETE, said + (", …" if len(gaps) > MOST_GAPS else "")
        elif len(rows) > end.rows:
            said = f"partition {partition} has {len(rows)} rows of it, and its end counts {end.rows}"
            yield SnapshotFault.CONTRADICTORY, said
        elif digest(each for each, _ in rows.values()) != end.digest:
            said = f"the {end.rows} rows of partition {partition} don't give the digest of its end"
            yield SnapshotFault.CONTRADICTORY, said
    total = sum(end.rows for end in seen.ended.values())
    for partition, end in seen.ended.items():
        if end.total != total:
            said = f"the end in partition {partition} says {end.total} rows in all, and the ends add up to {total}"
            yield SnapshotFault.CONTRADICTORY, said
    if not total:
        yield SnapshotFault.EMPTY, "it has no row at all"


def _gaps(numbers: Mapping[int, object], rows: int) -> Iterator[str]:
    """Give the missing numbers as ranges, without counting up to a number that somebody made up."""
    known = sorted(number for number in numbers if number < rows)
    for before, after in pairwise([-1, *known, rows]):
        if after - before > 1:
            first, last = before + 1, after - 1
            yield str(first) if first == last else f"{first} to {last}"


class Contents:
    """The rows of one snapshot, looked at one by one: whether they lie within its scope and agree with each other."""

    def __init__(self, scope: SnapshotScope, system: str | None = None) -> None:
        self.scope = scope
        self.system = system
        """The system of all rows; unless said, that of the first."""
        self.outside: Counter[str] = Counter()
        self.differing = 0
        self.by_year: Counter[int] = Counter()
        self._known: dict[tuple[str, str], int] = {}

    def add(self, row: schemas.EnrolmentRow) -> bool:
        """Look at a row; say whether it is the first to tell its enrolment. One that isn't tells nothing new."""
        self.system = self.system or row.source.system
        key, told = (row.source.uai, row.enrolment_id), hash(row)
        if key in self._known:
            self.differing += self._known[key] != told
            return False
        self._known[key] = told
        self.by_year[row.academic_year] += 1
        self.outside.update(self._outside(row))
        return True

    def _outside(self, row: schemas.EnrolmentRow) -> Iterator[str]:
        if row.source.uai not in self.scope.uais:
            yield "source.uai"
        if row.source.system != self.system:
            yield "source.system"
        if row.academic_year not in self.scope.academic_years:
            yield "academic_year"
        if not self.scope.covers_etape(row.etape.code):
            yield "etape.code"

    def fault(self) -> Found | None:
        """Find what is wrong with the rows seen so far."""
        if self.outside:
            fields = ", ".join(f"{field} of {number}" for field, number in sorted(self.outside.items()))
            return SnapshotFault.SCOPE, f"rows lie outside its scope, by {fields}"
        if self.differing:
            return SnapshotFault.CONTRADICTORY, f"{self.differing} rows tell an enrolment again, differently"
        return None

    def shrinkage(self, accepted: AcceptedSnapshot | None, limits: Limits) -> Found | None:
        """Find a year that has lost too many rows since the last accepted snapshot, if the two can be compared.

        They can when they are of one system, the same étapes and no university less; a year that either of them
        doesn't speak of counts neither way.
        """
        if accepted is None or accepted.system != self.system or accepted.scope.etapes != self.scope.etapes:
            return None
        if not accepted.scope.uais <= self.scope.uais:
            return None
        for year in sorted(accepted.scope.academic_years & self.scope.academic_years):
            before, after = accepted.rows_by_year.get(year, 0), self.by_year[year]
            if (before - after) * 100 > before * limits.max_shrink_percent:
                percent = (before - after) * 100 / before
                said = f"the year {year} has {after} rows, {percent:.1f} % fewer than the {before} of {accepted.id}: "
                most = f"at most {limits.max_shrink_percent:g} % are allowed"
                return SnapshotFault.SHRUNK, f"{said}{most}; if it is true, raise snapshot.max_shrink_percent for once"
        return None


def _shown(at: Instant) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h"


def _list(values: Iterable[str] | Iterable[int]) -> str:
    return ", ".join(map(str, sorted(values)))
