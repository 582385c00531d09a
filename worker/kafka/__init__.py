"""Kafka, as the worker needs it: the only gate to confluent-kafka, tested on a real and an embedded broker.

librdkafka's own retries are the only ones. No error text holds the key, the value or a header of a message.
"""

from worker.kafka.cluster import (
    Cluster,
    Topic,
    TopicDefinition,
    count_partitions,
    create_topics,
    describe,
    topic_settings,
)
from worker.kafka.consumer import RecordConsumer
from worker.kafka.librdkafka import ABSENCE, Properties
from worker.kafka.producer import RecordProducer
from worker.kafka.reader import first_offsets, read_to_end
from worker.kafka.records import Headers, Partition, Record

__all__ = [
    "ABSENCE",
    "Cluster",
    "Headers",
    "Partition",
    "Properties",
    "Record",
    "RecordConsumer",
    "RecordProducer",
    "Topic",
    "TopicDefinition",
    "count_partitions",
    "create_topics",
    "describe",
    "first_offsets",
    "read_to_end",
    "topic_settings",
]
