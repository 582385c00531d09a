"""docs/benchmarks.md: the machine, the method and the table of a whole run."""

import inspect
import os
import platform
import re
import sqlite3
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType

from tools.bench import COLUMNS, Figure

PAGE = Path(__file__).parents[2] / "docs" / "benchmarks.md"
INTRODUCTION = """\
# Benchmarks

Written by `make bench`, in one run of {minutes:.0f} minutes from {begun:%d %B %Y, %H:%M} UTC. Rates depend on this
machine and its load at that time; read the ratios first, since both sides were measured in turns. ✓ and ✗ show whether
an aim is met.

{circumstances}

Kafka is the embedded broker, unless stated otherwise. Moodle is the sandbox Moodle, in a process of its own; unless
stated otherwise, it runs two calls at a time, which take as long as on a real Moodle 4.3 on two cores
(`worker.sandbox.moodle.cost.MEASURED`).
"""


def circumstances() -> str:
    """Describe the machine and its load."""
    model = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    pages = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    load = ", ".join(f"{average:.1f}" for average in os.getloadavg())
    return (
        f"{model[1] if model else platform.machine()}, {os.cpu_count()} cores, {pages / 2**30:.0f} GiB; "
        f"{platform.system()} {platform.release()}, Python {platform.python_version()}, "
        f"SQLite {sqlite3.sqlite_version}.\n"
        f"Load before the run (1, 5, 15 minutes): {load}."
    )


def write(measured: Sequence[tuple[ModuleType, Sequence[Figure]]], begun: datetime, circumstances: str) -> None:
    """Write the page."""
    minutes = (datetime.now(UTC) - begun).total_seconds() / 60
    lines = [INTRODUCTION.format(minutes=minutes, begun=begun, circumstances=circumstances)]
    lines += ["## Figures", "", _row(COLUMNS), _row(["---"] * len(COLUMNS))]
    for part, figures in measured:
        lines.append(_row([f"**{part.TITLE}**", *[""] * (len(COLUMNS) - 1)]))
        lines += [_row(figure.cells) for figure in figures]
    lines += ["", "## Method"]
    for part, _ in measured:
        lines += ["", f"### {part.TITLE}", "", inspect.cleandoc(part.__doc__ or "")]
    PAGE.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
