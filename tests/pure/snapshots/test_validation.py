"""Snapshots, judged: what is accepted, and what is refused with which sentence."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from hashlib import sha256
from itertools import chain, zip_longest
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.builders import FOREIGN_UAI, NOW, UAI
from tests.support.snapshots import (
    LIMITS,
    SCOPE,
    TAKEN_AT,
    YEAR,
    Sent,
    accepted,
    but,
    kind,
    records,
    row,
    rows,
    sent,
    students,
)
from worker.domain.changes import EnrolmentChange
from worker.domain.errors import Refusal, SnapshotFault, SnapshotRefused, SourceIncomplete
from worker.domain.snapshots import AcceptedSnapshot, Snapshot, SnapshotScope
from worker.domain.states import Payment, Status
from worker.kafka import Record
from worker.snapshots import AcceptanceCriteria, collect
from worker.snapshots.reader import newest

TERMS = AcceptanceCriteria(now=NOW, accepted=None, uais=frozenset({UAI}), years=frozenset({YEAR}), limits=LIMITS)
WHEN = " (taken at 2026-09-01T05:10:00Z)"


def judged(
    messages: Iterable[Sent | Record],
    terms: AcceptanceCriteria = TERMS,
    *,
    first: Mapping[int, int] | None = None,
    skip: int = 0,
) -> Snapshot:
    """Judge what a topic holds; `first` is where its partitions begin after the reading."""
    chosen = list(messages)
    read = [*records((each for each in chosen if not isinstance(each, Record)), skip=skip)]
    read += [each for each in chosen if isinstance(each, Record)]
    return newest(lambda: read, lambda: first or {}, terms)


def refused(messages: Iterable[Sent], terms: AcceptanceCriteria = TERMS, **more: Any) -> tuple[SnapshotFault, str]:  # noqa: ANN401 - as of judged
    """Return the fault and the sentence of the only snapshot, which is refused."""
    with pytest.raises(SnapshotRefused) as raised:
        judged(messages, terms, **more)
    [refusal] = raised.value.refusals
    assert refusal.sentence in str(raised.value)
    return refusal.fault, refusal.sentence


def of(name: str, messages: Iterable[Sent], partition: int | None = None) -> list[Sent]:
    """Choose messages by what they are, and perhaps by their partition."""
    return [each for each in messages if kind(each) == name and partition in {None, each[0]}]


def without(messages: list[Sent], *gone: Sent) -> list[Sent]:
    return [each for each in messages if each not in gone]


def changed(messages: list[Sent], old: Sent, new: Sent) -> list[Sent]:
    return [new if each is old else each for each in messages]


# What is accepted


def test_a_whole_snapshot_gives_its_rows() -> None:
    chosen = [row(1), row(2, status="resigned", payment="due", version=None)]
    found = judged(sent(chosen, "apogee-1"))
    assert (found.id, found.taken_at, found.system, found.scope) == ("apogee-1", TAKEN_AT, "apogee", SCOPE)
    assert (found.passed_over, found.ignored) == ((), 0)
    first, second = sorted(found.rows, key=lambda each: each.student_id)
    assert first == EnrolmentChange(
        uai=UAI,
        enrolment_id="2026:1:L1DROI:101:1",
        system="apogee",
        version=7,
        changed_at=TAKEN_AT,
        student_id="22000001",
        status=Status.ACTIVE,
        origin=first.origin,
        academic_year=2026,
        etape="L1DROI",
        etape_version="101",
        payment=Payment.PAID,
    )
    assert first.origin in {f"snapshot apogee-1[{partition}]#0" for partition in range(3)}
    assert (second.version, second.status, second.payment) == (0, Status.RESIGNED, Payment.DUE)


def test_what_is_remembered_of_it_is_what_the_next_one_is_held_against() -> None:
    scope = SnapshotScope(uais=frozenset({UAI}), academic_years=frozenset({2025, 2026}))
    found = judged(sent([*rows(3), *rows(2, year=2025)], scope=scope))
    assert found.accepted() == accepted({2026: 3, 2025: 2}, "apogee-1", taken_at=TAKEN_AT, scope=scope)


def test_partitions_without_a_row_have_their_begin_and_end_all_the_same() -> None:
    messages = sent([row(1)], partitions=5)
    assert len(messages) == 11
    assert students(judged(messages).rows) == ["22000001"]


def test_a_retry_with_the_same_bytes_changes_nothing() -> None:
    messages = sent(rows(20))
    assert students(judged(messages + messages).rows) == students(rows_of(20))


def rows_of(count: int) -> list[EnrolmentChange]:
    """Return what a whole snapshot of so many rows gives."""
    return list(judged(sent(rows(count))).rows)


def test_two_snapshots_whose_messages_mix_are_judged_each_by_itself() -> None:
    older = sent(rows(20), "apogee-1", taken_at=TAKEN_AT)
    newer = sent(rows(5), "apogee-2", taken_at=TAKEN_AT + 60)
    mixed = [each for pair in zip_longest(older, newer) for each in pair if each]
    assert (judged(mixed).id, len(judged(mixed).rows)) == ("apogee-2", 5)


def test_a_newer_snapshot_that_is_not_whole_does_not_hide_the_one_before() -> None:
    older = sent(rows(20), "apogee-1", taken_at=TAKEN_AT)
    newer = sent(rows(5), "apogee-2", taken_at=TAKEN_AT + 60)
    found = judged([*older, *newer[:-1]])
    assert (found.id, len(found.rows)) == ("apogee-1", 20)
    [refusal] = found.passed_over
    assert (refusal.snapshot_id, refusal.fault) == ("apogee-2", SnapshotFault.INCOMPLETE)


def test_an_older_snapshot_that_is_not_whole_is_not_reported() -> None:
    older = sent(rows(20), "apogee-1", taken_at=TAKEN_AT)
    newer = sent(rows(5), "apogee-2", taken_at=TAKEN_AT + 60)
    assert judged([*older[:-1], *newer]).passed_over == ()


def test_a_refused_snapshot_leaves_no_row_in_the_next() -> None:
    older = sent(rows(20), "apogee-1", taken_at=TAKEN_AT)
    newer = sent(rows(30, etape="M1DROI"), "apogee-2", taken_at=TAKEN_AT + 60)
    found = judged([*chain(*zip(newer, older, strict=False)), *older[len(newer) :], *newer[len(older) : -1]])
    assert found.id == "apogee-1"
    assert {each.etape for each in found.rows} == {"L1DROI"}


def test_rows_that_tell_an_enrolment_again_alike_are_one() -> None:
    messages = sent([row(1), row(2)], partitions=1)
    begin, first, second, end = messages
    again = but(second, row=1, enrolment=orjson.loads(first[2])["data"]["enrolment"])
    end = but(end, digest=digest_of([first, again]))
    assert students(judged([begin, first, again, end]).rows) == ["22000001"]


def digest_of(messages: Iterable[Sent]) -> str:
    """Work out the digest as the contract says it."""
    total = sum(int(sha256(value).hexdigest(), 16) for _, _, value, _ in messages)
    return f"{total % 2**256:064x}"


def test_the_digest_is_what_the_contract_says() -> None:
    messages = sent(rows(20), partitions=1)
    [end] = of("end", messages)
    assert orjson.loads(end[2])["data"]["digest"] == digest_of(of("enrolment", messages))


def test_other_forms_of_cloudevents_are_read_and_their_digest_is_of_the_value() -> None:
    begin, first, second, end = sent(rows(2), partitions=1)
    document = orjson.loads(first[2])
    attributes = tuple((f"ce_{name}", str(document[name]).encode()) for name in document if name != "data")
    binary: Sent = (0, None, orjson.dumps(document["data"]), (*attributes, ("content-type", b"application/json")))
    framed: Sent = (0, None, b"\x00\x00\x00\x00\x07" + second[2], ())
    end = but(end, digest=digest_of([binary, framed]))
    assert len(judged([begin, binary, framed, end]).rows) == 2


def test_a_row_that_writes_the_name_of_its_snapshot_in_another_way_is_one_of_it() -> None:
    begin, first, second, end = sent(rows(2), partitions=1)
    partition, key, value, headers = second
    escaped: Sent = (partition, key, value.replace(b'"apogee-1"', rb'"\u0061pogee-1"'), headers)
    assert escaped != second
    end = but(end, digest=digest_of([first, escaped]))
    assert len(judged([begin, first, escaped, end]).rows) == 2


def test_a_snapshot_whose_name_begins_as_that_of_a_newer_one_is_another() -> None:
    older = sent(rows(20), "apogee-10", taken_at=TAKEN_AT)
    newer = sent(rows(5), "apogee-1", taken_at=TAKEN_AT + 60)
    assert students(judged([*newer, *older]).rows) == students(rows_of(5))
    found = judged([*newer[:-1], *older])
    assert (found.id, students(found.rows)) == ("apogee-10", students(rows_of(20)))


def test_messages_of_no_snapshot_are_counted_and_left_out() -> None:
    messages = sent(rows(3))
    strange = [
        (0, None, b"{not JSON", ()),
        (1, None, b'{"data": {"snapshot_id": "not a code"}}', ()),
        (2, None, messages[0][2], (("content-type", b"text/plain"),)),
    ]
    tombstone = Record(topic="t", partition=0, offset=99, key=b"k", value=None, headers=(), timestamp=NOW)
    found = judged([*strange, *messages, tombstone])
    assert (len(found.rows), found.ignored) == (3, 4)


def test_a_year_that_does_not_count_may_come_along() -> None:
    scope = SnapshotScope(uais=frozenset({UAI}), academic_years=frozenset({2025, 2026}))
    assert len(judged(sent([row(1), row(2, year=2025)], scope=scope)).rows) == 2


def test_globs_of_etapes_limit_the_scope_and_their_order_does_not_matter() -> None:
    scope = SnapshotScope(uais=frozenset({UAI}), academic_years=frozenset({2026}), etapes=("M*", "L1*", "M*"))
    found = judged(sent(rows(3), scope=scope))
    assert found.scope.etapes == ("L1*", "M*")


@pytest.mark.parametrize("ahead", [0, 59])
def test_a_clock_that_is_a_little_ahead_is_forgiven(ahead: float) -> None:
    assert judged(sent([row(1)], taken_at=NOW + ahead)).taken_at == NOW + ahead


# What is refused: in time


def test_a_topic_without_a_snapshot_is_refused() -> None:
    assert refused([]) == (SnapshotFault.ABSENT, "there is no snapshot on the topic")


def test_the_snapshot_that_was_accepted_last_is_refused() -> None:
    last = accepted({2026: 3}, "apogee-1", taken_at=TAKEN_AT)
    assert refused(sent(rows(3), "apogee-1"), replace(TERMS, accepted=last)) == (
        SnapshotFault.NOT_NEWER,
        "it is the last accepted one, taken at 2026-09-01T05:10:00Z" + WHEN,
    )


@pytest.mark.parametrize("older", [0, 60])
def test_a_snapshot_that_is_not_newer_is_refused(older: float) -> None:
    last = accepted({2026: 3}, "apogee-9", taken_at=TAKEN_AT + older)
    fault, sentence = refused(sent(rows(3)), replace(TERMS, accepted=last))
    assert fault is SnapshotFault.NOT_NEWER
    expected = f"it is not newer than apogee-9, the last accepted one, taken at 2026-09-01T05:1{older // 60:.0f}:00Z"
    assert sentence == expected + WHEN


def test_a_snapshot_from_the_future_is_refused() -> None:
    fault, sentence = refused(sent(rows(3), taken_at=NOW + 7_260))
    assert fault is SnapshotFault.FUTURE
    expected = "it was taken 2 h 01 min in the future: check its producer's clock"
    assert sentence == expected + " (taken at 2026-09-01T08:11:00Z)"
    fault, sentence = refused(sent(rows(3), taken_at=NOW + 120))
    assert sentence.startswith("it was taken 2 min in the future")


def test_a_snapshot_that_is_too_old_is_refused() -> None:
    fault, sentence = refused(sent(rows(3), taken_at=NOW - 30 * 3600))
    assert fault is SnapshotFault.OLD
    assert sentence == "it was taken 30 h 00 min ago, and snapshot.max_age_hours is 20 (taken at 2026-08-31T00:10:00Z)"
    assert judged(sent(rows(3), taken_at=NOW - 20 * 3600)).id == "apogee-1"


# What is refused: its scope


def test_a_snapshot_of_another_university_is_refused() -> None:
    scope = replace(SCOPE, uais=frozenset({UAI, FOREIGN_UAI}))
    expected = "it covers 0751717J, and the settings only 0141408E" + WHEN
    assert refused(sent([row(1)], scope=scope)) == (SnapshotFault.SCOPE, expected)


def test_a_snapshot_of_another_year_is_refused() -> None:
    scope = replace(SCOPE, academic_years=frozenset({2024, 2025}))
    expected = "it covers 2024, 2025 only, and the active years are 2026" + WHEN
    assert refused(sent([row(1, year=2025)], scope=scope)) == (SnapshotFault.SCOPE, expected)


def test_a_snapshot_whose_rows_lie_outside_its_scope_is_refused() -> None:
    wide = SnapshotScope(uais=frozenset({UAI, FOREIGN_UAI}), academic_years=frozenset({2025, 2026}))
    chosen = [row(1), row(2, uai=FOREIGN_UAI), row(3, year=2025), row(4, year=2025), row(5, etape="M1DROI")]
    messages = sent(chosen, scope=wide)
    scope = {"uais": [UAI], "academic_years": [2026], "etapes": ["L*"]}
    messages = [but(each, scope=scope, system="supann") if kind(each) == "begin" else each for each in messages]
    expected = (
        "rows lie outside its scope, by their academic_year (2), etape.code (1), source.system (5), source.uai (1)"
    )
    assert refused(messages) == (SnapshotFault.SCOPE, expected + WHEN)


# What is refused: not whole


@pytest.mark.parametrize(
    ("survives", "expected"),
    [
        ("2 begins", "partition 2 has no begin of it"),
        ("3 begins", "partition 0 has no end of it, after 0 row(s)"),
        ("4 rows", "partition 0 has no end of it, after 1 row(s)"),
        ("all rows", "partition 0 has no end of it, after 8 row(s)"),
        ("1 end", "partition 1 has no end of it, after 7 row(s)"),
        ("2 ends", "partition 2 has no end of it, after 5 row(s)"),
    ],
)
def test_a_snapshot_whose_producer_was_killed_is_refused(survives: str, expected: str) -> None:
    messages = sent(rows(20))
    counts = {"2 begins": 2, "3 begins": 3, "4 rows": 7, "all rows": 23, "1 end": 24, "2 ends": 25}
    more = ": its producer did not finish, or an open transaction hides the rest" if "no end" in expected else ""
    assert refused(messages[: counts[survives]]) == (SnapshotFault.INCOMPLETE, expected + more + WHEN)


def test_a_snapshot_that_lacks_rows_is_refused() -> None:
    messages = sent(rows(10), partitions=1)
    chosen = of("enrolment", messages)
    expected = "partition 0 lacks 4 of its 10 rows: 0, 5 to 6, 9"
    assert refused(without(messages, chosen[0], chosen[5], chosen[6], chosen[9])) == (
        SnapshotFault.INCOMPLETE,
        expected + WHEN,
    )


def test_a_snapshot_that_lacks_many_rows_is_refused_with_the_first_gaps() -> None:
    messages = sent(rows(20), partitions=1)
    expected = "partition 0 lacks 10 of its 20 rows: 0, 2, 4, 6, 8, …"
    assert refused(without(messages, *of("enrolment", messages)[::2])) == (SnapshotFault.INCOMPLETE, expected + WHEN)


def test_a_number_of_rows_that_somebody_made_up_is_not_counted_up_to() -> None:
    begin, chosen, end = sent([row(1)], partitions=1)
    fault, sentence = refused([begin, but(chosen, row=9_999_999), but(end, rows=10_000_000)])
    assert (fault, sentence) == (
        SnapshotFault.INCOMPLETE,
        "partition 0 lacks 9999999 of its 10000000 rows: 0 to 9999998" + WHEN,
    )


FORGOTTEN = (
    "its begin is no longer in partition {}, which now starts at offset {}: the topic must keep its messages for longer"
)


def test_a_snapshot_whose_head_the_topic_has_forgotten_is_refused() -> None:
    messages = sent(rows(20))
    left = without(messages, *of("begin", messages, 1))
    assert refused(left, first={1: 40}) == (SnapshotFault.FORGOTTEN, FORGOTTEN.format(1, 40) + WHEN)


def test_a_snapshot_whose_head_the_topic_forgot_while_it_was_being_read_is_refused() -> None:
    assert refused(sent(rows(20)), first={0: 100, 1: 100, 2: 101}, skip=100) == (
        SnapshotFault.FORGOTTEN,
        FORGOTTEN.format(2, 101) + WHEN,
    )


def test_a_snapshot_all_of_whose_heads_the_topic_has_forgotten_is_refused() -> None:
    messages = sent(rows(20))
    left = [each for each in messages if kind(each) != "begin" and each[0] > 0]
    assert refused(left, first={0: 9, 1: 10, 2: 11}) == (SnapshotFault.FORGOTTEN, FORGOTTEN.format(1, 10))


def test_a_snapshot_of_which_a_partition_holds_nothing_is_refused() -> None:
    messages = [each for each in sent(rows(20)) if each[0] != 2]
    expected = (
        "partition 2, which now starts at offset 40, holds nothing of it: "
        "its producer did not finish, or the topic has forgotten it"
    )
    assert refused(messages, first={2: 40}) == (SnapshotFault.INCOMPLETE, expected + WHEN)


def test_a_snapshot_without_any_begin_is_refused() -> None:
    messages = sent(rows(20))
    left = without(messages, *of("begin", messages))
    assert refused(left) == (SnapshotFault.INCOMPLETE, "partition 0 has no begin of it")


def test_an_empty_snapshot_is_refused() -> None:
    messages = sent([row(1)], partitions=1)
    begin, _, end = messages
    empty = [begin, but(end, rows=0, total=0, digest="0" * 64)]
    assert refused(empty) == (SnapshotFault.EMPTY, "it has no row at all" + WHEN)


# What is refused: contradictions


def contradiction(messages: list[Sent]) -> str:
    fault, sentence = refused(messages)
    assert fault is SnapshotFault.CONTRADICTORY
    assert sentence.endswith(WHEN)
    return sentence.removesuffix(WHEN)


def test_begins_that_differ_are_refused() -> None:
    messages = sent(rows(9))
    [begin] = of("begin", messages, 2)
    assert contradiction(changed(messages, begin, but(begin, partitions=2))) == (
        "a begin in partition 2 announces something other than an earlier one"
    )


def test_an_id_that_is_used_again_for_another_snapshot_is_refused() -> None:
    again = sent(rows(9), taken_at=TAKEN_AT + 60)
    assert contradiction([*sent(rows(9)), *again]) == (
        "a begin in partition 0 announces something other than an earlier one"
    )


def test_a_row_that_is_there_twice_differently_is_refused() -> None:
    messages = sent(rows(9), partitions=1)
    other = but(
        of("enrolment", messages)[4], enrolment=orjson.loads(of("enrolment", messages)[5][2])["data"]["enrolment"]
    )
    assert contradiction([*messages, other]) == "row 4 of partition 0 occurs twice with different contents"


def test_a_row_that_was_changed_on_the_way_is_refused() -> None:
    messages = sent(rows(9), partitions=1)
    chosen = of("enrolment", messages)[4]
    other = orjson.loads(chosen[2])["data"]["enrolment"] | {"status": "cancelled"}
    assert contradiction(changed(messages, chosen, but(chosen, enrolment=other))) == (
        "the 9 rows of partition 0 don't match the digest in its end"
    )


def test_more_rows_than_the_end_counts_are_refused() -> None:
    messages = sent(rows(9), partitions=1)
    extra = but(messages[-2], row=9)
    assert contradiction([*messages, extra]) == "partition 0 has 10 rows of it, and its end counts 9"


def test_ends_of_one_partition_that_differ_are_refused() -> None:
    messages = sent(rows(9))
    assert contradiction([*messages, but(messages[-1], rows=1)]) == "the ends in partition 2 count differently"


def test_a_total_that_is_not_that_of_the_ends_is_refused() -> None:
    messages = sent(rows(9))
    assert contradiction(changed(messages, messages[-1], but(messages[-1], total=10))) == (
        "the end in partition 2 says 10 rows in all, and the ends add up to 9"
    )


def test_messages_in_a_partition_that_was_not_announced_are_refused() -> None:
    messages = sent(rows(9), partitions=4)
    begins = [but(each, partitions=3) if kind(each) == "begin" else each for each in messages]
    assert contradiction(begins) == "partition 3 holds messages of it, and it announced 3 partitions"


def test_an_enrolment_in_two_different_rows_is_refused() -> None:
    begin, first, second, end = sent([row(1), row(2)], partitions=1)
    other = orjson.loads(first[2])["data"]["enrolment"] | {"payment": "due"}
    again = but(second, enrolment=other)
    assert contradiction([begin, first, again, but(end, digest=digest_of([first, again]))]) == (
        "enrolments occur twice with different contents (1)"
    )


def test_rows_that_break_the_contract_are_refused() -> None:
    begin, *chosen, end = sent(rows(9), partitions=1)
    chosen[1] = but(chosen[1], enrolment={"student": {"student_id": "22000001"}})
    chosen[2] = but(chosen[2], enrolment=orjson.loads(chosen[2][2])["data"]["enrolment"] | {"name": "Camille Exemple"})
    fault, sentence = refused([begin, *chosen, but(end, digest=digest_of(chosen))])
    assert fault is SnapshotFault.INVALID
    assert sentence == (
        "messages under its id can't be read, the first at snapshots[0]@2: data.enrolment.enrolment_id: missing (1), "
        "data.enrolment.academic_year: missing (1), data.enrolment.etape: missing (1), data.enrolment.status: "
        "missing (1), data.enrolment.source: missing (1)" + WHEN
    )


def test_messages_under_the_id_of_a_snapshot_that_are_no_row_of_it_are_refused() -> None:
    messages = sent(rows(9), partitions=1)
    numbered = but(of("enrolment", messages)[2], row=-1)
    ended = but(messages[-1], rows="nine")
    assert refused([messages[0], numbered, ended, *messages[1:]]) == (
        SnapshotFault.INVALID,
        "messages under its id can't be read, the first at snapshots[0]@1: data.row: greater_than_equal (1), "
        "data.rows: int_type (1)" + WHEN,
    )


# What is refused: shrunk


def shrunk(before: AcceptedSnapshot, chosen: int = 89, **more: Any) -> tuple[SnapshotFault, str]:  # noqa: ANN401 - as of sent
    return refused(sent(rows(chosen), **more), replace(TERMS, accepted=before))


def test_a_snapshot_that_shrank_beyond_the_limit_is_refused() -> None:
    expected = (
        "the year 2026 has 89 rows, 11.0 % fewer than the 100 of apogee-0: at most 10 % is allowed; "
        "if that is right, raise snapshot.max_shrink_percent once"
    )
    assert shrunk(accepted({2026: 100})) == (SnapshotFault.SHRUNK, expected + WHEN)


def test_a_snapshot_that_lost_a_whole_year_is_refused() -> None:
    both = SnapshotScope(uais=frozenset({UAI}), academic_years=frozenset({2025, 2026}))
    fault, sentence = shrunk(accepted({2025: 50, 2026: 89}, scope=both), scope=both)
    assert fault is SnapshotFault.SHRUNK
    assert sentence.startswith("the year 2025 has 0 rows, 100.0 % fewer than the 50 of apogee-0")


@pytest.mark.parametrize(
    ("before", "percent"),
    [
        (accepted({2026: 98}), 10),
        (accepted({2026: 10}), 10),
        (accepted({2026: 1000}), 100),
        (accepted({2026: 100}, system="supann"), 10),
        (accepted({2026: 100}, scope=replace(SCOPE, etapes=("L*",))), 10),
        (accepted({2026: 100}, scope=replace(SCOPE, uais=frozenset({UAI, FOREIGN_UAI}))), 10),
        (accepted({2025: 100}, scope=replace(SCOPE, academic_years=frozenset({2025}))), 10),
    ],
    ids=["just within", "grown", "limit off", "another system", "fewer étapes", "more universities", "another year"],
)
def test_a_snapshot_that_did_not_shrink_or_cannot_be_compared_is_accepted(
    before: AcceptedSnapshot, percent: float
) -> None:
    limits = replace(LIMITS, max_shrink_percent=percent)
    assert len(judged(sent(rows(89)), replace(TERMS, accepted=before, limits=limits)).rows) == 89


OTHER_FORMS = [
    accepted({2026: 1000}, system="supann"),
    accepted({2026: 1000}, scope=replace(SCOPE, etapes=("L*",))),
    accepted({2026: 1000}, scope=replace(SCOPE, uais=frozenset({UAI, FOREIGN_UAI}))),
]


@pytest.mark.parametrize("before", OTHER_FORMS, ids=["system", "étapes", "universities"])
def test_hostile_scope_of_another_form_is_compared_with_what_is_known_in_it(before: AcceptedSnapshot) -> None:
    asked = []

    def known(scope: SnapshotScope, taken_at: float) -> dict[int, int]:
        asked.append((scope, taken_at))
        return {2026: 1000, 2024: 5}

    terms = replace(TERMS, accepted=before, known=known)
    fault, sentence = refused(sent(rows(1), scope=replace(SCOPE, etapes=("*",))), terms)
    assert fault is SnapshotFault.SHRUNK
    assert sentence.startswith("the year 2026 has 1 rows, 99.9 % fewer than the 1000 that are known")
    assert asked == [(replace(SCOPE, etapes=("*",)), TAKEN_AT)]
    assert len(judged(sent(rows(900)), terms).rows) == 900


def test_a_shrunk_snapshot_does_not_hide_the_one_before() -> None:
    full = sent(rows(100), "apogee-1", taken_at=TAKEN_AT)
    poor = sent(rows(50), "apogee-2", taken_at=TAKEN_AT + 60)
    found = judged([*full, *poor], replace(TERMS, accepted=accepted({2026: 100})))
    assert (found.id, len(found.rows)) == ("apogee-1", 100)
    assert [refusal.fault for refusal in found.passed_over] == [SnapshotFault.SHRUNK]


# Several refusals


def test_refusals_are_listed_newest_first_and_only_the_newest_five() -> None:
    messages = [
        each for number in range(7) for each in sent(rows(2), f"apogee-{number}", taken_at=TAKEN_AT + number)[:-1]
    ]
    with pytest.raises(SnapshotRefused) as raised:
        judged(messages)
    names = [f"apogee-{number}" for number in range(6, -1, -1)]
    assert [refusal.snapshot_id for refusal in raised.value.refusals] == names
    first, *expected, last = str(raised.value).splitlines()
    assert first == "no snapshot can be accepted:"
    assert [line.split(":")[0] for line in expected] == [f"snapshot {name}" for name in names[:5]]
    assert last == "and 2 older ones"


def test_a_refusal_names_no_student() -> None:
    messages = sent(rows(9), partitions=1)
    for wrong in (messages[:-1], without(messages, messages[3]), [*messages, but(messages[3], enrolment={})]):
        _, sentence = refused(wrong)
        assert "2200000" not in sentence


def test_a_refusal_says_of_which_snapshot() -> None:
    refusal = Refusal(snapshot_id="apogee-1", fault=SnapshotFault.EMPTY, sentence="it has no row at all")
    assert str(refusal) == "snapshot apogee-1: it has no row at all"


# Properties


snapshots_sent = st.builds(
    lambda count, partitions: sent(rows(count), partitions=partitions), st.integers(1, 12), st.integers(1, 4)
)


@given(snapshots_sent, st.data())
def test_any_message_that_is_lost_is_found_out(messages: list[Sent], data: st.DataObject) -> None:
    lost = data.draw(st.sampled_from(messages))
    with pytest.raises(SnapshotRefused):
        judged(without(messages, lost))


@given(snapshots_sent, st.data())
def test_any_message_may_be_repeated_anywhere_after_itself(messages: list[Sent], data: st.DataObject) -> None:
    chosen = list(messages)
    for message in data.draw(st.lists(st.sampled_from(messages), max_size=10)):
        chosen.insert(data.draw(st.integers(chosen.index(message) + 1, len(chosen))), message)
    assert sorted(judged(chosen).rows, key=repr) == sorted(judged(messages).rows, key=repr)


@given(snapshots_sent, st.data())
def test_no_row_is_lost_whatever_the_order_of_the_messages_of_several_snapshots(
    messages: list[Sent], data: st.DataObject
) -> None:
    older = sent(rows(15, etape="M1DROI"), "apogee-0", taken_at=TAKEN_AT - 60)
    chosen = data.draw(st.permutations([*messages, *older]))
    found = judged(chosen)
    assert (found.id, students(found.rows)) == ("apogee-1", students(judged(messages).rows))
    last = chosen[max(map(chosen.index, of("end", messages)))]
    assert students(judged(without(chosen, last)).rows) == students(judged(older).rows)


@given(snapshots_sent, st.data())
def test_a_producer_that_is_killed_at_any_point_is_refused_and_its_retry_accepted(
    messages: list[Sent], data: st.DataObject
) -> None:
    partial = messages[: data.draw(st.integers(1, len(messages) - 1))]
    with pytest.raises(SnapshotRefused):
        judged(partial)
    assert len(judged([*partial, *messages]).rows) == len(of("enrolment", messages))


@given(snapshots_sent, st.data())
def test_any_change_of_a_row_on_the_way_is_found_out(messages: list[Sent], data: st.DataObject) -> None:
    chosen = data.draw(st.sampled_from(of("enrolment", messages)))
    partition, key, value, headers = chosen
    place = data.draw(st.integers(0, len(value) - 1))
    other = value[:place] + bytes([data.draw(st.integers(0, 255).filter(lambda byte: byte != value[place]))])
    with pytest.raises(SnapshotRefused):
        judged(changed(messages, chosen, (partition, key, other + value[place + 1 :], headers)))


# What is gathered before it is sent


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ([], "the source has no row at all: nothing was published"),
        ([row(1), row(2, year=2025)], "rows lie outside its scope, by their academic_year (1): nothing was published"),
        ([row(1), row(1, payment="due")], "enrolments occur twice with different contents (1): nothing was published"),
        (
            [row(1), row(2, source={"system": "supann", "uai": UAI})],
            "rows lie outside its scope, by their source.system (1): nothing was published",
        ),
    ],
    ids=["empty", "another year", "contradictory", "two systems"],
)
def test_what_would_be_refused_is_not_even_sent(chosen: list[Any], expected: str) -> None:
    with pytest.raises(SourceIncomplete) as raised, collect(chosen, SCOPE):
        pass
    assert str(raised.value) == expected


def test_rows_that_are_told_twice_are_sent_once() -> None:
    with collect([row(1), row(2), row(1)], SCOPE) as collected:
        assert (collected.rows, collected.repeated, collected.rows_by_year, collected.system) == (
            2,
            1,
            {2026: 2},
            "apogee",
        )
        assert len(list(collected)) == len(list(collected)) == 2
