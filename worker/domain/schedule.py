"""When the nightly run is due, by local time. Pure, and right across both changes of the clock."""

import re
from datetime import datetime, time, timedelta
from itertools import count
from typing import Annotated
from zoneinfo import ZoneInfo

from pydantic import BeforeValidator, PlainSerializer

from worker.domain.instants import Instant


def time_of_day(value: object) -> time:
    """Read `02:30`, as text or as a local time of TOML. Raises ValueError, which says how to write it."""
    if isinstance(value, time) and value.tzinfo is None and value == time(value.hour, value.minute):
        return value
    if isinstance(value, str) and re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d", value, re.ASCII):
        return time.fromisoformat(value)
    raise ValueError(f'{value} is not a time of day; write it as "02:30", from "00:00" to "23:59"')


TimeOfDay = Annotated[
    time, BeforeValidator(time_of_day), PlainSerializer(lambda at: at.isoformat("minutes"), return_type=str)
]
"""A setting that is a local time of day, to the minute."""


def due(now: Instant, at: time, zone: ZoneInfo) -> tuple[str, Instant]:
    """Return the latest run due by `now`: its local date (ISO), and the instant when it was due.

    Every date has one run. A time that the clock skips is due when it would have come had the clock not been put
    forward; of a time that comes twice, the first counts. As `now` advances so do the dates, and none comes twice.
    (A date that a country left out of its calendar has no run.)
    """
    # Begin with tomorrow: a clock put back across midnight shows today again when tomorrow's run is already due.
    tomorrow = datetime.fromtimestamp(now, zone).date() + timedelta(days=1)
    nights = (tomorrow - timedelta(days=days) for days in count())
    runs = ((night.isoformat(), datetime.combine(night, at, zone).timestamp()) for night in nights)
    return next((night, instant) for night, instant in runs if instant <= now)
