"""What a person decides about removals: to approve, reject or undo them.

A decision is bound to a hash: to exactly the removals that were shown under it.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import sqlalchemy as sa

from worker.domain.errors import DecisionRefused
from worker.domain.hashes import DIGITS, SHORT_DIGITS, short
from worker.domain.instants import Instant
from worker.domain.states import Action, Cause, Kept
from worker.ledger.database import Ledger, among, select_in, upsert
from worker.ledger.gaps import opened
from worker.ledger.guard import approved, leaving
from worker.ledger.journal import NewEntry, write_entries
from worker.ledger.proposals import Pair, proposal_hash
from worker.ledger.schema import at_membership, cohort, journal, kept, membership, proposal

APPROVAL_SECONDS = 24 * 3600.0
"""An approval that isn't used within this time expires: the removals are held again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What was decided: how many memberships of which cohorts, as `platform/idnumber`, or cohorts as a whole."""

    hash: str
    cohorts: tuple[str, ...]
    memberships: int
    created: int = 0
    """Cohorts that are to be created, or aren't."""
    renamed: int = 0
    """Cohorts that are to be renamed, or aren't."""
    until: Instant | None = None
    """When an approval expires."""


def full_name(ledger: Ledger, typed: str) -> str:
    """Return the hash that begins as somebody typed it, or what they typed if none was shown that does.

    Raises DecisionRefused when several do.
    """
    if not SHORT_DIGITS <= len(typed) < DIGITS:
        return typed
    alike = sa.select(proposal.c.hash).where(proposal.c.hash.startswith(typed, autoescape=True))
    with ledger.read() as connection:
        names = sorted(connection.scalars(alike))
    if len(names) > 1:
        raise DecisionRefused(
            f"{typed}: {len(names)} lists of different content were shown whose hashes begin so: {', '.join(names)}; "
            "name one in full, as `--json` shows it"
        )
    return names[0] if names else typed


def show(connection: sa.Connection, platform: str, removals: Iterable[Pair], now: Instant) -> str | None:
    """Write that these removals are shown to a person; returns the hash to decide on them by, None for none.

    They may have been read earlier. Removals of a student who was erased since aren't written, nor can be decided on.
    """
    pairs = sorted(removals)
    name = proposal_hash(pairs)
    if name is not None and _are_known(connection, pairs):
        row = {"hash": name, "platform": platform, "shown_at": now, "removals": orjson.dumps(pairs).decode()}
        upsert(connection, proposal, [row], update=["shown_at"])
    return name


def _are_known(connection: sa.Connection, pairs: Collection[Pair]) -> bool:
    columns = sa.select(membership.c.cohort_id, membership.c.student_id)
    rows = select_in(connection, columns, membership.c.student_id, {student for _, student in pairs})
    return {(row.cohort_id, row.student_id) for row in rows}.issuperset(pairs)


def approve(ledger: Ledger, name: str, *, by: str, now: Instant) -> Decision:
    """Let exactly the removals that were shown under this hash pass the guard, for a day.

    Raises DecisionRefused when nothing was shown under it, or when other removals would be made now.
    """
    with ledger.write() as connection:
        pairs = _shown(connection, name, now)
        until = now + APPROVAL_SECONDS
        _update(connection, pairs, {"approved": name, "approved_until": until})
        return _decided(connection, name, pairs, Action.APPROVE, by=by, now=now, until=until)


def reject(ledger: Ledger, name: str, *, by: str, now: Instant) -> Decision:
    """Keep the members whose removals were shown under this hash, until what is desired changes again.

    Raises DecisionRefused as `approve` does.
    """
    with ledger.write() as connection:
        pairs = _shown(connection, name, now)
        _update(connection, pairs, _kept(Kept.REJECTED, Cause.REJECTED, f"rejected {name}", now))
        return _decided(connection, name, pairs, Action.REJECT, by=by, now=now)


def undo(ledger: Ledger, what: str, *, by: str, now: Instant) -> Decision:
    """Put back the members who were removed by a run (its number) or by an approved plan (its hash).

    Members who were still to be removed stay, too. A member who came back since and left again isn't put back. They
    stay until a message or snapshot newer than this ends the enrolment. Raises DecisionRefused when nothing was removed
    under that name.
    """
    with ledger.write() as connection:
        pairs = _removals(connection, what)
        if not pairs:
            raise DecisionRefused(
                f"{what}: nothing to undo: no run and no approved plan of that name has removed anybody who isn't "
                "back already; see `cohorts runs`"
            )
        _update(connection, pairs, _kept(Kept.UNDONE, Cause.UNDONE, f"undo {what}", now))
        return _decided(connection, what, pairs, Action.UNDO, by=by, now=now)


def _removals(connection: sa.Connection, what: str) -> list[Pair]:
    """Return whom a run or an approved plan has removed, unless they came back since, and whom it is to remove."""
    by_run = what.isdecimal() and len(what) < SHORT_DIGITS
    done = journal.c.run == int(what) if by_run else journal.c.approved == what
    to_do = membership.c.run == int(what) if by_run else membership.c.approved == what
    since = journal.alias()
    changed_since = sa.exists().where(
        since.c.id > journal.c.id,
        since.c.cohort_id == journal.c.cohort_id,
        since.c.student_id == journal.c.student_id,
        since.c.action.in_([Action.ADD, Action.REMOVE]),
    )
    removed = (
        sa.select(membership.c.cohort_id, membership.c.student_id)
        .join(
            journal,
            sa.and_(
                journal.c.cohort_id == membership.c.cohort_id,
                journal.c.student_id == membership.c.student_id,
            ),
        )
        .where(journal.c.action == Action.REMOVE, done, ~membership.c.desired, ~changed_since)
    )
    pending = sa.select(membership.c.cohort_id, membership.c.student_id).where(leaving, to_do)
    return sorted({(row.cohort_id, row.student_id) for rows in (removed, pending) for row in connection.execute(rows)})


def release_kept(connection: sa.Connection, students: Sequence[str], now: Instant) -> int:
    """End the memberships that decisions kept of students who are to be erased; returns how many there were."""
    ended = sa.update(membership).where(kept, among(connection, membership.c.student_id, students))
    erased = opened(cause=Cause.ERASED, origin="erase", since=now, next_attempt_at=now)
    return connection.execute(ended.values(desired=False, kept=None, kept_at=None, **erased)).rowcount


def _shown(connection: sa.Connection, name: str, now: Instant) -> list[Pair]:
    """Return the removals that were shown under a hash, if they are still those that would be made."""
    text = connection.scalar(sa.select(proposal.c.removals).where(proposal.c.hash == name))
    if text is None:
        raise DecisionRefused(f"{name}: nothing was shown under this hash; see `cohorts held` or `cohorts plan`")
    shown = {(cohort_id, student) for cohort_id, student in orjson.loads(text)}
    cohorts = {cohort_id for cohort_id, _ in shown}
    to_come = sa.select(
        membership.c.cohort_id, membership.c.student_id, sa.func.coalesce(approved(now), sa.false()).label("approved")
    ).where(leaving, membership.c.cohort_id.in_(cohorts))
    rows = connection.execute(to_come).all()
    current = {(row.cohort_id, row.student_id) for row in rows if not row.approved}
    if shown <= {(row.cohort_id, row.student_id) for row in rows if row.approved}:
        raise DecisionRefused(f"{short(name)}: these removals are approved already and will be made")
    if current != shown:
        raise DecisionRefused(
            f"{short(name)}: the removals have changed since they were shown: "
            f"{len(current - shown)} more ({_named(connection, current - shown)}), "
            f"{len(shown - current)} no longer to be made ({_named(connection, shown - current)}); "
            "look at them again, then decide"
        )
    return sorted(shown)


def _named(connection: sa.Connection, pairs: Collection[Pair]) -> str:
    ids = {cohort_id for cohort_id, _ in pairs}
    names = connection.scalars(sa.select(cohort.c.idnumber).where(cohort.c.id.in_(ids)).order_by(cohort.c.idnumber))
    return ", ".join(names) or "none"


def _kept(kept: Kept, cause: Cause, origin: str, now: Instant) -> dict[str, Any]:
    """Return the columns of a membership that a person's decision keeps."""
    return {
        "desired": True,
        "kept": kept,
        "kept_at": now,
        **opened(cause=cause, origin=origin, since=now, next_attempt_at=now),
    }


def _update(connection: sa.Connection, pairs: Collection[Pair], values: dict[str, Any]) -> None:
    if rows := [{"b_cohort": cohort_id, "b_student": student} for cohort_id, student in pairs]:
        connection.execute(at_membership.values(**values), rows)


def _decided(
    connection: sa.Connection,
    name: str,
    pairs: Collection[Pair],
    action: Action,
    *,
    by: str,
    now: Instant,
    until: Instant | None = None,
) -> Decision:
    """Journal the decision, cohort by cohort."""
    sizes = Counter(cohort_id for cohort_id, _ in pairs)
    rows = connection.execute(
        sa.select(cohort.c.id, cohort.c.platform, cohort.c.idnumber)
        .where(cohort.c.id.in_(sizes))
        .order_by(cohort.c.platform, cohort.c.idnumber)
    ).all()
    write_entries(
        connection,
        [
            NewEntry(
                at=now,
                platform=row.platform,
                cohort=row.idnumber,
                cohort_id=row.id,
                action=action,
                detail=f"{sizes[row.id]} members, by {by}",
                origin=name,
            )
            for row in rows
        ],
    )
    verdict = sa.update(proposal).where(proposal.c.hash == name)
    connection.execute(verdict.values(verdict=action.value, decided_by=by, decided_at=now))
    cohorts = tuple(f"{row.platform}/{row.idnumber}" for row in rows)
    return Decision(hash=name, cohorts=cohorts, memberships=len(pairs), until=until)
