"""A snapshot into the facts: its rows overrule what was known at its instant, and so does absence from it.

Nothing that was learnt after that instant is touched. What the ledger already knows so isn't written again.
"""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from operator import attrgetter
from typing import Any, NamedTuple

import sqlalchemy as sa

from worker.domain.changes import EnrolmentChange
from worker.domain.instants import Instant
from worker.domain.snapshots import AcceptedSnapshot, Snapshot, SnapshotScope
from worker.domain.states import Cause, Kept, Status
from worker.ledger.database import among, select_in, stream, upsert
from worker.ledger.enrolments import FACT, UNKNOWN, Effects, EnrolmentKey, Trigger, accepted_snapshots, fact
from worker.ledger.schema import cohort, enrolment, membership, snapshot, student

NEVER = -1
"""Version of a fact that no message has told: any message that isn't older than the snapshot comes after it."""
_OVER = {Status.DELETED, Status.ABSENT}
_told = attrgetter("student_id", "status", "payment", "academic_year", "etape", "etape_version", "component")


class _Fact(NamedTuple):
    """What is known of an enrolment; the names are those of the columns. A row is slower to ask.

    Where it was read, and when, is what a snapshot replaces.
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


def enrolments(
    connection: sa.Connection, image: Snapshot, effects: Effects, *, run: int, now: Instant
) -> tuple[int, int]:
    """Keep what the snapshot tells; returns how many enrolments it tells anew, and how many end by absence."""
    told: Mapping[EnrolmentKey, EnrolmentChange] = {(row.uai, row.enrolment_id): row for row in image.rows}
    accepted = image.accepted()
    rivals = _rivals(connection, image)
    rows: list[dict[str, Any]] = []
    ended: list[dict[str, Any]] = []
    settled: set[EnrolmentKey] = set()
    changed: list[EnrolmentKey] = []
    others: defaultdict[EnrolmentKey, list[_Fact]] = defaultdict(list)
    for known in _known(connection, image):
        key = (known.uai, known.enrolment_id)
        row = told.get(key)
        if row is not None and known.system == image.system:
            settled.add(key)
            overruled = rivals.get(key, (0.0, "")) > (known.changed_at, known.system)
            if known.changed_at <= image.taken_at and (overruled or _told(row) != _told(known)):
                rows.append(fact(row, now) | {"version": known.version})
                changed.append(key)
                _touch(effects, image, row, run, known)
        elif row is not None:
            others[key].append(known)
        elif _ends(known, accepted):
            ended.append(_ended(known, image, now))
            trigger = Trigger(Cause.ABSENT, f"snapshot {image.id}", image.taken_at, run)
            effects.touch(known.student_id, trigger, known.etape)
    for key, row in told.items():
        if key not in settled:
            rows.append(fact(row, now) | {"version": NEVER})
            changed.append(key)
            _touch(effects, image, row, run)
    for key in changed:
        for known in others.get(key, ()):
            _touch(effects, image, told[key], run, known)
    upsert(connection, enrolment, rows + ended, update=FACT)
    return len(rows), len(ended)


def remember(connection: sa.Connection, image: Snapshot, *, run: int, now: Instant) -> None:
    """Note that it was accepted; an older one of the same scope says nothing more, nor does one of the same name."""
    accepted = image.accepted()
    scope = _text(accepted.scope)
    connection.execute(sa.delete(snapshot).where(sa.or_(snapshot.c.scope == scope, snapshot.c.id == accepted.id)))
    row = {
        "id": accepted.id,
        "taken_at": accepted.taken_at,
        "system": accepted.system,
        "scope": scope,
        "rows_by_year": json.dumps(accepted.rows_by_year, sort_keys=True),
        "unknown": UNKNOWN.dump_json(accepted.unknown).decode(),
        "accepted_at": now,
        "run": run,
    }
    connection.execute(sa.insert(snapshot), row)


def lift_undone(connection: sa.Connection, image: Snapshot, effects: Effects, *, run: int) -> None:
    """Have those derived anew whose removal a person undid before the snapshot was taken: now it has spoken."""
    kept = (
        sa.select(membership.c.student_id, cohort.c.etape)
        .join(cohort)
        .where(membership.c.kept == Kept.UNDONE, membership.c.kept_at < image.taken_at)
    )
    unknown = _unknown_students(connection, image)
    for row in connection.execute(kept):
        told = row.etape is not None and row.etape in effects.students.get(row.student_id, {})
        if image.scope.covers_etape(row.etape) and not told and row.student_id not in unknown:
            trigger = Trigger(Cause.ABSENT, f"snapshot {image.id}", image.taken_at, run)
            effects.touch(row.student_id, trigger, row.etape)


def _unknown_students(connection: sa.Connection, image: Snapshot) -> set[str]:
    """Give the students of whom the source could not tell something, by all their numbers."""
    here = sa.select(enrolment.c.student_id).where(enrolment.c.uai.in_(image.scope.uais))
    rows = select_in(connection, here, enrolment.c.enrolment_id, image.unknown.enrolments)
    numbers: set[str] = {*image.unknown.students, *(row.student_id for row in rows)}
    merged = sa.select(student.c.student_id, student.c.survivor).where(student.c.survivor.is_not(None))
    numbers.update(row.survivor for row in select_in(connection, merged, student.c.student_id, numbers))
    return numbers.union(row.student_id for row in select_in(connection, merged, student.c.survivor, numbers))


def last(connection: sa.Connection) -> AcceptedSnapshot | None:
    """Give the snapshot that was accepted last."""
    return next(iter(accepted_snapshots(connection, most=1)), None)


def _text(scope: SnapshotScope) -> str:
    """Write a scope as JSON, equal ones alike."""
    etapes = None if scope.etapes is None else sorted(scope.etapes)
    return json.dumps({"uais": sorted(scope.uais), "academic_years": sorted(scope.academic_years), "etapes": etapes})


def _known(connection: sa.Connection, image: Snapshot) -> Iterator[_Fact]:
    """Give the facts that lie within the scope, or may, or are of an enrolment that the snapshot tells.

    A deleted enrolment's year isn't always known, and what was told later may have moved out of the scope.
    """
    year = enrolment.c.academic_year
    told = among(connection, enrolment.c.enrolment_id, [row.enrolment_id for row in image.rows])
    within = sa.select(*(enrolment.c[name] for name in _Fact._fields)).where(
        enrolment.c.uai.in_(image.scope.uais), sa.or_(year.in_(image.scope.academic_years), year.is_(None), told)
    )
    return map(_Fact._make, stream(connection, within))


def _rivals(connection: sa.Connection, image: Snapshot) -> dict[EnrolmentKey, tuple[Instant, str]]:
    """Give what another system said last before the snapshot, of which enrolment: the snapshot's word is the later."""
    others = sa.select(enrolment.c.uai, enrolment.c.enrolment_id, enrolment.c.changed_at, enrolment.c.system).where(
        enrolment.c.system != image.system, enrolment.c.changed_at <= image.taken_at
    )
    ordered = others.order_by(enrolment.c.changed_at, enrolment.c.system)
    return {(row.uai, row.enrolment_id): (row.changed_at, row.system) for row in connection.execute(ordered)}


def _touch(effects: Effects, image: Snapshot, row: EnrolmentChange, run: int, known: _Fact | None = None) -> None:
    trigger = Trigger(Cause(row.status), row.origin, image.taken_at, run)
    effects.touch(row.student_id, trigger, row.etape)
    if known is not None:  # perhaps of another student, or another étape
        effects.touch(known.student_id, trigger, row.etape, known.etape)


def _ends(known: _Fact, image: AcceptedSnapshot) -> bool:
    """Say whether absence ends it: the snapshot would hold it, and nothing newer is known."""
    return (
        known.changed_at <= image.taken_at
        and known.status not in _OVER
        and image.speaks_of(
            uai=known.uai,
            academic_year=known.academic_year,
            etape=known.etape,
            student_id=known.student_id,
            enrolment_id=known.enrolment_id,
        )
    )


def _ended(known: _Fact, image: Snapshot, now: Instant) -> dict[str, Any]:
    return known._asdict() | {
        "status": Status.ABSENT.value,
        "changed_at": image.taken_at,
        "origin": f"snapshot {image.id}",
        "recorded_at": now,
    }
