"""What a directory says otherwise than before: whatever happens to its entries, its last words are true."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

import schemas
from schemas import EnrolmentDeleted, EnrolmentRow, EnrolmentState
from tests.support.snapshots import row
from worker.domain.directory import KnownEntry
from worker.sources.watch import changes

YEARS, NOW = frozenset({2026}), 1_795_600_000.0
ENTRIES, STUDENTS, ETAPES = ("a", "b", "c"), ("22000001", "22000002"), ("L1DROI", "L2DROI")


def stated(student: str, etapes: frozenset[str]) -> list[EnrolmentRow]:
    return [
        row(1, etape=etape, student={"student_id": student}, enrolment_id=f"{student}:{etape}", version=None)
        for etape in sorted(etapes)
    ]


def entry(uuid: str, student: str, etapes: frozenset[str], *, second: int, gone: bool = False) -> KnownEntry:
    rows = [] if gone else stated(student, etapes)
    return KnownEntry(
        uuid=uuid,
        csn=f"20261125{second // 3600:02}{second // 60 % 60:02}{second % 60:02}.000000Z#000000#000#000000",
        terms="t",
        student_id=student if rows else None,
        rows=changes.written(rows),
        version=0,
        missed_at=changes.instant("20261125000000Z") + second if gone else None,
        gone=gone,
    )


STEPS = st.tuples(
    st.sampled_from(ENTRIES), st.sampled_from(STUDENTS), st.frozensets(st.sampled_from(ETAPES)), st.booleans()
)

LAST = [((uuid, STUDENTS[0], frozenset({ETAPES[0]}), False), 0, False) for uuid in ENTRIES]
"""In the end every entry is read by somebody who isn't killed."""


@given(st.lists(st.tuples(STEPS, st.integers(0, 10_000), st.booleans()), max_size=12))
def test_the_last_word_on_each_enrolment_is_what_the_directory_shows(
    steps: list[tuple[tuple[str, str, frozenset[str], bool], int, bool]],
) -> None:
    """Clocks go back and forth: versions grow all the same."""
    kept: dict[str, KnownEntry] = {}
    last: dict[str, schemas.Event] = {}
    highest = 0
    for (uuid, student, etapes, gone), second, killed in [*steps, *LAST]:
        if gone and (uuid not in kept or kept[uuid].gone):
            continue
        found = entry(uuid, student, etapes, second=second, gone=gone)
        after = {uuid: changes.following(kept.get(uuid), found, unknown=False)}
        step = changes.compare(kept, after, highest=highest, at=NOW, years=YEARS)
        kept |= {each.uuid: changes.unsure(kept.get(uuid), each) for each in step.entries if killed}
        for change in step.changes:
            key, value = changes.message("ldap", change)
            event = schemas.EVENTS.validate_json(value)
            assert key == schemas.message_key(event).encode()
            if isinstance(event, EnrolmentState | EnrolmentDeleted):
                before = last.get(event.data.enrolment_id)
                assert not isinstance(before, EnrolmentState | EnrolmentDeleted) or (
                    event.data.version > before.data.version
                )
                last[event.data.enrolment_id] = event
        if not killed:
            kept |= {each.uuid: each for each in step.entries}
        highest = max(each.version for each in kept.values())
    shown = {
        f"{e.student_id}:{etape}" for e in kept.values() for etape in ETAPES if f":{etape}" in e.rows and not e.gone
    }
    assert {name for name, event in last.items() if isinstance(event, EnrolmentState)} == shown


def test_a_change_that_is_repeated_is_the_same_message() -> None:
    one = entry("a", STUDENTS[0], frozenset({"L1DROI"}), second=1)
    both = [changes.compare({}, {"a": one}, highest=0, at=at, years=YEARS) for at in (1.0, 2.0)]
    first, second = ([changes.message("ldap", change) for change in each.changes] for each in both)
    assert first == second


def test_what_is_unknown_adds_and_takes_nothing_back() -> None:
    before = entry("a", STUDENTS[0], frozenset({"L1DROI"}), second=1)
    unknown = entry("a", STUDENTS[0], frozenset({"L2DROI"}), second=2)
    after = changes.following(before, unknown, unknown=True)
    found = changes.compare({"a": before}, {"a": after}, highest=0, at=3.0, years=YEARS).changes
    assert [change.kind for change in found] == ["state"]


def test_an_enrolment_of_a_year_that_was_closed_is_not_said_to_be_over() -> None:
    before = entry("a", STUDENTS[0], frozenset({"L1DROI"}), second=1)
    after = replace(before, rows=changes.NOTHING)
    assert changes.compare({"a": before}, {"a": after}, highest=0, at=3.0, years=frozenset({2027})).changes == ()
    assert len(changes.compare({"a": before}, {"a": after}, highest=0, at=3.0, years=YEARS).changes) == 1


def test_another_attribute_of_the_student_number_merges_nobody() -> None:
    before = entry("a", STUDENTS[0], frozenset({"L1DROI"}), second=1)
    after = entry("a", STUDENTS[1], frozenset({"L1DROI"}), second=1)
    for terms, kinds in (("t", ["rekeyed", "state", "deleted"]), ("others", ["state", "deleted"])):
        read = {"a": replace(after, terms=terms)}
        found = changes.compare({"a": before}, read, highest=0, at=NOW, years=YEARS).changes
        assert [change.kind for change in found] == kinds
