"""Student numbers that became others: what messages and captures say of it, and what ends it.

A merge concerns those numbers only that others connect it with: its family.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import sqlalchemy as sa

from worker.domain.changes import NumberChange, Received
from worker.domain.instants import Instant
from worker.domain.merges import Judgement, Merge, Pair, judge
from worker.domain.snapshots import Snapshot
from worker.domain.states import HELD_MERGES, Cause, MergeState, Status
from worker.ledger.database import Ledger, select_in, upsert
from worker.ledger.enrolments import Counts, Touched, Trigger, accepted_snapshots, known_enrolments
from worker.ledger.identities import survivors_of
from worker.ledger.persons import persons_of
from worker.ledger.schema import enrolment, merge, student


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownMerge(Merge):
    """A merge as the ledger has it; the names are those of the table."""

    origin: str
    published_at: Instant
    state: MergeState
    decided_by: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedMerges:
    """What the merges of a batch changed."""

    touched: Touched
    counts: Counts


class Family:
    """All merges that some numbers are connected by, in force or not, to be changed and judged as a whole."""

    def __init__(self, connection: sa.Connection, numbers: Collection[str]) -> None:
        self._connection = connection
        of_numbers = sa.select(merge.c.family)
        ids = {
            row.family
            for column in (merge.c.student_id, merge.c.merged_into)
            for row in select_in(connection, of_numbers, column, numbers)
        }
        found = select_in(connection, sa.select(merge), merge.c.family, ids)
        self.rows: dict[Pair, dict[str, Any]] = {(row.student_id, row.merged_into): row._asdict() for row in found}
        self._changed: set[Pair] = set()

    def tell(self, change: NumberChange, published_at: Instant) -> bool:
        """Note what is said of two numbers; return whether that is news."""
        pair = (change.previous_student_id, change.student_id)
        known = self.rows.get(pair)
        if known is not None and known["merged_at"] >= change.changed_at:
            return False
        told = {"merged_at": change.changed_at, "origin": change.origin, "published_at": published_at}
        self.rows[pair] = {**(known or _NEW), **dict(zip(_PAIR, pair, strict=True)), **told}
        self._changed.add(pair)
        return True

    def change(self, pair: Pair, **values: object) -> None:
        """Set columns of a merge."""
        self.rows[pair] |= values
        self._changed.add(pair)

    def judged(self) -> Judgement:
        """Judge them as they are now."""
        merges = [Merge(**{name: row[name] for name in _MERGE}) for row in self.rows.values()]
        numbers = {number for pair in self.rows for number in pair}
        return judge(merges, persons_of(self._connection, numbers))

    def save(self, triggers: Mapping[str, Trigger]) -> Touched:
        """Judge and write them; return whom that leads elsewhere. `triggers` are those of the changes, by number."""
        judgement = self.judged()
        families = self._connect()
        for pair, row in self.rows.items():
            judged = {"family": families[pair[0]], "state": judgement.states[pair].value}
            if judged.items() - row.items():
                self.change(pair, **judged)
        rows = [self.rows[pair] for pair in sorted(self._changed)]
        upsert(self._connection, merge, rows, update=[name for name in _NEW if name not in _PAIR])
        causes = {families[number]: trigger for number, trigger in triggers.items() if number in families}
        return self._lead(judgement.survivors, {number: causes.get(family) for number, family in families.items()})

    def _connect(self) -> dict[str, int]:
        """Return the family of each number, which has the least of the numbers that its merges had."""
        neighbours: defaultdict[str, list[str]] = defaultdict(list)
        had: dict[str, int] = {}
        for (former, into), row in self.rows.items():
            neighbours[former].append(into)
            neighbours[into].append(former)
            if row["family"] is not None:
                had |= {former: row["family"], into: row["family"]}
        unused = (self._connection.scalar(sa.select(sa.func.max(merge.c.family))) or 0) + 1
        families: dict[str, int] = {}
        for number in neighbours:
            if number not in families:
                members = _reached(number, neighbours)
                known = {had[member] for member in members if member in had}
                families |= dict.fromkeys(members, min(known, default=unused))
                unused += not known
        return families

    def _lead(self, survivors: Mapping[str, str], causes: Mapping[str, Trigger | None]) -> Touched:
        """Write where each number leads, and return those that lead elsewhere than before, with both survivors."""
        before = survivors_of(self._connection, causes)
        touched = Touched()
        rows = []
        for number, trigger in causes.items():
            former, survivor = before.get(number, number), survivors.get(number, number)
            if former != survivor and trigger is not None:
                rows.append({"student_id": number, "survivor": None if survivor == number else survivor})
                for each in (number, former, survivor):
                    touched.touch(each, trigger)
        upsert(self._connection, student, rows, update=["survivor"])
        return touched


def _reached(number: str, neighbours: Mapping[str, Iterable[str]]) -> set[str]:
    reached, waiting = {number}, [number]
    while waiting:
        for other in neighbours[waiting.pop()]:
            if other not in reached:
                reached.add(other)
                waiting.append(other)
    return reached


def record(
    connection: sa.Connection,
    batch: Iterable[Received],
    captured: Sequence[Received],
    claimed: Mapping[str, Trigger],
    uais: frozenset[str],
) -> RecordedMerges:
    """Write what is said of merges, and where each number leads by now.

    `captured` are those that follow from the numbers of persons, and `claimed` numbers that another person has had: the
    messages that these follow from are counted already.
    """
    told = _ours(batch, uais)
    derived = _ours(captured, uais)
    received = sum(isinstance(item.change, NumberChange) for item in batch)
    if not told and not derived and not claimed:
        return RecordedMerges(touched=Touched(), counts=Counts(stale=received))
    numbers = {number for change, _ in (*told, *derived) for number in (change.previous_student_id, change.student_id)}
    family = Family(connection, numbers | claimed.keys())
    news = [item for item in told if family.tell(*item)]
    triggers = dict(claimed)
    for change, published_at in (*news, *(item for item in derived if family.tell(*item))):
        triggers[change.previous_student_id] = Trigger(Cause.REKEYED, change.origin, published_at)
    for pair, ended_at in _ended_before(connection, family).items():
        family.change(pair, ended_at=ended_at)
    counts = Counts(applied=len(news), stale=received - len(news))
    return RecordedMerges(touched=family.save(triggers), counts=counts)


def _ours(batch: Iterable[Received], uais: frozenset[str]) -> list[tuple[NumberChange, Instant]]:
    return [
        (item.change, item.published_at)
        for item in batch
        if isinstance(item.change, NumberChange) and item.change.uai in uais
    ]


def _ended_before(connection: sa.Connection, family: Family) -> dict[Pair, Instant]:
    """Return the merges that are new, and that a snapshot contradicts which was taken since, and when it was taken."""
    new = [row for row in family.rows.values() if row["family"] is None]
    snapshots = [
        each for each in accepted_snapshots(connection) if any(each.taken_at >= row["merged_at"] for row in new)
    ]
    if not snapshots:
        return {}
    held: dict[str, Instant] = {}
    formers = {row["student_id"] for row in new}
    for row in select_in(connection, known_enrolments, enrolment.c.student_id, formers):
        for each in snapshots:
            spoken_of = each.system == row.system and each.speaks_of(
                uai=row.uai,
                academic_year=row.academic_year,
                etape=row.etape,
                student_id=row.student_id,
                enrolment_id=row.enrolment_id,
            )
            if spoken_of and row.status not in _GONE and row.changed_at <= each.taken_at:
                held[row.student_id] = max(each.taken_at, held.get(row.student_id, 0.0))
    return {
        (row["student_id"], row["merged_into"]): held[row["student_id"]]
        for row in new
        if held.get(row["student_id"], 0.0) >= row["merged_at"]
    }


def end_contradicted(connection: sa.Connection, snapshot: Snapshot, trigger: Trigger) -> Touched:
    """End the merges of numbers that a snapshot has enrolments under, if it was taken after them."""
    earlier = sa.select(merge.c.student_id).where(
        merge.c.merged_at <= snapshot.taken_at, sa.func.coalesce(merge.c.ended_at, 0.0) < snapshot.taken_at
    )
    formers = {row.student_id for row in snapshot.rows}.intersection(connection.scalars(earlier))
    if not formers:
        return Touched()
    family = Family(connection, formers)
    for pair, row in family.rows.items():
        if pair[0] in formers and row["merged_at"] <= snapshot.taken_at:
            family.change(pair, ended_at=snapshot.taken_at)
    return family.save(dict.fromkeys(formers, trigger))


def read(ledger: Ledger) -> list[KnownMerge]:
    """Return all merges, the newest first."""
    with ledger.read() as connection:
        rows = connection.execute(sa.select(merge).order_by(merge.c.merged_at.desc(), *merge.primary_key))
        return [_known(row) for row in rows]


def of_numbers(connection: sa.Connection, numbers: Collection[str]) -> list[KnownMerge]:
    """Return the merges of these numbers, and into them, by number."""
    found = {
        (row.student_id, row.merged_into): _known(row)
        for column in (merge.c.student_id, merge.c.merged_into)
        for row in select_in(connection, sa.select(merge), column, numbers)
    }
    return [found[pair] for pair in sorted(found)]


def count_held(connection: sa.Connection) -> int:
    """Count the merges that wait for a person."""
    held = [state.value for state in HELD_MERGES]
    return connection.scalar(sa.select(sa.func.count()).where(merge.c.state.in_(held))) or 0


def _known(row: sa.Row[Any]) -> KnownMerge:
    values = {field.name: getattr(row, field.name) for field in fields(KnownMerge)}
    return KnownMerge(**values | {"state": MergeState(row.state)})


_PAIR = ("student_id", "merged_into")
_MERGE = tuple(field.name for field in fields(Merge))
_NEW: Mapping[str, Any] = dict.fromkeys(column.name for column in merge.c) | {"persons": 0}
"""A merge of which nothing is known yet."""
_GONE = {Status.DELETED, Status.ABSENT}
