"""Measures what the worker can do: `python -m tests.bench [NAME…]`.

Rates depend on the machine and on what else it does: read the ratios, whose sides take turns within one run.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """What was measured; where there is something to compare it with, that, their ratio and what we aim at."""

    what: str
    value: str
    against: str = ""
    ratio: str = ""
    aim: str = ""
