"""The program `cohorts` as the campaign runs it: with short delays, and perhaps orders to die or a wrong clock.

The first argument holds the orders as JSON; the others are those of `cohorts`. The worker's code knows nothing of it.
"""

import json
import os
import signal
import sys
import time
from functools import wraps
from importlib import import_module
from itertools import count
from pathlib import Path
from typing import Any, TypedDict


class Orders(TypedDict, total=False):
    """What must happen to a process."""

    dies: tuple[str, str, int]
    """Where the process kills itself: `module:function`, `before` or `after` it, and at which call of it."""
    clock: str
    """A file with the seconds by which the clock is wrong; read at each call."""
    trusts: str
    """A file of certificates to trust."""
    full_delays: bool
    """Whether delays keep their full length."""


def command(orders: Orders) -> list[str]:
    """Return the program and its first arguments for a process under these orders."""
    return [sys.executable, "-P", __file__, json.dumps(orders)]


def main() -> None:
    """Apply the orders, then run `cohorts`."""
    orders: Orders = json.loads(sys.argv.pop(1))
    if "trusts" in orders:
        os.environ["SSL_CERT_FILE"] = orders["trusts"]
    if "clock" in orders:  # before the worker is imported, whose modules keep the function
        _shift_clock(Path(orders["clock"]))
    if not orders.get("full_delays"):
        _shorten_delays()
    if "dies" in orders:
        _arrange_death(*orders["dies"])
    sys.argv[0] = "cohorts"
    import_module("worker.cli.main").main()


def _shorten_delays() -> None:
    """Make the worker wait for seconds instead of minutes where no setting decides."""
    outage = import_module("worker.sync.outage")
    shorter: dict[str, dict[str, Any]] = {
        "sync.outage": {
            "UNAVAILABLE": outage.Backoff(first=0.5, most=5.0),
            "DENIED_RETRY_SECONDS": 5.0,
            "RETRY_AFTER_MOST_SECONDS": 5.0,
        },
        "sync.converge.accounts": {"SIGHT_SECONDS": 2.0},
        "ledger.database": {"BUSY_SECONDS": 5},
        "ledger.clock_skew": {"APART_SECONDS": 3.0},
        "runtime.consumption": {"TOPICS_SECONDS": 2.0},
    }
    for module_name, constants in shorter.items():
        module = import_module(f"worker.{module_name}")
        for name, value in constants.items():
            getattr(module, name)  # a name that has moved must fail here
            setattr(module, name, value)


def _shift_clock(file: Path) -> None:
    true_time = time.time
    time.time = lambda: true_time() + float(file.read_text())


def _arrange_death(step: str, when: str, nth: int) -> None:
    module, _, path = step.partition(":")
    owner: Any = import_module(module)
    *owners, name = path.split(".")
    for each in owners:
        owner = getattr(owner, each)
    function, calls = getattr(owner, name), count(1)

    @wraps(function)
    def dying(*args: Any, **options: Any) -> Any:  # noqa: ANN401 - any function
        if next(calls) != nth:
            return function(*args, **options)
        if when == "after":
            function(*args, **options)
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("still alive")

    setattr(owner, name, dying)


if __name__ == "__main__":
    main()
