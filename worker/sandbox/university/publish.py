"""Publishes a snapshot of the invented university, as its student-records software would."""

from collections.abc import Iterable
from datetime import UTC, datetime

from schemas import EnrolmentRow
from worker import snapshots
from worker.domain.snapshots import SnapshotScope
from worker.sandbox.university.generator import University
from worker.settings.kafka import KafkaSettings


def publish_snapshot(university: University, rows: Iterable[bytes], kafka: KafkaSettings) -> int:
    """Publish a snapshot of the university, taken now, with these rows; returns how many."""
    taken_at = datetime.now(UTC)
    scope = SnapshotScope(
        uais=frozenset({university.uai}), academic_years=frozenset({university.year - 1, university.year})
    )
    with snapshots.collect(map(EnrolmentRow.model_validate_json, rows), scope) as snapshot:
        publisher = snapshots.Publisher(kafka.properties(), kafka.snapshots)
        publisher.publish(snapshot, snapshot_id=snapshots.new_id(snapshot.system, taken_at), taken_at=taken_at)
        return snapshot.rows
