"""What is remembered of an entry of a watched directory."""

from dataclasses import dataclass

from worker.domain.instants import Instant


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownEntry:
    """An entry of a directory that is watched, as it was told last."""

    uuid: str
    csn: str
    """Says which state of the entry was read."""
    terms: str
    """Says under which settings it was understood."""
    student_id: str | None
    rows: str
    """The enrolments that it said, as JSON of `schemas.EnrolmentRow`."""
    version: int
    """Under which it was told last; 0 when it had nothing to tell."""
    missed_at: Instant | None = None
    """When a look missed it first; None while it is there."""
    gone: bool = False
    """Whether its leaving was told."""
    unsure: bool = False
    """Whether some of `rows` may not have been told, or some of it may be over: whoever told it was killed."""
