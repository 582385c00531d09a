"""The topics of an installation: how they are created, what is wrong with those that exist, and who may do what."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from worker.kafka import Topic, TopicDefinition
from worker.settings.kafka import KafkaSettings

SEGMENT = timedelta(days=1)
"""Retention only removes whole closed segments."""
_MILLISECOND = timedelta(milliseconds=1)


class Use(StrEnum):
    """What a topic is for."""

    MESSAGES = "messages"
    CAPTURED = "change capture"
    """The connector creates it; its keys are rows, so that it may be compacted."""
    SNAPSHOTS = "snapshots"
    DEAD_LETTERS = "dead letters"


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """How long a topic keeps its records: when we create it, and the least and the most that will do."""

    created: timedelta
    least: timedelta
    most: timedelta | None = None
    why: str

    def allows(self, milliseconds: int) -> bool:
        """Whether this `retention.ms` will do; a negative one is for ever."""
        if milliseconds < 0:
            return self.most is None
        long_enough = milliseconds >= self.least / _MILLISECOND
        return long_enough and (self.most is None or milliseconds <= self.most / _MILLISECOND)


RETENTION = {
    Use.MESSAGES: Retention(
        created=timedelta(days=14),
        least=timedelta(days=7),
        why="a worker that is away for longer would lose messages",
    ),
    Use.CAPTURED: Retention(
        created=timedelta(days=14),
        least=timedelta(days=7),
        why="a worker that is away for longer would lose changes",
    ),
    Use.SNAPSHOTS: Retention(
        created=timedelta(days=3),
        least=timedelta(days=1),
        why="a snapshot could be gone before the night reads it",
    ),
    Use.DEAD_LETTERS: Retention(
        created=timedelta(days=180),
        least=timedelta(days=30),
        most=timedelta(days=366),
        why="they must be there until the producer is corrected, but not for over a year: they hold personal data",
    ),
}


def uses(kafka: KafkaSettings) -> dict[str, Use]:
    """Return the topics of the settings, each with its use."""
    return {
        **{topic: Use.CAPTURED if topic in kafka.captured else Use.MESSAGES for topic in kafka.topics},
        kafka.snapshots: Use.SNAPSHOTS,
        kafka.dead_letters: Use.DEAD_LETTERS,
    }


def definitions(kafka: KafkaSettings, *, partitions: int, replicas: int) -> dict[str, TopicDefinition]:
    """Return how to create each topic but those of change capture.

    `partitions` is for messages; -1 `replicas` leaves them to the cluster.

    Never compacted: a key is a student, who has several enrolments. The broker's clock stamps each record, so that
    neither retention nor the promise depends on a producer's. The broker decompresses what it gets: 40 kB of zstd may
    be 40 MB, which it then refuses, and which every reader would have to hold in memory.
    """
    counts = {Use.MESSAGES: partitions, Use.SNAPSHOTS: 3, Use.DEAD_LETTERS: 1}
    copies = {} if replicas < 0 else {"min.insync.replicas": str(max(1, replicas - 1))}
    return {
        name: TopicDefinition(
            partitions=counts[use],
            replicas=replicas,
            settings={
                "cleanup.policy": "delete",
                "retention.ms": _milliseconds(RETENTION[use].created),
                "segment.ms": _milliseconds(SEGMENT),
                "message.timestamp.type": "LogAppendTime",
                "compression.type": "uncompressed",
                **copies,
            },
        )
        for name, use in uses(kafka).items()
        if use is not Use.CAPTURED
    }


def shortcomings(use: Use, topic: Topic, settings: Mapping[str, str], *, several: bool = False) -> Iterator[str]:
    """Yield what is wrong with a topic that exists, each with its remedy; `settings` are those in force.

    `several` is whether there may be several workers.
    """
    if several and use is Use.MESSAGES and topic.partitions == 1:
        yield "only one of several workers can read its one partition; add some: kafka-topics.sh --alter --partitions 6"
    compacted = settings["cleanup.policy"] != "delete"
    if compacted and use is Use.CAPTURED:
        return
    if compacted:
        yield (
            f"cleanup.policy is {settings['cleanup.policy']}: compaction would drop all but the last message of a key, "
            "and a student has several enrolments; set cleanup.policy=delete"
        )
    yield from _retention_shortcomings(RETENTION[use], settings)
    if topic.replicas > 1 and int(settings["min.insync.replicas"]) < 2:  # noqa: PLR2004 - more than the leader's
        yield (
            f"min.insync.replicas is 1 of {topic.replicas}: an acknowledged message can be lost with one broker; "
            "set min.insync.replicas=2"
        )


def _retention_shortcomings(retention: Retention, settings: Mapping[str, str]) -> Iterator[str]:
    kept = int(settings["retention.ms"])
    if not retention.allows(kept):
        yield (
            f"keeps records for {_duration(kept)}: {retention.why}; "
            f"set retention.ms={_milliseconds(retention.created)} ({retention.created.days} days)"
        )
    if int(settings["retention.bytes"]) >= 0:
        yield (
            f"retention.bytes is {settings['retention.bytes']}: a full topic drops messages before their time; "
            "set retention.bytes=-1"
        )


def _milliseconds(duration: timedelta) -> str:
    return str(duration // _MILLISECOND)


def _duration(milliseconds: int) -> str:
    return "ever" if milliseconds < 0 else f"{milliseconds / 86_400_000:g} days"


# Rights


@dataclass(frozen=True, slots=True, kw_only=True)
class Right:
    """What Kafka's authorizer must allow: an operation on a topic or a group. Read and Write imply Describe."""

    operation: str
    kind: str
    name: str


def rights(kafka: KafkaSettings) -> dict[str, tuple[Right, ...]]:
    """Return the rights that commands need, by the commands that share them."""
    every = tuple(uses(kafka))
    ours = tuple(name for name, use in uses(kafka).items() if use is not Use.CAPTURED)

    def topics(operation: str, *names: str) -> tuple[Right, ...]:
        return tuple(Right(operation=operation, kind="topic", name=name) for name in names)

    reads = topics("Read", *kafka.topics)
    group = Right(operation="Read", kind="group", name=kafka.group)
    return {
        "run": (*reads, group, *topics("Write", kafka.dead_letters)),
        "run --reconcile-at": (
            *reads, group, *topics("Write", kafka.dead_letters), *topics("Read", kafka.snapshots)
        ),
        "reconcile, snapshot show": topics("Read", kafka.snapshots),
        "snapshot publish": topics("Write", kafka.snapshots),
        "publish, watch": topics("Write", *kafka.native[:1]),
        "dead-letters list, purge": topics("Read", kafka.dead_letters),
        "dead-letters replay": (*topics("Read", kafka.dead_letters), *topics("Write", *kafka.topics)),
        "check": topics("DescribeConfigs", *every) + topics("Describe", *every),
        "topics create": topics("Create", *ours) + topics("DescribeConfigs", *every) + topics("Describe", *every),
    }  # fmt: skip
