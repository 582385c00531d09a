"""Looking at a directory: for universities without an event bus, its changes become messages.

Every look lists the entries that there are, with the state that each is in (entryCSN, or modifyTimestamp), and compares
that with what the ledger last saw. Entries in another state are read whole; what they say otherwise than before is
told. Entries that two looks in a row miss have left. What is about to be told is noted first, and that it was told once
Kafka has acknowledged it: after somebody was killed in between it is told again, whatever has become of the entry.
"""

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice

import structlog

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
"""Entries that are told in one go."""
MANY = 2_000
"""From so many changed entries on, all are read in one search: directories are slow at naming each of them."""
FEW = 10
"""So many entries may always be missing: few are a large share of a small directory."""
OVERLAP_SECONDS = 60.0
"""A modifyTimestamp counts in seconds: entries that changed as lately as this are read again, whatever it says."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class PollResult:
    """What a look has found."""

    entries: int
    """Entries that there are."""
    read: int
    """Entries that were read, because they are new or have changed."""
    missed: int
    """Entries that aren't there, and haven't left for certain."""
    told: Counter[str]
    """Messages by what they say: state, deleted, rekeyed."""


class Watch:
    """Tells what changes in a directory, look by look. The first one tells everything.

    `terms` changes whenever entries are to be understood otherwise: then all are read again. `every` is the seconds
    between two looks.
    """

    def __init__(
        self,
        name: str,
        directory: DirectoryOptions,
        supann: Supann,
        book: DirectoryState,
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
        self._book = book
        self._producer = producer
        self._topic = topic
        self._years = years
        self._most = max_missing_percent
        self._clock = clock
        self._terms = terms
        self.every = every

    def poll(self, progress: Callable[[int, int], None] = lambda _done, _of: None) -> PollResult:
        """Look once; `progress` is told how many of how many entries were read.

        Raises SourceIncomplete when the directory can't be read whole, or lacks more entries than may leave at once:
        then nobody is said to have left. Raises BrokerError when Kafka doesn't acknowledge; what was told before stays.
        """
        at = self._clock()
        told: Counter[str] = Counter()
        known = self._book.seen()
        with Directory(self._directory) as directory:
            there = dict(directory.versions())
            missing = {uuid: seen.missed_at for uuid, seen in known.items() if uuid not in there}
            self._check(there, known, missing)
            changed = set(self._changed(there, known))
            read = map(self._read, self._entries(directory, changed))
            done = 0
            while some := list(islice(read, CHUNK)):
                self._tell(some, at, told)
                done += len(some)
                progress(done, len(changed))
        self._book.miss({uuid: None for uuid in there if uuid in known and known[uuid].missed_at is not None})
        self._book.miss({uuid: at for uuid, since in missing.items() if since is None})
        left = self._book.entries(uuid for uuid, since in missing.items() if since is not None)
        gone = ((replace(entry, rows=changes.NOTHING, gone=True), False) for entry in left.values())
        while some := list(islice(gone, CHUNK)):
            self._tell(some, at, told)
        return PollResult(entries=len(there), read=len(changed), missed=len(missing) - len(left), told=told)

    def _entries(self, directory: Directory, uuids: Collection[str]) -> Iterable[DirectoryEntry]:
        if len(uuids) < MANY:
            return directory.by_uuid(sorted(uuids), self._supann.attributes)
        return (entry for entry in directory.entries(self._supann.attributes) if entry.uuid in uuids)

    def _check(
        self, there: Mapping[str, str], known: Mapping[str, Sighting], missing: Mapping[str, Instant | None]
    ) -> None:
        if not there:
            raise SourceIncomplete("the directory shows no entry: look at base and filter, and at what we may see")
        if "" in there:
            raise SourceIncomplete("the directory gives no entryUUID: let whom we bind as read operational attributes")
        if len(missing) > FEW and len(missing) * 100 > len(known) * self._most:
            raise SourceIncomplete(
                f"{len(missing)} of {len(known)} entries are missing, more than the {self._most:g} % of "
                "snapshot.max_shrink_percent: look at base and filter, and at what whom we bind as may see; "
                "if they have left, the next snapshot says so"
            )

    def _changed(self, there: Mapping[str, str], known: Mapping[str, Sighting]) -> Iterator[str]:
        """Give the entries whose state is another than the one seen; an older one is that of a replica that lags."""
        lately = max(map(changes.instant, there.values())) - OVERLAP_SECONDS
        for uuid, csn in there.items():
            seen = known.get(uuid)
            another = seen is None or csn > seen.csn or seen.terms != self._terms
            if another or ("#" not in csn and changes.instant(csn) >= lately):
                yield uuid

    def _read(self, entry: DirectoryEntry) -> tuple[KnownEntry, bool]:
        """Understand an entry; says whether something about it is unknown."""
        told = self._supann.tell(entry.attributes)
        rows = [row for row in told.rows if row.academic_year in self._years]
        found = KnownEntry(
            uuid=entry.uuid,
            csn=entry.csn,
            terms=self._terms,
            student_id=rows[0].student.student_id if rows else None,
            rows=changes.written(rows),
            version=0,
        )
        return found, bool(told.unknown)

    def _tell(self, entries: Iterable[tuple[KnownEntry, bool]], at: Instant, told: Counter[str]) -> None:
        """Tell what entries say otherwise than before, then keep it."""
        found = {entry.uuid: (entry, unknown) for entry, unknown in entries}
        before = self._book.entries(found)
        after = {
            uuid: changes.following(before.get(uuid), entry, unknown=unknown)
            for uuid, (entry, unknown) in found.items()
        }
        students = {entry.student_id for entry in (*before.values(), *after.values())}
        theirs = self._book.of_students(number for number in students if number is not None)
        found_changes = changes.changes(
            theirs | before, after, highest=self._book.highest_version(), at=at, years=self._years
        )
        messages = [changes.message(self.name, change) for change in found_changes.told]
        if messages:
            self._book.write(changes.unsure(before.get(entry.uuid), entry) for entry in found_changes.entries)
            self._producer.send((self._topic, key, value, STRUCTURED_HEADERS) for key, value in messages)
        self._book.write(found_changes.entries)
        told.update(change.kind for change in found_changes.told)
