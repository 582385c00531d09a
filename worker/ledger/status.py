"""Questions that people, metrics and commands ask the ledger."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import sqlalchemy as sa

from worker.domain.instants import Instant
from worker.domain.states import OF_DECISIONS, PARKING, Cause, CohortState, PlatformState, Status
from worker.ledger.database import Ledger
from worker.ledger.gaps import PROMISE_SECONDS
from worker.ledger.guard import approved
from worker.ledger.schema import cohort, enrolment, gap, journal, membership, platform, position, student, waiting

WAITING, READY, HELD, PARKED, RETRYING, FOREIGN = "waiting", "ready", "held", "parked", "retrying", "foreign"
GAP_STATES = {
    WAITING: "a removal's or an addition's short delay",
    READY: "to be applied now",
    HELD: "removals beyond the guard's limits, until a person approves or rejects them",
    PARKED: "no usable account yet, or the platform is only observed",
    RETRYING: "refused by Moodle, or unknown after a time-out; tried again later",
    FOREIGN: "in a cohort that isn't ours: adopt it",
}
"""Every state of a gap, and what it waits for."""
_NUMBERLESS = sa.select(sa.func.count()).where(waiting.c.status != Status.DELETED)
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
    memberships: int
    cohorts: Mapping[str, int]
    """Cohorts by `CohortState`."""
    gaps: Mapping[str, int]
    """Gaps by state, see `GAP_STATES`."""
    reasons: Mapping[str, int]
    """Parked and retrying gaps by reason."""
    oldest: Instant | None
    """Publication of the oldest change that Moodle could hold and doesn't; held, parked and foreign ones aside.

    An approved removal is the person's, and that of a closed year is counted from the end of its grace.
    """
    late: Mapping[float, int]
    """Of `Channel.MESSAGE` changes that Moodle could hold and doesn't, those older than each of `PROMISES`."""
    oldest_held: Instant | None
    """Publication of the oldest change whose removal is held; it was held when it was due, minutes later."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerStatus:
    """How everything stands."""

    instance: str
    enrolments: int
    without_number: int
    """Enrolments from change capture that wait for the student number of their person."""
    positions: Mapping[str, int]
    """Messages' positions, as `topic[partition]`: the next one to read."""
    platforms: tuple[PlatformStatus, ...] = field(default=())


def positions(ledger: Ledger, topic_ids: Mapping[str, str | None]) -> dict[tuple[str, int], int]:
    """Where to read on, by (topic, partition), in topics that weren't re-created since."""
    with ledger.read() as connection:
        return {
            (row.topic, row.partition): row.next_offset
            for row in connection.execute(sa.select(position))
            if row.topic in topic_ids and row.topic_id == topic_ids[row.topic]
        }


def recreated(ledger: Ledger, topic_ids: Mapping[str, str | None]) -> set[str]:
    """Topics that the ledger knows under another id."""
    with ledger.read() as connection:
        rows = connection.execute(sa.select(position.c.topic, position.c.topic_id).distinct())
        return {row.topic for row in rows if row.topic in topic_ids and row.topic_id != topic_ids[row.topic]}


def forget_positions(ledger: Ledger, topic: str) -> int:
    """Read a topic again from its beginning at the next start: always safe, as replays change nothing."""
    with ledger.write() as connection:
        return connection.execute(sa.delete(position).where(position.c.topic == topic)).rowcount


def read_status(ledger: Ledger, platforms: Iterable[str], now: Instant) -> LedgerStatus:
    """Count everything, for these platforms."""
    with ledger.read() as connection:
        return LedgerStatus(
            instance=ledger.instance,
            enrolments=connection.scalar(sa.select(sa.func.count()).select_from(enrolment)) or 0,
            without_number=connection.scalar(_NUMBERLESS) or 0,
            positions={
                f"{row.topic}[{row.partition}]": row.next_offset
                for row in connection.execute(sa.select(position).order_by(position.c.topic, position.c.partition))
            },
            platforms=tuple(_platform(connection, name, now) for name in platforms),
        )


def _platform(connection: sa.Connection, name: str, now: Instant) -> PlatformStatus:
    here = cohort.c.platform == name
    state = sa.case(
        (cohort.c.state == CohortState.FOREIGN, FOREIGN),
        (sa.and_(membership.c.held.is_not(None), sa.not_(sa.func.coalesce(approved(now), sa.false()))), HELD),
        (membership.c.reason.in_(PARKING), PARKED),
        (membership.c.reason.is_not(None), RETRYING),
        (membership.c.next_attempt_at > now, WAITING),
        else_=READY,
    ).label("state")
    promised = membership.c.due_by - PROMISE_SECONDS  # as since, but after a closed year's grace
    announced = sa.and_(membership.c.run.is_(None), membership.c.cause.not_in(OF_DECISIONS | {Cause.DRIFT}))
    was_held = membership.c.held.is_not(None).label("was_held")  # and is approved, in any state but held
    rows = connection.execute(
        sa.select(
            state,
            was_held,
            membership.c.reason,
            sa.func.count().label("n"),
            sa.func.min(promised).label("oldest"),
            *(
                sa.func.count(sa.case((sa.and_(announced, promised < now - s), 1))).label(f"late_{s:.0f}")
                for s in PROMISES
            ),
        )
        .join(cohort)
        .where(here, gap)
        .group_by(state, was_held, membership.c.reason)
    ).all()
    gaps = dict.fromkeys(GAP_STATES, 0)
    reasons: dict[str, int] = {}
    for row in rows:
        gaps[row.state] += row.n
        if row.reason is not None:
            reasons[row.reason] = reasons.get(row.reason, 0) + row.n
    known = connection.execute(sa.select(platform).where(platform.c.name == name)).first()
    members = sa.select(sa.func.count()).select_from(membership.join(cohort)).where(here, membership.c.desired)
    cohorts = connection.execute(sa.select(cohort.c.state, sa.func.count()).where(here).group_by(cohort.c.state))
    could = [row for row in rows if row.state in {WAITING, READY, RETRYING} and not row.was_held]
    return PlatformStatus(
        name=name,
        state=PlatformState(known.state) if known is not None else PlatformState.UP,
        since=known.since if known is not None else None,
        next_attempt_at=known.next_attempt_at if known is not None else 0.0,
        code=known.code if known is not None else None,
        sentence=known.sentence if known is not None else None,
        memberships=connection.scalar(members) or 0,
        cohorts=dict.fromkeys(CohortState, 0) | {row[0]: row[1] for row in cohorts},
        gaps=gaps,
        reasons=reasons,
        oldest=min((row.oldest for row in could if row.oldest <= now), default=None),
        late={seconds: sum(getattr(row, f"late_{seconds:.0f}") for row in could) for seconds in PROMISES},
        oldest_held=min((row.oldest for row in rows if row.state == HELD), default=None),
    )


def desired(ledger: Ledger, platform_name: str) -> dict[str, frozenset[str]]:
    """Desired members (student ids) by cohort idnumber."""
    return _members(ledger, platform_name, membership.c.desired)


def observed(ledger: Ledger, platform_name: str) -> dict[str, frozenset[str]]:
    """Members that Moodle showed last (student ids) by cohort idnumber."""
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
    """What was applied on a platform under this action, in order: (cohort idnumber, student id)."""
    entries = sa.select(journal.c.cohort, journal.c.student_id).where(
        journal.c.platform == platform_name, journal.c.action == action
    )
    with ledger.read() as connection:
        return [(row.cohort, row.student_id) for row in connection.execute(entries.order_by(journal.c.id))]


def logins(ledger: Ledger) -> dict[str, str]:
    """Logins by student id, where a message has told them."""
    with ledger.read() as connection:
        rows = connection.execute(sa.select(student.c.student_id, student.c.login).where(student.c.login.is_not(None)))
        return {row.student_id: row.login for row in rows}
