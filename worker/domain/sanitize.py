"""Foreign text on a terminal, in a log or on a page: it must neither control the display nor mislead. Pure."""

import json
import unicodedata


def printable(text: str) -> str:
    """Escape invisible characters as JSON does: control characters, line breaks, changes of direction.

    Labels of étapes and names of cohorts come from elsewhere. Within JSON the result is the same JSON.
    """
    if text.isprintable():
        return text
    return "".join(character if _is_seen(character) else json.dumps(character)[1:-1] for character in text)


def _is_seen(character: str) -> bool:
    return character.isprintable() or unicodedata.category(character) == "Zs"  # French has unbreakable spaces
