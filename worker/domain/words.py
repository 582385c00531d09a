"""Words for people, in English. Pure."""


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """Return a number with its noun, as `1 cohort` or `2 cohorts`."""
    return f"{number} {noun if number == 1 else plural or f'{noun}s'}"
