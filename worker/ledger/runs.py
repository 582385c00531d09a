"""Reconciliations: one at a time across processes, one per night, and what each of them found."""

from collections.abc import Callable, Collection
from dataclasses import dataclass

import sqlalchemy as sa

from worker.domain.errors import RunInProgress
from worker.domain.instants import Instant
from worker.domain.report import REPORTS, Report
from worker.domain.snapshots import AcceptedSnapshot
from worker.domain.states import Action, RunState
from worker.ledger.cohort_guard import takes_members
from worker.ledger.database import Ledger
from worker.ledger.gaps import CLOSABLE, PROMISE_SECONDS
from worker.ledger.schema import cohort, in_cohort, journal, membership, run, snapshot

OVER = run.c.state.in_([RunState.DONE, RunState.PARTIAL, RunState.REFUSED])
"""How a run ends that was made to its end; one that failed or was abandoned is made again."""
NIGHT_TRIES = 4
"""Runs of one night at most, while each is partial: as many as deploy/ makes of a job that fails."""
PARTIAL_RETRY_SECONDS = 1200.0
"""When a partial run of a night is made again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A reconciliation, in one line."""

    id: int
    night: str | None
    state: RunState
    started_at: Instant
    ended_at: Instant | None


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """When a reconciliation began and ended."""

    id: int
    started_at: Instant
    ended_at: Instant


class Runs:
    """Begins, renews and ends runs for one process.

    A run whose lease is over is that of a dead process, and so is one whose holder `is_dead`, at once.
    """

    def __init__(self, ledger: Ledger, holder: str, *, lease: float, is_dead: Callable[[str], bool]) -> None:
        self._ledger = ledger
        self._holder = holder
        self._lease = lease
        self._is_dead = is_dead

    def begin(self, now: Instant, *, night: str | None = None) -> int | None:
        """Begin a run and return its number; None when that night is over, for now, or its run going on elsewhere.

        Raises RunInProgress when another run is going on and no night is given. A run whose process died is marked as
        abandoned: what it left undone is in the ledger, and this one takes it up.
        """
        with self._ledger.write() as connection:
            running = connection.execute(sa.select(run).where(run.c.state == RunState.RUNNING)).all()
            dead = [row.id for row in running if row.lease_until <= now or self._is_dead(row.holder)]
            abandoned = sa.update(run).where(run.c.id.in_(dead))
            connection.execute(abandoned.values(state=RunState.ABANDONED.value, ended_at=now))
            if night is not None and _is_over(connection, night, now):
                return None
            other = next((row for row in running if row.id not in dead), None)
            if other is not None and night is not None:
                return None
            if other is not None:
                raise RunInProgress(
                    f"reconciliation {other.id} has been running for {now - other.started_at:.0f} s; wait for its end "
                    "(`cohorts runs`); if its process died, its lease expires in "
                    f"{max(0.0, other.lease_until - now):.0f} s"
                )
            values = {
                "night": night,
                "state": RunState.RUNNING.value,
                "started_at": now,
                "holder": self._holder,
                "lease_until": now + self._lease,
            }
            number = int(connection.execute(sa.insert(run).values(**values).returning(run.c.id)).scalar_one())
            left_over = sa.update(membership).where(CLOSABLE, membership.c.run.is_not(None))
            connection.execute(left_over.values(run=number))
            return number

    def renew(self, number: int, now: Instant) -> None:
        """Renew the lease of the run. Raises RunInProgress when the run was given up as dead meanwhile."""
        this = sa.update(run).where(run.c.id == number, run.c.state == RunState.RUNNING)
        with self._ledger.write() as connection:
            if not connection.execute(this.values(lease_until=now + self._lease)).rowcount:
                raise given_up(number)

    def end(self, report: Report) -> None:
        """End a run with its report, unless it was given up as dead meanwhile."""
        with self._ledger.write() as connection:
            connection.execute(
                sa.update(run)
                .where(run.c.id == report.run, run.c.state == RunState.RUNNING)
                .values(
                    state=report.state.value,
                    ended_at=report.ended_at,
                    lease_until=report.ended_at,
                    report=REPORTS.dump_json(report).decode(),
                )
            )


def given_up(number: int) -> RunInProgress:
    """Build the error for a run that continues although it was given up as dead."""
    return RunInProgress(f"reconciliation {number}: its lease expired and it was given up")


def is_given_up(connection: sa.Connection, number: int) -> bool:
    """Whether a run was given up as dead: what it writes then comes too late."""
    dead = sa.select(run.c.id).where(run.c.id == number, run.c.state == RunState.ABANDONED)
    return connection.scalar(dead) is not None


def listed(ledger: Ledger, *, most: int) -> list[Run]:
    """Return the last runs, newest first."""
    with ledger.read() as connection:
        rows = connection.execute(sa.select(run).order_by(run.c.id.desc()).limit(most)).all()
    return [
        Run(
            id=row.id,
            night=row.night,
            state=RunState(row.state),
            started_at=row.started_at,
            ended_at=row.ended_at,
        )
        for row in rows
    ]


def report(ledger: Ledger, number: int | None = None) -> Report | None:
    """Return the report of a run; without a number, the newest report."""
    asked = sa.select(run.c.report).where(run.c.report.is_not(None)).order_by(run.c.id.desc()).limit(1)
    with ledger.read() as connection:
        text = connection.scalar(asked if number is None else asked.where(run.c.id == number))
    return None if text is None else REPORTS.validate_json(text)


def last_ends(ledger: Ledger) -> dict[RunState, End]:
    """Return the last run that ended in each state."""
    last = sa.select(sa.func.max(run.c.id)).where(run.c.ended_at.is_not(None)).group_by(run.c.state)
    with ledger.read() as connection:
        rows = connection.execute(sa.select(run).where(run.c.id.in_(last))).all()
    return {RunState(row.state): End(id=row.id, started_at=row.started_at, ended_at=row.ended_at) for row in rows}


def is_over(ledger: Ledger, night: str, now: Instant) -> bool:
    """Whether this night needs no run now: it had one that was done or refused, a partial one lately, or enough."""
    with ledger.read() as connection:
        return _is_over(connection, night, now)


def _is_over(connection: sa.Connection, night: str, now: Instant) -> bool:
    over = connection.execute(sa.select(run.c.state, run.c.ended_at).where(run.c.night == night, OVER)).all()
    if not over:
        return False
    is_partial = all(row.state == RunState.PARTIAL for row in over)
    try_again_at = max(row.ended_at for row in over) + PARTIAL_RETRY_SECONDS
    return not is_partial or len(over) >= NIGHT_TRIES or now < try_again_at


def left_over(ledger: Ledger, accepted: AcceptedSnapshot, now: Instant) -> bool:
    """Whether the run that accepted this snapshot died, failed or was partial, and no run was done since.

    Then the next run finishes its work, within the day for which the snapshot is valid.
    """
    if now >= accepted.taken_at + PROMISE_SECONDS:
        return False
    later = run.alias()
    done = sa.exists().where(later.c.id > run.c.id, later.c.state == RunState.DONE)
    unfinished = (
        sa.select(run.c.id)
        .join(snapshot, snapshot.c.run == run.c.id)
        .where(
            snapshot.c.id == accepted.id,
            run.c.state.in_([RunState.ABANDONED, RunState.FAILED, RunState.PARTIAL]),
            ~done,
        )
    )
    with ledger.read() as connection:
        return connection.scalar(unfinished) is not None


def open_gaps(
    ledger: Ledger,
    number: int,
    platforms: Collection[str],
    now: Instant,
    *,
    since: Instant,
    due_by: Instant | None = None,
) -> dict[str, int]:
    """Count the gaps on each of these platforms that can be closed now, neither held nor parked, whoever made them.

    They are those that the run with this number made, and those from before `since`, when it began, that don't wait
    for a delay of ours. With `due_by`, only those that are tried again by then.
    """
    of_the_run = membership.c.run == number
    earlier = sa.and_(
        membership.c.since <= since, sa.or_(membership.c.next_attempt_at <= since, membership.c.reason.is_not(None))
    )
    left = sa.select(sa.func.count()).select_from(membership).where(CLOSABLE, sa.or_(of_the_run, earlier))
    writable = [takes_members(now)]
    if due_by is not None:
        left = left.where(membership.c.next_attempt_at <= due_by)
        writable.append(cohort.c.next_attempt_at <= due_by)
    with ledger.read() as connection:
        return {
            name: connection.scalar(left.where(in_cohort(cohort.c.platform == name, *writable))) or 0
            for name in platforms
        }


def journalled(ledger: Ledger, platform: str, since: Instant, moodle_ids: Collection[int]) -> dict[int, int]:
    """Count the journal entries of these cohorts since then, by Moodle's ids."""
    entries = (
        sa.select(cohort.c.moodle_id, sa.func.count().label("entries"))
        .join(journal, journal.c.cohort_id == cohort.c.id)
        .where(
            cohort.c.platform == platform,
            cohort.c.moodle_id.in_(moodle_ids),
            journal.c.at >= since,
            journal.c.action.in_([Action.ADD, Action.REMOVE, Action.CREATE_COHORT, Action.RENAME_COHORT]),
        )
        .group_by(cohort.c.moodle_id)
    )
    with ledger.read() as connection:
        return {row.moodle_id: row.entries for row in connection.execute(entries)}


def applied(ledger: Ledger, platform: str, number: int) -> dict[str, dict[str, int]]:
    """Count what followed from a run and is done, by cohort idnumber and `states.Action`."""
    entries = (
        sa.select(journal.c.cohort, journal.c.action, sa.func.count().label("entries"))
        .where(journal.c.platform == platform, journal.c.run == number)
        .group_by(journal.c.cohort, journal.c.action)
    )
    found: dict[str, dict[str, int]] = {}
    with ledger.read() as connection:
        for row in connection.execute(entries):
            found.setdefault(row.cohort, {})[row.action] = row.entries
    return found
