"""What messages say, kept when it is newer than what is known.

Each function takes a batch, writes what is newer, and notes in `Effects` whom and what that touched. Nothing here
depends on the order of the messages: versions and instants decide, and equal instants are told apart by the text.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, NamedTuple

import sqlalchemy as sa
from pydantic import TypeAdapter

from worker.domain.changes import EnrolmentChange, NumberChange, Received
from worker.domain.instants import Instant
from worker.domain.rules import survivors
from worker.domain.snapshots import AcceptedSnapshot, SnapshotScope, Unknown
from worker.domain.states import Cause, Kept, Status
from worker.ledger.database import chunks, select_in, update, upsert
from worker.ledger.schema import enrolment, membership, snapshot, student

EnrolmentKey = tuple[str, str]
"""UAI and enrolment id."""
_Key = tuple[str, str, str]
"""The same, and the system."""
STUDENTS = 5_000
"""Whose logins are looked up at a time: a batch has no more, a snapshot all."""


class _Known(NamedTuple):
    """What a source has said of an enrolment; the names are those of the columns. A row is slower to ask."""

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
    uai: str


EnrolmentFacts = _Known | EnrolmentChange
"""What was said of an enrolment, before the batch or in it."""


@dataclass(slots=True)
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


class Trigger(NamedTuple):
    """Why students are derived anew."""

    cause: Cause
    origin: str
    published_at: Instant
    run: int | None = None
    """The reconciliation that found it, if no message did."""


Triggers = dict[str | None, Trigger]
"""Why one student is derived anew, by étape; under None for all others."""


@dataclass(slots=True)
class Effects:
    """What the facts of a batch touch."""

    students: dict[str, Triggers] = field(default_factory=dict)
    renamed: set[str] = field(default_factory=set)
    """Students who have another login: what was parked for want of it is worth a try."""
    etapes: set[str] = field(default_factory=set)
    components: set[str] = field(default_factory=set)

    def touch(self, student_id: str, trigger: Trigger, *etapes: str | None) -> None:
        """Have a student derived anew; a wider reason than one étape's, if there was one before, stays."""
        triggers = self.students.setdefault(student_id, {None: trigger})
        for code in etapes:
            if code is not None:
                triggers[code] = trigger


@dataclass(frozen=True, slots=True)
class News:
    """What a batch tells of enrolments, to be kept."""

    latest: Mapping[EnrolmentKey, EnrolmentFacts]
    """What the latest source says of each enrolment that the batch speaks of."""
    rows: Mapping[_Key, dict[str, Any]]
    again: Mapping[_Key, dict[str, Any]]
    """Of those that say the same as before."""


def news(connection: sa.Connection, batch: Sequence[Received], effects: Effects, counts: Counts, now: Instant) -> News:
    """Find the newest version of each enrolment of each source, and write nothing yet.

    What was so when an accepted snapshot was taken, or before, is known from it: such a change comes too late.
    """
    changes = [(item.change, item) for item in batch if isinstance(item.change, EnrolmentChange)]
    images = accepted_snapshots(connection)
    known: dict[EnrolmentKey, dict[str, EnrolmentFacts]] = defaultdict(dict)
    columns = (enrolment.c[name] for name in ("enrolment_id", "system", *_Known._fields))
    theirs = sa.select(*columns).where(enrolment.c.uai.in_({change.uai for change, _ in changes}))
    for row in select_in(connection, theirs, enrolment.c.enrolment_id, {change.enrolment_id for change, _ in changes}):
        enrolment_id, system, *rest = tuple(row)
        told = _Known._make(rest)
        known[told.uai, enrolment_id][system] = told
    undone = _undone(connection)
    rows: dict[_Key, dict[str, Any]] = {}
    again: dict[_Key, dict[str, Any]] = {}
    for change, item in changes:
        sources = known[change.uai, change.enrolment_id]
        old = sources.get(change.system)
        overtaken = old is not None and _order(change) <= _order(old)
        if overtaken or (images and _in_a_snapshot(change, old or (_latest(sources) if sources else None), images)):
            counts.stale += 1
            continue
        counts.applied += 1
        same = old is not None and len(sources) == 1 and _followed(change) == _followed(old)
        if not same or change.student_id in undone:
            trigger = Trigger(_CAUSES[change.status], change.origin, item.published_at)
            effects.touch(change.student_id, trigger, change.etape)
            for said in sources.values():  # perhaps of another student, or another étape
                effects.touch(said.student_id, trigger, change.etape, said.etape)
        sources[change.system] = change
        key = (change.uai, change.enrolment_id, change.system)
        if same and key not in rows:
            again[key] = _same(change, now)
        else:
            rows[key] = fact(change, now)
    return News({key: _latest(sources) for key, sources in known.items() if sources}, rows, again)


def save(connection: sa.Connection, told: News) -> None:
    """Write what is new."""
    update(connection, enrolment, list(told.again.values()))
    # In the order of the keys, so that SQLite changes each page of their index once.
    upsert(connection, enrolment, [told.rows[key] for key in sorted(told.rows)], update=FACT)


def fact(change: EnrolmentChange, now: Instant) -> dict[str, Any]:
    """Give the row of an enrolment."""
    return {
        "uai": change.uai,
        "enrolment_id": change.enrolment_id,
        "system": change.system,
        "version": change.version,
        "changed_at": change.changed_at,
        "sequence": change.sequence,
        "student_id": change.student_id,
        "status": change.status.value,
        "payment": change.payment.value,
        "academic_year": change.academic_year,
        "etape": change.etape,
        "etape_version": change.etape_version,
        "component": change.component,
        "origin": change.origin,
        "recorded_at": now,
    }


def _same(change: EnrolmentChange, now: Instant) -> dict[str, Any]:
    """Give what a fact that says the same changes: no indexed column, whose update costs most."""
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


def _undone(connection: sa.Connection) -> set[str]:
    """Students, by all their numbers, whose removal was undone until newer word comes, were it the same as before."""
    kept = set(connection.scalars(sa.select(membership.c.student_id).where(membership.c.kept == Kept.UNDONE)))
    return kept | {
        row.student_id for row in select_in(connection, sa.select(student.c.student_id), student.c.survivor, kept)
    }


def accepted_snapshots(connection: sa.Connection, *, most: int | None = None) -> list[AcceptedSnapshot]:
    """Give the accepted snapshots, newest first."""
    rows = connection.execute(sa.select(snapshot).order_by(snapshot.c.taken_at.desc()).limit(most))
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


def _latest(sources: Mapping[str, EnrolmentFacts]) -> EnrolmentFacts:
    """Give what the source says that speaks last, by the rule of `derive.is_latest`."""
    return max((said.changed_at, system, said) for system, said in sources.items())[-1]


def _in_a_snapshot(change: EnrolmentChange, old: EnrolmentFacts | None, images: Iterable[AcceptedSnapshot]) -> bool:
    """Say whether a snapshot was taken when the change was made, or later. A deletion may not know its étape."""
    year = change.academic_year or (old.academic_year if old else None)
    etape = change.etape or (old.etape if old else None)
    return any(
        change.changed_at <= image.taken_at
        and image.speaks_of(
            uai=change.uai,
            academic_year=year,
            etape=etape,
            student_id=change.student_id,
            enrolment_id=change.enrolment_id,
        )
        for image in images
    )


def logins(connection: sa.Connection, batch: Iterable[Received], effects: Effects, uais: frozenset[str]) -> None:
    """Keep the latest login of each student; a message without one says nothing about it."""
    said: dict[str, tuple[Instant, str]] = {}
    for item in batch:
        change = item.change
        if isinstance(change, EnrolmentChange) and change.login is not None and change.uai in uais:
            new = (change.changed_at, change.login)
            if change.student_id not in said or new > said[change.student_id]:
                said[change.student_id] = new
    for some in chunks(sorted(said), STUDENTS):
        _keep_logins(connection, {number: said[number] for number in some}, effects)


def _keep_logins(connection: sa.Connection, said: dict[str, tuple[Instant, str]], effects: Effects) -> None:
    columns = sa.select(student.c.student_id, student.c.login_at, student.c.login)
    known = {
        number: (at or 0.0, login or "")
        for number, at, login in map(tuple, select_in(connection, columns, student.c.student_id, said))
    }
    rows = []
    for number, (at, login) in said.items():
        old_at, old_login = known.get(number, (0.0, ""))
        if (at, login) > (old_at, old_login):
            rows.append({"student_id": number, "login": login, "login_at": at})
            if login != old_login:
                effects.renamed.add(number)
    upsert(connection, student, rows, update=["login", "login_at"])


def merges(
    connection: sa.Connection,
    batch: Iterable[Received],
    effects: Effects,
    counts: Counts,
    uais: frozenset[str],
) -> None:
    """Keep the latest merge of each number, and to whom each number leads in the end.

    Merges are rare (some a day), so the whole graph is read: chains and circles resolve alike whatever came first.
    """
    told = [(item.change, item.published_at) for item in batch if isinstance(item.change, NumberChange)]
    said = [(change, published_at) for change, published_at in told if change.uai in uais]
    counts.stale += len(told) - len(said)
    if not said:
        return
    columns = student.c.student_id, student.c.merged_into, student.c.merged_at, student.c.survivor
    rows = connection.execute(sa.select(*columns).where(student.c.merged_into.is_not(None))).all()
    graph = {row.student_id: (row.merged_into, row.merged_at) for row in rows}
    before = {row.student_id: row.survivor or row.student_id for row in rows}
    newer = []
    for change, published_at in said:
        old_into, old_at = graph.get(change.previous_student_id, ("", 0.0))
        if (change.changed_at, change.student_id) <= (old_at, old_into):
            counts.stale += 1
            continue
        counts.applied += 1
        graph[change.previous_student_id] = (change.student_id, change.changed_at)
        newer.append(Trigger(Cause.REKEYED, change.origin, published_at))
    after = survivors(graph)
    for number, survivor in after.items():  # a new merge may lead whole chains elsewhere
        if before.get(number, number) != survivor:
            for concerned in (number, before.get(number, number), survivor):
                effects.touch(concerned, newer[-1])
    upsert(
        connection,
        student,
        [
            {
                "student_id": number,
                "merged_into": into,
                "merged_at": at,
                "survivor": after[number] if after[number] != number else None,
            }
            for number, (into, at) in graph.items()
        ],
        update=["merged_into", "merged_at", "survivor"],
    )


_order = attrgetter(*_Known._fields[:3])
"""What tells the newer word of a source from the older."""
_followed = attrgetter(*_Known._fields[3:])
"""All that memberships follow from."""
FACT = [c.name for c in enrolment.c if not c.primary_key]
"""Columns of an enrolment that a newer fact replaces."""
_CAUSES = {status: Cause(status) for status in Status}

SCOPES: TypeAdapter[SnapshotScope] = TypeAdapter(SnapshotScope)
"""A scope to JSON and back."""
UNKNOWN: TypeAdapter[Unknown] = TypeAdapter(Unknown)
"""What is unknown to JSON and back."""
