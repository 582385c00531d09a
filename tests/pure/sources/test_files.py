"""Files as a source of snapshots: what is read, and what isn't whole."""

import csv
import io
from collections.abc import Callable, Iterable
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import EnrolmentRow
from tests.support.snapshots import line, row, row_with, rows
from worker.domain.errors import SettingsError, SourceIncomplete
from worker.sources import files
from worker.sources.tables import COLUMNS, CsvForm

HEAD = "enrolment_id;academic_year;student_id;etape;etape_version;status;payment;system;uai;version"
ONE = "2026:1:L1DROI:101:1;2026;22000001;L1DROI;101;active;paid;apogee;0141408E;7"
TWO = "2026:2:L1DROI:101:1;2026;22000002;L1DROI;101;active;paid;apogee;0141408E;7"


PLAIN = CsvForm()


def read(content: bytes, form: CsvForm = PLAIN, *, expected: int | None = None) -> list[EnrolmentRow]:
    """Read a file as the command does."""
    return list(files.read(io.BytesIO(content), form, expected=expected))


def refused(content: bytes, form: CsvForm = PLAIN, *, expected: int | None = None) -> str:
    with pytest.raises(SourceIncomplete) as raised:
        read(content, form, expected=expected)
    return str(raised.value)


def lines(rows_given: Iterable[EnrolmentRow]) -> bytes:
    return b"".join(line(each) + b"\n" for each in rows_given)


def text(*some: str, ending: str = "\n") -> bytes:
    return "".join(each + ending for each in some).encode()


# JSON lines


def test_json_lines_are_read() -> None:
    rows_given = [row(1), row(2, version=None), row(3, etape="M1DROI", status="cancelled")]
    assert read(lines(rows_given)) == rows_given


@pytest.mark.parametrize(
    "change", [lambda c: c[:-1], lambda c: b"\xef\xbb\xbf" + c, lambda c: c.replace(b"\n", b"\r\n\n")]
)
def test_json_lines_without_a_last_line_break_with_a_bom_or_with_empty_lines_are_read(change: Any) -> None:  # noqa: ANN401 - a function of bytes
    assert read(change(lines(rows(3)))) == rows(3)


def test_accents_of_json_lines_are_read() -> None:
    rows_given = row_with(etape={"code": "L1DROI", "label": "Licence 1 Économie, à distance"})
    assert read(lines([rows_given])) == [rows_given]


@pytest.mark.parametrize("trailer", [b'{"rows": 3}', b' {"rows":3} \n', b'{"rows": 3}\n\n'])
def test_a_trailer_of_json_lines_counts_them(trailer: bytes) -> None:
    assert read(lines(rows(3)) + trailer) == rows(3)


@pytest.mark.parametrize("counted", [2, 4, -1])
def test_a_trailer_that_counts_otherwise_says_so(counted: int) -> None:
    content = lines(rows(3)) + b'{"rows": %d}\n' % counted
    assert refused(content) == f"the file has 3 rows, and {counted} were in its trailer"


def test_a_row_after_the_trailer_says_so() -> None:
    assert refused(lines(rows(2)) + b'{"rows": 2}\n' + lines([row(3)])) == "line 4 follows the trailer"


@pytest.mark.parametrize("wrong", [b'{"rows": "3"}', b'{"rows": true}', b'{"rows": 3, "more": 1}', b"[3]", b"3"])
def test_what_only_looks_like_a_trailer_is_a_row_that_cannot_be_read(wrong: bytes) -> None:
    assert refused(lines(rows(3)) + wrong).startswith("1 of 4 rows can't be read, the first on line 4: ")


def test_the_count_that_was_asked_for_must_be_right() -> None:
    assert read(lines(rows(3)), expected=3) == rows(3)
    assert refused(lines(rows(3)), expected=4) == "the file has 3 rows, and 4 were asked for"
    assert refused(b"", expected=4) == "the file has 0 rows, and 4 were asked for"


def test_json_lines_that_were_cut_say_so() -> None:
    assert refused(lines(rows(3))[:-20]) == "1 of 3 rows can't be read, the first on line 3: value: json_invalid (1)"


def test_rows_that_cannot_be_read_are_counted_by_field_without_their_values() -> None:
    wrong = [
        orjson.loads(line(row(1))) | {"status": "exmatriculé"},
        orjson.loads(line(row(2))) | {"status": "Exemple", "nom": "Exemple"},
    ]
    content = lines([row(0)]) + b"".join(orjson.dumps(each) + b"\n" for each in wrong) + b'{"e": "Exemple"\n'
    assert refused(content) == (
        "3 of 4 rows can't be read, the first on line 2: "
        "status: literal_error (2); nom: extra_forbidden (1); value: json_invalid (1)"
    )


def test_json_lines_in_another_encoding_cannot_be_read() -> None:
    rows_given = row_with(etape={"code": "L1DROI", "version": "101", "label": "Licence 1 Économie"})
    latin = line(rows_given).decode().encode("latin-1") + b"\n"
    assert refused(lines(rows(1)) + latin) == "1 of 2 rows can't be read, the first on line 2: value: json_invalid (1)"


# CSV


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("bom", ["", "\ufeff"])
def test_csv_is_read(delimiter: str, ending: str, bom: str) -> None:
    content = bom.encode() + text(HEAD, ONE, "", TWO, ending=ending).replace(b";", delimiter.encode())
    assert read(content) == [row(1), row(2)]


def test_every_column_is_known_by_its_name_and_by_its_path_in_the_contract() -> None:
    rows_given = row_with(
        student={"student_id": "00000001", "login": "e1"},
        etape={
            "code": "L1DROI",
            "version": "101",
            "label": "Licence 1; Droit, « à distance »",
            "component": {"code": "DRT", "label": 'UFR "Droit"'},
        },
    )
    cells = [
        *("2026:1:L1DROI:101:1", "2026", "00000001", "e1", "L1DROI", "101", "Licence 1; Droit, « à distance »"),
        *("DRT", 'UFR "Droit"', "active", "paid", "apogee", "0141408E", "7"),
    ]
    for names in (COLUMNS.keys(), COLUMNS.values()):
        for delimiter in ",;":
            file = io.StringIO()
            csv.writer(file, delimiter=delimiter).writerows([list(names), cells])
            assert read(file.getvalue().encode()) == [rows_given]


def test_columns_may_come_in_any_order_and_optional_ones_may_be_missing_or_empty() -> None:
    content = text(
        "uai,system,status,etape,student_id,academic_year,enrolment_id,login",
        "0141408E,supann,active,L1DROI,22000001,2026,a,",
    )
    [rows_given] = read(content)
    assert (rows_given.version, rows_given.payment, rows_given.student.login, rows_given.etape.label) == (
        None,
        "unknown",
        None,
        None,
    )


@pytest.mark.parametrize("trailer", ["#rows;2", "#rows;2;;;;;;;;"])
def test_a_trailer_of_csv_counts_its_rows_and_its_line_break_is_not_needed(trailer: str) -> None:
    assert read(text(HEAD, ONE, TWO, trailer)) == [row(1), row(2)]
    assert read(text(HEAD, ONE, TWO, trailer)[:-1]) == [row(1), row(2)]


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["#rows;3"], "the file has 2 rows, and 3 were in its trailer"),
        (["#rows;"], "the trailer, on line 4, has no count"),
        (["#rows"], "the trailer, on line 4, has no count"),
        (["#rows;two"], "the trailer, on line 4, has no count"),
        (["#rows;-2"], "the trailer, on line 4, has no count"),
        (["#rows;2", ONE], "line 5 follows the trailer"),
        (["#rows;2", "#rows;2"], "line 5 follows the trailer"),
        ([";;;"], "1 of 3 rows can't be read, the first on line 4: line: wrong_number_of_cells (1)"),
        ([ONE + ";"], "1 of 3 rows can't be read, the first on line 4: line: wrong_number_of_cells (1)"),
        ([ONE.replace("paid", "payé")], "1 of 3 rows can't be read, the first on line 4: payment: literal_error (1)"),
        (
            [ONE.replace("2026;", "2026-2027;")],
            "1 of 3 rows can't be read, the first on line 4: academic_year: int_type (1)",
        ),
        ([ONE.replace("22000001", "")], "1 of 3 rows can't be read, the first on line 4: student: missing (1)"),
        (['"a;b'], "line 4 is not CSV (unexpected end of data)"),
        (
            [ONE.replace("active", "act\0ive")],
            "1 of 3 rows can't be read, the first on line 4: status: literal_error (1)",
        ),
    ],
)
def test_csv_that_is_not_whole_says_why(more: list[str], sentence: str) -> None:
    assert refused(text(HEAD, ONE, TWO, *more)) == sentence


def test_csv_that_was_cut_in_its_last_cell_says_so_even_if_the_count_is_right() -> None:
    """Half of a version, or of a login, may look whole."""
    sentence = "the last line has no line break, as if the file was cut: end it with one"
    assert refused(text(HEAD, ONE, TWO)[:-1]) == sentence
    assert refused(text(HEAD, ONE, TWO)[:-1], expected=2) == sentence


@pytest.mark.parametrize(
    ("head", "columns"),
    [
        (HEAD.replace("payment", "paiement"), "7 of 10"),
        (ONE, "1, 2, 3, 4, 5, 6, 7, 8, 9, 10 of 10"),
        ("Camille:Exemple", "1 of 1"),
        (HEAD + ";", "11 of 11"),
    ],
    ids=["another name", "no names", "another delimiter", "an empty name"],
)
def test_a_first_line_that_names_other_columns_says_which_without_quoting_it(head: str, columns: str) -> None:
    known = ", ".join(COLUMNS)
    sentence = f"the first line has columns that are not known ({columns}); known are {known}"
    assert refused(text(head, ONE)) == sentence


@pytest.mark.parametrize("again", ["status", "student.student_id"])
def test_a_column_that_is_named_twice_says_so(again: str) -> None:
    assert refused(text(f"{HEAD};{again}", f"{ONE};1")) == "the first line names a column twice"


LABELLED = [HEAD + ";etape_label", ONE + ";Licence 1 Droit", TWO + ";Œuvres à étudier, Économie"]


@pytest.mark.parametrize("encoding", ["utf-8", "windows-1252"])
@pytest.mark.parametrize("named", [False, True], ids=["detected", "named"])
def test_accents_of_csv_are_read_in_the_encodings_of_spreadsheets(encoding: str, named: bool) -> None:  # noqa: FBT001 - a case
    content = "\n".join([*LABELLED, ""]).encode(encoding)
    found = read(content, CsvForm(encoding=encoding if named else None))
    assert [each.etape.label for each in found] == ["Licence 1 Droit", "Œuvres à étudier, Économie"]


def test_latin_1_is_read_when_it_is_said() -> None:
    content = text(*LABELLED[:2], TWO + ";Licence 1 Économie").decode().encode("latin-1")
    assert read(content, CsvForm(encoding="iso-8859-1"))[1].etape.label == "Licence 1 Économie"


def test_csv_that_is_not_in_the_encoding_that_was_said_says_on_which_line() -> None:
    content = text(*LABELLED[:2], TWO + ";Licence 1 Économie").decode().encode("latin-1")
    assert refused(content, CsvForm(encoding="utf-8")) == "line 3 is not utf-8: name its encoding in the settings"


def test_a_mixture_of_encodings_is_refused_rather_than_half_of_it_misread() -> None:
    content = text(*LABELLED) + (TWO + ";Économie\n").encode("latin-1")
    assert refused(content) == "the file mixes encodings: line 4 isn't UTF-8, and 1 lines are"


FOREIGN = CsvForm(
    separator=";",
    columns={"Code étudiant": "student_id", "Année": "academic_year", "Étape": "etape", "VET": "etape_version",
             "État": "status", "Nom": ""},
    constants={"system": "apogee", "uai": "0141408E", "payment": "paid"},
    words={"status": {"E": "active", "R": "resigned"}},
)  # fmt: skip
EXPORT = ["Code étudiant;Nom;Année;Étape;VET;État", "00000042;Exemple;2026;L1DROI  ;101;E", "22000002;;2026;L1DROI;;R"]


def test_a_file_of_another_program_is_read_by_what_the_settings_say_of_it() -> None:
    one, two = read(text(*EXPORT), FOREIGN)
    assert (one.student.student_id, one.status, one.payment) == ("00000042", "active", "paid")
    assert (one.etape.code, one.etape.version, one.source.uai) == ("L1DROI", "101", "0141408E")
    assert (two.status, two.etape.version) == ("resigned", None)


def test_without_an_id_an_enrolment_is_named_by_its_student_year_etape_and_version() -> None:
    assert [each.enrolment_id for each in read(text(*EXPORT), FOREIGN)] == [
        "00000042:2026:L1DROI:101",
        "22000002:2026:L1DROI:",
    ]


def test_a_word_that_the_settings_do_not_translate_is_no_state() -> None:
    sentence = refused(text(*EXPORT, "22000003;;2026;L1DROI;101;Z"), FOREIGN)
    assert sentence == "1 of 3 rows can't be read, the first on line 4: status: literal_error (1)"


def test_a_file_that_lacks_a_column_that_the_settings_name_says_so() -> None:
    assert refused(text(*EXPORT).replace(b"Nom", b"Age"), FOREIGN) == (
        "the first line lacks 1 of the 6 columns of the settings"
    )


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: CsvForm(columns={"État": "etat"}),
        lambda: CsvForm(constants={"etat": "active"}),
        lambda: CsvForm(words={"etat": {"E": "active"}}),
    ],
    ids=["columns", "constants", "words"],
)
def test_settings_that_speak_of_a_column_that_does_not_exist_say_which(wrong: Callable[[], CsvForm]) -> None:
    with pytest.raises(SettingsError, match=r"^no such column: etat; there are enrolment_id, "):
        wrong()


@pytest.mark.parametrize("number", ["22000001.0", "22000001,00", "2,2E+07", "2.2e7"])
def test_a_student_number_that_a_spreadsheet_has_rewritten_is_refused(number: str) -> None:
    content = text(HEAD, ONE, TWO.replace("22000002", number))
    assert refused(content) == (
        "1 of 2 rows can't be read, the first on line 3: student.student_id: written_by_a_spreadsheet (1)"
    )


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_a_file_in_utf_16_is_refused_whatever_it_holds(encoding: str) -> None:
    for content in (text(HEAD, ONE), lines(rows(2))):
        assert refused(content.decode().encode(encoding))


@pytest.mark.parametrize("content", [b"", b"\xef\xbb\xbf", b"\n\n", text(HEAD)])
def test_a_file_without_a_row_gives_none(content: bytes) -> None:
    assert read(content) == []


def test_a_file_is_read_as_a_stream() -> None:
    given = io.BytesIO(lines(rows(1)) + b"Camille\n" * 100_000)
    assert [next(iter(files.read(given, PLAIN)))] == rows(1)
    assert given.tell() < 100_000, "most of it was not read yet"


# Properties


@given(st.integers(1, 6), st.data())
def test_a_file_that_is_cut_anywhere_is_refused_or_ends_with_a_whole_row_that_a_count_misses(
    count: int, data: st.DataObject
) -> None:
    json_lines = lines(rows(count)) + b'{"rows": %d}' % count, rows(count)
    table = text(HEAD, *[ONE] * count, f"#rows;{count}")[:-1], [row(1)] * count
    content, rows_given = data.draw(st.sampled_from([json_lines, table]))
    cut = content[: data.draw(st.integers(0, len(content) - 1))]
    try:
        found = read(cut)
    except SourceIncomplete:
        return
    assert found == rows_given[: len(found)]
    if len(found) < count:
        assert refused(cut, expected=count)
