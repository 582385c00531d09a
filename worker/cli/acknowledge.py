"""The command by which a person says that a deleted cohort's courses have been seen to: acknowledge."""

import time
from typing import Annotated

import typer

from worker.cli.base import DEFAULT_CONFIG, ConfigOption, person, prepare, say
from worker.domain.errors import DecisionRefused
from worker.ledger import deletions
from worker.runtime.ledger import opened

family = typer.Typer()


@family.command()
def acknowledge(
    platform: Annotated[str, typer.Argument(help="The platform's name in the settings.")],
    globs: Annotated[list[str], typer.Argument(help="Cohort idnumbers (globs).")],
    path: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Say that the courses of cohorts that were deleted on Moodle are seen to: they are no longer reported."""
    settings = prepare(path)
    settings.platform(platform)
    with opened(settings) as ledger:
        acknowledged = deletions.acknowledge(ledger, platform, globs, by=person(), now=time.time())
    if not acknowledged:
        raise DecisionRefused(f"no deleted cohort of {platform} matches {' '.join(globs)}; see `cohorts status`")
    say(f"{len(acknowledged)} deleted cohorts of {platform} acknowledged: {', '.join(acknowledged)}")
