"""Publish a snapshot: collect and check its rows first, then send them; an end follows only when every row is there."""

import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from secrets import token_hex
from typing import IO, Any
from zlib import crc32

import orjson

import schemas
from worker.domain.errors import SourceIncomplete
from worker.domain.snapshots import SnapshotScope
from worker.formats.cloudevents import STRUCTURED_HEADERS
from worker.kafka import Headers, Properties, RecordProducer, count_partitions
from worker.snapshots.validation import Contents, digest, digest_text

_KIND = "fr.etape-cohorts.snapshot.{}.v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectedSnapshot:
    """All rows of a source, within their scope, in a temporary file. Repeated rows are left out and counted."""

    system: str
    scope: SnapshotScope
    rows: int
    """Enrolments; those of `unknown` come on top."""
    rows_by_year: dict[int, int]
    components: Counter[tuple[int, str]]
    """Enrolments by year and code of component, which is empty where the source has none."""
    etapes: Counter[str]
    repeated: int
    unknown: Counter[str]
    """Rows of what the source doesn't know, by reason."""
    file: IO[bytes]

    def __len__(self) -> int:
        """Count the rows of both kinds."""
        return self.rows + self.unknown.total()

    def __iter__(self) -> Iterator[bytes]:
        """Yield the rows of both kinds as JSON."""
        self.file.seek(0)
        return iter(self.file)


@contextmanager
def collect(rows: Iterable[schemas.SnapshotRow], scope: SnapshotScope) -> Iterator[CollectedSnapshot]:
    """Read a source to its end, into a temporary file that lasts as long as the `with`.

    Raises SourceIncomplete when there is no row, when rows lie outside the scope or come from several systems, when
    two rows of one enrolment differ, and whenever the source itself does. Memory holds some 200 bytes a row.
    """
    with tempfile.TemporaryFile() as file:
        try:
            snapshot = _collected(rows, scope, file)
        except SourceIncomplete as error:
            raise SourceIncomplete(f"{error}: nothing was published") from None
        yield snapshot


def _collected(rows: Iterable[schemas.SnapshotRow], scope: SnapshotScope, file: IO[bytes]) -> CollectedSnapshot:
    contents = Contents(scope)
    unknown: Counter[str] = Counter()
    components: Counter[tuple[int, str]] = Counter()
    etapes: Counter[str] = Counter()
    repeated = 0
    for row in rows:
        line = row.model_dump_json(exclude_none=True).encode() + b"\n"
        if isinstance(row, schemas.UnknownRow):
            unknown[row.reason] += 1
        elif contents.add(row, hash(line)):
            components[row.academic_year, row.etape.component.code if row.etape.component else ""] += 1
            etapes[row.etape.code] += 1
        else:
            repeated += 1
            continue
        file.write(line)
    if found := contents.fault():
        raise SourceIncomplete(found[1])
    if contents.system is None:
        raise SourceIncomplete("the source has no row at all")
    return CollectedSnapshot(
        system=contents.system,
        scope=scope,
        rows=contents.by_year.total(),
        rows_by_year=dict(contents.by_year),
        components=components,
        etapes=etapes,
        repeated=repeated,
        unknown=unknown,
        file=file,
    )


def new_id(system: str, taken_at: datetime) -> str:
    """Return an id that no other snapshot has."""
    return f"{system}-{taken_at:%Y%m%dT%H%M%S}-{token_hex(4)}"


class Publisher:
    """Sends snapshots to a topic.

    The topic is looked up at once, before a source is read, which may take minutes. Raises BrokerError when it
    doesn't exist or Kafka doesn't answer.
    """

    def __init__(self, properties: Properties, topic: str) -> None:
        self.partitions = count_partitions(properties, topic)
        self._topic = topic
        self._producer = RecordProducer(properties)

    def publish(
        self,
        snapshot: CollectedSnapshot,
        *,
        snapshot_id: str,
        taken_at: datetime,
        progress: Callable[[Iterable[bytes]], Iterable[bytes]] = iter,
    ) -> None:
        """Send a snapshot; `progress` receives the rows and passes them on.

        The same id, rows and instant give the same bytes. Raises BrokerError when Kafka did not acknowledge
        everything: what was sent has no end, and nobody accepts it.
        """
        messages = Messages(snapshot, snapshot_id=snapshot_id, taken_at=taken_at, partitions=self.partitions)
        for part in (messages.begins(), messages.rows(progress(snapshot)), messages.ends()):
            self._producer.send_to(self._topic, part)


class Messages:
    """The messages of a snapshot, as (partition, key, value, headers), to be built in the order of the methods."""

    def __init__(self, snapshot: CollectedSnapshot, *, snapshot_id: str, taken_at: datetime, partitions: int) -> None:
        self._id = snapshot_id
        self._snapshot = snapshot
        self._taken_at = taken_at.isoformat()
        self._partitions = partitions
        self._rows: Counter[int] = Counter()
        self._digests: Counter[int] = Counter()

    def begins(self) -> Iterator[tuple[int, None, bytes, Headers]]:
        """Build the begin of every partition."""
        scope = self._snapshot.scope
        data = {
            "taken_at": self._taken_at,
            "partitions": self._partitions,
            "system": self._snapshot.system,
            "scope": {
                "uais": sorted(scope.uais),
                "academic_years": sorted(scope.academic_years),
                **({} if scope.etapes is None else {"etapes": scope.etapes}),
            },
        }
        for partition in range(self._partitions):
            yield partition, None, self._message("begin", f"{partition}/begin", data), STRUCTURED_HEADERS

    def rows(self, rows: Iterable[bytes]) -> Iterator[tuple[int, bytes, bytes, Headers]]:
        """Build the messages of the rows; those of one student share a partition."""
        for row in rows:
            content = orjson.loads(row)
            if "reason" in content:
                kind, key = "unknown", (content.get("student_id") or content["enrolment_id"]).encode()
            else:
                kind, key = "enrolment", content["student"]["student_id"].encode()
            partition = crc32(key) % self._partitions
            number = self._rows[partition]
            value = self._message(kind, f"{partition}/{number}", {"row": number, kind: orjson.Fragment(row.rstrip())})
            self._rows[partition] += 1
            self._digests[partition] += digest(value)
            yield partition, key, value, STRUCTURED_HEADERS

    def ends(self) -> Iterator[tuple[int, None, bytes, Headers]]:
        """Build the end of every partition, with the counts and digests of what `rows` built."""
        for partition in range(self._partitions):
            text = digest_text(self._digests[partition])
            data = {"rows": self._rows[partition], "digest": text, "total": self._rows.total()}
            yield partition, None, self._message("end", f"{partition}/end", data), STRUCTURED_HEADERS

    def _message(self, kind: str, name: str, data: dict[str, Any]) -> bytes:
        return orjson.dumps(
            {
                "specversion": "1.0",
                "id": f"{self._id}/{name}",
                "source": f"urn:etape-cohorts:{self._snapshot.system}",
                "type": _KIND.format(kind),
                "time": self._taken_at,
                "data": {"snapshot_id": self._id, **data},
            }
        )
