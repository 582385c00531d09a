"""Records as their producers wrote them."""

from operator import methodcaller
from typing import NamedTuple, cast

from confluent_kafka import TIMESTAMP_NOT_AVAILABLE, Message

from worker.domain.instants import Instant

Partition = tuple[str, int]
Headers = tuple[tuple[str, bytes | None], ...]


class Record(NamedTuple):
    """One record of a topic, as its producer wrote it; a value of None is a tombstone."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    """None at all where the name of one isn't UTF-8."""
    timestamp: Instant | None

    @property
    def origin(self) -> str:
        """Where it was read, e.g. `enrolments[3]@1042`."""
        return f"{self.topic}[{self.partition}]@{self.offset}"


def partition_of(message: Message) -> Partition:
    """Say where a message, or an error that came in place of one, belongs."""
    return cast("str", message.topic()), cast("int", message.partition())


def record_of(message: Message) -> Record:
    """Give what a message holds."""
    topic, partition = partition_of(message)
    kind, milliseconds = message.timestamp()
    return Record(
        topic=topic,
        partition=partition,
        offset=cast("int", message.offset()),
        key=message.key(),
        value=message.value(),
        headers=_headers(message),
        timestamp=None if kind == TIMESTAMP_NOT_AVAILABLE else milliseconds / 1000,
    )


_told_headers = methodcaller("headers")
"""Called so, Python always looks for an error that the library met and didn't report; `message.headers()` may not."""


def _headers(message: Message) -> Headers:
    """Give its headers; none where the name of one isn't UTF-8, of which the library can't make text."""
    try:
        return tuple(_told_headers(message) or ())
    except SystemError:
        return ()
