"""Whatever others send is read, ignored or refused, and never crashes us: tried on inputs of every kind.

`tests/corpus/<target>/` holds inputs, one a file: made by hand, or found. Tests replay them and try some thousand
variations; `python -m tools.fuzz [minutes] [target…]` goes on for as long as asked and keeps what it finds there.
"""

from pathlib import Path

CORPUS = Path(__file__).parents[2] / "tests" / "corpus"


def corpus(target: str) -> dict[str, bytes]:
    """Give the inputs of a target by the name of their file."""
    return {file.name: file.read_bytes() for file in sorted((CORPUS / target).iterdir())}
