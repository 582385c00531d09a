"""The hashes by which a person decides about what was shown. Pure.

Whoever writes messages chooses what is hashed. With 32 bits, two lists of one hash were found in seconds: one that a
person would approve, and another. A hash has 128 bits; people see, and may type, its beginning.
"""

from collections.abc import Sequence
from hashlib import sha256

import orjson

DIGITS = 32
SHORT_DIGITS = 8
"""Hexadecimal digits that are shown to people. Numbers of runs have fewer digits, so the two can't be confused."""


def hash_of(what: str, items: Sequence[object]) -> str:
    """Return the hash of items of one kind: different for other items, and for items of another kind."""
    return sha256(what.encode() + orjson.dumps(items)).hexdigest()[:DIGITS]


def short(name: str | None) -> str:
    """Return a hash as people see it; nothing for none."""
    return (name or "")[:SHORT_DIGITS]
