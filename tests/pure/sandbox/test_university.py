from collections import Counter, defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from itertools import chain, pairwise
from random import Random
from typing import Any

import orjson
import pytest
from pydantic import ValidationError

from schemas import EVENTS, EnrolmentRow, message_key
from worker.sandbox.university.generator import University
from worker.sandbox.university.records import Message, disorder

STATE = "fr.etape-cohorts.enrolment.state.v1"
DELETED = "fr.etape-cohorts.enrolment.deleted.v1"
REKEYED = "fr.etape-cohorts.student.rekeyed.v1"
DESCRIBED = "fr.etape-cohorts.etape.described.v1"
KINDS = {
    "arrive",
    "bounce",
    "cancel_last_year",
    "cancel_twin",
    "change_elsewhere",
    "change_etape",
    "change_version",
    "confirm",
    "delete",
    "merge",
    "merge_twice",
    "reinstate",
    "rename",
    "resign",
    "take_another",
    "touch",
}

Members = dict[str, frozenset[str]]


def small(seed: int = 1) -> University:
    return University(seed=seed, students=300, etapes=25)


def fold(messages: Iterable[Message], uai: str = "0141408E") -> tuple[Members, dict[str, Any]]:
    """Fold naively: the newest version of each enrolment, all merges, the latest description of each étape."""
    values = [message.value for message in messages]
    facts: dict[tuple[str, str], dict[str, Any]] = {}
    for data in (value["data"] for value in values if value["type"] in {STATE, DELETED}):
        key = (data["source"]["uai"], data["enrolment_id"])
        if key not in facts or facts[key]["version"] < data["version"]:
            facts[key] = data
    ours = [data for (source, _), data in facts.items() if source == uai and "status" in data]
    return folded(ours, merges_in(values)), described(values, uai)


def described(values: list[dict[str, Any]], uai: str) -> dict[str, Any]:
    """Return label, component and its label by code of étape, as the latest message has them."""
    ours = [value for value in values if value["type"] in {STATE, DESCRIBED} and value["data"]["source"]["uai"] == uai]
    latest: dict[str, tuple[str, Any]] = {}
    for value in ours:
        etape = value["data"]["etape"]
        if etape["code"] not in latest or value["time"] > latest[etape["code"]][0]:
            latest[etape["code"]] = (value["time"], etape)
    return {
        code: (etape["label"], etape["component"]["code"], etape["component"]["label"])
        for code, (_, etape) in latest.items()
    }


def states(messages: Iterable[Message]) -> list[dict[str, Any]]:
    return [message.value["data"] for message in messages if message.value["type"] == STATE]


def pairs(members: Members) -> set[tuple[str, str]]:
    return {(code, student) for code, students in members.items() for student in students}


def snapshot(university: University) -> dict[str, dict[str, Any]]:
    """Return the rows of a snapshot by enrolment id; checks that none is there twice."""
    rows = [orjson.loads(row) for row in university.snapshot_rows()]
    by_id = {row["enrolment_id"]: row for row in rows}
    assert len(by_id) == len(rows)
    return by_id


def snapshot_of(messages: Iterable[Message], uai: str = "0141408E") -> dict[str, dict[str, Any]]:
    """Return the newest state of each enrolment that wasn't deleted, according to messages."""
    newest: dict[str, dict[str, Any]] = {}
    for data in (m.value["data"] for m in messages if m.value["type"] in {STATE, DELETED}):
        known = newest.get(data["enrolment_id"])
        if data["source"]["uai"] == uai and (known is None or known["version"] < data["version"]):
            newest[data["enrolment_id"]] = data
    return {id_: data for id_, data in newest.items() if "status" in data}


def lasting(student: str, survivors: dict[str, str]) -> str:
    while student in survivors:
        student = survivors[student]
    return student


def folded(rows: Iterable[dict[str, Any]], survivors: dict[str, str]) -> Members:
    """Return the members that follow from rows, under their last numbers."""
    members = defaultdict(set)
    for row in rows:
        student = lasting(row["student"]["student_id"], survivors)
        if row["status"] == "active" and row["payment"] in {"paid", "unknown"} and row["academic_year"] == 2026:
            members[row["etape"]["code"]].add(student)
    return {code: frozenset(students) for code, students in members.items()}


def merges(messages: Iterable[Message]) -> dict[str, str]:
    return merges_in(message.value for message in messages)


def merges_in(values: Iterable[dict[str, Any]]) -> dict[str, str]:
    merged = [value["data"] for value in values if value["type"] == REKEYED]
    return {data["previous_student_id"]: data["student_id"] for data in merged}


def etape_and_student(value: dict[str, Any]) -> tuple[str, str]:
    return value["data"]["enrolment_id"].split("-")[2], value["data"]["student"]["student_id"]


def test_same_seed_gives_the_same_bytes_and_another_seed_does_not() -> None:
    def everything(seed: int) -> list[bytes]:
        university = small(seed)
        messages = [*university.initial(), *university.september_day(100), *university.september_day(50)]
        return [message.payload() for message in messages]

    assert everything(1) == everything(1)
    assert everything(1) != everything(2)


def test_another_opening_changes_the_dates_of_messages_alone() -> None:
    def published(opening: datetime | None) -> list[dict[str, Any]]:
        university = University(seed=1, students=300, etapes=25, opening=opening)
        return [message.value for message in [*university.initial(), *university.september_day(100)]]

    usual, later = published(None), published(datetime(2027, 1, 15, 6, tzinfo=UTC))
    shift = datetime(2027, 1, 15, tzinfo=UTC) - datetime(2026, 9, 1, tzinfo=UTC)
    moved = [
        datetime.fromisoformat(then["time"]) - datetime.fromisoformat(now["time"])
        for now, then in zip(usual, later, strict=True)
    ]
    assert {round(by / timedelta(milliseconds=100)) for by in moved} == {round(shift / timedelta(milliseconds=100))}
    assert [value["data"] for value in usual] == [value["data"] for value in later]


def test_days_may_be_short_and_a_year_of_them_stays_within_the_contract() -> None:
    opening = datetime(2026, 9, 1, tzinfo=UTC)
    university = University(seed=1, students=300, etapes=25, opening=opening, day=30.0)
    for day in range(1, 366):
        for message in university.september_day(20):
            event = EVENTS.validate_json(message.payload())
            assert abs(event.time - opening - timedelta(seconds=30 * day)) < timedelta(hours=1)


@pytest.mark.parametrize("seed", range(8))
def test_a_naive_fold_of_all_messages_finds_the_truth(seed: int) -> None:
    university = small(seed)
    messages = [*university.initial()]
    assert fold(messages) == (university.truth_at_start(), university.labels())
    assert university.truth() == university.truth_at_start()
    for _ in range(3):
        messages += university.september_day(200)
        assert fold(messages) == (university.truth(), university.labels())


def test_the_order_of_arrival_does_not_matter_to_the_fold() -> None:
    university = small()
    messages = [*university.initial(), *university.september_day(300)]
    Random(1).shuffle(messages)
    assert fold(messages) == (university.truth(), university.labels())


@pytest.mark.parametrize("seed", range(8))
def test_even_a_small_university_has_every_kind_of_enrolment(seed: int) -> None:
    university = small(seed)
    rows = states(university.initial())
    ours = [row for row in rows if row["source"]["uai"] == university.uai]
    current = [row for row in ours if row["academic_year"] == 2026]
    last_year = [row for row in ours if row["academic_year"] == 2025]
    elsewhere = [row for row in rows if row["source"]["uai"] != university.uai]
    by_student_and_etape = Counter((row["student"]["student_id"], row["etape"]["code"]) for row in current)

    assert {row["status"] for row in current} == {"active", "pending", "cancelled", "resigned"}
    assert {row["payment"] for row in current if row["status"] == "active"} == {"paid", "due", "unknown"}
    assert max(by_student_and_etape.values()) > 1
    assert any((row["student"]["student_id"], row["etape"]["code"]) in by_student_and_etape for row in last_year)
    assert {row["student"]["student_id"] for row in last_year} - {student for student, _ in by_student_and_etape}
    assert {row["etape"]["code"] for row in elsewhere} & {row["etape"]["code"] for row in ours}
    assert {row["enrolment_id"] for row in elsewhere} & {row["enrolment_id"] for row in ours}
    assert any(row["student"]["student_id"].startswith("0") for row in current)
    assert {"login" in row["student"] for row in current} == {True, False}
    assert any(row["etape"]["component"]["code"] in university.health_components for row in current)
    assert max(Counter(student for _, student in pairs(university.truth())).values()) > 1


@pytest.mark.parametrize("seed", range(8))
def test_even_a_quiet_day_has_every_kind_of_change(seed: int) -> None:
    university = small(seed)
    day = [message.value for message in university.september_day(20)]
    assert set(university.changes) == KINDS
    assert {value["type"] for value in day} == {STATE, DELETED, REKEYED, DESCRIBED}
    assert len({(value["source"], value["id"]) for value in day}) < len(day)
    assert any(later["time"] < earlier["time"] for earlier, later in pairwise(day))


def test_a_merged_number_appears_again_after_the_merge() -> None:
    day = [message.value for message in small().september_day(100)]
    merged = {v["data"]["previous_student_id"]: v["time"] for v in day if v["type"] == REKEYED}
    assert any(v["type"] == STATE and v["time"] > merged.get(v["data"]["student"]["student_id"], "9") for v in day)


def test_disorder_repeats_and_swaps_but_loses_nothing() -> None:
    messages = [*small().initial()][:200]
    arrived = [message.value["id"] for message in disorder(messages, Random(1))]
    in_order = [message.value["id"] for message in messages]
    assert set(arrived) == set(in_order)
    assert len(arrived) == 210
    assert [*dict.fromkeys(arrived)] != in_order


def test_a_change_of_version_is_a_deletion_and_a_creation_that_end_no_membership() -> None:
    university = small()
    day = [message.value for message in university.september_day(300)]
    deleted = {etape_and_student(value) for value in day if value["type"] == DELETED}
    created = {etape_and_student(value) for value in day if value["type"] == STATE}
    assert deleted & created & pairs(university.truth()) - university.removals_asked()


def test_every_membership_that_ended_was_asked_to_end() -> None:
    university = small()
    for _ in range(3):
        before = pairs(university.truth())
        tuple(university.september_day(200))
        assert before - pairs(university.truth()) <= university.removals_asked()
    assert university.removals_asked() & pairs(university.truth()), "some came back"


@pytest.mark.parametrize("seed", range(4))
def test_whoever_waits_a_minute_before_removing_removes_only_what_was_asked(seed: int) -> None:
    university = small(seed)
    received = [*university.initial()]
    before, clock, missing_since = pairs(university.truth()), "", dict[tuple[str, str], datetime]()
    for message in university.september_day(200):
        received.append(message)
        clock = max(clock, message.value["time"])
        now = datetime.fromisoformat(clock)
        after = pairs(fold(received)[0])
        missing_since = {pair: missing_since.get(pair, now) for pair in (before | missing_since.keys()) - after}
        waited = {pair for pair, since in missing_since.items() if now - since >= timedelta(minutes=1)}
        assert waited <= university.removals_asked()
        before = after


# Snapshots, and departures without a message


@pytest.mark.parametrize("seed", range(4))
def test_the_truth_follows_from_a_snapshot_and_the_merges(seed: int) -> None:
    university = small(seed)
    assert folded(snapshot(university).values(), {}) == university.truth_at_start()
    day = [*university.september_day(200)]
    assert folded(snapshot(university).values(), merges(day)) == university.truth()
    university.depart(0.1)
    assert folded(snapshot(university).values(), merges(day)) == university.truth()


def test_a_snapshot_shows_what_the_messages_told_last_of_all_years_and_of_no_other_university() -> None:
    university = small()
    messages = [*university.initial()]
    assert snapshot(university) == snapshot_of(messages)
    messages += university.september_day(300)
    rows = snapshot(university)
    survivors = merges(messages)

    def under_lasting_numbers(rows: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        return {id_: row | {"student": lasting(row["student"]["student_id"], survivors)} for id_, row in rows.items()}

    assert under_lasting_numbers(rows) == under_lasting_numbers(snapshot_of(messages))
    assert {row["academic_year"] for row in rows.values()} == {2025, 2026}
    assert {row["status"] for row in rows.values()} == {"active", "pending", "cancelled", "resigned"}
    assert not {row["student"]["student_id"] for row in rows.values()} & merges(messages).keys(), "a former number"
    told_last = {row["student"]["student_id"] for row in snapshot_of(messages).values()}
    assert told_last & merges(messages).keys(), "no message named a former number"


def test_rows_of_a_snapshot_follow_the_contract() -> None:
    university = small()
    for row in university.snapshot_rows():
        assert orjson.loads(EnrolmentRow.model_validate_json(row).model_dump_json(exclude_none=True)) == orjson.loads(
            row
        )


@pytest.mark.parametrize("days", [0, 1])
def test_whoever_departs_ends_in_the_records_alone(days: int) -> None:
    university = small()
    for _ in range(days):
        tuple(university.september_day(100))
    before, rows, asked = pairs(university.truth()), snapshot(university), university.removals_asked()
    students = {student for _, student in before}
    gone = university.depart(0.2)
    after = pairs(university.truth())

    left = students - {student for _, student in after}
    assert len(left) == gone == round(0.2 * len(students))
    assert before - after == {(code, student) for code, student in before if student in left}
    assert after < before
    assert university.removals_asked() == asked | (before - after)
    shown = snapshot(university)
    vanished = [row for id_, row in rows.items() if id_ not in shown]
    resigned = [row for id_, row in shown.items() if row != rows[id_]]
    assert {row["status"] for row in resigned} == {"resigned"}
    assert {row["status"] for row in vanished} <= {"active", "pending"}
    assert len(vanished) - len(resigned) in {0, 1}
    assert {row["academic_year"] for row in vanished + resigned} == {2026}


def test_life_goes_on_after_a_departure() -> None:
    university = small()
    university.depart(0.2)
    for _ in range(2):
        before = pairs(university.truth())
        tuple(university.september_day(200))
        assert before - pairs(university.truth()) <= university.removals_asked()


def test_nobody_departs_with_a_share_of_none_and_everybody_with_a_share_of_all() -> None:
    university = small()
    assert university.depart(0) == 0
    assert university.truth() == university.truth_at_start()
    assert university.depart(1) > 250
    assert university.truth() == {}


def test_same_seed_and_the_same_departures_give_the_same_bytes() -> None:
    def everything(seed: int) -> list[bytes]:
        university = small(seed)
        university.depart(0.1)
        day = [message.payload() for message in university.september_day(50)]
        return [*day, *university.snapshot_rows()]

    assert everything(1) == everything(1)
    assert everything(1) != everything(2)


def test_some_students_get_their_account_late_and_some_never() -> None:
    university = small()
    early = {student for _, _, student in university.accounts()}
    late = {student for _, _, student in university.late_accounts()}
    assert 0.9 < len(early) / 300 < 1
    assert late
    assert not early & late
    messages = [*university.initial(), *university.september_day(100)]
    later = {student for _, _, student in university.late_accounts()}
    assert later > late
    assert {state["student"]["student_id"] for state in states(messages)} - early - later
    merged = [message.value["data"] for message in messages if message.value["type"] == REKEYED]
    assert {number for data in merged for number in (data["previous_student_id"], data["student_id"])} <= early
    assert all((name, id_) == (f"e{student}", student) for name, id_, student in university.accounts())


def test_messages_follow_the_contract() -> None:
    university = small()
    for message in chain(university.initial(), university.september_day(100)):
        assert message_key(EVENTS.validate_json(message.payload())) == message.key


def test_poison_is_refused_by_the_contract_and_aims_at_a_member() -> None:
    university = small()
    doses = [*university.poison()]
    assert len(doses) > 10
    for _, payload in doses:
        with pytest.raises(ValidationError):
            EVENTS.validate_json(payload)
    assert {key for key, _ in doses} <= {student for _, student in pairs(university.truth())}


def test_a_payload_is_the_json_of_its_value() -> None:
    message = next(small().initial())
    assert orjson.loads(message.payload()) == message.value


def test_a_full_university_has_the_size_of_a_real_one() -> None:
    university = University()
    sizes = [len(students) for students in university.truth().values()]
    assert 39_000 < sum(sizes) < 41_000
    assert 3 <= sum(1_000 <= size <= 3_000 for size in sizes) < 10
    assert sum(5 <= size <= 60 for size in sizes) > 0.7 * len(sizes)
    codes = university.labels().keys()
    assert len(codes) == 1_200
    assert {"L1DROI", "DFASM1", "XINFO2"} <= codes
    assert all(len(code) <= 6 for code in codes)


def test_an_impossible_number_of_etapes_is_refused() -> None:
    with pytest.raises(ValueError, match="9999 étapes requested"):
        University(students=1, etapes=9_999)
