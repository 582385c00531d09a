"""How many members a call may carry, from the time that calls take."""

import threading
from collections.abc import Callable


class BatchSize:
    """A batch size between 1 and `most()` that aims at calls of `seconds`. The lanes of a platform share it.

    A member costs about 1 ms in a plain cohort and 40 ms in one synchronised into ten courses, and nothing shows
    beforehand which. A call at most doubles the size; a slow call reduces it at once.
    """

    FIRST = 50

    def __init__(self, *, seconds: float, most: Callable[[], int]) -> None:
        self._seconds = seconds
        self._most = most
        self._size = self.FIRST
        self._lock = threading.Lock()

    @property
    def size(self) -> int:
        """Members for the next call."""
        return min(self._size, self._most())

    def took(self, items: int, seconds: float) -> None:
        """Learn from a call that succeeded."""
        fitting = int(items * self._seconds / seconds) if seconds > 0 else self._most()
        with self._lock:
            if fitting < self.size or items >= self.size:  # a small call says little about a large one
                self._size = max(1, min(fitting, 2 * self.size, self._most()))

    def gave_up(self) -> None:
        """Learn from a call that timed out."""
        with self._lock:
            self._size = max(1, self.size // 2)
