"""Where a snapshot comes from.

A source yields rows: enrolments, and what it doesn't know (an unknown word, an ambiguous entry), which stays as it
was. When the rows end, the source was read whole: every row could be read, and there were as many as the source, or
the person who asked, counts. Otherwise it raises SourceIncomplete, at the latest at the end, so nobody uses a row
before. A source yields what its system holds, without judging it: which enrolment counts is for the rules.
"""

from typing import Protocol

from worker.domain.snapshots import SnapshotScope
from worker.sources.reading import LeftOut, SourceReading

__all__ = ["LeftOut", "Reading", "SnapshotSource"]


class SnapshotSource(Protocol):
    """A system that is read when a snapshot is asked for."""

    def read(self, scope: SnapshotScope) -> SourceReading:
        """Read all enrolments within the scope, and count by reason what lies outside of it.

        Raises SourceIncomplete, while its rows are taken, when it could not be read whole. The text of the error
        holds counts and never a value.
        """
        ...
