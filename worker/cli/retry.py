"""The command that ends the pause of a platform: retry."""

import time
from typing import Annotated

import typer

from worker.cli.base import DEFAULT_CONFIG, ConfigOption, prepare, say
from worker.domain.errors import SettingsError
from worker.domain.rules import Mode
from worker.ledger import blocked
from worker.ledger.availability import Availability
from worker.runtime.ledger import opened

family = typer.Typer()


@family.command()
def retry(
    platform: Annotated[str, typer.Argument(help="The platform's name in the settings.")],
    path: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """End the pause of a platform, and try at once what failed there: after its token, say, was renewed.

    Cohorts that couldn't be created because another one was in their way are tried too.

    A running worker does it within seconds; it must know the new token itself.
    """
    settings = prepare(path)
    if settings.platform(platform).mode is Mode.MANUAL:
        raise SettingsError(f"{platform} is managed by hand: nothing is written there, so there is nothing to retry")
    with opened(settings) as ledger:
        availability = Availability(ledger, platform)
        stopped = availability.stopped()
        availability.end_pause(time.time())
        blocked.try_again(ledger, platform, time.time())
    was = "answered all the time" if stopped is None else f"was {stopped.state.value}: {stopped.sentence}"
    say(f"{platform} {was}; what failed there is tried at once")
