"""Messages into the ledger: what is newer, and everything that follows from it, in one transaction."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import sqlalchemy as sa

from worker.domain.changes import Received, Tombstone
from worker.domain.instants import Instant
from worker.domain.rules import Mapper
from worker.domain.snapshots import AcceptedSnapshot, Snapshot
from worker.domain.states import Cause
from worker.ledger import descriptions, enrolments, persons, runs, snapshots
from worker.ledger.database import Ledger, chunks, upsert
from worker.ledger.enrolments import Counts, Effects, Trigger, Triggers
from worker.ledger.memberships import MembershipProjector
from worker.ledger.schema import enrolment, meta, position

REFOLD_STUDENTS = 2_000
"""Students derived anew in one step after a change of settings, or by a snapshot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotCounts:
    """What a snapshot changed."""

    applied: int
    """Enrolments of which it told something new."""
    ended: int
    """Enrolments that ended by being absent from it."""
    memberships: int
    """Memberships whose desired state changed."""


class Recorder:
    """Writes changes into the ledger, under one policy.

    `coalesce` and `removal_delay` are the seconds that an addition and a removal wait before they may be applied;
    `grace` those that a membership stays after the year of its enrolment was closed.
    """

    def __init__(
        self, ledger: Ledger, mapper: Mapper, *, coalesce: float, removal_delay: float, grace: float = 0.0
    ) -> None:
        self._ledger = ledger
        self._uais = mapper.policy.uais
        self._derive = MembershipProjector(mapper, coalesce=coalesce, removal_delay=removal_delay, grace=grace)

    def record(
        self,
        batch: Sequence[Received],
        *,
        now: Instant,
        positions: Mapping[tuple[str, int], int] | None = None,
        topic_ids: Mapping[str, str | None] | None = None,
    ) -> Counts:
        """Record a batch and the positions after it: the next offset to read, by (topic, partition)."""
        counts, effects = Counts(), Effects()
        with self._ledger.write() as connection:
            descriptions.descriptions(connection, batch, effects, counts, self._uais)
            named = persons.named(connection, batch, counts)
            enrolments.merges(connection, named, effects, counts, self._uais)
            enrolments.logins(connection, named, effects, self._uais)
            told = enrolments.news(connection, named, effects, counts, now)
            self._derive.retry(connection, effects.renamed, now)  # before there are new ones, which it would go through
            counts.memberships = self._derive.memberships(connection, effects.students, now, told.latest)
            enrolments.save(connection, told)  # not before, or what is in memory would be read again
            self._derive.names(connection, effects.etapes, effects.components)
            _advance(connection, positions or {}, topic_ids or {})
        counts.tombstone = sum(isinstance(item.change, Tombstone) for item in batch)
        return counts

    def record_snapshot(self, image: Snapshot, *, run: int, now: Instant) -> SnapshotCounts:
        """Record an accepted snapshot: its rows and what is absent from it, in one transaction.

        What was learnt after `taken_at` stays. `run` is the number of the reconciliation; raises RunInProgress when
        that was taken for dead meanwhile: another may have accepted a newer snapshot.
        """
        effects = Effects()
        rows = [Received(change=row, published_at=image.taken_at) for row in image.rows]
        with self._ledger.write() as connection:
            if runs.is_given_up(connection, run):
                raise runs.given_up(run)
            descriptions.descriptions(connection, rows, effects, Counts(), self._uais)
            enrolments.logins(connection, rows, effects, self._uais)
            applied, ended = snapshots.enrolments(connection, image, effects, run=run, now=now)
            snapshots.lift_undone(connection, image, effects, run=run)
            snapshots.remember(connection, image, run=run, now=now)
            changed = self._refold(connection, effects.students, now)
            self._derive.retry(connection, effects.renamed, now)
            self._derive.names(connection, effects.etapes, effects.components)
        return SnapshotCounts(applied=applied, ended=ended, memberships=changed)

    def last_snapshot(self) -> AcceptedSnapshot | None:
        """Give the snapshot that was accepted last."""
        with self._ledger.read() as connection:
            return snapshots.last(connection)

    def apply_policy(self, *, now: Instant) -> int:
        """Derive everything anew if the ledger was derived under another policy; returns the memberships changed.

        The cohorts of a platform that became manual stay as they are.
        """
        with self._ledger.write() as connection:
            return self._apply_policy(connection, now)

    @contextmanager
    def rehearsed(self, *, now: Instant) -> Iterator[sa.Connection]:
        """Give the ledger as it would be under this policy: nothing is kept. Other writers wait meanwhile."""
        with self._ledger.write() as connection, connection.begin_nested() as rehearsal:
            self._apply_policy(connection, now)
            yield connection
            rehearsal.rollback()

    def _apply_policy(self, connection: sa.Connection, now: Instant) -> int:
        fingerprint = self._derive.mapper.policy.fingerprint()
        known = connection.scalar(sa.select(meta.c.value).where(meta.c.key == "policy"))
        if known == fingerprint:
            return 0
        self._derive.follow_aliases(connection)
        trigger = Trigger(Cause.SETTINGS, f"settings {fingerprint}", now)
        students = connection.scalars(sa.select(enrolment.c.student_id).distinct()).all()
        changed = self._refold(connection, {number: {None: trigger} for number in students}, now)
        self._derive.every_name(connection)
        self._derive.begin_writing(connection, now)
        upsert(connection, meta, [{"key": "policy", "value": fingerprint}], update=["value"])
        return changed

    def _refold(self, connection: sa.Connection, students: Mapping[str, Triggers], now: Instant) -> int:
        """Derive many students anew, some at a time."""
        pieces = chunks([*students.items()], REFOLD_STUDENTS)
        return sum(self._derive.memberships(connection, dict(some), now) for some in pieces)


def _advance(
    connection: sa.Connection,
    positions: Mapping[tuple[str, int], int],
    topic_ids: Mapping[str, str | None],
) -> None:
    """Advance the positions; a slow worker that has lost its partition never moves one back.

    Those in a topic that was re-created since are forgotten.
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
