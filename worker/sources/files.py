"""A file as a source: JSON lines or CSV. CSV is read twice when the settings don't name its encoding.

| form | rows | trailer, as the last line |
| --- | --- | --- |
| JSON lines, in UTF-8 | the `data` of an `enrolment.state`; `version` may be missing | `{"rows": 52000}` |
| CSV | a line of column names, then a line an enrolment: see `worker.sources.tables` | `#rows;52000` |
"""

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import copyfileobj
from typing import IO

import orjson
from pydantic import ValidationError

import schemas
from schemas import EnrolmentRow
from worker.domain.errors import SettingsError, SourceIncomplete
from worker.domain.snapshots import SnapshotScope
from worker.sources.reading import SourceReading
from worker.sources.tables import CsvForm, csv_rows
from worker.sources.tally import Tally

_BOM = b"\xef\xbb\xbf"


STANDARD_INPUT = Path("-")


class FileSource:
    """A file, or the standard input; `expected` is how many rows it must have."""

    def __init__(self, path: Path, form: CsvForm, *, expected: int | None = None) -> None:
        self._path = path
        self._form = form
        self._expected = expected

    def read(self, scope: SnapshotScope) -> SourceReading:  # noqa: ARG002 - a file holds what it holds
        """Read all its rows, as `read` below does. Raises SettingsError when there is no such file."""
        return SourceReading(self._rows())

    def _rows(self) -> Iterator[EnrolmentRow]:
        with self._opened() as file:
            yield from read(file, self._form, expected=self._expected)

    @contextmanager
    def _opened(self) -> Iterator[IO[bytes]]:
        try:
            if self._path != STANDARD_INPUT:
                with self._path.open("rb") as file:
                    yield file
            else:
                with tempfile.TemporaryFile() as file:  # what comes through a pipe can't be rewound
                    copyfileobj(sys.stdin.buffer, file)
                    file.seek(0)
                    yield file
        except FileNotFoundError:
            raise SettingsError(f"{self._path}: no such file") from None
        except OSError as error:
            raise SourceIncomplete(f"{self._path}: {error.strerror}") from None


def read(file: IO[bytes], form: CsvForm, *, expected: int | None = None) -> Iterator[EnrolmentRow]:
    """Yield the rows of a file that can be rewound; `expected` is how many there must be, whatever its trailer says.

    Raises SourceIncomplete at the end when a row can't be read or the count is wrong, and at once when the file is no
    file of rows. Its text counts fields and types of error, and never holds a value.
    """
    tally = Tally()
    start = file.read(1_000).removeprefix(_BOM).lstrip()
    file.seek(0)
    if start.startswith(b"{"):
        yield from _json_lines(file, tally)
    elif start:
        yield from csv_rows(file, form, tally)
    tally.check(expected)


def _json_lines(lines: IO[bytes], tally: Tally) -> Iterator[EnrolmentRow]:
    for number, content in enumerate(lines, 1):
        line = content.removeprefix(_BOM) if number == 1 else content
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
