"""What change capture sends, in any order and batches, leads to the same desired members as messages do."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.ledger.test_fold import SMALL, emptied, expected, parsed, world
from tests.support.builders import ETAPE, NOW, UAI, content, deleted, memberships, merged, names, recorder, told
from tests.support.debezium import Apogee, Capture, Event, as_numbers
from tests.support.properties import MANY
from worker.domain.changes import (
    BELOW_ALL_VERSIONS,
    Change,
    ComponentChange,
    EnrolmentChange,
    EtapeChange,
    PersonEnrolled,
    Received,
)
from worker.domain.instants import Instant
from worker.domain.snapshots import Snapshot, SnapshotScope, Unknown
from worker.domain.states import Payment, Status
from worker.formats import Debezium
from worker.ledger import Ledger, status
from worker.ledger.enrolments import Counts
from worker.ledger.status import read_status
from worker.sandbox.university.generator import University

PERSON = 104_233
ENROLMENT = f"2026:{PERSON}:{ETAPE}:101:1"
KEY = (2026, PERSON, ETAPE, 101, 1)
READER = Debezium(UAI)


def read(events: Sequence[Event], *, at: Instant = NOW) -> list[Received]:
    """Read what was published at an instant."""
    return [
        Received(change=change, published_at=at)
        for i, event in enumerate(events)
        for change in READER.read(value=event.value, headers=(), origin=f"apogee[0]@{i}")
    ]


def tell(ledger: Ledger, events: Sequence[Event], *, at: Instant = NOW) -> Counts:
    return recorder(ledger).record(read(events, at=at), now=at)


def tell_in_batches(ledger: Ledger, received: Sequence[Received]) -> None:
    for start in range(0, len(received), 97):
        recorder(ledger).record(received[start : start + 97], now=NOW)


def ins_adm_etp(**more: object) -> dict[str, Any]:
    """Return a row, valid unless these fields say otherwise."""
    key = dict(zip(("COD_ANU", "COD_IND", "COD_ETP", "COD_VRS_VET", "NUM_OCC_IAE"), KEY, strict=True))
    return key | {"ETA_IAE": "E", "ETA_PMT_IAE": "P", "COD_CMP": "U99"} | more


def individu(number: int | None, person: int = PERSON) -> dict[str, Any]:
    return {"COD_IND": person, "COD_ETU": number}


def members(ledger: Ledger) -> dict[str, frozenset[str]]:
    return status.desired(ledger, "ecampus")


def scn(events: Sequence[Event]) -> set[int]:
    changes = [item.change for item in read(events)]
    return {change.enrolment.version for change in changes if isinstance(change, PersonEnrolled)}


def without_number(ledger: Ledger) -> int:
    return read_status(ledger, [], NOW).without_number


@pytest.fixture
def apogee() -> Apogee:
    return Apogee()


# A whole university


def captured(seed: int) -> tuple[University, Capture, list[Event]]:
    living = University(seed=seed, students=300, etapes=25)
    capture = Capture(living, seed)
    return living, capture, [*capture.initial(), *capture.day(living.september_day(300))]


@pytest.mark.parametrize("order", ["as written", "shuffled"])
def test_a_university_desires_the_same_through_debezium_as_through_its_messages(
    ledger: Ledger, order: str, tmp_path: Path
) -> None:
    living, _, events = captured(5)
    received = read(events)
    if order == "shuffled":
        Random(5).shuffle(received)
    tell_in_batches(ledger, received)
    again = University(seed=5, students=300, etapes=25)
    told_natively = Ledger(f"sqlite:///{tmp_path / 'native.db'}")
    changes = parsed([*again.initial(), *again.september_day(300)])
    tell_in_batches(told_natively, [Received(change=change, published_at=NOW) for change in changes])
    assert members(ledger) == as_numbers(members(told_natively)) == as_numbers(living.truth())
    assert names(ledger) == names(told_natively)
    assert without_number(ledger) == 0
    told_natively.close()


def test_a_snapshot_that_is_emitted_again_changes_no_membership_and_no_name(ledger: Ledger) -> None:
    _, capture, events = captured(6)
    tell_in_batches(ledger, read(events))
    before = {table: content(ledger)[table] for table in ("membership", "cohort", "merge", "account", "journal")}
    counts = [tell(ledger, capture.snapshot(), at=NOW + 60), tell(ledger, events[:500], at=NOW + 61)]
    after = content(ledger)
    assert {table: after[table] for table in before} == before
    assert [each.memberships for each in counts] == [0, 0]


# Waiting for a number


def test_an_enrolment_waits_until_the_number_of_its_person_is_known(ledger: Ledger, apogee: Apogee) -> None:
    counts = tell(ledger, apogee.put("INS_ADM_ETP", ins_adm_etp(), NOW))
    assert (counts.waiting, counts.applied, members(ledger), without_number(ledger)) == (1, 0, {}, 1)
    tell(ledger, apogee.put("INDIVIDU", individu(29900001), NOW))
    assert members(ledger) == {ETAPE: {"29900001"}}
    assert without_number(ledger) == 0


def test_the_clock_of_what_waited_starts_when_it_could_be_told(ledger: Ledger, apogee: Apogee) -> None:
    row, person = apogee.put("INS_ADM_ETP", ins_adm_etp(), NOW), apogee.put("INDIVIDU", individu(29900001), NOW)
    tell(ledger, row, at=NOW)
    tell(ledger, person, at=NOW + 500)
    assert memberships(ledger)[ETAPE, "29900001"].since == NOW + 500
    with emptied(ledger):
        tell(ledger, person, at=NOW)
        tell(ledger, row, at=NOW + 500)
        assert memberships(ledger)[ETAPE, "29900001"].since == NOW + 500


def test_of_what_waits_the_newest_word_counts(ledger: Ledger, apogee: Apogee) -> None:
    created = apogee.put("INS_ADM_ETP", ins_adm_etp(), NOW)
    cancelled = apogee.put("INS_ADM_ETP", ins_adm_etp(ETA_IAE="A"), NOW + 1)
    assert tell(ledger, cancelled).waiting == 1
    assert tell(ledger, created).stale == 1
    tell(ledger, apogee.put("INDIVIDU", individu(29900001), NOW))
    assert members(ledger) == {}


def test_what_is_deleted_while_it_waits_is_no_longer_counted_and_does_not_come_back(
    ledger: Ledger, apogee: Apogee
) -> None:
    created = apogee.put("INS_ADM_ETP", ins_adm_etp(), NOW)
    tell(ledger, apogee.delete("INS_ADM_ETP", KEY, NOW + 1))
    assert without_number(ledger) == 0
    tell(ledger, [*created, *apogee.put("INDIVIDU", individu(29900001), NOW)])
    assert members(ledger) == {}


def test_who_has_no_number_keeps_waiting_and_who_loses_it_stays(ledger: Ledger, apogee: Apogee) -> None:
    tell(ledger, [*apogee.put("INDIVIDU", individu(None), NOW), *apogee.put("INS_ADM_ETP", ins_adm_etp(), NOW)])
    assert without_number(ledger) == 1
    tell(ledger, apogee.put("INDIVIDU", individu(29900001), NOW + 1))
    tell(ledger, apogee.put("INDIVIDU", individu(None), NOW + 2))
    tell(ledger, apogee.delete("INDIVIDU", (PERSON,), NOW + 3))
    assert members(ledger) == {ETAPE: {"29900001"}}
    tell(ledger, apogee.put("INS_ADM_ETP", ins_adm_etp(ETA_IAE="R"), NOW + 4))
    assert members(ledger) == {}


def test_whoever_gets_another_number_is_a_member_under_it_alone(ledger: Ledger, apogee: Apogee) -> None:
    tell(ledger, [*apogee.put("INDIVIDU", individu(1), NOW), *apogee.put("INS_ADM_ETP", ins_adm_etp(), NOW)])
    tell(ledger, apogee.put("INDIVIDU", individu(2), NOW + 1))
    assert members(ledger) == {ETAPE: {"2"}}
    tell(ledger, apogee.put("INDIVIDU", individu(1), NOW + 2))
    assert members(ledger) == {ETAPE: {"1"}}


def test_a_number_that_comes_too_late_is_led_to_the_present_one(ledger: Ledger, apogee: Apogee) -> None:
    former, present = apogee.put("INDIVIDU", individu(1), NOW), apogee.put("INDIVIDU", individu(2), NOW + 1)
    supann = told(system="supann", student_id="1", enrolment_id="supann")
    recorder(ledger).record([Received(change=supann, published_at=NOW)], now=NOW)
    tell(ledger, present)
    assert members(ledger) == {ETAPE: {"1"}}
    tell(ledger, former)
    assert members(ledger) == {ETAPE: {"2"}}


def test_what_a_snapshot_has_ended_meanwhile_stays_ended_unless_it_could_not_tell(
    ledger: Ledger, apogee: Apogee
) -> None:
    row, person = apogee.put("INS_ADM_ETP", ins_adm_etp(), NOW), apogee.put("INDIVIDU", individu(29900001), NOW + 20)
    scope = SnapshotScope(uais=frozenset({UAI}), academic_years=frozenset({2026}))
    image = Snapshot(id="night", taken_at=NOW + 10, system="apogee", scope=scope, rows=[])
    for unknown, expected_members in (
        (Unknown(), {}),
        (Unknown(enrolments=frozenset({ENROLMENT})), {ETAPE: {"29900001"}}),
    ):
        with emptied(ledger):
            tell(ledger, row)
            recorder(ledger).record_snapshot(replace(image, unknown=unknown), run=1, now=NOW + 15)
            tell(ledger, person, at=NOW + 20)
            assert members(ledger) == expected_members


# Changes of rows


def test_a_version_change_ends_no_membership_in_any_order(ledger: Ledger, apogee: Apogee) -> None:
    tell(ledger, [*apogee.put("INDIVIDU", individu(1), NOW), *apogee.put("INS_ADM_ETP", ins_adm_etp(), NOW)])
    before = memberships(ledger)[ETAPE, "1"]
    moved = apogee.change_key("INS_ADM_ETP", KEY, ins_adm_etp(COD_VRS_VET=102), NOW + 1)
    assert [event.value is None for event in moved] == [False, True, False]
    assert tell(ledger, [moved[2], moved[0], moved[1]]).memberships == 0
    assert memberships(ledger)[ETAPE, "1"] == before
    for i, event in enumerate(apogee.change_key("INS_ADM_ETP", (*KEY[:3], 102, 1), ins_adm_etp(), NOW + 2)):
        tell(ledger, [event], at=NOW + i)
    assert members(ledger) == {ETAPE: {"1"}}


@pytest.mark.parametrize("turned", [False, True])
def test_a_row_that_is_changed_twice_under_one_scn_is_as_it_was_written_last(
    ledger: Ledger, apogee: Apogee, *, turned: bool
) -> None:
    tell(ledger, apogee.put("INDIVIDU", individu(1), NOW))
    states = cycle("AE")
    first = last = apogee.put("INS_ADM_ETP", ins_adm_etp(ETA_IAE=next(states)), NOW)
    while scn(first) != scn(last) or first is last:
        first, last = last, apogee.put("INS_ADM_ETP", ins_adm_etp(ETA_IAE=(state := next(states))), NOW)
    for event in (last, first) if turned else (first, last):
        tell(ledger, event)
    assert members(ledger) == ({ETAPE: {"1"}} if state == "E" else {})


def test_updates_that_change_nothing_derive_nobody(ledger: Ledger, apogee: Apogee) -> None:
    tell(ledger, [*apogee.put("INDIVIDU", individu(1), NOW), *apogee.put("INS_ADM_ETP", ins_adm_etp(), NOW)])
    before = memberships(ledger)
    batch_job = [*apogee.put("INDIVIDU", individu(1), NOW + 9), *apogee.put("INS_ADM_ETP", ins_adm_etp(), NOW + 9)]
    assert tell(ledger, batch_job, at=NOW + 9).memberships == 0
    assert memberships(ledger) == before


# Labels


def test_the_label_of_an_etape_as_a_whole_stands_in_for_those_of_its_versions(ledger: Ledger, apogee: Apogee) -> None:
    tell(ledger, [*apogee.put("INDIVIDU", individu(1), NOW), *apogee.put("INS_ADM_ETP", ins_adm_etp(), NOW)])
    tell(ledger, apogee.put("COMPOSANTE", {"COD_CMP": "U99", "LIB_CMP": "UFR des Sciences"}, NOW))
    assert names(ledger) == {ETAPE: None}
    tell(ledger, apogee.put("ETAPE", {"COD_ETP": ETAPE, "LIB_ETP": "L1 Info"}, NOW))
    assert names(ledger) == {ETAPE: "UFR des Sciences: L1 Info"}
    version = {"COD_ETP": ETAPE, "COD_VRS_VET": 101, "LIB_WEB_VET": "Licence 1 Informatique"}
    tell(ledger, apogee.put("VERSION_ETAPE", version, NOW))
    tell(ledger, apogee.put("ETAPE", {"COD_ETP": ETAPE, "LIB_ETP": "L1 Informatique"}, NOW + 9))
    assert names(ledger) == {ETAPE: "UFR des Sciences: Licence 1 Informatique"}


def test_a_component_is_renamed_without_another_word_on_its_etapes(ledger: Ledger, apogee: Apogee) -> None:
    tell(ledger, apogee.put("ETAPE", {"COD_ETP": ETAPE, "LIB_ETP": "L1 Info"}, NOW))
    tell(ledger, [*apogee.put("INDIVIDU", individu(1), NOW), *apogee.put("INS_ADM_ETP", ins_adm_etp(), NOW)])
    for later, label in enumerate(("UFR des Sciences", "Faculté des Sciences")):
        tell(ledger, apogee.put("COMPOSANTE", {"COD_CMP": "U99", "LIB_CMP": label}, NOW + later))
        assert names(ledger) == {ETAPE: f"{label}: L1 Info"}


def test_an_etape_of_several_components_is_not_renamed_by_touching_its_rows(ledger: Ledger, apogee: Apogee) -> None:
    for code in ("MED", "U99"):
        tell(ledger, apogee.put("COMPOSANTE", {"COD_CMP": code, "LIB_CMP": f"UFR {code}"}, NOW))
    tell(ledger, apogee.put("ETAPE", {"COD_ETP": ETAPE, "LIB_ETP": "L1 Info"}, NOW))
    tell(ledger, [*apogee.put("INDIVIDU", individu(1), NOW), *apogee.put("INS_ADM_ETP", ins_adm_etp(), NOW)])
    last_year = ins_adm_etp(COD_ANU=2025, COD_CMP="MED")
    tell(ledger, apogee.put("INS_ADM_ETP", last_year, NOW + 1))
    tell(ledger, apogee.put("INS_ADM_ETP", ins_adm_etp(NUM_OCC_IAE=2, COD_CMP="MED"), NOW + 2))
    tell(ledger, apogee.snapshot(NOW + 3))
    assert names(ledger) == {ETAPE: "UFR U99: L1 Info"}


# Any order

NUMBERS_OF = {1: (11, 12, 13), 2: (21, 22)}


class Story:
    """A small APOGÉE to which things happen, told by Debezium and by messages."""

    def __init__(self, seed: int, *, one_component: bool) -> None:
        self.apogee = Apogee(seed)
        self.events: list[Event] = []
        self.native: list[Change] = []
        self.numbers: dict[int, int] = {}
        self.at = NOW
        self.one_component = one_component
        """Whether the rows of an étape agree on its component; else messages, but not captures, go by the latest."""

    def number(self, person: int, number: int | None) -> None:
        self.at += 1  # merges are told apart by their instants
        self.events += self.apogee.put("INDIVIDU", individu(number, person), self.at)
        former = self.numbers.get(person)
        if number is not None:
            self.numbers[person] = number
            if former not in {None, number}:
                self.native.append(merged(str(former), str(number), at=self.at))

    def enrol(self, person: int, **row: Any) -> None:  # noqa: ANN401 - columns
        state, payment = row["ETA_IAE"], row["ETA_PMT_IAE"]
        self.events += self.apogee.put("INS_ADM_ETP", ins_adm_etp(COD_IND=person, **row), self.at)
        self.native.append(
            told(
                enrolment_id=f"{row['COD_ANU']}:{person}:{row['COD_ETP']}:{row['COD_VRS_VET']}:1",
                version=len(self.native),
                changed_at=self.at,
                student_id=f"of {person}",
                status=Status.ACTIVE if state == "E" else Status.CANCELLED,
                payment={"P": Payment.PAID, "A": Payment.DUE}[payment],
                academic_year=row["COD_ANU"],
                etape=row["COD_ETP"],
                etape_version=str(row["COD_VRS_VET"]),
                component=row["COD_CMP"],
            )
        )

    def delete(self, row: Any) -> None:  # noqa: ANN401 - a row
        key = (row["COD_ANU"], row["COD_IND"], row["COD_ETP"], row["COD_VRS_VET"], row["NUM_OCC_IAE"])
        self.events += self.apogee.delete("INS_ADM_ETP", key, self.at)
        self.native.append(
            deleted(
                enrolment_id=":".join(map(str, key)),
                version=len(self.native),
                changed_at=self.at,
                student_id=f"of {row['COD_IND']}",
            )
        )

    def label(self, etape: str, version: int | None, label: str) -> None:
        self.at += 1
        row = {"COD_ETP": etape, "COD_VRS_VET": version, "LIB_WEB_VET": label, "LIB_ETP": label}
        self.events += self.apogee.put("ETAPE" if version is None else "VERSION_ETAPE", row, self.at)
        of_version = BELOW_ALL_VERSIONS if version is None else str(version)
        self.native.append(
            EtapeChange(
                uai=UAI, etape=etape, etape_version=of_version, etape_label=label, changed_at=self.at, origin="etapes"
            )
        )

    def component(self, code: str, label: str) -> None:
        self.events += self.apogee.put("COMPOSANTE", {"COD_CMP": code, "LIB_CMP": label}, self.at)
        self.native.append(
            ComponentChange(uai=UAI, component=code, component_label=label, changed_at=self.at, origin="components")
        )

    def of_the_directory(self, number: int) -> None:
        """Have another source know a student by a number, perhaps a former one."""
        self.native.append(
            told(
                enrolment_id=f"supann {number}",
                system="supann",
                version=1,
                changed_at=self.at,
                student_id=str(number),
                etape="B",
                etape_version="101",
                component=None,
            )
        )

    def messages(self) -> list[Change]:
        """Return what messages say at the end, when each number is known."""
        changes: list[Change] = []
        for change in self.native:
            if isinstance(change, EnrolmentChange) and change.student_id.startswith("of "):
                person = int(change.student_id.removeprefix("of "))
                if person in self.numbers:
                    changes.append(change._replace(student_id=str(self.numbers[person])))
                elif change.component is not None and change.etape is not None:
                    changes.append(
                        EtapeChange(
                            uai=UAI,
                            etape=change.etape,
                            component=change.component,
                            changed_at=change.changed_at,
                            origin="etapes",
                        )
                    )
            else:
                changes.append(change)
        return changes

    def others(self) -> list[Change]:
        """Return what only messages say."""
        return [c for c in self.native if isinstance(c, EnrolmentChange) and c.system == "supann"]


@st.composite
def stories(draw: st.DrawFn) -> Story:
    story = Story(draw(st.integers(0, 9)), one_component=draw(st.booleans()))
    components = {"A": ("U99",), "B": ("MED",), "OLD": ("MED",), "X": ("U99",)} if story.one_component else {}
    for _ in range(draw(st.integers(1, 14))):
        story.at += draw(st.sampled_from([0, 1]))
        person = draw(st.sampled_from([1, 1, 2]))
        match draw(st.sampled_from(["number", "number", "enrol", "enrol", "enrol", "delete", "label", "other"])):
            case "number":
                story.number(person, draw(st.sampled_from([*NUMBERS_OF[person], None])))
            case "enrol":
                code = draw(st.sampled_from(["A", "B", "OLD", "X"]))
                story.enrol(
                    person,
                    COD_ANU=draw(st.sampled_from([2026, 2026, 2025])),
                    COD_ETP=code,
                    COD_VRS_VET=draw(st.sampled_from([99, 101])),
                    ETA_IAE=draw(st.sampled_from("EEEA")),
                    ETA_PMT_IAE=draw(st.sampled_from("PPPA")),
                    COD_CMP=draw(st.sampled_from([None, *components.get(code, ("U99", "MED"))])),
                )
            case "delete" if rows := story.apogee.rows("INS_ADM_ETP"):
                story.delete(draw(st.sampled_from(rows)))
            case "label":
                code = draw(st.sampled_from("AB"))
                story.label(code, draw(st.sampled_from([None, 99, 101])), draw(st.sampled_from(["one", "two"])))
                story.component(draw(st.sampled_from(["U99", "MED"])), draw(st.sampled_from(["UFR", "Faculté"])))
            case _:
                story.of_the_directory(draw(st.sampled_from(NUMBERS_OF[person])))
    return story


def check(ledger: Ledger, story: Story, random: Random) -> None:
    """Tell all of it in any order, some of it repeatedly, perhaps with another snapshot, in any batches."""
    others = [Received(change=change, published_at=NOW) for change in story.others()]
    with emptied(ledger):
        recorder(ledger, SMALL).apply_policy(now=NOW)
        recorder(ledger, SMALL).record([*read(story.events), *others], now=NOW)
        in_order = world(ledger, SMALL)
    again = story.apogee.snapshot(story.at + 1) if random.random() < 0.5 else []
    received = [*read([*story.events, *again]), *others]
    received += random.sample(received, random.randint(0, len(received)))
    random.shuffle(received)
    with emptied(ledger):
        recorder(ledger, SMALL).apply_policy(now=NOW)
        while received:
            size = random.randint(1, len(received))
            recorder(ledger, SMALL).record(received[:size], now=NOW)
            received = received[size:]
        assert world(ledger, SMALL) == in_order
    if story.one_component:
        assert in_order == expected(story.messages())


@pytest.fixture(scope="module")
def sqlite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    ledger = Ledger(f"sqlite:///{tmp_path_factory.mktemp('capture') / 'ledger.db'}")
    yield ledger
    ledger.close()


@given(stories(), st.randoms(use_true_random=False))
@settings(max_examples=MANY, deadline=None)
def test_any_order_of_captured_changes_desires_what_the_messages_of_the_same_facts_do(
    sqlite: Ledger, story: Story, random: Random
) -> None:
    check(sqlite, story, random)


@given(stories(), st.randoms(use_true_random=False))
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_captured_changes_in_any_order_desire_the_same_as_messages_on_postgresql(
    postgres_url: str, story: Story, random: Random
) -> None:
    ledger = Ledger(postgres_url)
    try:
        check(ledger, story, random)
    finally:
        ledger.close()
