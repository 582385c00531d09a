"""The commands to try the program without servers: demo, sandbox."""

from typing import Annotated

import typer

from worker import telemetry
from worker.cli.base import DEFAULT_CONFIG, ConfigOption, prepare
from worker.sandbox import serve as serving
from worker.sandbox.demo import run as demonstration

family = typer.Typer()


@family.command()
def demo(
    serve: Annotated[bool, typer.Option("--serve", help="Keep running afterwards, until Ctrl-C.")] = False,
) -> None:
    """Run the whole job on an embedded broker, ledger and three Moodles, and verify every cohort."""
    telemetry.configure_logging("error")
    if not demonstration.run(serve=serve):
        raise typer.Exit(1)


@family.command()
def sandbox(
    path: ConfigOption = DEFAULT_CONFIG,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8080,
    students: Annotated[int, typer.Option(min=100, help="Number of students.")] = 3_000,
) -> None:
    """Play an invented university until SIGTERM, to try an installation: a Moodle, and messages on Kafka."""
    serving.live(prepare(path), host=host, port=port, students=students)
