"""An invented university: its students, what happens to them day by day, and the messages that say so."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import cycle, pairwise
from random import Random

from worker.sandbox.university.admissions import DAY, FOREIGN_UAI, Admissions, foreign
from worker.sandbox.university.catalogue import HEALTH, etapes
from worker.sandbox.university.records import (
    InventedEnrolment,
    Message,
    Records,
    described,
    disorder,
    enrolled,
    poisoned,
)

RENAMED = " (nouvelle maquette)"


@dataclass(kw_only=True)
class University:
    """A university of so many students and étapes; the same seed and the same calls give the same bytes.

    `initial` yields the records before the first day. Each call of `september_day` lets a whole day pass: `truth`,
    `labels`, `late_accounts`, `removals_asked`, `snapshot_rows` and `changes` are then those of its end.
    """

    seed: int = 1
    students: int = 35_000
    etapes: int = 1_200
    year: int = 2026
    uai: str = "0141408E"
    opening: datetime | None = None
    """When the first day begins; 1 September of the year by default. Only the dates of messages depend on it."""
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
        self._admissions = Admissions(self._random, self.uai, self.year, self._etapes)
        numbers = [self._admissions.new_number() for _ in range(self.students)]
        self._first_rows = self._admissions.enrol_everyone(numbers, self._opening)
        self._first_etapes = tuple(self._etapes.values())
        self._records = Records(self.uai, self.year, numbers, self._first_rows)
        self._truth_at_start = self._records.truth()
        self._late = self._admissions.sample(numbers, 0.015)
        without = {*self._late, *self._admissions.sample(numbers, 0.015)}
        self._accounts = dict.fromkeys(number for number in numbers if number not in without)

    # What anybody may know

    def initial(self) -> Iterator[Message]:
        """Yield the messages of all étapes, then of all enrolments, as they are before the first day."""
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
        """Return each (étape, student) whose membership ended, even if it began again."""
        return set(self._records.ended)

    def labels(self) -> dict[str, tuple[str, str, str]]:
        """Return by code of étape: its label, the code of its component and the component's label."""
        return {e.code: (e.label, e.component.code, e.component.label) for e in self._etapes.values()}

    def accounts(self) -> Iterator[tuple[str, str, str]]:
        """Yield (username, idnumber, student id) of the Moodle accounts before the first day."""
        return (_account(number) for number in self._accounts)

    def late_accounts(self) -> Iterator[tuple[str, str, str]]:
        """Yield the accounts that appear later; students in neither list never get an account."""
        return (_account(number) for number in self._late)

    def snapshot_rows(self) -> Iterator[bytes]:
        """Yield every row of the university's own records, of all years, as the JSON of a snapshot's enrolment.

        Deleted rows are left out. Numbers are the present ones, as a source that is read now gives them; a message that
        was written after a merge may have named a former one.
        """
        return self._records.snapshot_rows()

    def poison(self) -> Iterator[tuple[str, bytes]]:
        """Yield (key, payload) that no reader may accept; most of them would end a true membership."""
        row = next(row for row in self._records if self._records.is_member(row))
        cancelled = enrolled(replace(row, status="cancelled", revision=row.revision + 1_000))
        return ((cancelled.key, payload) for payload in poisoned(cancelled))

    def go_on(self, *, since: float, day: float) -> None:
        """Let the days to come begin at that instant, and last so many seconds each."""
        self.day = day
        self._opening = since - self._days * day

    def september_day(self, changes: int = 3_000) -> Iterator[Message]:
        """Let a day with so many changes pass, at least one of each kind; yields its messages in order of arrival.

        Some messages are repeated, some swapped; `time` and `version` say what is true. There are a few more messages
        than changes, and never fewer changes than kinds.
        """
        opening, scale = self._opening + self._days * self.day, self.day / DAY
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
        messages = self._rename(opening - scale * 3_600, 1 + changes // 300)
        for at in sorted(opening + scale * self._random.triangular(0, 39_600, 10_800) for _ in kinds):
            kind = kinds.pop()
            try:
                messages += kind(at)
            except LookupError:  # nobody is left to whom this can happen
                kind = self._arrive
                messages += kind(at)
            self.changes[kind.__name__.strip("_")] += 1
        return iter(disorder(sorted(messages, key=lambda message: message.value["time"]), self._random))

    def depart(self, share: float) -> int:
        """Let a share of the students with a membership leave in the evening; returns how many left.

        Their enrolments of the year end at the source: every other row is deleted, the others are resigned. `truth`,
        `removals_asked` and `snapshot_rows` show it; no message does.
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

    def _find(self, at: float, wanted: Callable[[str, InventedEnrolment], bool]) -> tuple[str, InventedEnrolment]:
        return self._records.find(self._random, at, wanted)

    def _find_member(self, at: float) -> tuple[str, InventedEnrolment]:
        return self._find(at, lambda _, row: self._records.is_member(row))

    def _write(self, at: float, student: str, row: InventedEnrolment, **state: str) -> Message:
        """Change the status or the payment of a row, or neither, under the present label of its étape."""
        etape = self._etapes[row.etape.code] if row.uai == self.uai else row.etape
        status, payment = state.get("status", row.status), state.get("payment", row.payment)
        return self._records.write(student, replace(row, etape=etape, status=status, payment=payment), at)

    # The kinds of changes: each writes the records and returns its messages; LookupError if it can happen to nobody

    def _arrive(self, at: float) -> list[Message]:
        number = self._admissions.new_number()
        self._records.add(number)
        if len(self._admissions.persons) % 8:  # every eighth never logs in
            self._late.append(number)
        states = (("active", "paid"), ("active", "unknown"), ("pending", "due"), ("active", "due"))
        [(status, payment)] = self._random.choices(states, (80, 5, 10, 5))
        row = self._admissions.enrolment(number, self._admissions.draw_etapes(1)[0])
        return [self._write(at, number, row, status=status, payment=payment)]

    def _take_another(self, at: float) -> list[Message]:
        student, _ = self._find_member(at)
        for etape in self._admissions.draw_etapes(20):
            if not self._records.knows(student, etape.code):
                return [self._write(at, student, self._admissions.enrolment(student, etape))]
        raise LookupError

    def _change_etape(self, at: float) -> list[Message]:
        student, row = self._find_member(at)
        etape = self._random.choice([e for e in self._etapes.values() if e.code != row.etape.code])
        return [
            self._write(at, student, row, status=self._random.choice(("cancelled", "resigned"))),
            self._write(at + self._random.randint(1, 30), student, self._admissions.enrolment(student, etape)),
        ]

    def _change_version(self, at: float) -> list[Message]:
        """Delete a row and create another; created first here, as the membership never ends."""
        student, row = self._find(at, lambda _, row: self._records.is_member(row) and len(row.etape.versions) > 1)
        return [
            self._write(at + self._random.randint(1, 10), student, self._admissions.twin(row)),
            self._write(at, student, row, status="deleted"),
        ]

    def _confirm(self, at: float) -> list[Message]:
        def is_unpaid(_: str, row: InventedEnrolment) -> bool:
            return row.status in {"pending", "active"} and row.payment == "due" and self._records.is_current(row)

        student, row = self._find(at, is_unpaid)
        return [self._write(at, student, row, status="active", payment="paid")]

    def _resign(self, at: float) -> list[Message]:
        return [self._write(at, *self._find_member(at), status="resigned")]

    def _delete(self, at: float) -> list[Message]:
        return [self._write(at, *self._find_member(at), status="deleted")]

    def _bounce(self, at: float) -> list[Message]:
        return [self._write(at, *self._find_member(at), payment="due")]

    def _touch(self, at: float) -> list[Message]:
        """Write a row without changing it, as a batch job does."""
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
        """Merge student numbers, each into the next; a message then names a former number once more."""
        found: dict[str, InventedEnrolment] = {}

        def is_next(student: str, row: InventedEnrolment) -> bool:
            return self._records.is_member(row) and student in self._accounts and student not in found

        for _ in range(times + 1):
            student, row = self._find(at, is_next)
            found[student] = row
        messages = []
        for minute, (former, student) in enumerate(pairwise(found)):
            merged_at = at + 60 * minute
            messages.append(self._records.merge(former, student, merged_at))
            messages.append(self._write(merged_at + 30, student, found[former]))
        return messages

    def _rename(self, at: float, count: int) -> list[Message]:
        """Rename étapes, or back, before the offices open; the other university renames its own of that code."""
        messages = []
        for code in self._random.sample([*self._etapes], min(count, len(self._etapes))):
            etape = self._etapes[code]
            label = etape.label.removesuffix(RENAMED)
            self._etapes[code] = etape = replace(etape, label=label if label != etape.label else label + RENAMED)
            messages.append(described(etape, self.uai, at))
            messages.append(described(foreign(etape), FOREIGN_UAI, at + 60))
            self.changes["rename"] += 1
        return messages


def _account(number: str) -> tuple[str, str, str]:
    return f"e{number}", number, number
