"""The command that runs a worker: run."""

import os
from datetime import time as LocalTime  # noqa: N812 - a local time of day
from typing import Annotated

import typer

from worker.cli.base import DEFAULT_CONFIG, ConfigOption, LogOption, prepare
from worker.domain.schedule import time_of_day
from worker.runtime import systemd
from worker.runtime.worker import Worker

family = typer.Typer()


def _time_of_day(text: str) -> LocalTime:
    try:
        return time_of_day(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


@family.command()
def run(
    path: ConfigOption = DEFAULT_CONFIG,
    level: LogOption = "info",
    reconcile_at: Annotated[
        LocalTime | None,
        typer.Option(
            parser=_time_of_day,
            metavar="HH:MM",
            help="Reconcile every night at this local time, once for all processes.",
        ),
    ] = None,
) -> None:
    """Consume, record and converge until SIGTERM; serves /metrics, /livez and /readyz."""
    supervisor = systemd.Supervisor(os.environ)
    Worker(prepare(path, log=level), reconcile_at=reconcile_at, supervisor=supervisor).run()
