"""Complete images of all enrolments on a topic: published whole, accepted only if whole.

`judge` says what is wrong with one, purely; `latest` reads the topic; `collected` and `publish` write to it.
"""

from worker.snapshots.judge import Limits, Terms
from worker.snapshots.publishing import Image, collected, new_id, publish
from worker.snapshots.reading import latest

__all__ = ["Image", "Limits", "Terms", "collected", "latest", "new_id", "publish"]
