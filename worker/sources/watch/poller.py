"""Polling a directory: for universities without an event bus, its changes become messages.

Every poll lists the entries with the state that each is in (entryCSN, or modifyTimestamp), and compares that with what
the ledger remembers. Entries in another state are read whole, and what changed in them is published. Entries that two
polls in a row miss have left. Entries are noted as unsure before their changes are published, and as published once
Kafka has acknowledged: after a process was killed in between, the changes are published again, whatever has become of
the entry.
"""

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from worker.domain.directory import KnownEntry
from worker.domain.errors import SourceIncomplete
from worker.domain.instants import Instant
from worker.formats.cloudevents import STRUCTURED_HEADERS
from worker.kafka import RecordProducer
from worker.ledger.directory_state import DirectoryState, Sighting
from worker.sources.directory import Directory, DirectoryEntry, DirectoryOptions
from worker.sources.supann import Supann
from worker.sources.watch import changes

CHUNK = 500
"""Entries whose changes are published in one go."""
MANY = 2_000
"""From this number of changed entries on, all are read in one search: fetching entries by uuid is slow."""
FEW = 10
"""This number of entries may always be missing: a few are a large share of a small directory."""
OVERLAP_SECONDS = 60.0
"""A modifyTimestamp has a resolution of a second: entries that changed this recently are read again, whatever it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PollResult:
    """What a poll found and published."""

    entries: int
    """Entries in the directory."""
    read: int
    """Entries that were read, because they are new or have changed."""
    missed: int
    """Entries that are missing for the first time, and may be back at the next poll."""
    published: Counter[str]
    """Messages by kind: state, deleted, rekeyed."""


@dataclass(frozen=True, slots=True)
class _ReadEntry:
    """An entry as it was read."""

    entry: KnownEntry
    unknown: bool
    """Whether something in it can't be understood."""


class Watch:
    """Publishes what changes in a directory, poll by poll. The first poll publishes everything.

    `terms` changes whenever the settings make entries mean something else: then all are read again. `every` is the
    number of seconds between two polls.
    """

    def __init__(
        self,
        name: str,
        directory: DirectoryOptions,
        supann: Supann,
        state: DirectoryState,
        producer: RecordProducer,
        *,
        topic: str,
        years: frozenset[int],
        terms: str,
        max_missing_percent: float,
        every: float,
        clock: Callable[[], Instant] = time.time,
    ) -> None:
        self.name = name
        self._directory = directory
        self._supann = supann
        self._state = state
        self._producer = producer
        self._topic = topic
        self._years = years
        self._max_missing_percent = max_missing_percent
        self._clock = clock
        self._terms = terms
        self.every = every

    def poll(self, progress: Callable[[int, int], None] = lambda _done, _total: None) -> PollResult:
        """Read what has changed and publish it; `progress` receives the number of entries read, and to be read.

        Raises SourceIncomplete when the directory can't be read whole, or lacks more entries than may leave at once:
        then nobody is published as having left. Raises BrokerError when Kafka doesn't acknowledge. What was published
        before stays.
        """
        at = self._clock()
        known = self._state.seen()
        with Directory(self._directory) as directory:
            present = dict(directory.versions())
            self._check(present, known)
            changed = set(self._changed(present, known))
            published = self._publish_changed(directory, changed, at, progress)
        missing = {uuid: sighting.missed_at for uuid, sighting in known.items() if uuid not in present}
        back = [uuid for uuid, sighting in known.items() if uuid in present and sighting.missed_at is not None]
        first_missed = [uuid for uuid, since in missing.items() if since is None]
        self._state.miss(dict.fromkeys(back))
        self._state.miss(dict.fromkeys(first_missed, at))
        published += self._publish_left([uuid for uuid, since in missing.items() if since is not None], at)
        return PollResult(entries=len(present), read=len(changed), missed=len(first_missed), published=published)

    def _publish_changed(
        self, directory: Directory, changed: Collection[str], at: Instant, progress: Callable[[int, int], None]
    ) -> Counter[str]:
        published: Counter[str] = Counter()
        done = 0
        for entries in _chunks(map(self._read, self._entries(directory, changed))):
            published += self._publish(entries, at)
            done += len(entries)
            progress(done, len(changed))
        return published

    def _publish_left(self, uuids: Iterable[str], at: Instant) -> Counter[str]:
        """Publish the end of what entries held that two polls in a row missed."""
        published: Counter[str] = Counter()
        left = (
            _ReadEntry(replace(entry, rows=changes.NOTHING, gone=True), unknown=False)
            for entry in self._state.entries(uuids).values()
        )
        for entries in _chunks(left):
            published += self._publish(entries, at)
        return published

    def _entries(self, directory: Directory, uuids: Collection[str]) -> Iterable[DirectoryEntry]:
        if len(uuids) < MANY:
            return directory.by_uuid(sorted(uuids), self._supann.attributes)
        return (entry for entry in directory.entries(self._supann.attributes) if entry.uuid in uuids)

    def _check(self, present: Mapping[str, str], known: Mapping[str, Sighting]) -> None:
        if not present:
            raise SourceIncomplete(
                "the directory shows no entry: check base and filter, and what the bind account may read"
            )
        if "" in present:
            raise SourceIncomplete("the directory shows no entryUUID: let the bind account read operational attributes")
        missing = len(known.keys() - present.keys())
        if missing > FEW and missing * 100 > len(known) * self._max_missing_percent:
            raise SourceIncomplete(
                f"{missing} of {len(known)} entries are missing, more than the {self._max_missing_percent:g} % of "
                "snapshot.max_shrink_percent: check base and filter, and what the bind account may read; "
                "if they have left, the next snapshot says so"
            )

    def _changed(self, present: Mapping[str, str], known: Mapping[str, Sighting]) -> Iterator[str]:
        """Yield the entries in another state than the last one seen; an older state is that of a replica that lags."""
        recent = max(map(changes.instant, present.values())) - OVERLAP_SECONDS
        for uuid, csn in present.items():
            sighting = known.get(uuid)
            another = sighting is None or csn > sighting.csn or sighting.terms != self._terms
            if another or ("#" not in csn and changes.instant(csn) >= recent):
                yield uuid

    def _read(self, entry: DirectoryEntry) -> _ReadEntry:
        facts = self._supann.read(entry.attributes)
        rows = [row for row in facts.rows if row.academic_year in self._years]
        known = KnownEntry(
            uuid=entry.uuid,
            csn=entry.csn,
            terms=self._terms,
            student_id=rows[0].student.student_id if rows else None,
            rows=changes.written(rows),
            version=0,
        )
        return _ReadEntry(known, unknown=bool(facts.unknown))

    def _publish(self, entries: Sequence[_ReadEntry], at: Instant) -> Counter[str]:
        """Publish what changed in entries, then remember them. Return the messages by kind."""
        before = self._state.entries(read.entry.uuid for read in entries)
        after = {
            read.entry.uuid: changes.following(before.get(read.entry.uuid), read.entry, unknown=read.unknown)
            for read in entries
        }
        students = {entry.student_id for entry in (*before.values(), *after.values())}
        others = self._state.of_students(number for number in students if number is not None)
        step = changes.compare(others | before, after, highest=self._state.highest_version(), at=at, years=self._years)
        if step.changes:
            messages = [changes.message(self.name, change) for change in step.changes]
            self._state.write(changes.unsure(before.get(entry.uuid), entry) for entry in step.entries)
            self._producer.send((self._topic, key, value, STRUCTURED_HEADERS) for key, value in messages)
        self._state.write(step.entries)
        return Counter(change.kind for change in step.changes)


def _chunks(entries: Iterable[_ReadEntry]) -> Iterator[Sequence[_ReadEntry]]:
    remaining = iter(entries)
    while chunk := list(islice(remaining, CHUNK)):
        yield chunk
