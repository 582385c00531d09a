"""Write what messages say of enrolments, when it is newer than what is known.

Nothing here depends on the order of the messages: versions and instants decide, and equal instants are told apart by
the text.
"""

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, NamedTuple, Self

import sqlalchemy as sa
from pydantic import TypeAdapter

from worker.domain.changes import EnrolmentChange, Received
from worker.domain.instants import Instant
from worker.domain.snapshots import AcceptedSnapshot, SnapshotScope, Unknown
from worker.domain.states import Cause, Kept, Status
from worker.ledger.database import select_in, update, upsert
from worker.ledger.identities import merged_into
from worker.ledger.schema import NO_NUMBER, enrolment, membership
from worker.ledger.schema import snapshot as snapshot_table

EnrolmentKey = tuple[str, str]
"""UAI and enrolment id."""
_FactKey = tuple[str, str, str]
"""The same, and the system."""


class KnownEnrolment(NamedTuple):
    """The state of an enrolment at one source, as the ledger holds it, without where and when it was read.

    The names are those of the columns. The attributes of a row take longer to read.
    """

    uai: str
    enrolment_id: str
    system: str
    version: int
    changed_at: Instant
    sequence: str
    student_id: str
    status: str
    payment: str
    academic_year: int | None
    etape: str | None
    etape_version: str | None
    component: str | None
    cod_ind: int | None


EnrolmentFacts = KnownEnrolment | EnrolmentChange
"""The state of an enrolment at one source, before the batch or in it."""
States = dict[str, EnrolmentFacts]
"""The states of one enrolment, by the system that is their source."""

ENROLMENT_COLUMNS = KnownEnrolment._fields
"""Columns of the state of an enrolment; each is a field of an `EnrolmentChange`."""
ENROLMENT_KEY = tuple(column.name for column in enrolment.primary_key)
ENROLMENT_ORDER = ("version", "changed_at", "sequence")
"""Columns that order the states of one enrolment at one source."""
ENROLMENT_FACTS = tuple(name for name in ENROLMENT_COLUMNS if name not in {*ENROLMENT_KEY, *ENROLMENT_ORDER, "cod_ind"})
"""Columns that memberships follow from."""
REPLACED = tuple(column.name for column in enrolment.c if not column.primary_key)
"""Columns that a newer state replaces."""

known_enrolments = sa.select(*(enrolment.c[name] for name in ENROLMENT_COLUMNS))
"""Its rows make `KnownEnrolment`s."""
order_of = attrgetter(*ENROLMENT_ORDER)
"""Return what tells the newer state of an enrolment at one source from the older."""
facts_of = attrgetter(*ENROLMENT_FACTS)
"""Return all that memberships follow from."""


class Trigger(NamedTuple):
    """Why the memberships of students are projected again."""

    cause: Cause
    origin: str
    published_at: Instant
    run: int | None = None
    """The reconciliation that found it, if no message did."""


Triggers = dict[str | None, Trigger]
"""Why the memberships of one student are projected again, by étape; under None for all others."""


class Touched(dict[str, Triggers]):
    """The students whose memberships are to be projected again, and why."""

    def touch(self, student_id: str, trigger: Trigger, *etapes: str | None) -> None:
        """Add a student; the reason for all other étapes, if there was one before, stays.

        Whoever has no number that is known is in no cohort.
        """
        if student_id == NO_NUMBER:
            return
        triggers = self.setdefault(student_id, {None: trigger})
        for code in etapes:
            if code is not None:
                triggers[code] = trigger

    @classmethod
    def of_steps(cls, *steps: Mapping[str, Triggers]) -> Self:
        """Return what several steps touched, as if they had done so one after the other."""
        touched = cls()
        for step in steps:
            for student_id, triggers in step.items():
                earlier = touched.get(student_id)
                touched[student_id] = triggers if earlier is None else earlier | triggers | {None: earlier[None]}
        return touched


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What became of a batch of messages."""

    applied: int = 0
    """Newer than what was known."""
    stale: int = 0
    """Already known, overtaken, or what another university says of our étapes and numbers: without effect."""
    waiting: int = 0
    """Enrolments whose person's student number isn't known yet."""
    tombstone: int = 0
    """Without a value: without effect."""
    memberships: int = 0
    """Memberships whose desired state changed."""

    def __add__(self, other: "Counts") -> "Counts":
        """Return the counts of two steps of one batch."""
        return Counts(
            applied=self.applied + other.applied,
            stale=self.stale + other.stale,
            waiting=self.waiting + other.waiting,
            tombstone=self.tombstone + other.tombstone,
            memberships=self.memberships + other.memberships,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldedBatch:
    """What a batch says of enrolments, not written yet."""

    latest: Mapping[EnrolmentKey, EnrolmentFacts]
    """What the latest source says of each enrolment that the batch names."""
    changed: Mapping[_FactKey, EnrolmentChange]
    repeated: Mapping[_FactKey, EnrolmentChange]
    """Newer states with the same facts as before."""
    claimed: Mapping[_FactKey, KnownEnrolment]
    """Enrolments that a snapshot gave, of which a change that comes too late tells whose they are."""
    touched: Touched
    counts: Counts


def fold_batch(connection: sa.Connection, batch: Sequence[Received]) -> FoldedBatch:
    """Find the newest state of each enrolment at each source, and write nothing yet."""
    received = [(item.change, item.published_at) for item in batch if isinstance(item.change, EnrolmentChange)]
    known = _known(connection, [change for change, _ in received])
    snapshots = accepted_snapshots(connection)
    undone = _undone(connection)
    changed: dict[_FactKey, EnrolmentChange] = {}
    repeated: dict[_FactKey, EnrolmentChange] = {}
    claimed: dict[_FactKey, KnownEnrolment] = {}
    touched = Touched()
    stale = waiting = 0
    for item, published_at in received:
        key = item.uai, item.enrolment_id
        before = known.get(key, {})
        change = _numbered(item, before.get(item.system))
        after = fold(before, change, snapshots)
        fact_key = (*key, change.system)
        if after is before:
            stale += 1
            previous = before.get(change.system)
            if isinstance(previous, KnownEnrolment) and previous.cod_ind is None and change.cod_ind is not None:
                trigger = Trigger(_CAUSES[change.status], change.origin, published_at)
                touched.touch(previous.student_id, trigger, previous.etape)
                touched.touch(change.student_id, trigger, previous.etape)
                claimed[fact_key] = previous._replace(student_id=change.student_id, cod_ind=change.cod_ind)
                known[key] = {**before, change.system: claimed[fact_key]}
            continue
        known[key] = after
        waiting += change.student_id == NO_NUMBER
        repeats = _repeats(before, change)
        if not repeats or change.student_id in undone:
            trigger = Trigger(_CAUSES[change.status], change.origin, published_at)
            touched.touch(change.student_id, trigger, change.etape)
            for facts in before.values():  # perhaps of another student, or another étape
                touched.touch(facts.student_id, trigger, change.etape, facts.etape)
        if repeats and fact_key not in changed:
            repeated[fact_key] = change
        else:
            changed[fact_key] = change
    return FoldedBatch(
        latest={key: _latest(states) for key, states in known.items()},
        changed=changed,
        repeated=repeated,
        claimed=claimed,
        touched=touched,
        counts=Counts(applied=len(received) - stale - waiting, stale=stale, waiting=waiting),
    )


def _numbered(change: EnrolmentChange, previous: EnrolmentFacts | None) -> EnrolmentChange:
    """Return a change of a person without a number under that which another source of the same system gave."""
    if change.student_id != NO_NUMBER or previous is None:
        return change
    return change._replace(student_id=previous.student_id)


def fold(known: States, change: EnrolmentChange, snapshots: Sequence[AcceptedSnapshot]) -> States:
    """Return the states of an enrolment after a change; `known` itself when the change comes too late.

    What was so when an accepted snapshot was taken, or before, is known from it: such a change comes too late. And its
    version no longer counts: a source whose versions begin anew, or one that sent too high a version, is heard again.
    """
    previous = known.get(change.system)
    if previous is not None and order_of(change) <= order_of(previous) and not _is_settled(previous, snapshots):
        return known
    if snapshots and _in_a_snapshot(change, previous or (_latest(known) if known else None), snapshots):
        return known
    return {**known, change.system: change}


def save(connection: sa.Connection, folded: FoldedBatch, now: Instant) -> None:
    """Write what a batch says of enrolments."""
    update(connection, enrolment, [_repeated_row(change, now) for change in folded.repeated.values()])
    owners = [
        {"uai": uai, "enrolment_id": id_, "system": system, "student_id": facts.student_id, "cod_ind": facts.cod_ind}
        for (uai, id_, system), facts in folded.claimed.items()
    ]
    update(connection, enrolment, owners)
    # In the order of the keys, so that SQLite changes each page of their index once.
    rows = [enrolment_row(folded.changed[key], now) for key in sorted(folded.changed)]
    upsert(connection, enrolment, rows, update=REPLACED)


def enrolment_row(change: EnrolmentChange, now: Instant) -> dict[str, Any]:
    """Return the row of an enrolment. It is written out, as each message makes one: deriving it takes twice as long."""
    return {
        "uai": change.uai,
        "enrolment_id": change.enrolment_id,
        "system": change.system,
        "version": change.version,
        "changed_at": change.changed_at,
        "sequence": change.sequence,
        "student_id": change.student_id,
        "cod_ind": change.cod_ind,
        "status": change.status.value,
        "payment": change.payment.value,
        "academic_year": change.academic_year,
        "etape": change.etape,
        "etape_version": change.etape_version,
        "component": change.component,
        "origin": change.origin,
        "recorded_at": now,
    }


def _repeated_row(change: EnrolmentChange, now: Instant) -> dict[str, Any]:
    """Return what a state with the same facts changes: no indexed column, whose update costs most."""
    return {
        "uai": change.uai,
        "enrolment_id": change.enrolment_id,
        "system": change.system,
        "version": change.version,
        "changed_at": change.changed_at,
        "sequence": change.sequence,
        "origin": change.origin,
        "recorded_at": now,
    }


def accepted_snapshots(connection: sa.Connection, *, most: int | None = None) -> list[AcceptedSnapshot]:
    """Return the accepted snapshots, newest first."""
    rows = connection.execute(sa.select(snapshot_table).order_by(snapshot_table.c.taken_at.desc()).limit(most))
    return [
        AcceptedSnapshot(
            id=row.id,
            taken_at=row.taken_at,
            system=row.system,
            scope=SCOPES.validate_json(row.scope),
            rows_by_year={int(year): number for year, number in json.loads(row.rows_by_year).items()},
            unknown=UNKNOWN.validate_json(row.unknown),
        )
        for row in rows
    ]


def _known(connection: sa.Connection, changes: Collection[EnrolmentChange]) -> dict[EnrolmentKey, States]:
    """Return the states of the enrolments that the changes name."""
    of_same_uais = known_enrolments.where(enrolment.c.uai.in_({change.uai for change in changes}))
    ids = {change.enrolment_id for change in changes}
    known: defaultdict[EnrolmentKey, States] = defaultdict(dict)
    for state in map(KnownEnrolment._make, select_in(connection, of_same_uais, enrolment.c.enrolment_id, ids)):
        known[state.uai, state.enrolment_id][state.system] = state
    return known


def _undone(connection: sa.Connection) -> set[str]:
    """Return students, by all their numbers, whose removal was undone until a newer message, even if it repeats."""
    kept = set(connection.scalars(sa.select(membership.c.student_id).where(membership.c.kept == Kept.UNDONE)))
    return kept.union(merged_into(connection, kept))


def _latest(states: States) -> EnrolmentFacts:
    """Return the state at the source that changed last, by the rule of `memberships.is_latest`."""
    return max((facts.changed_at, system, facts) for system, facts in states.items())[-1]


def _repeats(known: States, change: EnrolmentChange) -> bool:
    """Whether the only source of an enrolment gives the same facts again."""
    if len(known) > 1 or change.system not in known:
        return False
    same = known[change.system]
    return facts_of(change) == facts_of(same) and change.cod_ind == same.cod_ind


def _is_settled(known: EnrolmentFacts, snapshots: Sequence[AcceptedSnapshot]) -> bool:
    """Whether a snapshot was taken since the state was so, and spoke of it: whatever is newer than that is newer."""
    return bool(snapshots) and _in_a_snapshot(known, known, snapshots)


def _in_a_snapshot(change: EnrolmentFacts, known: EnrolmentFacts | None, snapshots: Iterable[AcceptedSnapshot]) -> bool:
    """Whether a snapshot was taken when the change was made, or later. A deletion may not know its étape."""
    year = change.academic_year or (known.academic_year if known else None)
    etape = change.etape or (known.etape if known else None)
    return any(
        change.changed_at <= snapshot.taken_at
        and snapshot.speaks_of(
            uai=change.uai,
            academic_year=year,
            etape=etape,
            student_id=change.student_id,
            enrolment_id=change.enrolment_id,
        )
        for snapshot in snapshots
    )


_CAUSES = {status: Cause(status) for status in Status}

SCOPES: TypeAdapter[SnapshotScope] = TypeAdapter(SnapshotScope)
"""A scope to JSON and back."""
UNKNOWN: TypeAdapter[Unknown] = TypeAdapter(Unknown)
"""What is unknown to JSON and back."""
