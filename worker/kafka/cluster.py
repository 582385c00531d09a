"""The cluster and its topics: describe them, create them."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient, ConfigResource  # type: ignore[attr-defined] # its stubs forget to export it
from confluent_kafka.cimpl import NewTopic

from worker.domain.errors import BrokerError
from worker.kafka.librdkafka import ABSENCE, REQUEST_SECONDS, Properties, broker_error, translated

LISTED_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Topic:
    """A topic as the cluster describes it; `id` changes when it is deleted and created again.

    `id` is None where the broker cannot say (the embedded one, Kafka before 2.8).
    """

    partitions: int
    id: str | None
    replicas: int = 1
    """Copies that each partition has, at least."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicDefinition:
    """A topic to be created; what isn't set follows the defaults of the cluster."""

    partitions: int
    replicas: int = -1  # the cluster's default
    settings: Mapping[str, str] = field(default_factory=dict)
    """Kafka's topic-level settings, e.g. `retention.ms`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """The cluster at bootstrap.servers; a topic that does not exist is missing from `topics`."""

    id: str
    brokers: int
    topics: Mapping[str, Topic]


def describe(properties: Properties, topics: Iterable[str] = ()) -> Cluster:
    """Return the cluster, and which of these topics it has; raises BrokerError when it does not answer."""
    troubles: list[KafkaError] = []
    admin = _admin({**properties, "error_cb": troubles.append})
    try:
        metadata = admin.list_topics(timeout=REQUEST_SECONDS)
    except KafkaException as exception:
        admin.poll(0)  # hands over what librdkafka met: the first trouble explains more than the time-out
        raise broker_error("Kafka does not answer", [*troubles, exception.args[0]][0]) from exception
    present = {name: metadata.topics[name].partitions for name in topics if name in metadata.topics}
    ids = {}
    if present and metadata.controller_id in metadata.brokers:  # not so in the embedded one, which has no ids
        with translated("Kafka does not describe its topics"):
            ids = _topic_ids(admin, present)
        present = {name: partitions for name, partitions in present.items() if name in ids}
    return Cluster(
        id=cast("str", metadata.cluster_id),
        brokers=len(metadata.brokers),
        topics={
            name: Topic(
                partitions=len(partitions),
                id=ids.get(name),
                replicas=min((len(partition.replicas) for partition in partitions.values()), default=0),
            )
            for name, partitions in present.items()
        },
    )


def _topic_ids(admin: AdminClient, topics: Iterable[str]) -> dict[str, str]:
    """Return the ids of these topics, except of those that were deleted since they were listed."""
    ids = {}
    answers = admin.describe_topics(TopicCollection(list(topics)), request_timeout=REQUEST_SECONDS)
    for name, answer in answers.items():
        try:
            ids[name] = str(answer.result().topic_id)
        except KafkaException as exception:
            if exception.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                raise
    return ids


def create_topics(properties: Properties, definitions: Mapping[str, TopicDefinition]) -> frozenset[str]:
    """Create the topics that are missing, wait until Kafka lists them, and return their names.

    Those that exist stay as they are. Raises BrokerError when Kafka refuses, or doesn't list one within 60 s.
    """
    missing = definitions.keys() - describe(properties, definitions).topics.keys()
    if not missing:
        return frozenset()
    admin = _admin(properties)  # kept until the answers are there, which its end would cancel
    wanted = [
        NewTopic(name, found.partitions, replication_factor=found.replicas, config=dict(found.settings))
        for name, found in definitions.items()
        if name in missing
    ]
    created = set()
    for name, answer in admin.create_topics(wanted, request_timeout=REQUEST_SECONDS).items():
        error = answer.exception()
        if error is None:
            created.add(name)
        elif not isinstance(error, KafkaException):
            raise error
        elif error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
            raise broker_error(f"The topic {name} cannot be created", error.args[0]) from error
    # The controller answers before the brokers know: one that is starting may take seconds to show the topic.
    deadline = time.monotonic() + LISTED_SECONDS
    while unlisted := created - describe(properties, created).topics.keys():
        if time.monotonic() > deadline:
            raise BrokerError(
                f"Kafka has created {', '.join(sorted(unlisted))}, but does not list what it created after"
                f" {LISTED_SECONDS:g} s: check that its brokers follow their controller"
            )
        time.sleep(0.1)
    return frozenset(created)


def topic_settings(properties: Properties, topics: Iterable[str]) -> dict[str, dict[str, str]]:
    """Return the topic-level settings in force of topics that exist; raises BrokerError when Kafka doesn't answer."""
    admin = _admin(properties)
    resources = [ConfigResource(ConfigResource.Type.TOPIC, name) for name in topics]
    if not resources:
        return {}
    with translated("Kafka does not return the settings of topics"):
        answers = admin.describe_configs(resources, request_timeout=REQUEST_SECONDS)
        return {
            resource.name: {name: cast("str", entry.value) for name, entry in answer.result().items()}
            for resource, answer in answers.items()
        }


def count_partitions(properties: Properties, topic: str) -> int:
    """Count the partitions of a topic; raises BrokerError when it does not exist."""
    found = describe(properties, [topic]).topics.get(topic)
    if found is None:
        raise BrokerError(f"The topic {topic} does not exist; create it ({ABSENCE})")
    return found.partitions


def _admin(properties: Mapping[str, Any]) -> AdminClient:
    with translated("Kafka's settings"):
        return AdminClient({**properties, "log_level": 0})  # its errors hold what it would log
