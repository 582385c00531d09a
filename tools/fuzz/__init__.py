"""Fuzzes every kind of input: whatever others send must be read, ignored or refused, and never crash us.

`tests/corpus/<target>/` holds inputs, one per file, written by hand or found. Tests replay them and try a few thousand
variations; `python -m tools.fuzz [minutes] [target…]` runs for as long as requested and keeps what it finds there.
"""

from pathlib import Path

CORPUS = Path(__file__).parents[2] / "tests" / "corpus"


def corpus(target: str) -> dict[str, bytes]:
    """Return the inputs of a target by file name."""
    return {file.name: file.read_bytes() for file in sorted((CORPUS / target).iterdir())}
