"""Record messages in the ledger: what is newer, and everything that follows from it, in one transaction."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import sqlalchemy as sa

from worker.domain.changes import Received, Tombstone
from worker.domain.instants import Instant
from worker.domain.rules import Mapper
from worker.domain.snapshots import AcceptedSnapshot, Snapshot, SnapshotScope
from worker.domain.states import Action, Cause
from worker.ledger import descriptions, enrolments, merge_decisions, merges, persons, runs, snapshots, students
from worker.ledger.database import Ledger, chunks, upsert
from worker.ledger.enrolments import Counts, Touched, Trigger, Triggers
from worker.ledger.memberships import MembershipProjector
from worker.ledger.schema import NO_NUMBER, enrolment, meta, position

REFOLD_STUDENTS = 2_000
"""Students projected again in one step, after a change of settings or by a snapshot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotCounts:
    """What a snapshot changed."""

    applied: int
    """Enrolments that it changed."""
    ended: int
    """Enrolments that ended by being absent from it."""
    memberships: int
    """Memberships whose desired state changed."""


class Recorder:
    """Writes changes into the ledger, under one policy.

    `coalesce` and `removal_delay` are the seconds that an addition and a removal wait before they may be applied;
    `grace` is the seconds that a membership stays after the year of its enrolment was closed.
    """

    def __init__(
        self, ledger: Ledger, mapper: Mapper, *, coalesce: float, removal_delay: float, grace: float = 0.0
    ) -> None:
        self._ledger = ledger
        self._uais = mapper.policy.uais
        self._projector = MembershipProjector(mapper, coalesce=coalesce, removal_delay=removal_delay, grace=grace)

    def record(
        self,
        batch: Sequence[Received],
        *,
        now: Instant,
        positions: Mapping[tuple[str, int], int] | None = None,
        topic_ids: Mapping[str, str | None] | None = None,
    ) -> Counts:
        """Record a batch and the positions after it: the next offset to read, by (topic, partition)."""
        with self._ledger.write() as connection:
            described = descriptions.record(connection, batch, self._uais)
            named = persons.named(connection, batch)
            merged = merges.record(connection, named.changes, named.merges, named.claimed, self._uais)
            relogins = students.record_logins(connection, named.changes, self._uais)
            folded = enrolments.fold_batch(connection, named.changes)
            touched = Touched.of_steps(described.touched, named.touched, merged.touched, folded.touched)
            self._projector.forget_accounts(connection, relogins, merged.touched)
            self._projector.relogin(connection, relogins, now)  # before there are new ones, which it would go through
            changed = self._projector.memberships(connection, touched, now, folded.latest)
            enrolments.save(connection, folded, now)  # not before, or what is in memory would be read again
            self._projector.cohorts.rename(connection, described.etapes, described.components)
            _advance(connection, positions or {}, topic_ids or {})
        tombstones = sum(isinstance(item.change, Tombstone) for item in batch)
        counts = described.counts + named.counts + merged.counts + folded.counts
        return replace(counts, tombstone=tombstones, memberships=changed)

    def record_snapshot(self, snapshot: Snapshot, *, run: int, now: Instant) -> SnapshotCounts:
        """Record an accepted snapshot: its rows and what is absent from it, in one transaction.

        What was learnt after `taken_at` stays. `run` is the number of the reconciliation. Raises RunInProgress when
        that was given up as dead meanwhile: another may have accepted a newer snapshot.
        """
        rows = [Received(change=row, published_at=snapshot.taken_at) for row in snapshot.rows]
        with self._ledger.write() as connection:
            if runs.is_given_up(connection, run):
                raise runs.given_up(run)
            described = descriptions.record(connection, rows, self._uais)
            relogins = students.record_logins(connection, rows, self._uais, run=run)
            folded = snapshots.record(connection, snapshot, run=run, now=now)
            numbering = snapshots.numbering(snapshot, run)
            renumbered = persons.overrule(connection, folded.numbers, numbering)
            touched = Touched.of_steps(described.touched, folded.touched, renumbered)
            lifted = snapshots.lift_undone(connection, snapshot, touched, run=run)
            snapshots.remember(connection, snapshot, run=run, now=now)
            parted = merges.end_contradicted(connection, snapshot, numbering)
            self._projector.forget_accounts(connection, relogins, parted)
            changed = self._refold(connection, Touched.of_steps(touched, lifted, parted), now)
            self._projector.relogin(connection, relogins, now)
            self._projector.cohorts.rename(connection, described.etapes, described.components)
        return SnapshotCounts(applied=folded.applied, ended=folded.ended, memberships=changed)

    def decide_merge(self, number: str, into: str | None, action: Action, *, by: str, now: Instant) -> int:
        """Write a person's decision about the merges of a number; return the number of changed memberships.

        Raises DecisionRefused when there is nothing to decide.
        """
        with self._ledger.write() as connection:
            family = merge_decisions.decided(connection, number, into, action, by=by, now=now)
            word = "merge approved" if action is Action.APPROVE else "merge ended"
            touched = family.save({number: Trigger(Cause.REKEYED, f"{word} by a person", now)})
            self._projector.forget_accounts(connection, {}, touched)
            return self._refold(connection, touched, now)

    def last_snapshot(self) -> AcceptedSnapshot | None:
        """Return the snapshot that was accepted last."""
        with self._ledger.read() as connection:
            return snapshots.last(connection)

    def enrolled(self, scope: SnapshotScope, at: Instant) -> Mapping[int, int]:
        """Count by year the enrolments within a scope that hadn't ended and were known by then, at any source."""
        with self._ledger.read() as connection:
            return snapshots.enrolled(connection, scope, at)

    def apply_policy(self, *, now: Instant) -> int:
        """Project everything again if it was done under another policy; return the number of changed memberships.

        The cohorts of a platform that became manual stay as they are.
        """
        with self._ledger.write() as connection:
            return self._apply_policy(connection, now)

    def _apply_policy(self, connection: sa.Connection, now: Instant) -> int:
        fingerprint = self._projector.mapper.policy.fingerprint()
        known = connection.scalar(sa.select(meta.c.value).where(meta.c.key == "policy"))
        if known == fingerprint:
            return 0
        self._projector.cohorts.follow_aliases(connection)
        trigger = Trigger(Cause.SETTINGS, f"settings {fingerprint}", now)
        named = enrolment.c.student_id != NO_NUMBER
        numbers = connection.scalars(sa.select(enrolment.c.student_id).where(named).distinct()).all()
        changed = self._refold(connection, {number: {None: trigger} for number in numbers}, now)
        self._projector.cohorts.rename_all(connection)
        self._projector.begin_writing(connection, now)
        upsert(connection, meta, [{"key": "policy", "value": fingerprint}], update=["value"])
        return changed

    def _refold(self, connection: sa.Connection, touched: Mapping[str, Triggers], now: Instant) -> int:
        """Project the memberships of many students again, some students at a time."""
        pieces = chunks([*touched.items()], REFOLD_STUDENTS)
        return sum(self._projector.memberships(connection, dict(piece), now) for piece in pieces)


def _advance(
    connection: sa.Connection,
    positions: Mapping[tuple[str, int], int],
    topic_ids: Mapping[str, str | None],
) -> None:
    """Advance the positions; a slow worker that has lost its partition never moves one back.

    The positions in a topic that was re-created since are deleted.
    """
    for topic in {topic for topic, _ in positions}:
        other = position.c.topic_id.is_distinct_from(topic_ids.get(topic))
        connection.execute(sa.delete(position).where(position.c.topic == topic, other))
    known = {(row.topic, row.partition): row.next_offset for row in connection.execute(sa.select(position))}
    rows = [
        {"topic": topic, "partition": partition, "next_offset": offset, "topic_id": topic_ids.get(topic)}
        for (topic, partition), offset in sorted(positions.items())
        if offset > known.get((topic, partition), -1)
    ]
    upsert(connection, position, rows, update=["next_offset", "topic_id"])
