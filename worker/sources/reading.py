"""What reading a source yields: its rows, and a count of what lies outside the scope."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from schemas import SnapshotRow


@dataclass(frozen=True, slots=True)
class LeftOut:
    """An enrolment outside the scope, or something else that makes no row; `reason` is a word that can be counted."""

    reason: str


class SourceReading(Iterator[SnapshotRow]):
    """The rows of a source, read once; `left_out` counts by reason, and is complete when the rows are exhausted."""

    def __init__(self, items: Iterable[SnapshotRow | LeftOut]) -> None:
        self.left_out: Counter[str] = Counter()
        self._items = iter(items)

    def __next__(self) -> SnapshotRow:
        """Return the next row."""
        for item in self._items:
            if not isinstance(item, LeftOut):
                return item
            self.left_out[item.reason] += 1
        raise StopIteration
