"""The hashes by which a person decides about what was shown. Pure.

Whoever writes messages chooses what is hashed. With 32 bits, two lists of one hash were found in seconds: one that a
person would approve, and another. A hash has 128 bits; people see, and may type, its beginning.
"""

import re
from collections.abc import Sequence
from hashlib import sha256

import orjson

DIGITS = 32
SHORT_DIGITS = 8
"""Hexadecimal digits that are shown to people. Numbers of runs have fewer digits, so the two can't be confused."""
_HASH = re.compile(rf"\b([0-9a-f]{{{SHORT_DIGITS}}})[0-9a-f]{{{DIGITS - SHORT_DIGITS}}}\b")


def hash_of(what: str, items: Sequence[object]) -> str:
    """Return the hash of items of one kind: different for other items, and for items of another kind."""
    return sha256(what.encode() + orjson.dumps(items)).hexdigest()[:DIGITS]


def shortened(text: str) -> str:
    """Return a text with its hashes as people see them."""
    return _HASH.sub(r"\1", text)
