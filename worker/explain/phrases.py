"""The words of an explanation, from `fr.toml` and `en.toml`: a sentence for each code, and words for values of ours.

`{name}` in a sentence stands for a value; `[…]` is left out when one of the values in it is unknown.
"""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from importlib import resources
from zoneinfo import ZoneInfo

from worker.domain.instants import Instant
from worker.domain.states import Language


@dataclass(frozen=True, slots=True, kw_only=True)
class Dates:
    """How instants are written."""

    instant: str
    first_of_month: str
    months: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """Those of one language."""

    headings: Mapping[str, str]
    sentences: Mapping[str, str]
    """By `Why`."""
    values: Mapping[str, Mapping[str, str]]
    """By kind of value, then by value. In French a status agrees with « inscription », a payment with « droits »."""
    dates: Dates

    def instant(self, at: Instant, zone: ZoneInfo) -> str:
        """Write an instant in local time, to the minute."""
        local = datetime.fromtimestamp(at, zone)
        return self.dates.instant.format(
            day=local.day if local.day > 1 else self.dates.first_of_month,
            month=self.dates.months[local.month - 1],
            year=local.year,
            time=f"{local:%H:%M}",
        )


@cache
def words(language: Language) -> Words:
    """Read the words of a language, once."""
    file = resources.files("worker.explain") / f"{language}.toml"
    content = tomllib.loads(file.read_text(encoding="utf-8"))
    return Words(**content | {"dates": Dates(**content["dates"])})
