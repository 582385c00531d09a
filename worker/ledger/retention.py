"""What the ledger no longer needs to keep: purging what is old, and erasing one person.

Neither changes what is desired, nor opens or closes a gap. Under the number of a person who is forgotten nothing is
left in any table: what is counted of them (a removal that the guard or a run has counted) stays without them.
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson
import sqlalchemy as sa

from worker.domain.errors import StudentPresent
from worker.domain.instants import Instant
from worker.domain.rules import Policy, account_key
from worker.domain.snapshots import Unknown
from worker.domain.states import Status
from worker.ledger import decisions, persons
from worker.ledger.database import Ledger, among
from worker.ledger.enrolments import UNKNOWN, accepted_snapshots
from worker.ledger.identities import every_survivor, numbers_of
from worker.ledger.memberships import is_latest
from worker.ledger.schema import (
    NO_NUMBER,
    account,
    enrolment,
    gap,
    journal,
    kept,
    membership,
    merge,
    person,
    proposal,
    run,
    snapshot,
    student,
    watched,
)

NOTHING = "[]"
"""The enrolments of a watched entry that has none, as JSON."""
ERASED = "erased"
"""Stands for an erased number where a journal entry must stay for counts."""
_OVER = [Status.DELETED, Status.ABSENT, Status.CANCELLED, Status.RESIGNED]
_NEW_YEAR_MONTH = 9
"""An academic year is over in September of the next one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Removed:
    """How many of each were deleted from the ledger."""

    numbers: int
    """Student numbers: a person may have several."""
    enrolments: int
    memberships: int
    accounts: int
    """Remembered accounts that no remaining student has."""
    journal: int
    """Entries that are gone, or are no longer anybody's."""
    proposals: int
    """Removals that were shown to a person: whole, or the pairs of those who are forgotten."""
    runs: int = 0
    """Reconciliations, with their reports."""


def purge(
    ledger: Ledger, policy: Policy, *, journal_before: Instant, gone_before: Instant, dry_run: bool = False
) -> Removed:
    """Delete what was done, shown and reported before an instant, and students who have been gone since before another.

    A student is gone when none of their numbers has an enrolment that isn't over, or a membership that is desired or
    may be on Moodle, or had one since then. What an open gap, a held removal or a kept decision needs stays.
    """
    with _changing(ledger, keep=not dry_run) as connection:
        entries = connection.execute(sa.delete(journal).where(journal.c.at < journal_before, ~_needed())).rowcount
        proposals = connection.execute(sa.delete(proposal).where(*_decided_long_ago(journal_before))).rowcount
        runs = connection.execute(sa.delete(run).where(run.c.ended_at < journal_before, ~_last_runs())).rowcount
        old = sa.update(snapshot).where(snapshot.c.taken_at < gone_before)
        connection.execute(old.values(unknown=UNKNOWN.dump_json(Unknown()).decode()))
        nobodys = sa.delete(enrolment).where(enrolment.c.student_id == NO_NUMBER, enrolment.c.changed_at < gone_before)
        unnumbered = connection.execute(nobodys.where(~_not_over(policy, gone_before))).rowcount
        people = _forget(connection, policy, _gone(connection, policy, gone_before))
        persons.forget_numberless(connection, gone_before)
    if not dry_run:
        ledger.compact()
    return Removed(
        numbers=people.numbers,
        enrolments=people.enrolments + unnumbered,
        memberships=people.memberships,
        accounts=people.accounts,
        journal=entries + people.journal,
        proposals=proposals + people.proposals,
        runs=runs,
    )


def erase(ledger: Ledger, policy: Policy, student_id: str, *, now: Instant, dry_run: bool = False) -> Removed:
    """Delete one person, under all their numbers; for an unknown number there is nothing to delete.

    Raises StudentPresent while an enrolment isn't over, which would bring them back, or while a cohort may contain
    them. A membership that a decision kept ends here, once no enrolment leads to it, so that they leave.
    """
    with _changing(ledger, keep=not dry_run) as connection:
        numbers = numbers_of(connection, student_id)
        of_student = among(connection, enrolment.c.student_id, numbers)
        years = connection.scalars(
            sa.select(enrolment.c.academic_year).where(of_student, _not_over(policy, now)).distinct()
        )
        if found := sorted(str(year) for year in years):
            raise StudentPresent(
                f"the student has enrolments that aren't over (academic year {', '.join(found)}): the next message or "
                "snapshot would bring them back; have them ended at the source, then erase"
            )
        released = decisions.release_kept(connection, numbers, now)
        present = sa.select(sa.func.count()).where(among(connection, membership.c.student_id, numbers), _present)
        places = connection.scalar(present)
        people = None if places else _forget(connection, policy, numbers)
    if people is None:
        decided = f" ({released} of them by a decision, which {'would end' if dry_run else 'has ended'} now)"
        raise StudentPresent(
            f"the student is, or may be, in {places} cohorts{decided if released else ''}: erasing now would leave "
            "these memberships in Moodle; see `cohorts explain` for what that waits for, then erase"
        )
    if not dry_run:
        ledger.compact()
    return people


@contextmanager
def _changing(ledger: Ledger, *, keep: bool) -> Iterator[sa.Connection]:
    with ledger.write() as connection, connection.begin_nested() as attempt:
        yield connection
        if not keep:
            attempt.rollback()


# Who is gone

_present = sa.or_(membership.c.desired, membership.c.observed.is_distinct_from(sa.false()))


def _not_over(policy: Policy, at: Instant) -> sa.ColumnElement[bool]:
    """Select enrolments that were neither ended nor of a closed year that was over at that instant."""
    then = datetime.fromtimestamp(at, UTC)
    last = then.year - (1 if then.month >= _NEW_YEAR_MONTH else 2)
    year = enrolment.c.academic_year
    closed = sa.and_(year.not_in(policy.active_years), year <= last)
    return sa.and_(enrolment.c.status.not_in(_OVER), sa.not_(sa.func.coalesce(closed, sa.false())))


def _gone(connection: sa.Connection, policy: Policy, before: Instant) -> list[str]:
    """Return the numbers of all who have been gone since before an instant, merged ones with their survivor.

    The instant in a message counts, not that of its recording: a student whom a replay brings back goes again.
    """
    since = sa.or_(membership.c.since >= before, membership.c.observed_at >= before)
    unknown = [snapshot.unknown for snapshot in accepted_snapshots(connection) if snapshot.taken_at >= before]
    remaining: set[str] = set().union(*(some.students for some in unknown))
    unsure = sorted(set[str]().union(*(some.enrolments for some in unknown)))
    for known in (
        sa.select(enrolment.c.student_id).where(sa.or_(_not_over(policy, before), enrolment.c.changed_at >= before)),
        sa.select(enrolment.c.student_id).where(among(connection, enrolment.c.enrolment_id, unsure)),
        sa.select(membership.c.student_id).where(sa.or_(_present, since)),
        sa.select(student.c.student_id).where(student.c.login_at >= before),
        sa.select(merge.c.student_id).where(merge.c.merged_at >= before),
        sa.select(merge.c.merged_into).where(merge.c.merged_at >= before),
        sa.select(person.c.student_id).where(person.c.changed_at >= before),
        sa.select(watched.c.student_id).where(
            ~watched.c.gone, watched.c.rows != NOTHING, watched.c.student_id.is_not(None)
        ),
    ):
        remaining.update(connection.scalars(known))
    survivors = every_survivor(connection)
    remaining_persons = {survivors.get(number, number) for number in remaining}
    columns = [table.c.student_id for table in (enrolment, membership, student, person, watched, merge)]
    everybody = set().union(*(connection.scalars(sa.select(column)) for column in (*columns, merge.c.merged_into)))
    everybody -= {None, NO_NUMBER}
    return sorted(number for number in everybody if survivors.get(number, number) not in remaining_persons)


# What is needed


def _needed() -> sa.ColumnElement[bool]:
    """Select journal entries about an open gap, or about a decision to keep a member."""
    about = sa.exists().where(
        membership.c.cohort_id == journal.c.cohort_id,
        membership.c.student_id == journal.c.student_id,
        sa.or_(gap, kept),
    )
    return sa.or_(about, journal.c.at.in_(sa.select(membership.c.kept_at).where(kept)))


def _decided_long_ago(before: Instant) -> Iterator[sa.ColumnElement[bool]]:
    yield proposal.c.shown_at < before
    yield sa.func.coalesce(proposal.c.decided_at, 0.0) < before
    names = [sa.literal(f"{verdict} ") + proposal.c.hash for verdict in ("rejected", "undo")]
    yield ~sa.exists().where(sa.or_(membership.c.approved == proposal.c.hash, membership.c.origin.in_(names)))


def _last_runs() -> sa.ColumnElement[bool]:
    """Select runs that are the last in their state, which metrics show, or that a gap or a snapshot names.

    So the newest run stays too, and SQLite doesn't reuse its number.
    """
    last = run.c.id.in_(sa.select(sa.func.max(run.c.id)).group_by(run.c.state))
    named = sa.exists().where(membership.c.run == run.c.id, sa.or_(gap, kept))
    accepted = sa.exists().where(snapshot.c.run == run.c.id)
    return sa.or_(last, named, accepted)


# Forgetting


def _forget(connection: sa.Connection, policy: Policy, numbers: Collection[str]) -> Removed:
    """Delete these numbers from every table."""
    people = sorted(numbers)
    proposals = _forget_in_proposals(connection, set(people))
    enrolments = _forget_enrolments(connection, people)
    members = sa.delete(membership).where(among(connection, membership.c.student_id, people))
    memberships = connection.execute(members).rowcount
    known = sum(
        connection.execute(sa.delete(table).where(among(connection, table.c.student_id, people))).rowcount
        for table in (student, watched)
    )
    known += persons.forget(connection, people)
    either = [among(connection, column, people) for column in (merge.c.student_id, merge.c.merged_into)]
    known += connection.execute(sa.delete(merge).where(sa.or_(*either))).rowcount
    entries_of_people = among(connection, watched.c.student_id, people)
    # The state that was seen stays: the entry isn't published again before it changes.
    connection.execute(sa.update(watched).where(entries_of_people).values(student_id=None, rows=NOTHING))
    nameless = sa.update(journal).where(among(connection, journal.c.student_id, people))
    entries = connection.execute(nameless.values(student_id=ERASED, user_id=None, origin=None)).rowcount
    forgotten = bool(enrolments or memberships or known or entries)
    return Removed(
        numbers=len(people) if forgotten else 0,
        enrolments=enrolments,
        memberships=memberships,
        accounts=_forget_accounts(connection, policy),
        journal=entries,
        proposals=proposals,
    )


def _forget_enrolments(connection: sa.Connection, people: list[str]) -> int:
    """Delete the enrolments that the latest source says are theirs, with what other sources say of them.

    Otherwise what was overruled would become the latest state.
    """
    of_people = among(connection, enrolment.c.student_id, people)
    latest = connection.execute(sa.select(enrolment.c.uai, enrolment.c.enrolment_id).where(of_people, is_latest)).all()
    _forget_unknown(connection, set(people), {row.enrolment_id for row in latest})
    gone = connection.execute(sa.delete(enrolment).where(of_people)).rowcount
    if latest:
        same = sa.and_(enrolment.c.uai == sa.bindparam("b_uai"), enrolment.c.enrolment_id == sa.bindparam("b_id"))
        rest = [{"b_uai": row.uai, "b_id": row.enrolment_id} for row in latest]
        gone += max(0, connection.execute(sa.delete(enrolment).where(same), rest).rowcount)
    return gone


def _forget_unknown(connection: sa.Connection, people: set[str], enrolments: set[str]) -> None:
    """Remove them from what snapshots could not tell, so that a late message about them is stale."""
    for accepted in accepted_snapshots(connection):
        left = Unknown(students=accepted.unknown.students - people, enrolments=accepted.unknown.enrolments - enrolments)
        if left != accepted.unknown:
            this = sa.update(snapshot).where(snapshot.c.id == accepted.id)
            connection.execute(this.values(unknown=UNKNOWN.dump_json(left).decode()))


def _forget_in_proposals(connection: sa.Connection, people: set[str]) -> int:
    """Leave how many removals were shown, and of which cohorts; gives how many proposals that concerns."""
    changed = 0
    for row in connection.execute(sa.select(proposal.c.hash, proposal.c.removals)).all():
        pairs: list[list[Any]] = orjson.loads(row.removals)
        if people.isdisjoint(number for _, number in pairs):
            continue
        left = [[cohort_id, ERASED if number in people else number] for cohort_id, number in pairs]
        shown = sa.update(proposal).where(proposal.c.hash == row.hash)
        connection.execute(shown.values(removals=orjson.dumps(left).decode()))
        changed += 1
    return changed


def _forget_accounts(connection: sa.Connection, policy: Policy) -> int:
    """Forget the accounts that no student who is left is called by; one that is needed after all is looked up again."""
    logins = dict(map(tuple, connection.execute(sa.select(student.c.student_id, student.c.login))))
    numbers = logins.keys() | set(connection.scalars(sa.select(enrolment.c.student_id).distinct()))
    numbers |= set(connection.scalars(sa.select(membership.c.student_id).distinct()))
    gone = 0
    for name in connection.scalars(sa.select(account.c.platform).distinct()).all():
        place = next((place for place in policy.platforms if place.name == name), None)
        called = {account_key(place, number, logins.get(number)) for number in numbers} if place is not None else set()
        known = set(connection.scalars(sa.select(account.c.key).where(account.c.platform == name)))
        orphans = sorted(known - called)
        of_platform = sa.delete(account).where(account.c.platform == name)
        gone += connection.execute(of_platform.where(among(connection, account.c.key, orphans))).rowcount
    return gone
