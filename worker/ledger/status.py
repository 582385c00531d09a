"""Questions that people, metrics and commands ask the ledger."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from worker.domain.cohorts import BlockedCohort, DeletedCohort
from worker.domain.instants import Instant
from worker.domain.states import OF_DECISIONS, PARKING, Cause, CohortChange, CohortState, PlatformState, Status
from worker.ledger import blocked, cohort_guard, deletions, merges
from worker.ledger.consumption import Halt, halted
from worker.ledger.database import Ledger
from worker.ledger.gaps import PROMISE_SECONDS
from worker.ledger.guard import approved
from worker.ledger.schema import NO_NUMBER, cohort, enrolment, gap, journal, membership, platform, position, student

WAITING, READY, HELD, PARKED, RETRYING = "waiting", "ready", "held", "parked", "retrying"
FOREIGN, COLLIDING, COHORT_HELD = "foreign", "colliding", "cohort_held"
GAP_STATES = {
    WAITING: "a removal's or an addition's short delay",
    READY: "to be applied now",
    HELD: "removals beyond the guard's limits, or of an adopted cohort, until a person approves or rejects them",
    PARKED: "no usable account yet, or the platform is only observed",
    RETRYING: "refused by Moodle, or unknown after a time-out; tried again later",
    FOREIGN: "in a cohort that isn't ours: adopt it",
    COHORT_HELD: "in a new cohort that the guard holds until a person decides, or that a person rejected",
    COLLIDING: "in a cohort whose idnumber Moodle's database takes for another's of ours: choose another one",
}
"""Every state of a gap, and what it waits for."""
_ENROLMENTS = sa.select(sa.func.count()).select_from(enrolment)
_NUMBERLESS = enrolment.c.student_id == NO_NUMBER
_WAITING = _ENROLMENTS.where(_NUMBERLESS, enrolment.c.status.not_in([Status.DELETED, Status.ABSENT]))
PROMISES = (300.0, float(PROMISE_SECONDS))
"""Seconds within which a change is to be on Moodle: mostly, and always."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlatformStatus:
    """How one platform stands."""

    name: str
    state: PlatformState
    since: Instant | None
    next_attempt_at: Instant
    code: str | None
    sentence: str | None
    read_at: Instant | None
    """When its last complete reading began."""
    memberships: int
    cohorts: Mapping[str, int]
    """Cohorts by `CohortState`."""
    gaps: Mapping[str, int]
    """Gaps by state, see `GAP_STATES`."""
    reasons: Mapping[str, int]
    """Parked and retrying gaps by reason."""
    oldest: Instant | None
    """Publication of the oldest change that Moodle could hold and doesn't; those that wait for somebody aside.

    An approved removal is the person's, and that of a closed year is counted from the end of its grace.
    """
    late: Mapping[float, int]
    """Of `Channel.MESSAGE` changes that Moodle could hold and doesn't, those older than each of `PROMISES`."""
    oldest_held: Instant | None
    """Publication of the oldest change whose removal is held; it was held when it was due, minutes later."""
    blocked: tuple[BlockedCohort, ...]
    """The cohorts that wait for a person."""
    deleted: tuple[DeletedCohort, ...]
    """The cohorts that somebody deleted on Moodle, until a person acknowledges it."""
    held_cohorts: Mapping[CohortChange, int]
    """The cohorts whose creation or new label the guard holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerStatus:
    """The state of the whole ledger."""

    instance: str
    enrolments: int
    without_number: int
    """Enrolments from change capture that wait for the student number of their person."""
    held_merges: int
    """Merges of student numbers that wait for a person."""
    positions: Mapping[str, int]
    """Messages' positions, as `topic[partition]`: the next one to read."""
    halt: Halt | None = None
    """Why no message is read, if a worker had to stop reading and none was started since."""
    platforms: tuple[PlatformStatus, ...] = field(default=())


def positions(ledger: Ledger, topic_ids: Mapping[str, str | None]) -> dict[tuple[str, int], int]:
    """Return the next offset to read, by (topic, partition), in topics that weren't re-created since."""
    with ledger.read() as connection:
        return {
            (row.topic, row.partition): row.next_offset
            for row in connection.execute(sa.select(position))
            if row.topic in topic_ids and row.topic_id == topic_ids[row.topic]
        }


def recreated(ledger: Ledger, topic_ids: Mapping[str, str | None]) -> set[str]:
    """Return the topics that the ledger knows under another id."""
    with ledger.read() as connection:
        rows = connection.execute(sa.select(position.c.topic, position.c.topic_id).distinct())
        return {row.topic for row in rows if row.topic in topic_ids and row.topic_id != topic_ids[row.topic]}


def forget_positions(ledger: Ledger, topic: str) -> int:
    """Delete the positions in a topic, so that it is read again from its beginning; return how many there were."""
    with ledger.write() as connection:
        return connection.execute(sa.delete(position).where(position.c.topic == topic)).rowcount


def read_status(ledger: Ledger, platforms: Iterable[str], now: Instant) -> LedgerStatus:
    """Read the state of the ledger and of these platforms."""
    with ledger.read() as connection:
        return LedgerStatus(
            instance=ledger.instance,
            enrolments=connection.scalar(_ENROLMENTS.where(~_NUMBERLESS)) or 0,
            without_number=connection.scalar(_WAITING) or 0,
            held_merges=merges.count_held(connection),
            positions={
                f"{row.topic}[{row.partition}]": row.next_offset
                for row in connection.execute(sa.select(position).order_by(position.c.topic, position.c.partition))
            },
            halt=halted(connection),
            platforms=tuple(_platform(connection, name, now) for name in platforms),
        )


def _platform(connection: sa.Connection, name: str, now: Instant) -> PlatformStatus:
    availability = _availability(connection, name)
    rows = _gaps(connection, name, now)
    gaps = dict.fromkeys(GAP_STATES, 0)
    reasons: Counter[str] = Counter()
    for row in rows:
        gaps[row.state] += row.number
        if row.reason is not None:
            reasons[row.reason] += row.number
    applicable = [row for row in rows if row.state in {WAITING, READY, RETRYING} and not row.was_held]
    return PlatformStatus(
        name=name,
        **availability,
        **_sizes(connection, name),
        gaps=gaps,
        reasons=dict(reasons),
        oldest=min((row.oldest for row in applicable if row.oldest <= now), default=None),
        late={seconds: sum(getattr(row, f"late_{seconds:.0f}") for row in applicable) for seconds in PROMISES},
        oldest_held=min((row.oldest for row in rows if row.state == HELD), default=None),
        blocked=blocked.read(connection, name),
        deleted=deletions.read(connection, name),
        held_cohorts=cohort_guard.held(connection, name, now),
    )


def _availability(connection: sa.Connection, name: str) -> dict[str, Any]:
    """Return how the platform answered last; up, where it was never called."""
    row = connection.execute(sa.select(platform).where(platform.c.name == name)).first()
    if row is None:
        unknown = dict.fromkeys(("since", "code", "sentence", "read_at"))
        return {"state": PlatformState.UP, "next_attempt_at": 0.0, **unknown}
    return {
        "state": PlatformState(row.state),
        "since": row.since,
        "next_attempt_at": row.next_attempt_at,
        "code": row.code,
        "sentence": row.sentence,
        "read_at": row.read_at,
    }


def _sizes(connection: sa.Connection, name: str) -> dict[str, Any]:
    """Count the desired memberships, and the cohorts by state."""
    of_platform = cohort.c.platform == name
    members = sa.select(sa.func.count()).select_from(membership.join(cohort)).where(of_platform, membership.c.desired)
    rows = connection.execute(sa.select(cohort.c.state, sa.func.count()).where(of_platform).group_by(cohort.c.state))
    cohorts = dict.fromkeys(CohortState, 0) | {CohortState(state): number for state, number in rows}
    return {"memberships": connection.scalar(members) or 0, "cohorts": cohorts}


def _gaps(connection: sa.Connection, name: str, now: Instant) -> Sequence[sa.Row[Any]]:
    """Count the gaps by state, by reason and by whether the guard held them, with the oldest and the late ones."""
    state = sa.case(
        (cohort.c.state == CohortState.FOREIGN, FOREIGN),
        (cohort.c.state == CohortState.COLLIDING, COLLIDING),
        (sa.and_(cohort.c.state == CohortState.WANTED, sa.not_(cohort_guard.let_pass(now))), COHORT_HELD),
        (sa.and_(membership.c.held.is_not(None), sa.not_(sa.func.coalesce(approved(now), sa.false()))), HELD),
        (membership.c.reason.in_(PARKING), PARKED),
        (membership.c.reason.is_not(None), RETRYING),
        (membership.c.next_attempt_at > now, WAITING),
        else_=READY,
    ).label("state")
    promised = membership.c.due_by - PROMISE_SECONDS  # as since, but after a closed year's grace
    announced = sa.and_(membership.c.run.is_(None), membership.c.cause.not_in(OF_DECISIONS | {Cause.DRIFT}))
    was_held = membership.c.held.is_not(None).label("was_held")  # and is approved, in any state but held
    late = []
    for seconds in PROMISES:
        is_late = sa.case((sa.and_(announced, promised < now - seconds), 1))
        late.append(sa.func.count(is_late).label(f"late_{seconds:.0f}"))
    columns = (state, was_held, membership.c.reason)
    oldest = sa.func.min(promised).label("oldest")
    return connection.execute(
        sa.select(*columns, sa.func.count().label("number"), oldest, *late)
        .join(cohort)
        .where(cohort.c.platform == name, gap)
        .group_by(*columns)
    ).all()


def desired(ledger: Ledger, platform_name: str) -> dict[str, frozenset[str]]:
    """Return desired members (student ids) by cohort idnumber."""
    return _members(ledger, platform_name, membership.c.desired)


def observed(ledger: Ledger, platform_name: str) -> dict[str, frozenset[str]]:
    """Return members that Moodle showed last (student ids) by cohort idnumber."""
    return _members(ledger, platform_name, membership.c.observed.is_(sa.true()))


def _members(ledger: Ledger, platform_name: str, condition: sa.ColumnElement[bool]) -> dict[str, frozenset[str]]:
    found: dict[str, set[str]] = {}
    with ledger.read() as connection:
        for row in connection.execute(
            sa.select(cohort.c.idnumber, membership.c.student_id)
            .join(membership)
            .where(cohort.c.platform == platform_name, condition)
        ):
            found.setdefault(row.idnumber, set()).add(row.student_id)
    return {idnumber: frozenset(students) for idnumber, students in found.items()}


def applied(ledger: Ledger, platform_name: str, action: str) -> list[tuple[str, str]]:
    """Return what was applied on a platform under this action, in order: (cohort idnumber, student id)."""
    entries = sa.select(journal.c.cohort, journal.c.student_id).where(
        journal.c.platform == platform_name, journal.c.action == action
    )
    with ledger.read() as connection:
        return [(row.cohort, row.student_id) for row in connection.execute(entries.order_by(journal.c.id))]


def logins(ledger: Ledger) -> dict[str, str]:
    """Return logins by student id, where a message gave one."""
    with ledger.read() as connection:
        rows = connection.execute(sa.select(student.c.student_id, student.c.login).where(student.c.login.is_not(None)))
        return {row.student_id: row.login for row in rows}
