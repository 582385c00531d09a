"""Complete images of all enrolments on a topic: published whole, accepted only if whole.

`judge` says what is wrong with one, purely; `latest` reads the topic; `collect` and `Publisher` write to it.
"""

from worker.snapshots.publisher import CollectedSnapshot, Publisher, collect, new_id
from worker.snapshots.reader import latest
from worker.snapshots.validation import AcceptanceCriteria, AcceptanceLimits

__all__ = ["AcceptanceCriteria", "AcceptanceLimits", "CollectedSnapshot", "Publisher", "collect", "latest", "new_id"]
