"""Snapshots as a producer sends them: rows, their messages in order, and the records that a topic makes of them."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import orjson

from schemas import EnrolmentRow, SnapshotRow
from tests.support.builders import NOW, UAI
from worker import snapshots
from worker.domain.instants import Instant
from worker.domain.snapshots import AcceptedSnapshot, SnapshotScope
from worker.kafka import Headers, Record
from worker.snapshots import AcceptanceLimits
from worker.snapshots.publisher import Messages

Sent = tuple[int, bytes | None, bytes, Headers]
YEAR = 2026
TAKEN_AT: Instant = NOW - 3600
SCOPE = SnapshotScope(uais=frozenset({UAI}), academic_years=frozenset({YEAR}))
LIMITS = AcceptanceLimits(max_age_seconds=20 * 3600, max_shrink_percent=10)


def row(rank: int, *, year: int = YEAR, etape: str = "L1DROI", uai: str = UAI, **more: object) -> EnrolmentRow:
    """Build the enrolment of the student of this rank."""
    given: dict[str, Any] = {
        "enrolment_id": f"{year}:{rank}:{etape}:101:1",
        "academic_year": year,
        "student": {"student_id": f"22{rank:06}"},
        "etape": {"code": etape, "version": "101"},
        "status": "active",
        "payment": "paid",
        "source": {"system": "apogee", "uai": uai},
        "version": 7,
    }
    return EnrolmentRow.model_validate(given | more)


def row_with(**fields: object) -> EnrolmentRow:
    """Build the enrolment of the student of rank 1, with other fields."""
    return EnrolmentRow.model_validate_json(orjson.dumps(orjson.loads(line(row(1))) | fields))


def rows(count: int, **more: Any) -> list[EnrolmentRow]:  # noqa: ANN401 - as of row
    """Build the enrolments of so many students."""
    return [row(rank, **more) for rank in range(count)]


def line(given: EnrolmentRow) -> bytes:
    """Return a row as a line of JSON."""
    return given.model_dump_json(exclude_none=True).encode()


def sent(
    given: Iterable[SnapshotRow],
    name: str = "apogee-1",
    *,
    taken_at: Instant = TAKEN_AT,
    partitions: int = 3,
    scope: SnapshotScope = SCOPE,
) -> list[Sent]:
    """Return the messages of a snapshot in the order in which they are sent."""
    with snapshots.collect(given, scope) as collected:
        moment = datetime.fromtimestamp(taken_at, UTC)
        messages = Messages(collected, snapshot_id=name, taken_at=moment, partitions=partitions)
        return [*messages.begins(), *messages.rows(collected), *messages.ends()]


def kind(message: Sent) -> str:
    """Return what a message is: begin, enrolment, unknown or end."""
    name: str = orjson.loads(message[2])["type"].split(".")[-2]
    return name


def but(message: Sent, **data: object) -> Sent:
    """Change fields of the data of a message."""
    partition, key, value, headers = message
    document = orjson.loads(value)
    return partition, key, orjson.dumps(document | {"data": document["data"] | data}), headers


def records(messages: Iterable[Sent], *, skip: int = 0) -> Iterator[Record]:
    """Number messages as a topic does in each partition, from `skip`."""
    offsets = Counter[int]()
    for partition, key, value, headers in messages:
        yield Record(
            topic="snapshots",
            partition=partition,
            offset=skip + offsets[partition],
            key=key,
            value=value,
            headers=headers,
            timestamp=NOW,
        )
        offsets[partition] += 1


def accepted(counts: dict[int, int], name: str = "apogee-0", **more: Any) -> AcceptedSnapshot:  # noqa: ANN401 - any field
    """Remember a snapshot of so many rows a year, a day older than the others."""
    given: dict[str, Any] = {
        "id": name,
        "taken_at": TAKEN_AT - 86_400,
        "system": "apogee",
        "scope": SCOPE,
        "rows_by_year": counts,
    }
    return AcceptedSnapshot(**given | more)


def students(found: Sequence[Any]) -> list[str]:
    """Return the students of rows, sorted."""
    return sorted(each.student_id for each in found)
