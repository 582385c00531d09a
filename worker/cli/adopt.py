"""The command that takes over cohorts which exist already: adopt."""

from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from worker.cli.base import DEFAULT_CONFIG, ConfigOption, out, person, prepare
from worker.domain.errors import SettingsError
from worker.domain.rules import Mode
from worker.domain.sanitize import printable
from worker.moodle import MoodleReader
from worker.runtime.ledger import opened
from worker.runtime.platforms import wire
from worker.sync import adoption

family = typer.Typer()


@family.command()
def adopt(
    platform: Annotated[str, typer.Argument(help="The platform's name in the settings.")],
    globs: Annotated[
        list[str] | None, typer.Argument(help="Cohort idnumbers (globs); all of them unless said.")
    ] = None,
    path: ConfigOption = DEFAULT_CONFIG,
    apply: Annotated[bool, typer.Option("--apply", help="Take them over; without it, only show them.")] = False,
) -> None:
    """Show the existing cohorts that carry our idnumbers, with their sizes, and with --apply take them over."""
    settings = prepare(path)
    policy = next((p for p in settings.policy().platforms if p.name == platform), None)
    if policy is None or policy.mode is Mode.MANUAL:
        raise SettingsError(f"{platform} is not a platform that is kept automatically; see platforms in {path}")
    connection = wire(platform, settings.platforms[platform])
    with opened(settings) as ledger, out.status(f"Reading {platform}"):
        found = adoption.candidates(ledger, policy, MoodleReader(connection), globs or ["*"])
        taken = adoption.adopt(ledger, policy, found, by=person()) if apply else 0
    connection.close()
    table = Table("idnumber", "name", "members", "desired and there", "to be added", "others (they stay)")
    for item in found:
        table.add_row(
            escape(item.idnumber),
            escape(printable(item.name)),
            *map(str, (item.members, item.present, item.absent, item.others)),
        )
    out.print(table)
    if apply:
        out.print(f"{taken} of {len(found)} cohorts adopted on {platform}")
    else:
        out.print(f"{len(found)} cohorts could be adopted on {platform}; add --apply to take them over")
