"""The command that adopts existing cohorts: adopt."""

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
from worker.runtime.platforms import transport
from worker.sync import adoption

family = typer.Typer()


@family.command()
def adopt(
    platform: Annotated[str, typer.Argument(help="The platform's name in the settings.")],
    globs: Annotated[list[str] | None, typer.Argument(help="Cohort idnumbers (globs) [default: all].")] = None,
    path: ConfigOption = DEFAULT_CONFIG,
    apply: Annotated[bool, typer.Option("--apply", help="Adopt them; without it, only list them.")] = False,
) -> None:
    """List the existing cohorts whose idnumber is one of ours, with their sizes; with --apply, adopt them."""
    settings = prepare(path)
    policy = next((p for p in settings.policy().platforms if p.name == platform), None)
    if policy is None or policy.mode is Mode.MANUAL:
        raise SettingsError(f"{platform} is not an automatic platform; see platforms in {path}")
    connection = transport(platform, settings.platforms[platform])
    with opened(settings) as ledger, out.status(f"Reading {platform}"):
        candidates = adoption.candidates(ledger, policy, MoodleReader(connection), globs or ["*"])
        adopted = adoption.adopt(ledger, policy, candidates, by=person()) if apply else 0
    connection.close()
    table = Table("idnumber", "name", "members", "desired and there", "to be added", "others (they stay)")
    for candidate in candidates:
        table.add_row(
            escape(_idnumber(candidate)),
            escape(printable(candidate.name)),
            *map(str, (candidate.members, candidate.present, candidate.absent, candidate.others)),
        )
    out.print(table)
    if apply:
        out.print(f"{adopted} of {len(candidates)} cohorts adopted on {platform}")
    else:
        out.print(f"{len(candidates)} cohorts could be adopted on {platform}; add --apply to adopt them")


def _idnumber(candidate: adoption.AdoptionCandidate) -> str:
    """Say what the cohort is called on Moodle, and what it will be, where its idnumber has another spelling."""
    if candidate.moodle_idnumber == candidate.idnumber:
        return candidate.idnumber
    return f"{printable(candidate.moodle_idnumber)}, renamed to {candidate.idnumber}"
