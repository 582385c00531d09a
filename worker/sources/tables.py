"""Rows of CSV: a line of column names, then one line per enrolment.

The columns are those of COLUMNS, by their name or by their dotted path in the contract; a `CsvForm` maps other names to
them. An empty cell is absent; spaces around a cell don't count. Without a column `enrolment_id`, the id of an enrolment
is made of its student, year, étape and version.
"""

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Any

from pydantic import ValidationError

import schemas
from schemas import EnrolmentRow
from worker.domain.errors import SettingsError, SourceIncomplete
from worker.sources.tally import Tally

COLUMNS = {
    "enrolment_id": "enrolment_id",
    "academic_year": "academic_year",
    "student_id": "student.student_id",
    "login": "student.login",
    "etape": "etape.code",
    "etape_version": "etape.version",
    "etape_label": "etape.label",
    "component": "etape.component.code",
    "component_label": "etape.component.label",
    "status": "status",
    "payment": "payment",
    "system": "source.system",
    "uai": "source.uai",
    "version": "version",
}
IGNORED = ""
"""The path of a column that is ignored."""
_KNOWN = {**COLUMNS, **{path: path for path in COLUMNS.values()}}
_NUMBERS = {"academic_year", "version"}
_NAMING = ("student.student_id", "academic_year", "etape.code", "etape.version")
_DIGITS = re.compile("[0-9]{1,19}")
_SPREADSHEET = re.compile(r"[0-9]+([.,][0-9]+)?[eE][+-]?[0-9]+|[0-9]+[.,]0+")
"""A number that a spreadsheet has rewritten: 29900001.0, 2,99E+07."""
_SEPARATORS = (";", ",", "\t", "|")
_TRAILER = "#rows"
_OF_UTF_8 = re.compile(rb"[\xc3-\xf4][\x80-\xbf]")
"""A letter with an accent in UTF-8; in windows-1252 such a pair of bytes hardly ever occurs."""
_ACCENTED = re.compile(rb"[\x80-\xff]")


@dataclass(frozen=True, slots=True, kw_only=True)
class CsvForm:
    """How a file differs from the default: see `FileSourceSettings`."""

    encoding: str | None = None
    separator: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    constants: Mapping[str, str] = field(default_factory=dict)
    words: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raise SettingsError when it names columns that don't exist."""
        named = {*self.columns.values(), *self.constants, *self.words} - {IGNORED}
        if unknown := sorted(named - COLUMNS.keys()):
            raise SettingsError(f"no such column: {', '.join(unknown)}; there are {', '.join(COLUMNS)}")


def csv_rows(file: IO[bytes], form: CsvForm, tally: Tally) -> Iterator[EnrolmentRow]:
    """Yield the rows of a file from its beginning; the tally counts the lines that can't be read."""
    table = _cells(file, form, tally)
    _, names = next(table, (1, []))
    columns = _Columns(names, form)
    for number, cells in table:
        if tally.trailer is not None:
            raise SourceIncomplete(f"line {number} follows the trailer")
        if cells[0] == _TRAILER:
            tally.trailer = _count("".join(cells[1:]), number)
            continue
        row = columns.row(cells)
        if isinstance(row, EnrolmentRow):
            tally.accept()
            yield row
        else:
            tally.reject(number, *row)


class _Columns:
    """The columns of a file, and how a line of cells becomes a row."""

    def __init__(self, names: Sequence[str], form: CsvForm) -> None:
        """Raise SourceIncomplete when the line of names doesn't suit the form."""
        self._paths = _paths(names, form)
        self._constants = {COLUMNS[name]: text for name, text in form.constants.items()}
        self._words = {COLUMNS[name]: meanings for name, meanings in form.words.items()}

    def row(self, cells: Sequence[str]) -> EnrolmentRow | Sequence[tuple[str, str]]:
        """Return the row of a line, or what is wrong with it, by field and type of error."""
        if len(cells) != len(self._paths):
            return [("line", "wrong_number_of_cells")]
        values = dict(self._constants)
        for path, cell in zip(self._paths, cells, strict=True):
            if cell and path != IGNORED:
                values[path] = self._words.get(path, {}).get(cell, cell)
        if _SPREADSHEET.fullmatch(values.get("student.student_id", "")):
            return [("student.student_id", "written_by_a_spreadsheet")]
        try:
            return EnrolmentRow.model_validate(_nested(values))
        except ValidationError as error:
            return schemas.problems(error, depth=0)


def _count(text: str, line: int) -> int:
    if not _DIGITS.fullmatch(text):
        raise SourceIncomplete(f"the trailer, on line {line}, has no count")
    return int(text)


def _cells(file: IO[bytes], form: CsvForm, tally: Tally) -> Iterator[tuple[int, list[str]]]:
    """Yield the number of each line that isn't empty, and its cells."""
    encoding = form.encoding or _encoding(file)

    def text() -> Iterator[str]:
        for line in file:
            tally.cut = not line.endswith((b"\n", b"\r"))
            yield line.decode(encoding)

    lines = text()
    table = csv.reader((), strict=True)
    try:
        first = next(lines).removeprefix("\ufeff")
        separator = form.separator or max(_SEPARATORS, key=first.count)
        table = csv.reader(_chained(first, lines), delimiter=separator, strict=True)
        yield from ((table.line_num, [cell.strip() for cell in cells]) for cells in table if cells)
    except UnicodeDecodeError:
        sentence = f"line {table.line_num + 1} is not {encoding}: name its encoding in the settings"
        raise SourceIncomplete(sentence) from None
    except csv.Error as error:
        raise SourceIncomplete(f"line {table.line_num} is not CSV ({error})") from None


def _chained(first: str, rest: Iterator[str]) -> Iterator[str]:
    yield first
    yield from rest


def _encoding(file: IO[bytes]) -> str:
    """Return the encoding of a file, and rewind it; a mixture of UTF-8 and another one is refused."""
    of_utf_8 = first_other = 0
    for number, line in enumerate(file, 1):
        if _ACCENTED.search(line):
            try:
                line.decode()
            except UnicodeDecodeError:
                first_other = first_other or number
            of_utf_8 += bool(_OF_UTF_8.search(line))
    file.seek(0)
    if first_other and of_utf_8:
        raise SourceIncomplete(f"the file mixes encodings: line {first_other} isn't UTF-8, and {of_utf_8} lines are")
    return "windows-1252" if first_other else "utf-8"


def _paths(names: Sequence[str], form: CsvForm) -> list[str]:
    """Return the dotted path of each column; raises SourceIncomplete when one is not known, or occurs twice."""
    if missing := len(form.columns.keys() - {*names}):
        raise SourceIncomplete(f"the first line lacks {missing} of the {len(form.columns)} columns of the settings")
    known = _KNOWN | {name: COLUMNS.get(ours, IGNORED) for name, ours in form.columns.items()}
    unknown = [str(number) for number, name in enumerate(names, 1) if name not in known]
    if unknown:
        raise SourceIncomplete(
            f"the first line has columns that are not known ({', '.join(unknown)} of {len(names)}); "
            f"known are {', '.join(COLUMNS)}"
        )
    paths = [known[name] for name in names]
    used = [path for path in paths if path != IGNORED]
    if len({*used}) < len(used):
        raise SourceIncomplete("the first line names a column twice")
    return paths


def _nested(values: Mapping[str, str]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for path, text in values.items():
        *parents, name = path.split(".")
        place = row
        for parent in parents:
            place = place.setdefault(parent, {})
        place[name] = int(text) if path in _NUMBERS and _DIGITS.fullmatch(text) else text
    if "enrolment_id" not in row:
        row["enrolment_id"] = ":".join(values.get(path, "") for path in _NAMING)
    return row
