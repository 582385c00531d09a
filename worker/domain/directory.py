"""What is remembered of an entry of a watched directory."""

from dataclasses import dataclass

from worker.domain.instants import Instant


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownEntry:
    """An entry of a watched directory, as it was last published."""

    uuid: str
    csn: str
    """The entry's change sequence number: which state of it was read."""
    terms: str
    """Fingerprint of the settings by which the entry was interpreted."""
    student_id: str | None
    rows: str
    """Its enrolments, as JSON of `schemas.EnrolmentRow`."""
    version: int
    """The version under which it was last published; 0 when there was nothing to publish."""
    missed_at: Instant | None = None
    """When a poll first missed it; None while it is there."""
    gone: bool = False
    """Whether its departure was published."""
    unsure: bool = False
    """Whether `rows` may differ from what was published: the process that published them was killed."""
