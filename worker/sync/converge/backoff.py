import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Delays of retries, in seconds: doubling from `first` to `most`."""

    first: float
    most: float

    def after(self, attempts: int) -> float:
        """Return the delay after this many failures, spread by a quarter so that retries don't come all at once."""
        return float(min(self.first * 2 ** min(attempts, 30), self.most) * random.uniform(0.75, 1.0))  # noqa: S311 - spread, not secrecy
