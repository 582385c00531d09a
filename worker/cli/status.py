"""The command that shows the state of every platform: status."""

import time
from collections.abc import Sequence
from dataclasses import asdict

import typer
from rich.table import Table

from worker.cli.base import DEFAULT_CONFIG, ConfigOption, JsonOption, ago, out, prepare, say, say_json, when
from worker.cli.deleted import deleted_sentences
from worker.domain.cohorts import blocked_sentences
from worker.domain.instants import Instant
from worker.domain.rules import Mode
from worker.domain.states import CohortChange
from worker.domain.words import counted
from worker.ledger.status import GAP_STATES, PlatformStatus, read_status
from worker.runtime.ledger import opened
from worker.settings.platforms import GUARD_OFF, PlatformSettings
from worker.settings.root import Settings

family = typer.Typer()


@family.command()
def status(path: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False) -> None:
    """Show the state of every platform: memberships, cohorts, gaps and what they wait for."""
    settings = prepare(path)
    with opened(settings) as ledger:
        now = time.time()
        current = read_status(ledger, sorted(settings.platforms), now)
    if as_json:
        say_json(asdict(current))
        return
    if current.halt is not None:
        say(f"NO MESSAGE IS READ since {when(current.halt.since, settings)}: {current.halt.sentence}")
    for platform in current.platforms:
        for sentence in deleted_sentences(platform.name, platform.deleted, settings):
            say(sentence)
    out.print(_table(current.platforms, settings, now))
    for platform in current.platforms:
        _print_platform(platform, settings.platforms[platform.name], now)
    if current.without_number:
        say(f"waiting for the student number of their person: {counted(current.without_number, 'enrolment')}")
    if current.held_merges:
        merges = counted(current.held_merges, "merge")
        say(f"waiting for a person's decision: {merges} of student numbers; see `cohorts merges --held`")
    positions = ", ".join(f"{partition} {offset}" for partition, offset in current.positions.items())
    say(f"{counted(current.enrolments, 'enrolment')}; positions {positions or 'none yet'}")


def _table(platforms: Sequence[PlatformStatus], settings: Settings, now: Instant) -> Table:
    """Return a table of what can be compared: a column per platform."""
    table = Table("", *(platform.name for platform in platforms))
    columns = [_column(platform, settings.platforms[platform.name].mode, now) for platform in platforms]
    for title in _column_titles():
        table.add_row(title, *(column[title] for column in columns))
    return table


def _column_titles() -> list[str]:
    return [
        "mode",
        "Moodle",
        "memberships",
        "cohorts, ours",
        *(f"gaps {state}" for state in GAP_STATES),
        "oldest gap",
        "read to the end",
    ]


def _column(platform: PlatformStatus, mode: Mode, now: Instant) -> dict[str, str]:
    return {
        "mode": mode.value,
        "Moodle": platform.state if platform.since else "",
        "memberships": str(platform.memberships),
        "cohorts, ours": f"{sum(platform.cohorts.values())}, {platform.cohorts['owned']}",
        **{f"gaps {state}": str(platform.gaps[state]) for state in GAP_STATES},
        "oldest gap": "" if platform.oldest is None else ago(now - platform.oldest),
        "read to the end": "never" if platform.read_at is None else f"{ago(now - platform.read_at)} ago",
    }


def _print_platform(platform: PlatformStatus, chosen: PlatformSettings, now: Instant) -> None:
    """Print what a person should know of a platform: a guard that is off, an outage, what gaps wait for."""
    if chosen.mode is not Mode.MANUAL and not chosen.guard.enabled:
        say(f"{platform.name}: {GUARD_OFF}")
    if platform.sentence is not None:
        seconds = max(0.0, platform.next_attempt_at - now)
        say(f"{platform.name}: {platform.sentence} (next attempt in {seconds:.0f} s)")
    for reason, number in sorted(platform.reasons.items()):
        say(f"{platform.name}: {number} waiting for: {reason}")
    for change, number in platform.held_cohorts.items():
        if number:
            done = "created" if change is CohortChange.CREATION else "renamed"
            say(f"{platform.name}: {counted(number, 'cohort')} to be {done} once a person decides: `cohorts held`")
    for sentence in blocked_sentences(platform.blocked):
        say(f"{platform.name}: {sentence}")
