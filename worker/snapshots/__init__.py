"""Complete images of all enrolments on a topic: published whole, accepted only if whole.

`judge` says what is wrong with one, purely; `latest` reads the topic; `collected` and `Publisher` write to it.
"""

from worker.snapshots.judge import Limits, Terms
from worker.snapshots.publishing import Image, Publisher, collected, new_id
from worker.snapshots.reading import latest

__all__ = ["Image", "Limits", "Publisher", "Terms", "collected", "latest", "new_id"]
