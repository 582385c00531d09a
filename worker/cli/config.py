"""The command that shows the settings: config."""

from typing import Annotated

import typer

from worker.cli.base import DEFAULT_CONFIG, ConfigOption, out, prepare
from worker.settings.effective import effective

family = typer.Typer()


@family.command(name="config")
def show_config(
    path: ConfigOption = DEFAULT_CONFIG,
    describe: Annotated[
        bool, typer.Option("--describe", help="Print the description, unit and default of each setting.")
    ] = False,
) -> None:
    """Print the settings in force, with secrets masked."""
    for setting in effective(prepare(path)):
        if describe:
            out.print(f"# {setting.description}", soft_wrap=True, markup=False, highlight=False)
        out.print(f"{setting.path} = {setting.value}", soft_wrap=True, markup=False, highlight=False)
