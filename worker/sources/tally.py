"""Counts what was read of a file, and checks that this is all of it."""

from collections import Counter

from worker.domain.errors import SourceIncomplete

MOST_KINDS = 10


class Tally:
    """Counts the rows, and what is wrong with those that can't be read: by field and type of error, never by value."""

    def __init__(self) -> None:
        self.good = 0
        self.bad = 0
        self.first_bad: int | None = None
        self.kinds: Counter[str] = Counter()
        self.trailer: int | None = None
        """How many rows the file claims to have."""
        self.cut = False
        """Whether the last line of CSV lacks its line break: its last cell may be cut."""

    def accept(self) -> None:
        """Count a row that can be read."""
        self.good += 1

    def reject(self, line: int, *problems: tuple[str, str]) -> None:
        """Count a row that can't be read."""
        self.bad += 1
        self.first_bad = self.first_bad or line
        self.kinds.update(f"{field}: {kind}" for field, kind in problems)

    def check(self, expected: int | None) -> None:
        """Raise SourceIncomplete unless every row was read, and there were as many as expected."""
        rows = self.good + self.bad
        for count, origin in ((expected, "asked for"), (self.trailer, "in its trailer")):
            if count is not None and count != rows:
                raise SourceIncomplete(f"the file has {rows} rows, and {count} were {origin}")
        if self.cut and self.trailer is None:
            raise SourceIncomplete("the last line has no line break, as if the file was cut: end it with one")
        if self.bad:
            sentence = f"{self.bad} of {rows} rows can't be read, the first on line {self.first_bad}: "
            raise SourceIncomplete(sentence + counted_kinds(self.kinds))


def counted_kinds(kinds: Counter[str]) -> str:
    """Return how often each kind of problem occurred, the most frequent first, as text."""
    return "; ".join(f"{kind} ({number})" for kind, number in kinds.most_common(MOST_KINDS))
