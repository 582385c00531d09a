"""What a person decides about cohorts that are to be created or renamed: to approve, reject or undo that.

A decision is bound to a hash: to exactly the cohorts that were shown under it, with their labels of then. Nobody undoes
what was done on Moodle, where teachers may use it already.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import Any

import orjson
import sqlalchemy as sa

from worker.domain.errors import DecisionRefused
from worker.domain.guard import LIMIT_OF
from worker.domain.hashes import short
from worker.domain.instants import Instant
from worker.domain.states import Action, CohortChange
from worker.ledger.cohort_guard import TO_CHANGE
from worker.ledger.cohort_proposals import PlannedChange, changes_hash, of_cohorts
from worker.ledger.cohorts import UNDECIDED
from worker.ledger.database import Ledger, among, upsert
from worker.ledger.decisions import APPROVAL_SECONDS, Decision
from worker.ledger.journal import NewEntry, write_entries
from worker.ledger.schema import cohort, proposal


def show(connection: sa.Connection, platform: str, sets: Iterable[Collection[PlannedChange]], now: Instant) -> None:
    """Write that these sets of changes of cohorts are shown to a person, each to be decided on by its hash."""
    rows = [
        {
            "hash": changes_hash(changes),
            "platform": platform,
            "shown_at": now,
            "removals": "[]",
            "cohorts": orjson.dumps(sorted(change.key for change in changes)).decode(),
        }
        for changes in sets
    ]
    upsert(connection, proposal, list({row["hash"]: row for row in rows}.values()), update=["shown_at"])


def is_shown(ledger: Ledger, name: str) -> bool:
    """Return whether it is the hash of changes of cohorts that were shown."""
    with ledger.read() as connection:
        return connection.scalar(sa.select(proposal.c.cohorts).where(proposal.c.hash == name)) is not None


def approve(ledger: Ledger, name: str, *, by: str, now: Instant) -> Decision:
    """Let exactly the changes that were shown under this hash pass the guard, for a day.

    Raises DecisionRefused when others would be made now.
    """
    with ledger.write() as connection:
        changes = _shown(connection, name, now)
        until = now + APPROVAL_SECONDS
        _update(connection, changes, {**UNDECIDED, "approved": name, "approved_until": until})
        return _decided(connection, name, changes, Action.APPROVE, by=by, now=now, until=until)


def reject(ledger: Ledger, name: str, *, by: str, now: Instant) -> Decision:
    """Make none of the changes that were shown under this hash.

    A cohort isn't created until this is undone; one that was to be renamed keeps its label until it is to get another.
    Raises DecisionRefused as `approve` does.
    """
    with ledger.write() as connection:
        changes = _shown(connection, name, now)
        _update(connection, changes, {**UNDECIDED, "rejected": name})
        return _decided(connection, name, changes, Action.REJECT, by=by, now=now)


def undo(ledger: Ledger, name: str, *, by: str, now: Instant) -> Decision:
    """Withdraw the decision with this hash, as far as it wasn't carried out: those changes are held again.

    Raises DecisionRefused when there is nothing of it left.
    """
    with ledger.write() as connection:
        decided = sa.or_(cohort.c.approved == name, cohort.c.rejected == name)
        waiting = sa.select(cohort.c.id).where(decided, sa.or_(*TO_CHANGE.values()))
        changes = of_cohorts(connection, connection.scalars(waiting), now)
        if not changes:
            raise DecisionRefused(
                f"{name}: nothing to undo: no decision about it is in force any more; cohorts that were created or "
                "renamed on Moodle stay as they are"
            )
        for change, limit in LIMIT_OF.items():
            of_kind = [each for each in changes if each.change is change]
            _update(connection, of_kind, {**UNDECIDED, "held": limit.value})
        return _decided(connection, name, changes, Action.UNDO, by=by, now=now)


def _shown(connection: sa.Connection, name: str, now: Instant) -> list[PlannedChange]:
    """Return the changes that were shown under a hash, if they are still those that would be made."""
    text = connection.scalar(sa.select(proposal.c.cohorts).where(proposal.c.hash == name))
    if text is None:
        raise DecisionRefused(f"{name}: nothing was shown under this hash; see `cohorts held` or `cohorts plan`")
    shown = {tuple(key) for key in orjson.loads(text)}
    current = of_cohorts(connection, {key[0] for key in shown}, now)
    decided = [change for change in current if not change.is_open]
    if decided and {change.key for change in decided} == shown:
        earlier = decided[0].approved or decided[0].rejected
        raise DecisionRefused(f"{name}: this is decided already; `cohorts undo {earlier}` withdraws the decision")
    undecided = [change for change in current if change.is_open]
    keys = {change.key for change in undecided}
    if keys != shown:
        others = [change for change in undecided if change.key not in shown]
        gone = {key[0] for key in shown} - {change.cohort_id for change in undecided}
        raise DecisionRefused(
            f"{short(name)}: the cohorts have changed since they were shown: {len(others)} would get another label"
            f"{_named(others)}, {len(gone)} are done, decided or no longer to be made; look at them again, then decide"
        )
    return undecided


def _named(changes: Sequence[PlannedChange]) -> str:
    return f" ({', '.join(change.idnumber for change in changes)})" if changes else ""


def _update(connection: sa.Connection, changes: Sequence[PlannedChange], values: dict[str, Any]) -> None:
    if changes:
        these = among(connection, cohort.c.id, [change.cohort_id for change in changes])
        connection.execute(sa.update(cohort).where(these).values(**values))


def _decided(
    connection: sa.Connection,
    name: str,
    changes: Sequence[PlannedChange],
    action: Action,
    *,
    by: str,
    now: Instant,
    until: Instant | None = None,
) -> Decision:
    """Journal the decision, cohort by cohort."""
    write_entries(
        connection,
        [
            NewEntry(
                at=now,
                platform=change.platform,
                cohort=change.idnumber,
                cohort_id=change.cohort_id,
                action=action,
                detail=f"{change.change} as {change.name}, by {by}",
                origin=name,
            )
            for change in changes
        ],
    )
    verdict = sa.update(proposal).where(proposal.c.hash == name)
    connection.execute(verdict.values(verdict=action.value, decided_by=by, decided_at=now))
    created = sum(change.change is CohortChange.CREATION for change in changes)
    return Decision(
        hash=name,
        cohorts=tuple(f"{change.platform}/{change.idnumber}" for change in changes),
        memberships=0,
        created=created,
        renamed=len(changes) - created,
        until=until,
    )
