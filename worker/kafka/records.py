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
    """Empty where the name of one isn't UTF-8."""
    timestamp: Instant | None

    @property
    def origin(self) -> str:
        """Where it was read, e.g. `enrolments[3]@1042`."""
        return f"{self.topic}[{self.partition}]@{self.offset}"


def partition_of(message: Message) -> Partition:
    """Return the partition of a message, or of an error that came in place of one."""
    return cast("str", message.topic()), cast("int", message.partition())


def record_of(message: Message) -> Record:
    """Return a message as a record."""
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


_call_headers = methodcaller("headers")
"""Called this way, Python always checks for an error that the library met and didn't report; `message.headers()` may
not."""


def _headers(message: Message) -> Headers:
    """Return its headers; none where the name of one isn't UTF-8, which the library can't decode."""
    try:
        return tuple(_call_headers(message) or ())
    except SystemError:
        return ()
