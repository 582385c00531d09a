from datetime import timedelta

import pytest

from worker.kafka import Topic
from worker.runtime.topics import Use, definitions, rights, shortcomings, uses
from worker.settings.kafka import KafkaSettings

KAFKA = KafkaSettings(topics=("a", "b"))
DEFAULTS = {
    "cleanup.policy": "delete",
    "retention.ms": str(7 * 86_400_000),
    "retention.bytes": "-1",
    "min.insync.replicas": "1",
}  # of Kafka's own


def found(use: Use, *, replicas: int = 1, **settings: str) -> list[str]:
    """Judge a topic with Kafka's own settings but these, whose dots are written as underscores."""
    changed = {name.replace("_", "."): value for name, value in settings.items()}
    return list(shortcomings(use, Topic(partitions=1, id="x", replicas=replicas), DEFAULTS | changed))


@pytest.mark.parametrize("replicas", [-1, 1, 3])
def test_what_we_create_has_no_shortcoming(replicas: int) -> None:
    for name, definition in definitions(KAFKA, partitions=6, replicas=replicas).items():
        topic = Topic(partitions=definition.partitions, id="x", replicas=max(1, replicas))
        assert list(shortcomings(uses(KAFKA)[name], topic, {**DEFAULTS, **definition.settings})) == []


def test_a_compacted_topic_is_refused_with_the_reason() -> None:
    (sentence,) = found(Use.MESSAGES, cleanup_policy="compact,delete")
    assert "a student has several enrolments; set cleanup.policy=delete" in sentence


@pytest.mark.parametrize(
    ("use", "days", "right"),
    [
        (Use.MESSAGES, 6, False), (Use.MESSAGES, 7, True), (Use.MESSAGES, None, True),
        (Use.SNAPSHOTS, 0.5, False), (Use.SNAPSHOTS, 3, True), (Use.SNAPSHOTS, None, True),
        (Use.DEAD_LETTERS, 7, False), (Use.DEAD_LETTERS, 180, True), (Use.DEAD_LETTERS, 400, False),
        (Use.DEAD_LETTERS, None, False),
    ],
)  # fmt: skip
def test_each_use_has_its_time_of_keeping(use: Use, days: float | None, right: bool) -> None:  # noqa: FBT001 - a verdict
    kept = -1 if days is None else timedelta(days=days) // timedelta(milliseconds=1)
    sentences = found(use, retention_ms=str(kept))
    assert [sentence.startswith("keeps records for") for sentence in sentences] == ([] if right else [True])


def test_a_limit_in_bytes_and_a_single_copy_that_counts_are_shortcomings() -> None:
    assert [sentence.split(" is ")[0] for sentence in found(Use.MESSAGES, retention_bytes="1000")] == [
        "retention.bytes"
    ]
    assert [sentence.split(" is ")[0] for sentence in found(Use.MESSAGES, replicas=3)] == ["min.insync.replicas"]
    assert found(Use.MESSAGES, replicas=3, min_insync_replicas="2") == []


def test_one_partition_is_too_few_for_several_workers() -> None:
    topic = Topic(partitions=1, id="x")
    (sentence,) = shortcomings(Use.MESSAGES, topic, DEFAULTS, several=True)
    assert sentence.startswith("only one of several workers can read its one partition")
    assert list(shortcomings(Use.MESSAGES, topic, DEFAULTS, several=False)) == []
    assert list(shortcomings(Use.SNAPSHOTS, topic, DEFAULTS, several=True)) == []


def test_only_messages_are_spread_over_as_many_partitions_as_asked() -> None:
    partitions = {name: each.partitions for name, each in definitions(KAFKA, partitions=12, replicas=3).items()}
    assert partitions == {"a": 12, "b": 12, "enrolments.snapshots": 3, "enrolments.dead-letters": 1}


def test_a_worker_may_read_every_topic_of_messages_and_write_only_dead_letters() -> None:
    of_worker = {(right.operation, right.name) for right in rights(KAFKA)["run"]}
    assert of_worker == {("Read", "a"), ("Read", "b"), ("Read", KAFKA.group), ("Write", KAFKA.dead_letters)}
