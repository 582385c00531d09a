"""The first records of an invented university: numbers of students, and enrolments drawn at random."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from random import Random
from typing import TypeVar

from worker.sandbox.university.catalogue import CatalogueEtape, Faculty
from worker.sandbox.university.records import InventedEnrolment

DAY = 86_400.0
FIRST_PERSON = 100_000  # COD_IND is unrelated to the student number
FOREIGN_UAI = "0751717J"
FOREIGN_FACULTY = Faculty("DRT", "Faculté de l'autre université")
KINDS_ELSEWHERE = 3  # the kinds of enrolments at another university, in turn

# How often this year's enrolments are in each of these states; all others are active and paid.
STATES = (
    (0.015, "pending", "due"),
    (0.020, "active", "due"),
    (0.050, "active", "unknown"),
    (0.010, "cancelled", "paid"),
    (0.005, "resigned", "paid"),
)

T = TypeVar("T")


class Admissions:
    """Draws students, étapes and enrolments: the same source of chance and the same calls draw the same.

    `etapes` is read at each draw, so that new enrolments have the present labels.
    """

    def __init__(self, random: Random, uai: str, year: int, etapes: Mapping[str, CatalogueEtape]) -> None:
        self._random = random
        self._uai = uai
        self._year = year
        self._etapes = etapes
        self._weights = self._cumulative_weights()
        self.persons: dict[str, int] = {}
        """COD_IND by student number, merged ones included."""

    def new_number(self) -> str:
        """Return the number of another student."""
        i = len(self.persons) + 1
        is_old = i % 100 == 0  # the oldest numbers were counted from 1: they begin with zeros
        number = f"{i:08}" if is_old else f"2{(self._year - self._random.randrange(7)) % 100:02}{i:05}"
        self.persons[number] = FIRST_PERSON + i
        return number

    def sample(self, among: Sequence[T], share: float) -> list[T]:
        """Draw a share of the items, four of them at least."""
        return self._random.sample(among, min(len(among), max(4, round(share * len(among)))))

    def draw_etapes(self, count: int) -> list[CatalogueEtape]:
        """Draw étapes, crowded ones more often."""
        return self._random.choices([*self._etapes.values()], cum_weights=self._weights, k=count)

    def enrolment(self, number: str, etape: CatalogueEtape) -> InventedEnrolment:
        """Return an active and paid enrolment of this year, in one of the étape's versions."""
        return InventedEnrolment(
            uai=self._uai,
            person=self.persons[number],
            number=number,
            year=self._year,
            etape=etape,
            etape_version=self._random.choice(etape.versions),
        )

    def twin(self, row: InventedEnrolment) -> InventedEnrolment:
        """Return another row for the same étape: of another version, else a second occurrence."""
        others = [version for version in row.etape.versions if version != row.etape_version]
        if others:
            return replace(row, etape_version=others[0], status="active", payment="paid")
        return replace(row, occurrence=2, status="active", payment="paid")

    def enrol_everyone(self, numbers: list[str], opening: float) -> list[InventedEnrolment]:
        """Return the rows of all students, of this year and the last, as they are before the first day."""
        rows = self._in_various_states(self._this_year(numbers))
        left = set(self.sample(numbers, 0.01))
        rows = [replace(row, year=self._year - 1) if row.number in left else row for row in rows]
        rows += [
            *(self.twin(row) for row in self.sample(rows, 0.02)),
            *(self._last_year(row, row.etape) for row in self.sample(rows, 0.06)),
            *(self._last_year(row, self.draw_etapes(1)[0]) for row in self.sample(rows, 0.15)),
            *(self._elsewhere(i, row) for i, row in enumerate(self.sample(rows, 0.01))),
        ]
        unique = {row.key: row for row in rows}.values()
        return [*self._dated(sorted(unique, key=lambda row: row.number), opening)]

    def _cumulative_weights(self) -> list[float]:
        """Return the weights of the étapes: a few are crowded, most are small."""
        ranked = sorted(self._etapes.values(), key=lambda etape: (etape.size_rank, self._random.random()))
        weight = {etape.code: 1 / (rank + 2) for rank, etape in enumerate(ranked)}
        total = 0.0
        return [total := total + weight[code] for code in self._etapes]

    def _this_year(self, numbers: list[str]) -> list[InventedEnrolment]:
        """Enrol everybody in an étape, some in a second one and a few in a third."""
        choices = [*zip(numbers, self.draw_etapes(len(numbers)), strict=True)]
        for share in (0.15, 0.06):
            some = self.sample(numbers, share)
            choices += zip(some, self.draw_etapes(len(some)), strict=True)
        return [self.enrolment(number, etape) for number, etape in choices]

    def _in_various_states(self, rows: list[InventedEnrolment]) -> list[InventedEnrolment]:
        changed = [*rows]
        order = self._random.sample(range(len(rows)), len(rows))
        for share, status, payment in STATES:
            for _ in range(max(4, round(share * len(rows)))):
                i = order.pop()
                changed[i] = replace(rows[i], status=status, payment=payment)
        return changed

    def _last_year(self, row: InventedEnrolment, etape: CatalogueEtape) -> InventedEnrolment:
        return replace(self.enrolment(row.number, etape), year=self._year - 1)

    def _elsewhere(self, i: int, row: InventedEnrolment) -> InventedEnrolment:
        """Return an enrolment at another university, where codes spelt like ours mean something else."""
        elsewhere = replace(
            row, uai=FOREIGN_UAI, etape=foreign(row.etape), year=self._year, status="active", payment="paid"
        )
        if i % KINDS_ELSEWHERE == 0:  # the same key as our row, but ended
            return replace(elsewhere, status="resigned")
        if i % KINDS_ELSEWHERE == 1:  # a code of ours, but probably not of this student
            return replace(elsewhere, etape=foreign(self.draw_etapes(1)[0]))
        return replace(elsewhere, etape=replace(elsewhere.etape, code=f"ZZ{row.etape.code[2:]}"))

    def _dated(self, rows: list[InventedEnrolment], opening: float) -> Iterator[InventedEnrolment]:
        """Yield the rows as written some times already, in the summer before their year."""
        summer = opening - 61 * DAY
        for row in rows:
            revision = self._random.randint(1, 20)
            at = summer - (self._year - row.year) * 365 * DAY + self._random.uniform(0, 60) * DAY
            yield replace(row, revision=revision, at=at)


def foreign(etape: CatalogueEtape) -> CatalogueEtape:
    """Return the étape of the other university that has the same code."""
    return replace(etape, label=f"{etape.label} (autre université)", component=FOREIGN_FACULTY)
