"""The records of a university, the truth that follows from them, and the messages that publish them.

The truth is computed here in a few lines of its own, so that it can judge the worker.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from operator import itemgetter
from random import Random
from typing import Any

import orjson

from worker.sandbox.university.catalogue import CatalogueEtape

HALF_A_MINUTE = timedelta(seconds=30)


@dataclass(frozen=True, slots=True)
class Message:
    """A message to produce: its key (student id, or code of an étape) and its CloudEvent."""

    key: str
    value: dict[str, Any]

    def payload(self) -> bytes:
        """Return the JSON that travels."""
        return orjson.dumps(self.value)


@dataclass(frozen=True, slots=True, kw_only=True)
class InventedEnrolment:
    """A row of the records. `number` is the student number in it, which may be a former one."""

    uai: str
    person: int
    number: str
    year: int
    etape: CatalogueEtape
    etape_version: str
    occurrence: int = 1
    status: str = "active"
    payment: str = "paid"
    revision: int = 0
    at: float = 0.0

    @property
    def id(self) -> str:
        """The primary key of the row."""
        return f"{self.year}-{self.person}-{self.etape.code}-{self.etape_version}-{self.occurrence}"

    @property
    def key(self) -> tuple[str, str]:
        """The id made unique across universities."""
        return self.uai, self.id


class Records:
    """The rows of the students of one university, and the memberships of one year that follow from them."""

    def __init__(self, uai: str, year: int, students: Iterable[str], rows: Iterable[InventedEnrolment]) -> None:
        self.uai = uai
        self.year = year
        self.ended: set[tuple[str, str]] = set()
        """Each (étape, student) whose membership ended."""
        self._numbers: list[str] = []
        self._rows: dict[str, dict[tuple[str, str], InventedEnrolment]] = {}
        self._last_written: dict[str, float] = {}
        for student in students:
            self.add(student)
        for row in rows:
            self._rows[row.number][row.key] = row

    def __iter__(self) -> Iterator[InventedEnrolment]:
        return (row for rows in self._rows.values() for row in rows.values())

    def is_current(self, row: InventedEnrolment) -> bool:
        """Whether the row is of this university and year."""
        return row.uai == self.uai and row.year == self.year

    def is_member(self, row: InventedEnrolment) -> bool:
        """Whether the row makes its student a member of its étape."""
        return self.is_current(row) and row.status == "active" and row.payment != "due"

    def memberships(self, student: str) -> list[str]:
        """Return the étapes of a student, each as often as there are rows for it."""
        return [row.etape.code for row in self._rows[student].values() if self.is_member(row)]

    def students(self) -> Iterator[str]:
        """Yield the students, merged ones under their last number."""
        return iter(self._rows)

    def current(self, student: str) -> list[InventedEnrolment]:
        """Return the rows of a student that haven't ended, of this university and year."""
        ended = {"deleted", "cancelled", "resigned"}
        return [row for row in self._rows[student].values() if self.is_current(row) and row.status not in ended]

    def snapshot_rows(self) -> Iterator[bytes]:
        """Yield the JSON of each row of this university that exists, under the present number of its student."""
        for student, rows in self._rows.items():
            for row in rows.values():
                if row.uai == self.uai and row.status != "deleted":
                    yield orjson.dumps(enrolled(replace(row, number=student)).value["data"])

    def truth(self) -> dict[str, frozenset[str]]:
        """Return the members that each étape must have, by code of étape; never an empty set."""
        members = defaultdict(set)
        for student in self._rows:
            for code in self.memberships(student):
                members[code].add(student)
        return {code: frozenset(students) for code, students in members.items()}

    def add(self, student: str) -> None:
        """Add a student without rows."""
        self._numbers.append(student)
        self._rows[student] = {}

    def knows(self, student: str, code: str) -> bool:
        """Whether the student has any row for that étape."""
        return any(row.etape.code == code for row in self._rows[student].values())

    def write(self, student: str, row: InventedEnrolment, at: float) -> Message:
        """Write a row and return its message."""
        rows, before = self._rows[student], self.memberships(student)
        revision = rows[row.key].revision if row.key in rows else 0
        rows[row.key] = row = replace(row, revision=revision + 1, at=at)
        self.ended |= {(code, student) for code in {*before} - {*self.memberships(student)}}
        self._last_written[student] = max(at, self._last_written.get(student, 0))
        return enrolled(row)

    def merge(self, former: str, student: str, at: float) -> Message:
        """Move all rows of a number to another and return the message of the merge."""
        self.ended |= {(code, former) for code in self.memberships(former)}
        rows = self._rows.pop(former)
        self._rows[student] |= {key: replace(row, number=student) for key, row in rows.items()}
        return rekeyed(former, student, self.uai, at)

    def find(
        self, random: Random, at: float, wanted: Callable[[str, InventedEnrolment], bool]
    ) -> tuple[str, InventedEnrolment]:
        """Return a wanted row and its student, for whom nothing else is written at that instant.

        Raises LookupError when there is none.
        """
        start = random.randrange(len(self._numbers))
        for i in range(start - len(self._numbers), start):
            student = self._numbers[i]
            if self._last_written.get(student, 0) + 1 < at:
                for row in self._rows.get(student, {}).values():  # a merged number has none
                    if wanted(student, row):
                        return student, row
        raise LookupError


def enrolled(row: InventedEnrolment) -> Message:
    """Return the message of the state of a row, or of its deletion."""
    student = {"student_id": row.number}
    data: dict[str, Any] = {"enrolment_id": row.id, "academic_year": row.year, "student": student}
    data["version"] = row.revision
    if row.status == "deleted":
        return _message(row.number, row.uai, "enrolment.deleted", f"{row.id}/{row.revision}", at=row.at, data=data)
    if row.person % 3:  # the source doesn't know every login
        student["login"] = row.number
    data["etape"] = _etape(row.etape) | {"version": row.etape_version}
    data |= {"status": row.status, "payment": row.payment}
    return _message(row.number, row.uai, "enrolment.state", f"{row.id}/{row.revision}", at=row.at, data=data)


def rekeyed(former: str, student: str, uai: str, at: float) -> Message:
    """Return the message of a merge of the former number into the other."""
    data = {"previous_student_id": former, "student_id": student}
    return _message(student, uai, "student.rekeyed", f"{former}>{student}", at=at, data=data)


def described(etape: CatalogueEtape, uai: str, at: float) -> Message:
    """Return the message of the label and component of an étape."""
    data = {"etape": _etape(etape)}
    return _message(etape.code, uai, "etape.described", f"{etape.code}@{at:.0f}", at=at, data=data)


def _etape(etape: CatalogueEtape) -> dict[str, Any]:
    component = {"code": etape.component.code, "label": etape.component.label}
    return {"code": etape.code, "label": etape.label, "component": component}


def _message(key: str, uai: str, what: str, id_: str, *, at: float, data: dict[str, Any]) -> Message:
    time = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    envelope = {
        "specversion": "1.0",
        "id": id_,
        "source": f"urn:uai:{uai}:apogee",
        "type": f"fr.etape-cohorts.{what}.v1",
        "time": time,
    }
    return Message(key, {**envelope, "data": {**data, "source": {"system": "apogee", "uai": uai}}})


def poisoned(good: Message) -> list[bytes]:
    """Return payloads that no reader may accept, most of them nearly that good state of an enrolment."""

    def but(envelope: dict[str, Any] | None = None, **data: object) -> bytes:
        return Message(good.key, {**good.value, "data": good.value["data"] | data, **(envelope or {})}).payload()

    year = good.value["data"]["academic_year"]
    return [
        b"{not JSON",
        b"\xff\xfe\x00",
        b"[]",
        good.payload()[:-20],
        but(status="exmatriculated"),
        but(student={"student_id": int(good.key)}),
        but(student={"student_id": good.key, "name": "Camille Exemple"}),
        but(academic_year=f"{year}-{year + 1}"),
        but(version=None),
        but(enrolment_id=""),
        but({"type": "fr.etape-cohorts.enrolment.vanished.v1"}),
        but({"data": None}),
        but({"specversion": "0.3"}),
    ]


def disorder(messages: list[Message], random: Random, share: float = 0.05) -> list[Message]:
    """Return the messages with some neighbours swapped and some repeated later; none is lost.

    Only messages within half a minute are swapped, so that whoever waits a minute before a removal is never misled
    by the order.
    """
    arrived = list(messages)
    close = [i for i, (one, next_) in enumerate(pairwise(arrived)) if _time(next_) - _time(one) <= HALF_A_MINUTE]
    some = max(1, round(share * len(arrived)))
    moved = -1
    for i in sorted(random.sample(close, min(some, len(close)))):
        if i > moved:
            arrived[i], arrived[i + 1] = arrived[i + 1], arrived[i]
            moved = i + 1
    placed = [(float(i), message) for i, message in enumerate(arrived)]
    placed += [(random.uniform(i, len(arrived)), arrived[i]) for i in random.sample(range(len(arrived)), some)]
    return [message for _, message in sorted(placed, key=itemgetter(0))]


def _time(message: Message) -> datetime:
    return datetime.fromisoformat(message.value["time"])
