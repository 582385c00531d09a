"""Run the parts named in the arguments, or all, and print one table; a whole run is written to docs/benchmarks.md."""

import sys
import time
from datetime import UTC, datetime

from rich.console import Console
from rich.table import Table

from tests.support.servers import MissingServerError
from tools.bench import (
    COLUMNS,
    SHARE,
    Figure,
    latency,
    ldap,
    ledger,
    memory,
    moodle,
    night,
    nights,
    page,
    replay,
    rest,
    workers,
)
from worker import telemetry
from worker.cli.lazy import settle

PARTS = {
    "ledger": ledger,
    "replay": replay,
    "moodle": moodle,
    "latency": latency,
    "night": night,
    "nights": nights,
    "ldap": ldap,
    "memory": memory,
    "workers": workers,
    "rest": rest,
}
WIDTH = 160
"""Columns where the output isn't a terminal."""


def main(names: list[str]) -> str | None:
    """Print the table; returns what is wrong with the arguments, if anything."""
    if unknown := set(names) - PARTS.keys():
        return f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}"
    telemetry.configure_logging("error")
    settle()
    progress = Console(stderr=True)
    begun, circumstances = datetime.now(UTC), page.circumstances()
    measured: list[tuple[str, list[Figure]]] = []
    for name in names or PARTS:
        started = time.monotonic()
        measured.append((name, _figures(name)))
        progress.print(f"{name}: {time.monotonic() - started:.0f} s")
    Console(width=None if sys.stdout.isatty() else WIDTH).print(_table(measured))
    if not names and SHARE == 1:
        page.write([(PARTS[name], figures) for name, figures in measured], begun, circumstances)
    return None


def _figures(name: str) -> list[Figure]:
    try:
        return list(PARTS[name].run())
    except MissingServerError as missing:
        return [Figure(what="not measured", figure=str(missing))]


def _table(measured: list[tuple[str, list[Figure]]]) -> Table:
    table = Table(*COLUMNS)
    for name, figures in measured:
        table.add_section()
        table.add_row(f"[bold]{PARTS[name].TITLE}[/]")
        for figure in figures:
            table.add_row(*figure.cells)
    return table


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
