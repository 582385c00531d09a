"""Tries variations for so many minutes, and keeps the inputs that fail in the corpus, where tests find them."""

import sys
import time
from collections import Counter
from hashlib import sha256
from itertools import count

import structlog
from hypothesis import HealthCheck, Phase, given, seed, settings

from tools.fuzz import CORPUS, corpus
from tools.fuzz.inputs import variations
from tools.fuzz.targets import TARGETS
from worker import telemetry

ROUND = 500
"""Inputs before the turn of the next target."""

log = structlog.get_logger()


def main(minutes: float = 10.0, targets: list[str] | None = None) -> int:
    """Try targets in turn until the time is over; returns how many inputs were found."""
    telemetry.configure_logging("error")
    deadline = time.monotonic() + 60 * minutes
    tried: Counter[str] = Counter()
    found = 0
    for number in count():
        for target in targets or TARGETS:
            if time.monotonic() > deadline:
                for name, inputs in tried.items():
                    print(f"{name}: {inputs} inputs")  # noqa: T201 - a person waits for it
                return found
            found += _round(target, number, tried)
    raise AssertionError  # pragma: no cover - the loop has no end of its own


def _round(target: str, number: int, tried: Counter[str]) -> bool:
    last = b""

    @seed(number)
    @settings(
        max_examples=ROUND, deadline=None, database=None, phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck), print_blob=False,
    )  # fmt: skip
    @given(variations(list(corpus(target).values())))
    def holds(case: bytes) -> None:
        nonlocal last
        last = case  # after a failure, the smallest input that fails
        tried[target] += 1
        TARGETS[target](case)

    try:
        holds()
    except Exception as error:  # any exception is a finding: the input is kept, and the search goes on
        file = CORPUS / target / f"found-{sha256(last).hexdigest()[:8]}"
        file.write_bytes(last)
        log.exception("found", file=str(file), error=type(error).__name__)
        return True
    return False


if __name__ == "__main__":
    arguments = sys.argv[1:]
    time_given = float(arguments.pop(0)) if arguments and arguments[0][0].isdigit() else 10.0
    sys.exit(min(1, main(time_given, arguments or None)))
