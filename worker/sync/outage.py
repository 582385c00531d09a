"""What a platform's failure means: whether a person must act, and how long the platform is left alone."""

from worker.domain.errors import MoodleDenied, MoodleError, MoodleUnavailable
from worker.domain.instants import Instant
from worker.domain.states import PlatformState
from worker.ledger.availability import Availability
from worker.sync.converge.backoff import Backoff

UNAVAILABLE = Backoff(first=2.0, most=300.0)
"""How long a platform that doesn't respond is left alone."""
DENIED_RETRY_SECONDS = 300.0
"""A platform that denies is tried again this often, in case somebody has put it right."""
RETRY_AFTER_MOST_SECONDS = 3600.0
"""The longest delay that a platform may ask for, so that there is more than one attempt a day."""


def state_after(error: MoodleError) -> PlatformState:
    """Return the state of a platform that failed with this error."""
    return PlatformState.DENIED if isinstance(error, MoodleDenied) else PlatformState.UNAVAILABLE


def note(availability: Availability, error: MoodleError, *, began: Instant, now: Instant) -> float | None:
    """Pause the platform on which work that began then has failed; returns the seconds.

    None is returned when it was paused since the work began: an outage counts once.
    """
    state = state_after(error)

    def pause(failures: int) -> float:
        if state is PlatformState.DENIED:
            return DENIED_RETRY_SECONDS
        asked = error.retry_after if isinstance(error, MoodleUnavailable) else None
        return max(UNAVAILABLE.after(failures - 1), min(asked or 0.0, RETRY_AFTER_MOST_SECONDS))

    return availability.failed(state, now, began=began, code=error.code, sentence=str(error), pause=pause)
