"""Run the benches named in the arguments, or all, and print their figures."""

import sys
import time

from rich.console import Console
from rich.table import Table

from tests.bench import latency, ledger, memory, moodle, night
from worker import telemetry

BENCHES = {
    "ledger": ("Messages into the ledger", ledger.run),
    "moodle": ("Memberships on Moodle", moodle.run),
    "latency": ("From message to Moodle", latency.run),
    "memory": ("A whole worker", memory.run),
    "night": ("A night without drift", night.run),
}
WIDTH = 140
"""Columns of a log or a file, which have none of their own."""


def main(names: list[str]) -> str | None:
    """Print a table a bench; gives what is wrong with the arguments."""
    if unknown := set(names) - BENCHES.keys():
        return f"no bench {', '.join(sorted(unknown))}; there are {', '.join(BENCHES)}"
    telemetry.configure_logging("error")
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    for name in names or BENCHES:
        title, run = BENCHES[name]
        started = time.monotonic()
        table = Table("measured", "figure", "against", "ratio", "aim", title=title, title_justify="left")
        for figure in run():
            table.add_row(figure.what, figure.value, figure.against, figure.ratio, figure.aim)
        table.caption = f"{time.monotonic() - started:.0f} s"
        console.print(table)
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
