"""Where a snapshot comes from.

A source is an iterator of rows: enrolments, and what it could not tell (an unknown word, an ambiguous entry), which
stays as it was. That it ends says that it was read whole: every row could be read, and there were as many as it, or
whoever asked, counts. Otherwise it raises SourceIncomplete, at the latest where it would end; whoever takes its rows
uses none of them before. It yields what the source says, without judging it: which enrolment counts is for the rules.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Protocol

from schemas import SnapshotRow
from worker.domain.snapshots import SnapshotScope


class SnapshotSource(Protocol):
    """A system that is read when a snapshot is asked for."""

    def read(self, scope: SnapshotScope, left_out: Counter[str]) -> Iterator[SnapshotRow]:
        """Give all enrolments within the scope; `left_out` counts, by reason, what lies outside of it.

        Raises SourceIncomplete when it could not be read whole; its text counts and never holds a value.
        """
        ...
