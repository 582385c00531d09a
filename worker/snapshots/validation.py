"""Is a snapshot whole, of ours and in time? Pure: no I/O, no clock.

A `SnapshotCandidate` notes the messages of one snapshot, in any order; then `announced_fault` and `fault` judge those
messages, and `Contents` the rows. Each returns the first fault it finds, or None.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
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
Known = Callable[[SnapshotScope, Instant], Mapping[int, int]]
"""Counts by year the enrolments that are known to be within a scope, and were so at that instant."""


def nothing_known(_scope: SnapshotScope, _taken_at: Instant) -> Mapping[int, int]:
    """Count nothing: there is no ledger to compare with."""
    return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptanceLimits:
    """How old a snapshot may be, and how many rows fewer than are known it may have in a year."""

    max_age_seconds: float
    max_shrink_percent: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptanceCriteria:
    """What a snapshot must meet.

    It covers no university besides `uais`, and at least one of `years`. Other years do no harm: a year becomes active
    in the settings and at the producer on different days.
    """

    now: Instant
    accepted: AcceptedSnapshot | None
    uais: frozenset[str]
    years: frozenset[int]
    limits: AcceptanceLimits
    known: Known = nothing_known


class SnapshotCandidate:
    """The messages of one snapshot, as far as they were read. Repeated messages change nothing."""

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
        """Note a begin."""
        if self.announced is None:
            self.announced = data
        elif self.announced != data:
            self._contradict(f"a begin in partition {partition} announces something other than an earlier one")
        self.begun.setdefault(partition, offset)

    def row(self, partition: int, number: int, value: bytes) -> bool:
        """Note a row, by its message's value. Return whether it is new."""
        rows, hashed = self.rows[partition], hash(value)
        if number in rows:
            if rows[number] != hashed:
                self._contradict(f"row {number} of partition {partition} occurs twice with different contents")
            return False
        rows[number] = hashed
        self.digests[partition] += digest(value)
        return True

    def end(self, partition: int, data: schemas.SnapshotEndData) -> None:
        """Note an end."""
        if self.ended.setdefault(partition, data) != data:
            self._contradict(f"the ends in partition {partition} count differently")

    def unreadable(self, origin: str, problems: Iterable[str]) -> None:
        """Note a message under its id that breaks the contract."""
        self.first_invalid = self.first_invalid or origin
        self.invalid.update(problems)

    def refusal(self, found: Fault) -> Refusal:
        """Return the refusal of this snapshot."""
        fault, sentence = found
        when = f" (taken at {_shown(self.announced.taken_at.timestamp())})" if self.announced else ""
        return Refusal(snapshot_id=self.id, fault=fault, sentence=sentence + when)

    def _contradict(self, sentence: str) -> None:
        self.contradiction = self.contradiction or sentence


def digest(value: bytes) -> int:
    """Return a row's share in the digest of its partition: the shares are summed up, in any order."""
    return int.from_bytes(sha256(value).digest())


def digest_text(total: int) -> str:
    """Return the digest of a partition as messages hold it, from the sum over its rows."""
    return f"{total % 2**256:064x}"


def announced_fault(data: schemas.SnapshotBeginData, criteria: AcceptanceCriteria) -> Fault | None:
    """Return what is wrong with what a begin announces, before any row is read."""
    taken_at = data.taken_at.timestamp()
    age = criteria.now - taken_at
    last = criteria.accepted
    if last is not None and (data.snapshot_id == last.id or taken_at <= last.taken_at):
        which = "it is" if data.snapshot_id == last.id else f"it is not newer than {last.id},"
        return SnapshotFault.NOT_NEWER, f"{which} the last accepted one, taken at {_shown(last.taken_at)}"
    if age < -CLOCK_SKEW_SECONDS:
        return SnapshotFault.FUTURE, f"it was taken {_span(-age)} in the future: check its producer's clock"
    if age > criteria.limits.max_age_seconds:
        most = criteria.limits.max_age_seconds / 3600
        return SnapshotFault.OLD, f"it was taken {_span(age)} ago, and snapshot.max_age_hours is {most:g}"
    if foreign := set(data.scope.uais) - criteria.uais:
        return SnapshotFault.SCOPE, f"it covers {_list(foreign)}, and the settings only {_list(criteria.uais)}"
    if not criteria.years.intersection(data.scope.academic_years):
        years = _list(data.scope.academic_years)
        return SnapshotFault.SCOPE, f"it covers {years} only, and the active years are {_list(criteria.years)}"
    return None


def fault(candidate: SnapshotCandidate, criteria: AcceptanceCriteria, first_offsets: Mapping[int, int]) -> Fault | None:
    """Return why it isn't acceptable or not whole. `first_offsets` is where each partition began after the reading."""
    announced = candidate.announced
    if announced is not None and (found := announced_fault(announced, criteria)):
        return found
    if candidate.invalid:
        kinds = ", ".join(f"{problem} ({number})" for problem, number in candidate.invalid.most_common(MOST_SHOWN))
        sentence = f"messages under its id can't be read, the first at {candidate.first_invalid}: {kinds}"
        return SnapshotFault.INVALID, sentence
    if candidate.contradiction is not None:
        return SnapshotFault.CONTRADICTORY, candidate.contradiction
    if announced is None:
        return next(_begin_faults(candidate, sorted(candidate.rows.keys() | candidate.ended.keys()), first_offsets))
    return (
        _unannounced_partition(candidate, announced.partitions)
        or next(_begin_faults(candidate, range(announced.partitions), first_offsets), None)
        or next(_count_faults(candidate, announced.partitions), None)
        or _total_fault(candidate.ended)
    )


def _unannounced_partition(candidate: SnapshotCandidate, count: int) -> Fault | None:
    partitions = candidate.begun.keys() | candidate.rows.keys() | candidate.ended.keys()
    unannounced = [partition for partition in partitions if partition >= count]
    if not unannounced:
        return None
    sentence = f"partition {min(unannounced)} holds messages of it, and it announced {count} partitions"
    return SnapshotFault.CONTRADICTORY, sentence


def _begin_faults(
    candidate: SnapshotCandidate, partitions: Iterable[int], first_offsets: Mapping[int, int]
) -> Iterator[Fault]:
    for partition in partitions:
        begun, first = candidate.begun.get(partition), first_offsets.get(partition, 0)
        if begun is not None and begun >= first:
            continue
        if not first:
            yield SnapshotFault.INCOMPLETE, f"partition {partition} has no begin of it"
        elif begun is not None or partition in candidate.rows or partition in candidate.ended:
            sentence = f"its begin is no longer in partition {partition}, which now starts at offset {first}: "
            yield SnapshotFault.FORGOTTEN, sentence + "the topic must keep its messages for longer"
        else:
            sentence = f"partition {partition}, which now starts at offset {first}, holds nothing of it: "
            yield SnapshotFault.INCOMPLETE, sentence + "its producer did not finish, or the topic has forgotten it"


def _count_faults(candidate: SnapshotCandidate, count: int) -> Iterator[Fault]:
    for partition in range(count):
        rows, end = candidate.rows.get(partition, {}), candidate.ended.get(partition)
        if end is None:
            sentence = f"partition {partition} has no end of it, after {len(rows)} row(s): "
            remedy = "its producer did not finish, or an open transaction hides the rest"
            yield SnapshotFault.INCOMPLETE, sentence + remedy
        elif gaps := list(_gaps(rows, end.rows)):
            missing = end.rows - sum(number < end.rows for number in rows)
            sentence = f"partition {partition} lacks {missing} of its {end.rows} rows: {', '.join(gaps[:MOST_SHOWN])}"
            yield SnapshotFault.INCOMPLETE, sentence + (", …" if len(gaps) > MOST_SHOWN else "")
        elif len(rows) > end.rows:
            sentence = f"partition {partition} has {len(rows)} rows of it, and its end counts {end.rows}"
            yield SnapshotFault.CONTRADICTORY, sentence
        elif digest_text(candidate.digests[partition]) != end.digest:
            sentence = f"the {end.rows} rows of partition {partition} don't match the digest in its end"
            yield SnapshotFault.CONTRADICTORY, sentence


def _total_fault(ended: Mapping[int, schemas.SnapshotEndData]) -> Fault | None:
    total = sum(end.rows for end in ended.values())
    for partition, end in ended.items():
        if end.total != total:
            sentence = f"the end in partition {partition} says {end.total} rows in all, and the ends add up to {total}"
            return SnapshotFault.CONTRADICTORY, sentence
    return None if total else (SnapshotFault.EMPTY, "it has no row at all")


def _gaps(numbers: Mapping[int, object], rows: int) -> Iterator[str]:
    """Yield the missing numbers as ranges, without counting up to a number that somebody made up."""
    known = sorted(number for number in numbers if number < rows)
    for before, after in pairwise([-1, *known, rows]):
        if after - before > 1:
            first, last = before + 1, after - 1
            yield str(first) if first == last else f"{first} to {last}"


class Contents:
    """The rows of one snapshot: whether they lie within its scope and agree with each other."""

    def __init__(self, scope: SnapshotScope, system: str | None = None) -> None:
        self.scope = scope
        self.system = system
        """The system of all rows; by default, that of the first."""
        self.outside: Counter[str] = Counter()
        self.differing = 0
        self.by_year: Counter[int] = Counter()
        self._known: dict[tuple[str, str], int] = {}

    def add(self, row: schemas.EnrolmentRow, hashed: int) -> bool:
        """Check a row. Return whether it is the first about its enrolment.

        `hashed` is a hash of the row's facts: the caller has one that is quicker than the row's own.
        """
        self.system = self.system or row.source.system
        key = (row.source.uai, row.enrolment_id)
        if key in self._known:
            self.differing += self._known[key] != hashed
            return False
        self._known[key] = hashed
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
        """Return what is wrong with the rows added so far."""
        if self.outside:
            fields = ", ".join(f"{field} ({number})" for field, number in sorted(self.outside.items()))
            return SnapshotFault.SCOPE, f"rows lie outside its scope, by their {fields}"
        if self.differing:
            return SnapshotFault.CONTRADICTORY, f"enrolments occur twice with different contents ({self.differing})"
        return None

    def shrinkage(self, criteria: AcceptanceCriteria, taken_at: Instant) -> Fault | None:
        """Return a year that has too few rows.

        They are compared with those of the last accepted snapshot, if it is of the same system and étapes and this one
        covers all its universities: messages don't change that figure. Otherwise with what is known of enrolments
        within the scope, whatever its form: absence ends them. The first of all is compared with nothing: what messages
        said until then nobody has counted.
        """
        accepted = criteria.accepted
        if accepted is None:
            return None
        if self._is_comparable(accepted):
            return self._too_few(accepted.rows_by_year, f"of {accepted.id}", criteria.limits)
        return self._too_few(criteria.known(self.scope, taken_at), "that are known", criteria.limits)

    def _is_comparable(self, accepted: AcceptedSnapshot) -> bool:
        return (
            accepted.system == self.system
            and accepted.scope.etapes == self.scope.etapes
            and accepted.scope.uais <= self.scope.uais
        )

    def _too_few(self, known: Mapping[int, int], whose: str, limits: AcceptanceLimits) -> Fault | None:
        for year in sorted(known.keys() & self.scope.academic_years):
            before, after = known[year], self.by_year[year]
            if (before - after) * 100 > before * limits.max_shrink_percent:
                percent = (before - after) * 100 / before
                lost = f"the year {year} has {after} rows, {percent:.1f} % fewer than the {before} {whose}: "
                most = f"at most {limits.max_shrink_percent:g} % is allowed"
                return SnapshotFault.SHRUNK, f"{lost}{most}; if that is right, raise snapshot.max_shrink_percent once"
        return None


def _shown(at: Instant) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _span(seconds: float) -> str:
    hours, minutes = divmod(int(seconds // 60), 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min"


def _list(values: Iterable[str] | Iterable[int]) -> str:
    shown = list(map(str, sorted(values)))
    return ", ".join(shown[:MOST_SHOWN]) + (", …" if len(shown) > MOST_SHOWN else "")
