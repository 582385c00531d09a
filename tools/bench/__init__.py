"""Measures what the worker can do: `python -m tools.bench [PART…]`; `make bench` also writes docs/benchmarks.md.

Rates depend on the machine and on what else it does: read the ratios, whose sides take turns within one run.
The docstring of each part is its method, as it is printed in the docs.
"""

import os
from dataclasses import dataclass

SHARE = float(os.environ.get("BENCH_SHARE", "1"))
"""Less than 1 for a short form, whose figures mean nothing: it shows that everything still runs."""


def scaled(number: int, least: int = 100) -> int:
    """Give a size, smaller in a short form."""
    return max(min(number, least), round(SHARE * number))


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number with its unit, and the most or the least that we aim at."""

    number: float
    unit: str
    most: float | None = None
    least: float | None = None

    def __str__(self) -> str:
        return f"{_written(self.number)} {self.unit}"

    @property
    def aim(self) -> str:
        """Say what we aim at, and whether that is so; nothing without an aim."""
        if self.most is None and self.least is None:
            return ""
        bound = f"≤ {self.most:,g}" if self.most is not None else f"≥ {self.least:,g}"
        return f"{bound} {'✓' if self.is_met else '✗'}"

    @property
    def is_met(self) -> bool:
        """Whether it is as we want it."""
        return (self.most is None or self.number <= self.most) and (self.least is None or self.number >= self.least)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """What was measured, the figure, what it is compared with and their ratio. The one or the other has an aim."""

    what: str
    figure: Quantity | str
    against: str = ""
    ratio: Quantity | None = None

    @property
    def cells(self) -> tuple[str, ...]:
        """Give a row of the table: see `COLUMNS`."""
        quantities = [each for each in (self.ratio, self.figure) if isinstance(each, Quantity)]
        aim = next((each.aim for each in quantities if each.aim), "")
        return self.what, str(self.ratio or ""), aim, str(self.figure), self.against


COLUMNS = ("measured", "ratio", "aim", "figure", "against")


def _written(number: float) -> str:
    """Write three digits, or all of a larger one."""
    if abs(number) >= 100 or number == int(number):
        return f"{number:,.0f}"
    return f"{number:.1f}" if abs(number) >= 10 else f"{number:.2f}"
