"""The commands to try it without servers of one's own: demo, sandbox."""

from typing import Annotated

import typer

from worker import telemetry
from worker.cli.base import DEFAULT_CONFIG, ConfigOption, prepare
from worker.sandbox import serve as serving
from worker.sandbox.demo import demo as demonstration

family = typer.Typer()


@family.command()
def demo(
    serve: Annotated[bool, typer.Option("--serve", help="Stay up afterwards, until Ctrl-C.")] = False,
) -> None:
    """Run the main job on an embedded broker, ledger and three Moodles, and verify every cohort at the end."""
    telemetry.configure_logging("error")
    if not demonstration.run(serve=serve):
        raise typer.Exit(1)


@family.command()
def sandbox(
    path: ConfigOption = DEFAULT_CONFIG,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8080,
    students: Annotated[int, typer.Option(min=100, help="How large the university is.")] = 3_000,
) -> None:
    """Be an invented university until SIGTERM: a Moodle, and messages to Kafka. For an installation to try."""
    serving.live(prepare(path), host=host, port=port, students=students)
