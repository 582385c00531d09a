"""A snapshot into the ledger: its rows overrule what was known at its instant, and so does absence from it.

Nothing that was learnt after that instant is touched. What the ledger already holds so isn't written again.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import sqlalchemy as sa

from worker.domain.changes import EnrolmentChange
from worker.domain.instants import Instant
from worker.domain.merges import Person
from worker.domain.snapshots import AcceptedSnapshot, Snapshot, SnapshotScope
from worker.domain.states import Cause, Kept, Status
from worker.ledger.database import among, select_in, stream, upsert
from worker.ledger.enrolments import (
    REPLACED,
    UNKNOWN,
    EnrolmentKey,
    KnownEnrolment,
    Touched,
    Trigger,
    Triggers,
    accepted_snapshots,
    enrolment_row,
    facts_of,
    known_enrolments,
)
from worker.ledger.identities import with_all_numbers
from worker.ledger.schema import NO_NUMBER, cohort, enrolment, membership
from worker.ledger.schema import snapshot as snapshot_table

MOST_SCOPES = 50
"""Accepted snapshots that are remembered, one of each scope: a message that comes late is compared to all of them."""
NEVER = -1
"""Version of a state that no message has carried: any message that isn't older than the snapshot comes after it."""
_ENDED = {Status.DELETED, Status.ABSENT}
_Rivals = Mapping[EnrolmentKey, tuple[Instant, str]]
"""When which other system changed an enrolment last before the snapshot."""


class _NewState(NamedTuple):
    """A row of the snapshot that the ledger doesn't hold so."""

    row: EnrolmentChange
    known: KnownEnrolment | None
    """The state that it replaces."""
    others: Sequence[KnownEnrolment]
    """The states at other systems."""


class _Differences(NamedTuple):
    """What differs between a snapshot and the ledger."""

    new: Sequence[_NewState]
    ended: Sequence[KnownEnrolment]
    """States that end by absence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedSnapshot:
    """What the rows of a snapshot, and absence from it, changed."""

    applied: int
    """Enrolments that it changed."""
    ended: int
    """Enrolments that ended by being absent from it."""
    touched: Touched
    numbers: Mapping[Person, str]
    """The student numbers of persons whose enrolments were under another one."""


def record(connection: sa.Connection, snapshot: Snapshot, *, run: int, now: Instant) -> RecordedSnapshot:
    """Write the rows of a snapshot that say something new, and end what is absent from it."""
    differences = _compare(snapshot, _known(connection, snapshot), _rivals(connection, snapshot))
    rows = [_new_row(state, now) for state in differences.new]
    ended = [_ended_row(known, snapshot, now) for known in differences.ended]
    upsert(connection, enrolment, rows + ended, update=REPLACED)
    return RecordedSnapshot(
        applied=len(rows),
        ended=len(ended),
        touched=_touched(differences, snapshot, run),
        numbers={
            (row.uai, known.cod_ind): row.student_id
            for row, known, _ in differences.new
            if known is not None and known.cod_ind is not None and known.student_id != row.student_id
        },
    )


def _compare(snapshot: Snapshot, known_states: Iterable[KnownEnrolment], rivals: _Rivals) -> _Differences:
    """Compare the rows of a snapshot to what is known, reading that once: it is long."""
    rows = {(row.uai, row.enrolment_id): row for row in snapshot.rows}
    accepted = snapshot.accepted()
    seen: set[EnrolmentKey] = set()
    replaced: dict[EnrolmentKey, KnownEnrolment] = {}
    others: defaultdict[EnrolmentKey, list[KnownEnrolment]] = defaultdict(list)
    ended: list[KnownEnrolment] = []
    for known in known_states:
        key = (known.uai, known.enrolment_id)
        row = rows.get(key)
        if row is None:
            if _ends(known, accepted):
                ended.append(known)
        elif known.system != snapshot.system:
            others[key].append(known)
        else:
            seen.add(key)
            if _replaces(row, known, rivals.get(key), snapshot.taken_at):
                replaced[key] = known
    new = [
        _NewState(row, replaced.get(key), others.get(key, ()))
        for key, row in rows.items()
        if key in replaced or key not in seen
    ]
    return _Differences(new, ended)


def _replaces(
    row: EnrolmentChange, known: KnownEnrolment, rival: tuple[Instant, str] | None, taken_at: Instant
) -> bool:
    """Whether a row replaces what its system said before: it differs, or another system overruled it."""
    overruled = rival is not None and rival > (known.changed_at, known.system)
    return known.changed_at <= taken_at and (overruled or facts_of(row) != facts_of(known))


def _ends(known: KnownEnrolment, accepted: AcceptedSnapshot) -> bool:
    """Whether absence ends it: the snapshot would hold it, and nothing newer is known."""
    return (
        known.changed_at <= accepted.taken_at
        and known.status not in _ENDED
        and accepted.speaks_of(
            uai=known.uai,
            academic_year=known.academic_year,
            etape=known.etape,
            student_id=known.student_id,
            enrolment_id=known.enrolment_id,
        )
    )


def _touched(differences: _Differences, snapshot: Snapshot, run: int) -> Touched:
    touched = Touched()
    absent = _absence(snapshot, run)
    for known in differences.ended:
        touched.touch(known.student_id, absent, known.etape)
    for row, replaced, others in differences.new:
        trigger = Trigger(Cause(row.status), row.origin, snapshot.taken_at, run)
        touched.touch(row.student_id, trigger, row.etape)
        for known in others if replaced is None else (replaced, *others):  # perhaps of another student, or étape
            touched.touch(known.student_id, trigger, row.etape, known.etape)
    return touched


def _absence(snapshot: Snapshot, run: int) -> Trigger:
    return Trigger(Cause.ABSENT, _origin(snapshot), snapshot.taken_at, run)


def numbering(snapshot: Snapshot, run: int) -> Trigger:
    """Return the trigger of what follows from the student numbers in a snapshot."""
    return Trigger(Cause.REKEYED, _origin(snapshot), snapshot.taken_at, run)


def _origin(snapshot: Snapshot) -> str:
    return f"snapshot {snapshot.id}"


def _new_row(state: _NewState, now: Instant) -> dict[str, Any]:
    """Return the row of a state that a snapshot holds: it orders nothing, and an enrolment stays its person's."""
    version, cod_ind = (NEVER, None) if state.known is None else (state.known.version, state.known.cod_ind)
    return enrolment_row(state.row, now) | {"version": version, "cod_ind": cod_ind}


def _ended_row(known: KnownEnrolment, snapshot: Snapshot, now: Instant) -> dict[str, Any]:
    return known._asdict() | {
        "status": Status.ABSENT.value,
        "changed_at": snapshot.taken_at,
        "origin": _origin(snapshot),
        "recorded_at": now,
    }


def remember(connection: sa.Connection, snapshot: Snapshot, *, run: int, now: Instant) -> None:
    """Write that it was accepted, in place of an older one of the same scope, or of the same name.

    Of too many scopes those of the oldest snapshots are forgotten.
    """
    accepted = snapshot.accepted()
    scope = _text(accepted.scope)
    same = sa.or_(snapshot_table.c.scope == scope, snapshot_table.c.id == accepted.id)
    connection.execute(sa.delete(snapshot_table).where(same))
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
    connection.execute(sa.insert(snapshot_table), row)
    newest = sa.select(snapshot_table.c.id).order_by(snapshot_table.c.taken_at.desc()).limit(MOST_SCOPES)
    connection.execute(sa.delete(snapshot_table).where(snapshot_table.c.id.not_in(newest)))


def lift_undone(connection: sa.Connection, snapshot: Snapshot, touched: Mapping[str, Triggers], *, run: int) -> Touched:
    """Return the students whose removal a person undid before the snapshot was taken: it decides now.

    `touched` are the students that the snapshot has touched by étape already.
    """
    undone = (
        sa.select(membership.c.student_id, cohort.c.etape)
        .join(cohort)
        .where(membership.c.kept == Kept.UNDONE, membership.c.kept_at < snapshot.taken_at)
    )
    unknown = _unknown_students(connection, snapshot)
    lifted = Touched()
    for row in connection.execute(undone):
        decided = row.etape is not None and row.etape in touched.get(row.student_id, {})
        if snapshot.scope.covers_etape(row.etape) and not decided and row.student_id not in unknown:
            lifted.touch(row.student_id, _absence(snapshot, run), row.etape)
    return lifted


def _unknown_students(connection: sa.Connection, snapshot: Snapshot) -> set[str]:
    """Return the students about whom the source lacked something, by all their numbers."""
    of_scope = sa.select(enrolment.c.student_id).where(enrolment.c.uai.in_(snapshot.scope.uais))
    rows = select_in(connection, of_scope, enrolment.c.enrolment_id, snapshot.unknown.enrolments)
    numbers: set[str] = {*snapshot.unknown.students, *(row.student_id for row in rows)}
    return with_all_numbers(connection, numbers)


def enrolled(connection: sa.Connection, scope: SnapshotScope, at: Instant) -> Counter[int]:
    """Count by year the enrolments within a scope that haven't ended, as far as they were known at that instant."""
    year, etape = enrolment.c.academic_year, enrolment.c.etape
    within = (
        sa.select(enrolment.c.uai, enrolment.c.enrolment_id, year, etape)
        .where(
            enrolment.c.uai.in_(scope.uais),
            year.in_(scope.academic_years),
            enrolment.c.student_id != NO_NUMBER,
            enrolment.c.status.not_in([status.value for status in _ENDED]),
            enrolment.c.changed_at <= at,
        )
        .distinct()  # one enrolment may be known from several sources
        .subquery()
    )
    by_etape = sa.select(within.c.academic_year, within.c.etape, sa.func.count().label("rows"))
    found: Counter[int] = Counter()
    for row in connection.execute(by_etape.group_by(within.c.academic_year, within.c.etape)):
        if scope.covers_etape(row.etape):
            found[row.academic_year] += row.rows
    return found


def last(connection: sa.Connection) -> AcceptedSnapshot | None:
    """Return the snapshot that was accepted last."""
    return next(iter(accepted_snapshots(connection, most=1)), None)


def _text(scope: SnapshotScope) -> str:
    """Write a scope as JSON, equal ones alike."""
    etapes = None if scope.etapes is None else sorted(scope.etapes)
    return json.dumps({"uais": sorted(scope.uais), "academic_years": sorted(scope.academic_years), "etapes": etapes})


def _known(connection: sa.Connection, snapshot: Snapshot) -> Iterator[KnownEnrolment]:
    """Return the states that lie within the scope, or may, or are of an enrolment that the snapshot holds.

    A deleted enrolment's year isn't always known, and a later message may have moved an enrolment out of the scope.
    """
    scope = snapshot.scope
    year = enrolment.c.academic_year
    held = among(connection, enrolment.c.enrolment_id, [row.enrolment_id for row in snapshot.rows])
    within = known_enrolments.where(
        enrolment.c.uai.in_(scope.uais), sa.or_(year.in_(scope.academic_years), year.is_(None), held)
    )
    return map(KnownEnrolment._make, stream(connection, within))


def _rivals(connection: sa.Connection, snapshot: Snapshot) -> _Rivals:
    """Return when which other system changed an enrolment last before the snapshot, which is the later."""
    others = sa.select(enrolment.c.uai, enrolment.c.enrolment_id, enrolment.c.changed_at, enrolment.c.system).where(
        enrolment.c.system != snapshot.system, enrolment.c.changed_at <= snapshot.taken_at
    )
    ordered = others.order_by(enrolment.c.changed_at, enrolment.c.system)
    return {(row.uai, row.enrolment_id): (row.changed_at, row.system) for row in connection.execute(ordered)}
