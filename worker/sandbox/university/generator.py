"""An invented university that lives: its students, what happens to them, and the messages that tell it."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import cycle, pairwise
from random import Random
from typing import TypeVar

from worker.sandbox.university.catalogue import HEALTH, CatalogueEtape, Faculty, etapes
from worker.sandbox.university.records import (
    InventedEnrolment,
    Message,
    Records,
    described,
    disorder,
    enrolled,
    poisoned,
)

FOREIGN_UAI = "0751717J"
FOREIGN_COMPONENT = Faculty("DRT", "Faculté de l'autre université")
PERSON_BASE = 100_000  # COD_IND has nothing to do with the student number
DAY = 86_400.0
RENAMED = " (nouvelle maquette)"
T = TypeVar("T")
ELSEWHERE_EVERY = 3  # the three kinds of enrolments elsewhere, in turn

# How often this year's enrolments are in each of these states; all others are active and paid.
STATES = (
    (0.015, "pending", "due"),
    (0.020, "active", "due"),
    (0.050, "active", "unknown"),
    (0.010, "cancelled", "paid"),
    (0.005, "resigned", "paid"),
)


@dataclass(kw_only=True)
class University:
    """A university of so many students and étapes; the same seed and the same calls give the same bytes.

    `initial` tells the records before the first day. Each `september_day` lives one more day at once:
    `truth`, `labels`, `late_accounts`, `removals_asked`, `snapshot_rows` and `changes` are then those of its end.
    """

    seed: int = 1
    students: int = 35_000
    etapes: int = 1_200
    year: int = 2026
    uai: str = "0141408E"
    opening: datetime | None = None
    """When the first day begins; 1 September of the year unless said. What messages say doesn't depend on it."""
    day: float = DAY
    """How many seconds a day lasts."""

    health_components = frozenset({HEALTH})
    changes: Counter[str] = field(default_factory=Counter, init=False)
    """How many changes of each kind there were."""

    def __post_init__(self) -> None:
        self._random = Random(self.seed)  # noqa: S311 - draws a scenario, keeps no secret
        self._opening = (self.opening or datetime(self.year, 9, 1, 6, tzinfo=UTC)).timestamp()
        self._days = 0
        self._etapes = {etape.code: etape for etape in etapes(self.etapes)}
        self._crowd = self._crowds()
        self._people: dict[str, int] = {}  # student number -> COD_IND, merged ones included
        numbers = [self._new_number() for _ in range(self.students)]
        self._first_rows = self._enrol_everyone(numbers)
        self._first_etapes = tuple(self._etapes.values())
        self._records = Records(self.uai, self.year, numbers, self._first_rows)
        self._truth_at_start = self._records.truth()
        self._late = self._some(numbers, 0.015)
        without = {*self._late, *self._some(numbers, 0.015)}
        self._accounts = dict.fromkeys(number for number in numbers if number not in without)

    # What there is to know

    def initial(self) -> Iterator[Message]:
        """Tell all étapes, then all enrolments, as they are before the first day."""
        summer = self._opening - 62 * DAY
        yield from (described(etape, self.uai, summer) for etape in self._first_etapes)
        yield from (enrolled(row) for row in self._first_rows)

    def truth(self) -> dict[str, frozenset[str]]:
        """Return the members that each étape must have now, by code of étape; never an empty set."""
        return self._records.truth()

    def truth_at_start(self) -> dict[str, frozenset[str]]:
        """Return what `truth` was before the first day."""
        return self._truth_at_start

    def removals_asked(self) -> set[tuple[str, str]]:
        """Return each (étape, student) that was true and stopped, even if it is true again."""
        return set(self._records.ended)

    def labels(self) -> dict[str, tuple[str, str, str]]:
        """Return by code of étape: its label, the code of its component and the component's label."""
        return {e.code: (e.label, e.component.code, e.component.label) for e in self._etapes.values()}

    def accounts(self) -> Iterator[tuple[str, str, str]]:
        """Yield (username, idnumber, student id) of the Moodle accounts before the first day."""
        return (_account(number) for number in self._accounts)

    def late_accounts(self) -> Iterator[tuple[str, str, str]]:
        """Yield the accounts that appear later; students in neither list never get one."""
        return (_account(number) for number in self._late)

    def snapshot_rows(self) -> Iterator[bytes]:
        """Yield every row of the university's own records, of all years, as the JSON of a snapshot's enrolment.

        Deleted rows aren't there. A merge has changed the number in rows that were never told again; a row written
        after it may say a former number once more.
        """
        return self._records.image()

    def poison(self) -> Iterator[tuple[str, bytes]]:
        """Yield (key, payload) that no reader may accept; much of it says that a true membership is over."""
        row = next(row for row in self._records if self._records.is_member(row))
        cancelled = enrolled(replace(row, status="cancelled", revision=row.revision + 1_000))
        return ((cancelled.key, payload) for payload in poisoned(cancelled))

    def september_day(self, changes: int = 3_000) -> Iterator[Message]:
        """Live a day of so many changes, at least one of each kind, and tell it in the order of arrival.

        Some messages are told twice, some in the wrong order; `time` and `version` say how it was. There are
        some more messages than changes, and never fewer changes than kinds.
        """
        opening, pace = self._opening + self._days * self.day, self.day / DAY
        self._days += 1
        frequency: dict[Callable[[float], list[Message]], int] = {
            self._arrive: 280,
            self._confirm: 220,
            self._change_etape: 120,
            self._take_another: 100,
            self._resign: 80,
            self._touch: 60,
            self._change_version: 50,
            self._reinstate: 20,
            self._cancel_twin: 20,
            self._cancel_last_year: 20,
            self._delete: 10,
            self._bounce: 10,
            self._change_elsewhere: 10,
            self._merge: 10,
            self._merge_twice: 2,
        }
        kinds = [*frequency]
        kinds += self._random.choices(kinds, [*frequency.values()], k=max(0, changes - len(kinds)))
        self._random.shuffle(kinds)
        told = self._rename(opening - pace * 3_600, 1 + changes // 300)
        for at in sorted(opening + pace * self._random.triangular(0, 39_600, 10_800) for _ in kinds):
            kind = kinds.pop()
            try:
                told += kind(at)
            except LookupError:  # nobody is left to whom this could happen
                kind = self._arrive
                told += kind(at)
            self.changes[kind.__name__.strip("_")] += 1
        return iter(disorder(sorted(told, key=lambda message: message.value["time"]), self._random))

    def depart(self, share: float) -> int:
        """Let a share of the students with a membership leave in the evening; returns how many left.

        Their enrolments of the year end at the source: every other row vanishes, the rest is resigned. `truth`,
        `removals_asked` and `snapshot_rows` show it; no message tells it.
        """
        evening = self._opening + (self._days - 0.5) * self.day
        members = [student for student in self._records.students() if self._records.memberships(student)]
        leaving = self._random.sample(members, round(share * len(members)))
        ends = cycle(("deleted", "resigned"))
        for student in leaving:
            for row in self._records.current(student):
                self._write(evening, student, row, status=next(ends))
        self.changes["depart"] += len(leaving)
        return len(leaving)

    # The first records

    def _crowds(self) -> list[float]:
        """Return cumulative weights of the étapes: a few are crowded, most are small."""
        ranked = sorted(self._etapes.values(), key=lambda etape: (etape.size_rank, self._random.random()))
        weight = {etape.code: 1 / (rank + 2) for rank, etape in enumerate(ranked)}
        total = 0.0
        return [total := total + weight[code] for code in self._etapes]

    def _new_number(self) -> str:
        i = len(self._people) + 1
        old = i % 100 == 0  # the first numbers of all were counted from 1: they begin with zeros
        number = f"{i:08}" if old else f"2{(self.year - self._random.randrange(7)) % 100:02}{i:05}"
        self._people[number] = PERSON_BASE + i
        return number

    def _some(self, among: list[T], share: float) -> list[T]:
        return self._random.sample(among, min(len(among), max(4, round(share * len(among)))))

    def _draw(self, count: int) -> list[CatalogueEtape]:
        return self._random.choices([*self._etapes.values()], cum_weights=self._crowd, k=count)

    def _enrol_everyone(self, numbers: list[str]) -> list[InventedEnrolment]:
        choices = [*zip(numbers, self._draw(len(numbers)), strict=True)]
        for share in (0.15, 0.06):  # a second étape, and sometimes a third
            some = self._some(numbers, share)
            choices += zip(some, self._draw(len(some)), strict=True)
        rows = [self._blank(number, etape) for number, etape in choices]
        order = self._random.sample(range(len(rows)), len(rows))
        for share, status, payment in STATES:
            for _ in range(max(4, round(share * len(rows)))):
                i = order.pop()
                rows[i] = replace(rows[i], status=status, payment=payment)
        gone = set(self._some(numbers, 0.01))
        rows = [replace(row, year=self.year - 1) if row.number in gone else row for row in rows]
        rows += [
            *(self._twin(row) for row in self._some(rows, 0.02)),
            *(self._last_year(row, row.etape) for row in self._some(rows, 0.06)),
            *(self._last_year(row, self._draw(1)[0]) for row in self._some(rows, 0.15)),
            *(self._elsewhere(i, row) for i, row in enumerate(self._some(rows, 0.01))),
        ]
        unique = {row.key: row for row in rows}.values()
        summer = self._opening - 61 * DAY
        return [
            replace(
                row,
                revision=self._random.randint(1, 20),
                at=summer - (self.year - row.year) * 365 * DAY + self._random.uniform(0, 60) * DAY,
            )
            for row in sorted(unique, key=lambda row: row.number)
        ]

    def _blank(self, number: str, etape: CatalogueEtape) -> InventedEnrolment:
        return InventedEnrolment(
            uai=self.uai,
            person=self._people[number],
            number=number,
            year=self.year,
            etape=etape,
            etape_version=self._random.choice(etape.versions),
        )

    def _twin(self, row: InventedEnrolment) -> InventedEnrolment:
        """Return another row for the same étape: of another version, else a second occurrence."""
        others = [version for version in row.etape.versions if version != row.etape_version]
        if others:
            return replace(row, etape_version=others[0], status="active", payment="paid")
        return replace(row, occurrence=2, status="active", payment="paid")

    def _last_year(self, row: InventedEnrolment, etape: CatalogueEtape) -> InventedEnrolment:
        return replace(self._blank(row.number, etape), year=self.year - 1)

    def _elsewhere(self, i: int, row: InventedEnrolment) -> InventedEnrolment:
        """Return an enrolment at another university, where codes spelt like ours mean something else."""
        theirs = replace(
            row, uai=FOREIGN_UAI, etape=_foreign(row.etape), year=self.year, status="active", payment="paid"
        )
        if i % ELSEWHERE_EVERY == 0:  # the same key as our row, but over
            return replace(theirs, status="resigned")
        if i % ELSEWHERE_EVERY == 1:  # a code of ours, but probably not of this student
            return replace(theirs, etape=_foreign(self._draw(1)[0]))
        return replace(theirs, etape=replace(theirs.etape, code=f"ZZ{row.etape.code[2:]}"))

    def _find(self, at: float, wanted: Callable[[str, InventedEnrolment], bool]) -> tuple[str, InventedEnrolment]:
        return self._records.find(self._random, at, wanted)

    def _find_member(self, at: float) -> tuple[str, InventedEnrolment]:
        return self._find(at, lambda _, row: self._records.is_member(row))

    def _write(self, at: float, student: str, row: InventedEnrolment, **state: str) -> Message:
        """Change the status or the payment of a row, or neither, under the present label of its étape."""
        etape = self._etapes[row.etape.code] if row.uai == self.uai else row.etape
        status, payment = state.get("status", row.status), state.get("payment", row.payment)
        return self._records.write(student, replace(row, etape=etape, status=status, payment=payment), at)

    # What happens in a day: each writes the records and returns what tells it; LookupError if to nobody

    def _arrive(self, at: float) -> list[Message]:
        number = self._new_number()
        self._records.add(number)
        if len(self._people) % 8:  # the others never log in
            self._late.append(number)
        states = (("active", "paid"), ("active", "unknown"), ("pending", "due"), ("active", "due"))
        [(status, payment)] = self._random.choices(states, (80, 5, 10, 5))
        row = self._blank(number, self._draw(1)[0])
        return [self._write(at, number, row, status=status, payment=payment)]

    def _take_another(self, at: float) -> list[Message]:
        student, _ = self._find_member(at)
        for etape in self._draw(20):
            if not self._records.knows(student, etape.code):
                return [self._write(at, student, self._blank(student, etape))]
        raise LookupError

    def _change_etape(self, at: float) -> list[Message]:
        student, row = self._find_member(at)
        etape = self._random.choice([e for e in self._etapes.values() if e.code != row.etape.code])
        return [
            self._write(at, student, row, status=self._random.choice(("cancelled", "resigned"))),
            self._write(at + self._random.randint(1, 30), student, self._blank(student, etape)),
        ]

    def _change_version(self, at: float) -> list[Message]:
        """Delete, then create: written the other way round, because the membership never ends."""
        student, row = self._find(at, lambda _, row: self._records.is_member(row) and len(row.etape.versions) > 1)
        return [
            self._write(at + self._random.randint(1, 10), student, self._twin(row)),
            self._write(at, student, row, status="deleted"),
        ]

    def _confirm(self, at: float) -> list[Message]:
        def waits(_: str, row: InventedEnrolment) -> bool:
            owed = row.status in {"pending", "active"} and row.payment == "due"
            return owed and self._records.is_current(row)

        student, row = self._find(at, waits)
        return [self._write(at, student, row, status="active", payment="paid")]

    def _resign(self, at: float) -> list[Message]:
        return [self._write(at, *self._find_member(at), status="resigned")]

    def _delete(self, at: float) -> list[Message]:
        return [self._write(at, *self._find_member(at), status="deleted")]

    def _bounce(self, at: float) -> list[Message]:
        return [self._write(at, *self._find_member(at), payment="due")]

    def _touch(self, at: float) -> list[Message]:
        """Let a batch job write a row without changing it."""
        return [self._write(at, *self._find(at, lambda _, row: row.status != "deleted"))]

    def _reinstate(self, at: float) -> list[Message]:
        student, row = self._find_member(at)
        return [
            self._write(at, student, row, status="cancelled"),
            self._write(at + 600, student, row),
        ]

    def _cancel_twin(self, at: float) -> list[Message]:
        """End one of two rows for the same étape: the student stays."""

        def is_twin(student: str, row: InventedEnrolment) -> bool:
            rows_alike = self._records.memberships(student).count(row.etape.code)
            return self._records.is_member(row) and rows_alike > 1

        return [self._write(at, *self._find(at, is_twin), status="cancelled")]

    def _cancel_last_year(self, at: float) -> list[Message]:
        """End last year's enrolment of a student who repeats the year, late: the student stays."""

        def is_repeated(student: str, row: InventedEnrolment) -> bool:
            last_year = row.uai == self.uai and row.year < self.year and row.status == "active"
            return last_year and row.etape.code in self._records.memberships(student)

        return [self._write(at, *self._find(at, is_repeated), status="cancelled")]

    def _change_elsewhere(self, at: float) -> list[Message]:
        student, row = self._find(at, lambda _, row: row.uai != self.uai)
        return [self._write(at, student, row, status="resigned" if row.status == "active" else "active")]

    def _merge_twice(self, at: float) -> list[Message]:
        return self._merge(at, times=2)

    def _merge(self, at: float, times: int = 1) -> list[Message]:
        """Merge student numbers, each into the next; a row is then told once more under its former number."""
        found: dict[str, InventedEnrolment] = {}

        def is_next(student: str, row: InventedEnrolment) -> bool:
            return self._records.is_member(row) and student in self._accounts and student not in found

        for _ in range(times + 1):
            student, row = self._find(at, is_next)
            found[student] = row
        told = []
        for minute, (former, student) in enumerate(pairwise(found)):
            then = at + 60 * minute
            told.append(self._records.merge(former, student, then))
            told.append(self._write(then + 30, student, found[former]))
        return told

    def _rename(self, at: float, count: int) -> list[Message]:
        """Rename étapes, or rename them back, before the offices open; another university spells one alike."""
        told = []
        for code in self._random.sample([*self._etapes], min(count, len(self._etapes))):
            etape = self._etapes[code]
            label = etape.label.removesuffix(RENAMED)
            self._etapes[code] = etape = replace(etape, label=label if label != etape.label else label + RENAMED)
            told.append(described(etape, self.uai, at))
            told.append(described(_foreign(etape), FOREIGN_UAI, at + 60))
            self.changes["rename"] += 1
        return told


def _foreign(etape: CatalogueEtape) -> CatalogueEtape:
    return replace(etape, label=f"{etape.label} (autre université)", component=FOREIGN_COMPONENT)


def _account(number: str) -> tuple[str, str, str]:
    return f"e{number}", number, number
