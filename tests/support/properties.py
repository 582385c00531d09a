"""How many examples a property of the whole ledger is tried with."""

from hypothesis import settings

MANY = settings().max_examples * 3 // 2
"""More than others are: 150, and 30 under the profile of `make unit` (tests/conftest.py)."""
