"""Measures what the worker can do: `python -m tools.bench [PART…]`; `make bench` also writes docs/benchmarks.md.

Rates depend on the machine and its load. Read the ratios: both sides of each are measured in turns within one run.
The docstring of each part describes its method, and is printed in the docs.
"""

import os
from dataclasses import dataclass

SHARE = float(os.environ.get("BENCH_SHARE", "1"))
"""Less than 1 for a short run, which shows that everything still works but whose figures mean nothing."""


def scaled(number: int, least: int = 100) -> int:
    """Return a size, smaller in a short run."""
    return max(min(number, least), round(SHARE * number))


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number with its unit, and the upper or lower bound that we aim at."""

    number: float
    unit: str
    most: float | None = None
    least: float | None = None

    def __str__(self) -> str:
        return f"{_written(self.number)} {self.unit}"

    @property
    def aim(self) -> str:
        """The bound, and whether it is met; empty without an aim."""
        if self.most is None and self.least is None:
            return ""
        bound = f"≤ {self.most:,g}" if self.most is not None else f"≥ {self.least:,g}"
        return f"{bound} {'✓' if self.is_met else '✗'}"

    @property
    def is_met(self) -> bool:
        """Whether the aim is met."""
        return (self.most is None or self.number <= self.most) and (self.least is None or self.number >= self.least)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """What was measured, the figure, what it is compared with, and their ratio. One of the two may have an aim."""

    what: str
    figure: Quantity | str
    against: str = ""
    ratio: Quantity | None = None

    @property
    def cells(self) -> tuple[str, ...]:
        """The row of the table: see `COLUMNS`."""
        quantities = [quantity for quantity in (self.ratio, self.figure) if isinstance(quantity, Quantity)]
        aim = next((quantity.aim for quantity in quantities if quantity.aim), "")
        return self.what, str(self.ratio or ""), aim, str(self.figure), self.against


COLUMNS = ("measured", "ratio", "aim", "figure", "against")


def _written(number: float) -> str:
    """Format a number with three digits, or all of a larger one."""
    if abs(number) >= 100 or number == int(number):
        return f"{number:,.0f}"
    return f"{number:.1f}" if abs(number) >= 10 else f"{number:.2f}"
