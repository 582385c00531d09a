"""Is a snapshot whole, of ours and in time? Pure: no I/O, no clock.

What a reading of the topic saw of a snapshot is gathered in a `Candidate`, message by message and in any order; then
`announced_fault`, `fault` and, of its rows, `Contents` each give the first thing that is wrong, or None.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from itertools import pairwise

import schemas
from worker.domain.errors import Refusal, SnapshotFault
from worker.domain.instants import Instant
from worker.domain.snapshots import AcceptedSnapshot, SnapshotScope

CLOCK_SKEW_SECONDS = 60.0
"""How far the producer's clock may be ahead of ours."""
MOST_SHOWN = 5

Fault = tuple[SnapshotFault, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptanceLimits:
    """How old a snapshot may be, and how many rows fewer than the last accepted one it may have in a year."""

    max_age_seconds: float
    max_shrink_percent: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptanceCriteria:
    """What a snapshot is held against.

    It speaks of no other university than `uais`, and of one of `years` at least: a year that is about to be active, or
    no longer is, does no harm, and changes in the settings and at the producer on different days.
    """

    now: Instant
    accepted: AcceptedSnapshot | None
    uais: frozenset[str]
    years: frozenset[int]
    limits: AcceptanceLimits


class Candidate:
    """What was seen of one snapshot on the topic. Repeated messages change nothing."""

    def __init__(self, snapshot_id: str) -> None:
        self.id = snapshot_id
        self.announced: schemas.SnapshotBeginData | None = None
        self.begun: dict[int, int] = {}  # partition -> offset of its first begin
        self.ended: dict[int, schemas.SnapshotEndData] = {}
        self.rows: defaultdict[int, dict[int, int]] = defaultdict(dict)  # partition -> number -> hash of the value
        self.digests: Counter[int] = Counter()  # partition -> sum over its rows
        self.contradiction: str | None = None
        self.invalid: Counter[str] = Counter()
        self.first_invalid = ""

    def begin(self, partition: int, offset: int, data: schemas.SnapshotBeginData) -> None:
        """Take note of a begin."""
        if self.announced is None:
            self.announced = data
        elif self.announced != data:
            self._contradict(f"a begin in partition {partition} announces something else than an earlier one")
        self.begun.setdefault(partition, offset)

    def row(self, partition: int, number: int, value: bytes) -> bool:
        """Take note of a row, by its message's value; say whether it is new."""
        rows, told = self.rows[partition], hash(value)
        if number in rows:
            if rows[number] != told:
                self._contradict(f"row {number} of partition {partition} is there twice, differently")
            return False
        rows[number] = told
        self.digests[partition] += digest(value)
        return True

    def end(self, partition: int, data: schemas.SnapshotEndData) -> None:
        """Take note of an end."""
        if self.ended.setdefault(partition, data) != data:
            self._contradict(f"the ends in partition {partition} count differently")

    def unreadable(self, origin: str, problems: Iterable[str]) -> None:
        """Take note of a message under its id that breaks the contract."""
        self.first_invalid = self.first_invalid or origin
        self.invalid.update(problems)

    def refusal(self, found: Fault) -> Refusal:
        """Say it of this snapshot."""
        fault, sentence = found
        when = f" (taken at {_shown(self.announced.taken_at.timestamp())})" if self.announced else ""
        return Refusal(snapshot_id=self.id, fault=fault, sentence=sentence + when)

    def _contradict(self, sentence: str) -> None:
        self.contradiction = self.contradiction or sentence


def digest(value: bytes) -> int:
    """Give a row's share in the digest of its partition: they are summed up, in any order."""
    return int.from_bytes(sha256(value).digest())


def digest_text(total: int) -> str:
    """Give the digest of a partition as messages hold it, from the sum over its rows."""
    return f"{total % 2**256:064x}"


def announced_fault(data: schemas.SnapshotBeginData, terms: AcceptanceCriteria) -> Fault | None:
    """Find what is wrong with what a begin announces, before any row is read."""
    taken_at = data.taken_at.timestamp()
    age = terms.now - taken_at
    last = terms.accepted
    if last is not None and (data.snapshot_id == last.id or taken_at <= last.taken_at):
        which = "it is" if data.snapshot_id == last.id else f"it is not newer than {last.id},"
        return SnapshotFault.NOT_NEWER, f"{which} the one that was accepted last, taken at {_shown(last.taken_at)}"
    if age < -CLOCK_SKEW_SECONDS:
        return SnapshotFault.FUTURE, f"it says that it was taken {_span(-age)} from now: look at its producer's clock"
    if age > terms.limits.max_age_seconds:
        most = terms.limits.max_age_seconds / 3600
        return SnapshotFault.OLD, f"it was taken {_span(age)} ago, and snapshot.max_age_hours is {most:g}"
    if foreign := set(data.scope.uais) - terms.uais:
        return SnapshotFault.SCOPE, f"it speaks of {_list(foreign)}, and the settings only of {_list(terms.uais)}"
    if not terms.years.intersection(data.scope.academic_years):
        said = f"it speaks of {_list(data.scope.academic_years)} only, and the active years are {_list(terms.years)}"
        return SnapshotFault.SCOPE, said
    return None


def fault(seen: Candidate, terms: AcceptanceCriteria, first_offsets: Mapping[int, int]) -> Fault | None:
    """Find why it isn't acceptable or not whole. `first_offsets` is where each partition began after the reading."""
    if seen.announced is not None and (found := announced_fault(seen.announced, terms)):
        return found
    if seen.invalid:
        kinds = ", ".join(f"{problem} ({number})" for problem, number in seen.invalid.most_common(MOST_SHOWN))
        return SnapshotFault.INVALID, f"messages under its id can't be read, the first at {seen.first_invalid}: {kinds}"
    if seen.contradiction is not None:
        return SnapshotFault.CONTRADICTORY, seen.contradiction
    if seen.announced is None:
        return next(_begins(seen, sorted(seen.rows.keys() | seen.ended.keys()), first_offsets))
    count = seen.announced.partitions
    if beyond := [p for p in seen.begun.keys() | seen.rows.keys() | seen.ended.keys() if p >= count]:
        said = f"partition {min(beyond)} holds messages of it, and it announced {count} partitions"
        return SnapshotFault.CONTRADICTORY, said
    return next(_begins(seen, range(count), first_offsets), None) or next(_counts(seen, count), None)


def _begins(seen: Candidate, partitions: Iterable[int], first_offsets: Mapping[int, int]) -> Iterator[Fault]:
    for partition in partitions:
        begun, first = seen.begun.get(partition), first_offsets.get(partition, 0)
        if begun is not None and begun >= first:
            continue
        if not first:
            yield SnapshotFault.INCOMPLETE, f"partition {partition} has no begin of it"
        elif begun is not None or partition in seen.rows or partition in seen.ended:
            said = f"its begin is no longer in partition {partition}, which now starts at offset {first}: "
            yield SnapshotFault.FORGOTTEN, said + "the topic must keep its messages for longer"
        else:
            said = f"partition {partition}, which now starts at offset {first}, holds nothing of it: "
            yield SnapshotFault.INCOMPLETE, said + "its producer did not finish, or the topic has forgotten it"


def _counts(seen: Candidate, count: int) -> Iterator[Fault]:
    for partition in range(count):
        rows, end = seen.rows.get(partition, {}), seen.ended.get(partition)
        if end is None:
            said = f"partition {partition} has no end of it, after {len(rows)} row(s): "
            yield SnapshotFault.INCOMPLETE, said + "its producer did not finish, or an open transaction hides the rest"
            continue
        if gaps := list(_gaps(rows, end.rows)):
            missing = end.rows - sum(number < end.rows for number in rows)
            said = f"partition {partition} lacks {missing} of its {end.rows} rows: {', '.join(gaps[:MOST_SHOWN])}"
            yield SnapshotFault.INCOMPLETE, said + (", …" if len(gaps) > MOST_SHOWN else "")
        elif len(rows) > end.rows:
            said = f"partition {partition} has {len(rows)} rows of it, and its end counts {end.rows}"
            yield SnapshotFault.CONTRADICTORY, said
        elif digest_text(seen.digests[partition]) != end.digest:
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

    def add(self, row: schemas.EnrolmentRow, told: int) -> bool:
        """Look at a row; say whether it is the first to tell its enrolment. One that isn't tells nothing new.

        `told` is a hash of what it tells, which a row knows too, but slowly.
        """
        self.system = self.system or row.source.system
        key = (row.source.uai, row.enrolment_id)
        if key in self._known:
            self.differing += self._known[key] != told
            return False
        self._known[key] = told
        self.by_year[row.academic_year] += 1
        for field in self._outside(row):
            self.outside[field] += 1
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

    def fault(self) -> Fault | None:
        """Find what is wrong with the rows seen so far."""
        if self.outside:
            fields = ", ".join(f"{field} ({number})" for field, number in sorted(self.outside.items()))
            return SnapshotFault.SCOPE, f"rows lie outside its scope, by their {fields}"
        if self.differing:
            return SnapshotFault.CONTRADICTORY, f"enrolments are told twice, differently ({self.differing})"
        return None

    def shrinkage(self, accepted: AcceptedSnapshot | None, limits: AcceptanceLimits) -> Fault | None:
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


def _span(seconds: float) -> str:
    hours, minutes = divmod(int(seconds // 60), 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min"


def _list(values: Iterable[str] | Iterable[int]) -> str:
    shown = list(map(str, sorted(values)))
    return ", ".join(shown[:MOST_SHOWN]) + (", …" if len(shown) > MOST_SHOWN else "")
