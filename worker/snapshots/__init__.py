"""Complete images of all enrolments on a topic: published whole, accepted only if whole.

`judge` says what is wrong with one, purely; `latest` reads the topic; `collected` and `Publisher` write to it.
"""

from worker.snapshots.publisher import Image, Publisher, collected, new_id
from worker.snapshots.reader import latest
from worker.snapshots.validation import Limits, Terms

__all__ = ["Image", "Limits", "Publisher", "Terms", "collected", "latest", "new_id"]
