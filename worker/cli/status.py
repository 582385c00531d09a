"""The command that says how every platform stands: status."""

import time
from dataclasses import asdict

import typer
from rich.markup import escape
from rich.table import Table

from worker.cli.base import DEFAULT_CONFIG, ConfigOption, JsonOption, ago, out, prepare, say_json
from worker.domain.rules import Mode
from worker.ledger.status import GAP_STATES, read_status
from worker.runtime.ledger import opened
from worker.settings.platforms import GUARD_OFF

family = typer.Typer()


@family.command()
def status(path: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False) -> None:
    """Say how every platform stands: memberships, cohorts, gaps and what they wait for."""
    settings = prepare(path)
    with opened(settings) as ledger:
        now = time.time()
        found = read_status(ledger, sorted(settings.platforms), now)
    if as_json:
        say_json(asdict(found))
        return
    table = Table("", *(platform.name for platform in found.platforms))
    rows: dict[str, list[str]] = {
        "mode": [settings.platforms[platform.name].mode for platform in found.platforms],
        "Moodle": [platform.state if platform.since else "" for platform in found.platforms],
        "memberships": [str(platform.memberships) for platform in found.platforms],
        "cohorts, ours": [
            f"{sum(platform.cohorts.values())}, {platform.cohorts['owned']}" for platform in found.platforms
        ],
        **{f"gaps {state}": [str(p.gaps[state]) for p in found.platforms] for state in GAP_STATES},
        "oldest gap": ["" if p.oldest is None else ago(now - p.oldest) for p in found.platforms],
    }
    for title, cells in rows.items():
        table.add_row(title, *cells)
    out.print(table)
    for platform in found.platforms:
        of = settings.platforms[platform.name]
        if of.mode is not Mode.MANUAL and not of.guard.enabled:
            out.print(f"{platform.name}: {GUARD_OFF}", soft_wrap=True)
        if platform.sentence is not None:
            out.print(
                f"{platform.name}: {escape(platform.sentence)} (tried again in "
                f"{max(0.0, platform.next_attempt_at - now):.0f} s)",
                soft_wrap=True,
            )
        for reason, number in sorted(platform.reasons.items()):
            out.print(f"{platform.name}: {number} waiting for: {reason}", soft_wrap=True)
    if found.without_number:
        out.print(f"{found.without_number} enrolments wait for the student number of their person")
    out.print(f"{found.enrolments} enrolments; positions " + (
        ", ".join(f"{partition} {offset}" for partition, offset in found.positions.items()) or "none yet"
    ), soft_wrap=True)  # fmt: skip
