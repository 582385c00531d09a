"""Idnumbers as a Moodle's database compares them, which may take for one what is two to us. Pure."""

import unicodedata
from collections.abc import Iterable
from typing import Protocol, TypeVar

_ASTRAL = "\N{REPLACEMENT CHARACTER}"
_DOTLESS_I = "\N{LATIN SMALL LETTER DOTLESS I}"
_LETTERS = str.maketrans(
    {"æ": "ae", "đ": "d", "ð": "d", "ħ": "h", _DOTLESS_I: "i", "ł": "l", "œ": "oe", "ø": "o", "ŧ": "t"}
)
"""Letters that Unicode doesn't decompose, and that a collation takes for these."""


class HasIdnumber(Protocol):
    """A cohort as Moodle shows it."""

    @property
    def id(self) -> int: ...  # noqa: D102 - Moodle's
    @property
    def idnumber(self) -> str: ...  # noqa: D102 - idem


Cohort = TypeVar("Cohort", bound=HasIdnumber)


def fold(idnumber: str) -> str:
    """Return a text that is equal for idnumbers that a Moodle on MariaDB takes for one.

    MariaDB's `utf8mb4_unicode_ci`, Moodle's default there, compares without case, accents and trailing spaces, takes
    `œ` for `oe`, `ß` for `ss`, and every character above U+FFFF, such as an emoji, for every other. This fold is
    coarser: what is neither a Latin letter nor a digit nor ASCII counts for nothing. So equal folds are a suspicion.
    Moodle has the last word, since PostgreSQL keeps all of these apart.

    Compared with MariaDB 10.11 for each character below U+10000, and for half a million pairs of texts that it takes
    for one: it misses combining letters, phonetic ligatures and some encircled numbers. `utf8mb4_unicode_520_ci` and
    `utf8mb4_general_ci` were compared too; that the latter takes `ß` for `s` isn't followed. MySQL's
    `utf8mb4_0900_ai_ci` wasn't tried.
    """
    basic = "".join(character if character < "\U00010000" else _ASTRAL for character in idnumber)
    decomposed = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", basic).casefold())
    return "".join(map(_weight, decomposed.translate(_LETTERS))).rstrip(" ")


def alike(idnumber: str, cohorts: Iterable[Cohort]) -> list[Cohort]:
    """Return the cohorts whose idnumber has the same fold, by how likely the database takes them for this one."""
    folded = fold(idnumber)
    found = [cohort for cohort in cohorts if fold(cohort.idnumber) == folded]
    return sorted(found, key=lambda cohort: (*_distance(idnumber, cohort.idnumber), cohort.id))


def _weight(character: str) -> str:
    """Return what a decomposed character counts for."""
    if character == _ASTRAL or (character.isascii() and character.isprintable()):
        return character
    digit = unicodedata.digit(character, None)
    return "" if digit is None else str(digit)


def _distance(wanted: str, other: str) -> tuple[bool, bool]:
    """Order the same text before another spelling, and that before what only this coarse fold takes for one."""
    return other != wanted, other.casefold().rstrip() != wanted.casefold().rstrip()
