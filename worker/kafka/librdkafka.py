"""The properties of librdkafka, and its errors in our words: no error text holds a part of a message."""
# ruff: noqa: SLF001 -- librdkafka's own error codes are public and begin with an underscore

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from confluent_kafka import KafkaError, KafkaException

from worker.domain.errors import BrokerError

Properties = Mapping[str, str | int | float | bool]
"""Properties of librdkafka: bootstrap.servers, security.protocol, sasl.*, ssl.*…"""

REQUEST_SECONDS = 10.0
PASSING = {
    KafkaError._TRANSPORT,
    KafkaError._ALL_BROKERS_DOWN,
    KafkaError._RESOLVE,
    KafkaError._TIMED_OUT,
    KafkaError._MAX_POLL_EXCEEDED,
}
LOST = {KafkaError._AUTO_OFFSET_RESET, KafkaError._LOG_TRUNCATION, KafkaError.OFFSET_OUT_OF_RANGE}
FORBIDDEN = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
}
ABSENT = {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION}
ABSENCE = "`cohorts topics create` does; or the right to see it is missing: `cohorts topics acls`"
"""What to do about a topic that isn't listed: Kafka hides topics from accounts without a right to them."""

log = logging.getLogger("librdkafka")


def passes(error: KafkaError) -> bool:
    """Return whether librdkafka goes on by itself."""
    return not error.fatal() and (error.retriable() or error.code() in PASSING)


def broker_error(what: str, error: KafkaError, topic: str = "") -> BrokerError:
    """Return an error that says what could not be done, why, and what to do where that is known."""
    remedy = f"; create the topic {topic}" if topic and error.code() in ABSENT else ""
    if error.code() in FORBIDDEN:
        remedy = "; `cohorts topics acls` lists the rights that each command needs"
    return BrokerError(f"{what}: {error.name()}: {error.str()}{remedy}")


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Raise BrokerError in place of the library's exceptions."""
    try:
        yield
    except KafkaException as exception:
        raise broker_error(what, exception.args[0]) from exception
