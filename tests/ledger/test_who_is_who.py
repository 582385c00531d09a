"""Persons and student numbers: each person is where their own enrolments lead, whoever had their number before."""

from collections.abc import Iterator
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.ledger.test_fold import emptied
from tests.ledger.test_persons import individu, ins_adm_etp, members, read, tell, without_number
from tests.support.builders import NOW, UAI, numbered, recorder, told
from tests.support.debezium import Apogee, Event
from tests.support.properties import MANY
from worker.domain.changes import Received
from worker.domain.snapshots import Snapshot, SnapshotScope
from worker.domain.states import MergeState
from worker.ledger import Ledger, merges

A, B = 1, 2
L1, L2 = "L1DROI", "L2DROI"


class Story:
    """An APOGÉE whose numbers change hands, and what each person's enrolments lead to in the end.

    No two persons have one number at a time.
    """

    def __init__(self, seed: int = 0) -> None:
        self.apogee = Apogee(seed)
        self.events: list[Event] = []
        self.elsewhere: list[Received] = []
        self.at = NOW
        self.present: dict[int, int | None] = {}
        self.had: list[tuple[int, int]] = []
        """Every time that a person got a number."""
        self.enrolled: set[tuple[int, str]] = set()
        self.named: set[tuple[int, str]] = set()
        """Number and étape, as another source says."""

    def number(self, person: int, number: int | None) -> None:
        self.at += 1
        self.events += self.apogee.put("INDIVIDU", individu(number, person), self.at)
        self.present[person] = number
        if number is not None and (not self.had or (person, number) != self.last(person)):
            self.had.append((person, number))

    def last(self, person: int) -> tuple[int, int] | None:
        """Return the last number that a person had, with them."""
        return next((had for had in reversed(self.had) if had[0] == person), None)

    def enrol(self, person: int, etape: str, state: str = "E") -> None:
        self.at += 1
        row = ins_adm_etp(COD_IND=person, COD_ETP=etape, ETA_IAE=state)
        self.events += self.apogee.put("INS_ADM_ETP", row, self.at)
        (self.enrolled.add if state == "E" else self.enrolled.discard)((person, etape))

    def elsewhere_enrolled(self, number: int, etape: str) -> None:
        """Have a directory say that a number is enrolled."""
        change = told(
            system="supann", student_id=str(number), enrolment_id=f"{number} {etape}", etape=etape, changed_at=self.at
        )
        self.elsewhere.append(Received(change=change, published_at=NOW))
        self.named.add((number, etape))

    def bearers(self, number: int) -> set[int]:
        return {person for person, each in self.had if each == number}

    def number_of(self, person: int) -> int | None:
        """Return a person's number; who lost it keeps it until somebody else gets it."""
        last = self.last(person)
        if last is None:
            return None
        later = self.had[len(self.had) - 1 - self.had[::-1].index(last) + 1 :]
        lost = self.present[person] is None and any(number == last[1] for _, number in later)
        return None if lost else last[1]

    def survivor(self, number: int) -> int:
        """Return the number that one person, and nobody else, has in place of it."""
        bearers = self.bearers(number)
        if len(bearers) != 1:
            return number
        last = self.last(*bearers)
        assert last is not None
        return last[1] if len(self.bearers(last[1])) == 1 else number

    def expected(self) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        numbers = [(self.number_of(person), etape) for person, etape in self.enrolled]
        for number, etape in (*numbers, *((self.survivor(number), etape) for number, etape in self.named)):
            if number is not None:
                found.setdefault(etape, set()).add(str(number))
        return found


def given_to_another(story: Story) -> None:
    story.number(A, 60)
    story.enrol(A, L2)
    story.number(A, 61)
    story.number(B, 60)
    story.enrol(B, L1)


def swapped(story: Story) -> None:
    for person, number, etape in ((A, 60, L2), (B, 61, L1)):
        story.number(person, number)
        story.enrol(person, etape)
    story.number(A, 61)
    story.number(B, 60)


def lost_and_given_to_another(story: Story) -> None:
    story.number(A, 60)
    story.enrol(A, L2)
    story.number(A, None)
    story.number(B, 60)
    story.enrol(B, L1)


def deleted_and_given_to_another(story: Story) -> None:
    story.number(A, 60)
    story.enrol(A, L2)
    story.events += story.apogee.delete("INDIVIDU", (A,), story.at)
    story.present[A] = None
    story.number(B, 60)
    story.enrol(B, L1)


def given_round(story: Story) -> None:
    for person in (A, B, 3):
        story.number(person, 60 + person)
        story.enrol(person, f"L{person}")
    for person in (A, B, 3):
        story.number(person, 61 + person % 3)


@pytest.mark.parametrize("order", ["as written", "reversed", "one by one"])
@pytest.mark.parametrize(
    "happens", [given_to_another, swapped, lost_and_given_to_another, deleted_and_given_to_another, given_round]
)
def test_each_person_is_where_their_own_enrolments_lead(ledger: Ledger, happens: object, order: str) -> None:
    story = Story()
    happens(story)  # type: ignore[operator] # a function
    events = [*reversed(story.events)] if order == "reversed" else story.events
    if order == "one by one":
        for event in events:
            tell(ledger, [event])
    else:
        tell(ledger, events)
    assert members(ledger) == story.expected()


def test_a_number_that_was_given_to_another_is_merged_with_none_and_a_person_is_told(ledger: Ledger) -> None:
    story = Story()
    given_to_another(story)
    tell(ledger, story.events)
    assert members(ledger) == {L2: {"61"}, L1: {"60"}}
    assert {each.pair: each.state for each in merges.read(ledger)} == {("60", "61"): MergeState.CLAIMED}


def test_who_lost_a_number_that_is_another_s_waits_for_the_next_one(ledger: Ledger) -> None:
    story = Story()
    lost_and_given_to_another(story)
    tell(ledger, story.events)
    assert without_number(ledger) == 1
    tell(ledger, story.apogee.put("INDIVIDU", individu(62, A), story.at + 1))
    assert members(ledger) == {L2: {"62"}, L1: {"60"}}
    assert without_number(ledger) == 0


def test_hostile_number_in_the_highest_version_ends_with_the_next_snapshot(ledger: Ledger) -> None:
    apogee = Apogee()
    tell(ledger, [*apogee.put("INDIVIDU", individu(60, A), NOW), *apogee.put("INS_ADM_ETP", row_of(A), NOW)])
    wrong = numbered(A, "61", version=2**63 - 1, at=NOW + 1)
    recorder(ledger).record([Received(change=wrong, published_at=NOW + 1)], now=NOW + 1)
    assert members(ledger) == {L1: {"61"}}
    scope = SnapshotScope(uais=frozenset({UAI}), academic_years=frozenset({2026}))
    row = told(enrolment_id=f"2026:{A}:{L1}:101:1", student_id="60", etape=L1, changed_at=NOW + 60, version=0)
    taken = Snapshot(id="night", taken_at=NOW + 60, system="apogee", scope=scope, rows=[row])
    recorder(ledger).record_snapshot(taken, run=1, now=NOW + 60)
    assert members(ledger) == {L1: {"60"}}
    assert {each.state for each in merges.read(ledger)} == {MergeState.CONTRADICTED}
    tell(ledger, apogee.put("INS_ADM_ETP", row_of(A, COD_ETP=L2), NOW + 70), at=NOW + 70)
    assert members(ledger) == {L1: {"60"}, L2: {"60"}}
    tell(ledger, apogee.put("INDIVIDU", individu(62, A), NOW + 80), at=NOW + 80)
    assert members(ledger) == {L1: {"62"}, L2: {"62"}}


def row_of(person: int, **more: object) -> dict[str, Any]:
    return ins_adm_etp(**{"COD_IND": person, "COD_ETP": L1, **more})


@st.composite
def stories(draw: st.DrawFn) -> Story:
    story = Story(draw(st.integers(0, 9)))
    persons, numbers = st.integers(1, 3), st.integers(60, 64)
    for _ in range(draw(st.integers(1, 16))):
        person = draw(persons)
        match draw(st.sampled_from(["number", "number", "number", "swap", "enrol", "enrol", "leave", "lose", "other"])):
            case "number":
                number = draw(numbers)
                if number not in story.present.values():
                    story.number(person, number)
            case "swap":
                other = draw(persons)
                mine, theirs = story.present.get(person), story.present.get(other)
                if mine is not None and theirs is not None and mine != theirs:
                    story.number(person, theirs)
                    story.number(other, mine)
            case "enrol":
                story.enrol(person, draw(st.sampled_from([L1, L2])))
            case "leave":
                story.enrol(person, draw(st.sampled_from([L1, L2])), "A")
            case "lose" if person in story.present:
                story.number(person, None)
            case _:
                story.elsewhere_enrolled(draw(numbers), draw(st.sampled_from([L1, "M1"])))
    return story


def check(ledger: Ledger, story: Story, random: Random) -> None:
    """Tell it in any order, some of it repeatedly, in any batches."""
    received = [*read(story.events), *story.elsewhere]
    received += random.sample(received, random.randint(0, len(received)))
    received = random.sample(received, len(received))
    with emptied(ledger):
        while received:
            size = random.randint(1, len(received))
            recorder(ledger).record(received[:size], now=NOW)
            received = received[size:]
        assert members(ledger) == story.expected()


@pytest.fixture(scope="module")
def sqlite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    ledger = Ledger(f"sqlite:///{tmp_path_factory.mktemp('who') / 'ledger.db'}")
    yield ledger
    ledger.close()


@given(stories(), st.randoms(use_true_random=False))
@settings(max_examples=MANY, deadline=None)
def test_in_any_order_each_person_is_where_their_own_enrolments_lead(
    sqlite: Ledger, story: Story, random: Random
) -> None:
    check(sqlite, story, random)


@given(stories(), st.randoms(use_true_random=False))
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_in_any_order_each_person_is_where_their_own_enrolments_lead_on_postgresql(
    postgres_url: str, story: Story, random: Random
) -> None:
    ledger = Ledger(postgres_url)
    try:
        check(ledger, story, random)
    finally:
        ledger.close()
