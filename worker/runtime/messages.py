"""How messages and snapshots of the settings' topics are read."""

from collections.abc import Callable

from worker import snapshots
from worker.domain.instants import Instant
from worker.domain.snapshots import AcceptedSnapshot, Snapshot
from worker.formats import Debezium
from worker.formats.cloudevents import Format, Native
from worker.settings.root import Settings


def formats(settings: Settings) -> dict[str, Format]:
    """Return how each topic of messages is read."""
    native, debezium = Native(), Debezium(settings.capture_uai)
    captured = settings.kafka.captured
    return {topic: debezium if topic in captured else native for topic in settings.kafka.topics}


def latest_snapshot(
    settings: Settings, known: snapshots.Known = snapshots.nothing_known
) -> Callable[[Instant, AcceptedSnapshot | None], Snapshot]:
    """Build what reads the topic for the newest acceptable snapshot; `known` counts what the ledger has of a scope."""

    def latest(now: Instant, accepted: AcceptedSnapshot | None) -> Snapshot:
        return snapshots.latest(
            settings.kafka.properties(),
            settings.kafka.snapshots,
            now=now,
            accepted=accepted,
            uais=settings.uais,
            years=settings.active_years,
            limits=snapshots.AcceptanceLimits(
                max_age_seconds=settings.snapshot.max_age_hours * 3600,
                max_shrink_percent=settings.snapshot.max_shrink_percent,
            ),
            known=known,
        )

    return latest
