"""A file of messages to Kafka: all of them are valid, or none is sent."""

from collections.abc import Iterable, Iterator
from typing import BinaryIO

from pydantic import ValidationError

import schemas
from worker.domain.errors import InvalidMessage, Problem
from worker.formats.cloudevents import STRUCTURED_HEADERS
from worker.kafka import Headers, Properties, RecordProducer


class InvalidLines(InvalidMessage):
    """Lines of a file that break the contract; nothing was sent."""

    def __init__(self, lines: Iterable[tuple[int, str]]) -> None:
        self.lines = tuple(lines)
        super().__init__(*(Problem(f"line {number}", problem) for number, problem in self.lines))


def publish(file: BinaryIO, properties: Properties, topic: str) -> int:
    """Validate JSON lines (structured CloudEvents), then produce them with their keys; returns how many.

    Raises InvalidLines before anything is sent, and BrokerError when Kafka didn't acknowledge all of them. The file is
    read twice, so that it needn't fit into memory.
    """
    if invalid := list(_invalid(file)):
        raise InvalidLines(invalid)
    file.seek(0)
    sent = 0

    def records() -> Iterator[tuple[str, bytes, bytes, Headers]]:
        nonlocal sent
        for line in _lines(file):
            sent += 1
            event = schemas.EVENTS.validate_json(line)
            yield topic, schemas.message_key(event).encode(), line, STRUCTURED_HEADERS

    RecordProducer(properties).send(records())
    return sent


def _lines(file: BinaryIO) -> Iterator[bytes]:
    return (stripped for line in file if (stripped := line.strip()))


def _invalid(file: BinaryIO) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            schemas.EVENTS.validate_json(line)
        except ValidationError as error:
            yield number, "; ".join(f"{where}: {what}" for where, what in schemas.problems(error))
