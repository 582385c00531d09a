"""Complete snapshots of all enrolments on a topic: published whole, accepted only when whole.

`collect` and `Publisher` write one; `latest` reads the topic and returns the newest one that can be accepted.
"""

from worker.snapshots.publisher import CollectedSnapshot, Publisher, collect, new_id
from worker.snapshots.reader import latest
from worker.snapshots.validation import AcceptanceCriteria, AcceptanceLimits, Known, nothing_known

__all__ = [
    "AcceptanceCriteria",
    "AcceptanceLimits",
    "CollectedSnapshot",
    "Known",
    "Publisher",
    "collect",
    "latest",
    "new_id",
    "nothing_known",
]
