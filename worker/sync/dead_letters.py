"""Dead letters: listed, counted, and sent again."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from worker.domain.errors import InvalidMessage
from worker.domain.instants import Instant
from worker.formats.cloudevents import Format
from worker.kafka import Headers, Properties, Record, RecordProducer, read_to_end

PREFIX = "__connect.errors."


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A message that could not be read, where it came from and what was wrong with it."""

    record: Record
    topic: str
    origin: str
    problem: str


def dead_letters(properties: Properties, topic: str) -> Iterator[DeadLetter]:
    """Read every dead letter that the topic still holds, oldest first in each partition."""
    for record in read_to_end(properties, topic):
        about = {
            name.removeprefix(PREFIX): (value or b"").decode(errors="replace")
            for name, value in record.headers
            if name.startswith(PREFIX)
        }
        source = about.get("topic", "")
        yield DeadLetter(
            record=record,
            topic=source,
            origin=f"{source}[{about.get('partition', '?')}]@{about.get('offset', '?')}",
            problem=about.get("exception.message", "unknown"),
        )


def older(properties: Properties, topic: str, before: Instant) -> int:
    """Count the dead letters that were written before an instant; only the topic's retention removes them."""
    return sum((letter.record.timestamp or 0.0) < before for letter in dead_letters(properties, topic))


def replay(properties: Properties, topic: str, formats: Mapping[str, Format], *, publish: bool) -> Counter[str]:
    """Send the dead letters that can be read by now back to the topic that they came from.

    They keep their key and are processed like any message, so an old one changes nothing that is newer. Returns how
    many were (or, without `publish`, would be) sent, still can't be read, and come from no topic of `formats`.
    """
    counts: Counter[str] = Counter(sent=0, unreadable=0, homeless=0)

    def readable() -> Iterator[tuple[str, bytes | None, bytes | None, Headers]]:
        for letter in dead_letters(properties, topic):
            record = letter.record
            headers = tuple(header for header in record.headers if not header[0].startswith(PREFIX))
            if letter.topic not in formats:
                counts["homeless"] += 1
                continue
            try:
                formats[letter.topic].read(value=record.value, headers=headers, origin=record.origin)
            except InvalidMessage:
                counts["unreadable"] += 1
                continue
            counts["sent"] += 1
            yield letter.topic, record.key, record.value, headers

    if publish:
        RecordProducer(properties).send(readable())
    else:
        for _ in readable():
            pass
    return counts
