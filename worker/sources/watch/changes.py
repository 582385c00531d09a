"""What changed in the entries of a directory, as messages. Pure: no I/O, no clock.

Any entry of a student enrols them. All messages of one step bear one version, greater than that of every earlier
message, whoever its student: an enrolment may move from one entry or number to another and back.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from urllib.parse import quote
from uuid import NAMESPACE_URL, uuid5

from pydantic import TypeAdapter

import schemas
from schemas import (
    EnrolmentDeleted,
    EnrolmentDeletedData,
    EnrolmentRow,
    EnrolmentState,
    EnrolmentStateData,
    StudentKey,
    StudentRekeyed,
    StudentRekeyedData,
)
from worker.domain.directory import KnownEntry
from worker.domain.errors import SourceIncomplete
from worker.domain.instants import Instant

NOTHING = "[]"
"""No enrolments."""
_ROWS: TypeAdapter[list[EnrolmentRow]] = TypeAdapter(list[EnrolmentRow])
_FIRST, _LAST = datetime(2000, 1, 1, tzinfo=UTC), datetime(2099, 12, 31, tzinfo=UTC)
_NAMESPACE = uuid5(NAMESPACE_URL, "urn:etape-cohorts:watch")
Key = tuple[str, str]
"""An enrolment: its establishment and its id."""
Data = EnrolmentStateData | EnrolmentDeletedData | StudentRekeyedData
_KINDS = {EnrolmentStateData: "state", EnrolmentDeletedData: "deleted", StudentRekeyedData: "rekeyed"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A change to publish, and the instant since when it is true."""

    data: Data
    version: int
    at: Instant

    @property
    def kind(self) -> str:
        """Return the kind of its message: state, deleted or rekeyed."""
        return _KINDS[type(self.data)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """The changes to publish, and the entries to remember once they are."""

    changes: Sequence[Change]
    entries: Sequence[KnownEntry]


def instant(csn: str) -> Instant:
    """Return the instant of an entryCSN or a modifyTimestamp, in generalized time, e.g. `20261125120000.123456Z#…`.

    It is moved into this century, as the contract wants it. Raises SourceIncomplete when it isn't one in UTC.
    """
    text = csn.partition("#")[0]
    form = "%Y%m%d%H%M%S.%fZ" if "." in text else "%Y%m%d%H%M%SZ"
    try:
        at = datetime.strptime(text, form).replace(tzinfo=UTC)
    except ValueError:
        raise SourceIncomplete("the entryCSN or modifyTimestamp of an entry is not a generalized time in UTC") from None
    return min(max(at, _FIRST), _LAST).timestamp()


def written(rows: Iterable[EnrolmentRow]) -> str:
    """Return enrolments as a known entry holds them."""
    return _ROWS.dump_json(list(rows), exclude_none=True).decode()


def following(before: KnownEntry | None, entry: KnownEntry, *, unknown: bool) -> KnownEntry:
    """Return an entry as it follows from what it held before.

    What can't be understood ends nothing; an entry that no longer holds any enrolment still belongs to its student.
    """
    if before is None:
        return entry
    if unknown:
        kept = {_key(row): row for text in (before.rows, entry.rows) for row in _ROWS.validate_json(text)}
        return replace(entry, rows=written(kept.values()), student_id=before.student_id or entry.student_id)
    return replace(entry, student_id=entry.student_id or before.student_id)


def unsure(before: KnownEntry | None, entry: KnownEntry) -> KnownEntry:
    """Return an entry as it is noted before its changes are published: with all rows that it held or holds now.

    If the process is killed in between, the next one reads the entry again, publishes all of it, and ends what it no
    longer holds.
    """
    old = before.rows if before is not None else NOTHING
    rows = {_key(row): row for text in (old, entry.rows) for row in _ROWS.validate_json(text)}
    noted = replace(before or entry, csn="", rows=written(rows.values()), version=entry.version, unsure=True)
    return replace(noted, gone=False, student_id=noted.student_id or entry.student_id)


def compare(
    before: Mapping[str, KnownEntry],
    after: Mapping[str, KnownEntry],
    *,
    highest: int,
    at: Instant,
    years: frozenset[int],
) -> Step:
    """Compare entries by uuid; `before` also holds the other entries of the same students.

    `highest` is the highest version that was ever published of the directory, `at` is now. An enrolment of a year that
    isn't among `years` is never ended.
    """
    now = {**before, **after}
    version = max([highest + 1, *(int(_since(entry, at) * 1_000_000) for entry in after.values())])
    old_rows, new_rows = _rows(before), _rows(now)
    unconfirmed = _unconfirmed(before, after)
    since = _since_by_enrolment(before, after, at)
    found = list(_rekeyed(before, after, now, version))
    for key, row in new_rows.items():
        if key in unconfirmed or old_rows.get(key) != row:
            found.append(Change(data=_state(row, version), version=version, at=since.get(key, at)))
    for key, row in old_rows.items():
        if key not in new_rows and row.academic_year in years:
            found.append(Change(data=_deleted(row, version), version=version, at=since.get(key, at)))
    if found:
        return Step(changes=found, entries=[replace(entry, version=version) for entry in after.values()])
    versions = {uuid: entry.version for uuid, entry in before.items()}
    return Step(changes=(), entries=[replace(entry, version=versions.get(key, 0)) for key, entry in after.items()])


def _unconfirmed(before: Mapping[str, KnownEntry], after: Mapping[str, KnownEntry]) -> set[Key]:
    """Return the enrolments of entries that were noted by a process that was killed before it had published them."""
    unsure = {uuid: before[uuid] for uuid in after if uuid in before and before[uuid].unsure}
    return set(_rows(unsure))


def _since_by_enrolment(
    before: Mapping[str, KnownEntry], after: Mapping[str, KnownEntry], at: Instant
) -> dict[Key, Instant]:
    """Return since when each enrolment that an entry held or holds is so: since that entry changed."""
    since: dict[Key, Instant] = {}
    for uuid, entry in after.items():
        old = _rows({uuid: before[uuid]} if uuid in before else {})
        since |= dict.fromkeys([*old, *_rows({uuid: entry})], _since(entry, at))
    return since


def _since(entry: KnownEntry, at: Instant) -> Instant:
    return (entry.missed_at or at) if entry.gone else instant(entry.csn)


def message(source: str, change: Change) -> tuple[bytes, bytes]:
    """Return key and value of a message; the same change always gives the same."""
    data = change.data
    event: EnrolmentState | EnrolmentDeleted | StudentRekeyed
    subject = data.previous_student_id if isinstance(data, StudentRekeyedData) else data.enrolment_id
    envelope = {
        "specversion": "1.0",
        "id": str(uuid5(_NAMESPACE, f"{source}/{type(data).__name__}/{subject}/{change.version}")),
        "source": f"urn:etape-cohorts:watch:{quote(source)}",
        "time": datetime.fromtimestamp(change.at, UTC),
        "data": data,
    }
    match data:
        case EnrolmentStateData():
            event = EnrolmentState.model_validate({"type": "fr.etape-cohorts.enrolment.state.v1", **envelope})
        case EnrolmentDeletedData():
            event = EnrolmentDeleted.model_validate({"type": "fr.etape-cohorts.enrolment.deleted.v1", **envelope})
        case StudentRekeyedData():
            event = StudentRekeyed.model_validate({"type": "fr.etape-cohorts.student.rekeyed.v1", **envelope})
    return schemas.message_key(event).encode(), event.model_dump_json(exclude_none=True).encode()


def _rekeyed(
    before: Mapping[str, KnownEntry], after: Mapping[str, KnownEntry], now: Mapping[str, KnownEntry], version: int
) -> Iterator[Change]:
    """Yield the students whose number changed: the number of an entry did, and no other entry has the former one.

    Under other settings another attribute may be the number: that merges nobody.
    """
    present = {entry.student_id for entry in now.values() if not entry.gone}
    for uuid, entry in after.items():
        old = before.get(uuid)
        if old is None or old.student_id is None or entry.student_id is None or old.terms != entry.terms:
            continue
        if old.student_id != entry.student_id and old.student_id not in present:
            [source] = {row.source for row in _ROWS.validate_json(entry.rows)[:1]}
            data = StudentRekeyedData(previous_student_id=old.student_id, student_id=entry.student_id, source=source)
            yield Change(data=data, version=version, at=instant(entry.csn))


def _rows(entries: Mapping[str, KnownEntry]) -> dict[Key, EnrolmentRow]:
    """Return the rows of entries that aren't gone; of the same enrolment, the first by uuid."""
    rows: dict[Key, EnrolmentRow] = {}
    for _, entry in sorted(entries.items()):
        if not entry.gone:
            for row in _ROWS.validate_json(entry.rows):
                rows.setdefault(_key(row), row)
    return rows


def _key(row: EnrolmentRow) -> Key:
    return row.source.uai, row.enrolment_id


def _state(row: EnrolmentRow, version: int) -> EnrolmentStateData:
    return EnrolmentStateData.model_validate({**dict(row), "version": version})


def _deleted(row: EnrolmentRow, version: int) -> EnrolmentDeletedData:
    return EnrolmentDeletedData(
        enrolment_id=row.enrolment_id,
        student=StudentKey(student_id=row.student.student_id),
        academic_year=row.academic_year,
        source=row.source,
        version=version,
    )
