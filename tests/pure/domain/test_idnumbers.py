"""Idnumbers that a database may take for one: the expected values are those of a MariaDB 10.11."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.domain.idnumbers import alike, fold


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("C2abc", "C2ABC"),
        ("C2ETE", "C2ÉTÉ"),
        ("C2ETE", "C2E\N{COMBINING ACUTE ACCENT}TE"),
        ("C2", "C2  "),
        ("C2", "C2\N{NO-BREAK SPACE}"),
        ("C2SS", "C2ß"),
        ("C2oeuvre", "C2Œuvre"),
        ("C2\N{GRINNING FACE}", "C2\N{ROCKET}"),
        ("C2A", "C2\N{ZERO WIDTH SPACE}A"),
        ("C2A", "C2\x01A"),
        ("C2A", "\N{FULLWIDTH LATIN CAPITAL LETTER C}\N{SUPERSCRIPT TWO}A"),
        ("C2fi", "C2\N{LATIN SMALL LIGATURE FI}"),
        ("C2", "C\N{ARABIC-INDIC DIGIT TWO}"),
        ("C2s", "C2\N{LATIN SMALL LETTER LONG S}"),
    ],
)
def test_what_mariadb_takes_for_one_has_one_fold(one: str, other: str) -> None:
    assert one != other
    assert fold(one) == fold(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("C2SS", "C2ẞ"),
        ("C2A", "C2\N{SOFT HYPHEN}A"),
        ("C2\N{GRINNING FACE}", "C2\N{REPLACEMENT CHARACTER}"),
        ("C2O", "C2Ø"),
        ("C2A", "C2\N{EN DASH}A"),
    ],
)
def test_some_that_mariadb_keeps_apart_have_one_fold_too_since_equal_folds_are_only_a_suspicion(
    one: str, other: str
) -> None:
    assert fold(one) == fold(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("C2ABC", "C2ABD"),
        ("C2ABC", "C2-ABC"),
        ("C2ABC", "C2_ABC"),
        ("C2 ABC", "C2ABC"),
        ("C2ABC", " C2ABC"),
        ("C2ABC", "C2ABC1"),
        ("C2\N{GRINNING FACE}", "C2"),
        ("C2\N{GRINNING FACE}", "C2\N{ROCKET}\N{ROCKET}"),
        ("C2s", "C2ss"),
        ("", "C"),
    ],
)
def test_what_mariadb_keeps_apart_has_two_folds(one: str, other: str) -> None:
    assert fold(one) != fold(other)


@given(st.text())
def test_an_idnumber_folds_like_its_fold_and_like_any_spelling_of_it(text: str) -> None:
    assert fold(fold(text)) == fold(text)
    assert fold(text + "  ") == fold(text)
    assert fold(text + "\N{ZERO WIDTH SPACE}") == fold(text)


@given(st.text(st.characters(max_codepoint=127)))
def test_of_ascii_only_the_case_and_what_cannot_be_seen_count_for_nothing(text: str) -> None:
    assert fold(text) == "".join(filter(str.isprintable, text)).lower().rstrip(" ")


@dataclass(frozen=True)
class Row:
    id: int
    idnumber: str


def test_cohorts_that_are_alike_come_with_the_same_text_first_and_then_by_spelling() -> None:
    rows = [Row(1, "C2"), Row(2, "Ç2"), Row(3, "c2 "), Row(4, "C3"), Row(5, "C2")]
    assert alike("C2", rows) == [rows[0], rows[4], rows[2], rows[1]]
    assert alike("C4", rows) == []
