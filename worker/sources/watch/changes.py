"""What entries of a directory say otherwise than before, as messages. Pure: no I/O, no clock.

A student is enrolled by any of their entries. All messages of one step bear one version, greater than that of every
earlier one, of whichever student: an enrolment may go from one entry or number to another and back.
"""

import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from urllib.parse import quote

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
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "urn:etape-cohorts:watch")
Key = tuple[str, str]
"""An enrolment: its establishment and its id."""
Data = EnrolmentStateData | EnrolmentDeletedData | StudentRekeyedData
_KINDS = {EnrolmentStateData: "state", EnrolmentDeletedData: "deleted", StudentRekeyedData: "rekeyed"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Something to tell, and since when it is so."""

    data: Data
    version: int
    at: Instant

    @property
    def kind(self) -> str:
        """Say what it says: state, deleted or rekeyed."""
        return _KINDS[type(self.data)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What is to be told, and how the entries are to be kept."""

    told: Sequence[Change]
    entries: Sequence[KnownEntry]


def instant(csn: str) -> Instant:
    """Give the instant of an entryCSN or a modifyTimestamp, in generalized time, e.g. `20261125120000.123456Z#…`.

    It is of this century, as a message must say it. Raises SourceIncomplete when it isn't one in UTC.
    """
    text = csn.partition("#")[0]
    form = "%Y%m%d%H%M%S.%fZ" if "." in text else "%Y%m%d%H%M%SZ"
    try:
        at = datetime.strptime(text, form).replace(tzinfo=UTC)
    except ValueError:
        raise SourceIncomplete("an entry's entryCSN, or modifyTimestamp, is no generalized time in UTC") from None
    return min(max(at, _FIRST), _LAST).timestamp()


def written(rows: Iterable[EnrolmentRow]) -> str:
    """Write enrolments as an entry keeps them."""
    return _ROWS.dump_json(list(rows), exclude_none=True).decode()


def following(before: KnownEntry | None, entry: KnownEntry, *, unknown: bool) -> KnownEntry:
    """Give an entry as it follows from what it said before.

    What can't be understood takes nothing back; an entry that says nothing any more is still of its student.
    """
    if before is None:
        return entry
    if unknown:
        kept = {_key(row): row for text in (before.rows, entry.rows) for row in _ROWS.validate_json(text)}
        return replace(entry, rows=written(kept.values()), student_id=before.student_id or entry.student_id)
    return replace(entry, student_id=entry.student_id or before.student_id)


def unsure(before: KnownEntry | None, entry: KnownEntry) -> KnownEntry:
    """Give an entry as it is noted before it is told: all that it said, and all that it is about to say.

    Whoever finds it so, after somebody was killed, reads the entry again, tells it whole, and ends what it no longer
    says.
    """
    said = before.rows if before is not None else NOTHING
    rows = {_key(row): row for text in (said, entry.rows) for row in _ROWS.validate_json(text)}
    noted = replace(before or entry, csn="", rows=written(rows.values()), version=entry.version, unsure=True)
    return replace(noted, gone=False, student_id=noted.student_id or entry.student_id)


def changes(
    before: Mapping[str, KnownEntry],
    after: Mapping[str, KnownEntry],
    *,
    highest: int,
    at: Instant,
    years: frozenset[int],
) -> Changes:
    """Compare entries by uuid; `before` also holds the other entries of the same students.

    `highest` is the highest version that was ever told of the directory, `at` is now. An enrolment of a year that isn't
    among `years` is never said to be over.
    """
    now = {**before, **after}
    version = max([highest + 1, *(int(_since(entry, at) * 1_000_000) for entry in after.values())])
    was, is_now = _rows(before), _rows(now)
    since: dict[Key, Instant] = {}
    again: set[Key] = set()
    for key, entry in after.items():
        said = _rows({key: before[key]} if key in before else {})
        since |= dict.fromkeys([*said, *_rows({key: entry})], _since(entry, at))
        if key in before and before[key].unsure:
            again |= said.keys()
    new = [row for key, row in is_now.items() if key in again or was.get(key) != row]
    over = [row for key, row in was.items() if key not in is_now and row.academic_year in years]
    told = list(_rekeyed(before, after, now, version))
    told += [Change(data=_state(row, version), version=version, at=since.get(_key(row), at)) for row in new]
    told += [Change(data=_deleted(row, version), version=version, at=since.get(_key(row), at)) for row in over]
    if told:
        return Changes(told=told, entries=[replace(entry, version=version) for entry in after.values()])
    kept = {key: before[key].version if key in before else 0 for key in after}
    return Changes(told=told, entries=[replace(entry, version=kept[key]) for key, entry in after.items()])


def _since(entry: KnownEntry, at: Instant) -> Instant:
    return (entry.missed_at or at) if entry.gone else instant(entry.csn)


def message(source: str, change: Change) -> tuple[bytes, bytes]:
    """Give key and value of a message; the same change always gives the same."""
    data = change.data
    event: EnrolmentState | EnrolmentDeleted | StudentRekeyed
    what = data.previous_student_id if isinstance(data, StudentRekeyedData) else data.enrolment_id
    envelope = {
        "specversion": "1.0",
        "id": str(uuid.uuid5(_NAMESPACE, f"{source}/{type(data).__name__}/{what}/{change.version}")),
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
    """Tell whose number changed: that of an entry did, and no other entry has the former one.

    Under other settings another attribute may be the number: that merges nobody.
    """
    present = {entry.student_id for entry in now.values() if not entry.gone}
    for key, entry in after.items():
        former = _student(before.get(key))
        if (
            former is not None
            and before[key].terms == entry.terms
            and entry.student_id is not None
            and former != entry.student_id
            and former not in present
        ):
            [source] = {row.source for row in _ROWS.validate_json(entry.rows)[:1]}
            data = StudentRekeyedData(previous_student_id=former, student_id=entry.student_id, source=source)
            yield Change(data=data, version=version, at=instant(entry.csn))


def _student(entry: KnownEntry | None) -> str | None:
    return entry.student_id if entry is not None else None


def _rows(entries: Mapping[str, KnownEntry]) -> dict[Key, EnrolmentRow]:
    """Give what entries say that aren't gone; of the same enrolment, the first by uuid."""
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
