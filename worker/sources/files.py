"""A file as a source: JSON lines, or CSV. Read once, as a stream; UTF-8.

| form | rows | trailer, as the last line |
| --- | --- | --- |
| JSON lines | the `data` of an `enrolment.state`; `version` may be missing | `{"rows": 52000}` |
| CSV | a line of column names, then `,` or `;` between the cells, as between the names | `#rows;52000` |

The columns of CSV are those of COLUMNS, by their name or by their dotted path in the contract. An empty cell is absent.
"""

import csv
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import orjson
from pydantic import ValidationError

import schemas
from schemas import EnrolmentRow
from worker.errors import SourceIncomplete

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
_NUMBERS = {"academic_year", "version"}
_DIGITS = re.compile("[0-9]{1,19}")
_TRAILER = "#rows"
_BOM = b"\xef\xbb\xbf"
MOST_KINDS = 10


def read(lines: Iterable[bytes], *, expected: int | None = None) -> Iterator[EnrolmentRow]:
    """Give the rows of a file; `expected` is how many there must be, besides what its trailer says.

    Raises SourceIncomplete at the end when a row can't be read or the count is wrong, at once when the file is no file
    of rows. Its text counts fields and types of error, and never holds a value.
    """
    tally = _Tally()
    rest = iter(lines)
    first = next(rest, b"").removeprefix(_BOM)
    if first:
        form = _json_lines if first.lstrip().startswith(b"{") else _csv
        yield from form(_chained(first, rest), tally)
    tally.check(expected)


def _chained(first: bytes, rest: Iterable[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest


class _Tally:
    """What was read so far."""

    def __init__(self) -> None:
        self.good = 0
        self.bad = 0
        self.first_bad: int | None = None
        self.kinds: Counter[str] = Counter()
        self.trailer: int | None = None
        self.cut = False
        """Whether the last line of CSV has no line break: its last cell may be half of one."""

    def accept(self) -> None:
        self.good += 1

    def reject(self, line: int, *problems: tuple[str, str]) -> None:
        self.bad += 1
        self.first_bad = self.first_bad or line
        self.kinds.update(f"{field}: {kind}" for field, kind in problems)

    def check(self, expected: int | None) -> None:
        rows = self.good + self.bad
        for counted, who in ((expected, "asked for"), (self.trailer, "in its trailer")):
            if counted is not None and counted != rows:
                raise SourceIncomplete(f"the file has {rows} rows, and {counted} were {who}")
        if self.cut and self.trailer is None:
            raise SourceIncomplete("the last line has no line break, as if the file was cut: end it with one")
        if self.bad:
            kinds = "; ".join(f"{kind} ({number})" for kind, number in self.kinds.most_common(MOST_KINDS))
            raise SourceIncomplete(
                f"{self.bad} of {rows} rows can't be read, the first on line {self.first_bad}: {kinds}"
            )


def _json_lines(lines: Iterator[bytes], tally: _Tally) -> Iterator[EnrolmentRow]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        if tally.trailer is not None:
            raise SourceIncomplete(f"line {number} follows the trailer")
        try:
            row = EnrolmentRow.model_validate_json(line)
        except ValidationError as error:
            tally.trailer = _trailer(line)
            if tally.trailer is None:
                tally.reject(number, *schemas.problems(error, depth=0))
        else:
            tally.accept()
            yield row


def _trailer(line: bytes) -> int | None:
    try:
        content = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    rows = content.get("rows") if isinstance(content, dict) and len(content) == 1 else None
    return rows if type(rows) is int else None


def _csv(lines: Iterator[bytes], tally: _Tally) -> Iterator[EnrolmentRow]:
    table = _cells(lines, tally)
    _, names = next(table, (1, []))
    paths = _paths(names)
    for number, cells in table:
        if tally.trailer is not None:
            raise SourceIncomplete(f"line {number} follows the trailer")
        if cells[0] == _TRAILER:
            tally.trailer = _count("".join(cells[1:]), number)
        elif len(cells) != len(paths):
            tally.reject(number, ("line", "wrong_number_of_cells"))
        else:
            try:
                row = EnrolmentRow.model_validate(_nested(paths, cells))
            except ValidationError as error:
                tally.reject(number, *schemas.problems(error, depth=0))
            else:
                tally.accept()
                yield row


def _count(text: str, line: int) -> int:
    if not _DIGITS.fullmatch(text):
        raise SourceIncomplete(f"the trailer, on line {line}, has no count")
    return int(text)


def _cells(lines: Iterator[bytes], tally: _Tally) -> Iterator[tuple[int, list[str]]]:
    """Give the number of each line that isn't empty, and its cells."""
    first = next(lines)
    delimiter = ";" if first.count(b";") > first.count(b",") else ","

    def text() -> Iterator[str]:
        for line in _chained(first, lines):
            tally.cut = not line.endswith((b"\n", b"\r"))
            yield line.decode()

    table = csv.reader(text(), delimiter=delimiter, strict=True)
    try:
        yield from ((table.line_num, cells) for cells in table if cells)
    except UnicodeDecodeError:
        raise SourceIncomplete(f"line {table.line_num + 1} is not UTF-8") from None
    except csv.Error as error:
        raise SourceIncomplete(f"line {table.line_num} is not CSV ({error})") from None


def _paths(names: list[str]) -> list[str]:
    """Give the dotted path of each column; raises SourceIncomplete when one is not known, or is there twice."""
    known = {**COLUMNS, **{path: path for path in COLUMNS.values()}}
    paths = [known.get(name.strip(), "") for name in names]
    if unknown := [str(number) for number, path in enumerate(paths, 1) if not path]:
        raise SourceIncomplete(
            f"the first line doesn't name known columns ({', '.join(unknown)} of {len(paths)}); "
            f"there are {', '.join(COLUMNS)}"
        )
    if len({*paths}) < len(paths):
        raise SourceIncomplete("the first line names a column twice")
    return paths


def _nested(paths: Iterable[str], cells: Iterable[str]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for path, cell in zip(paths, cells, strict=True):
        if cell:
            *parents, name = path.split(".")
            place = row
            for parent in parents:
                place = place.setdefault(parent, {})
            place[name] = int(cell) if path in _NUMBERS and _DIGITS.fullmatch(cell) else cell
    return row
