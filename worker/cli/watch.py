"""The command that watches a directory."""

from typing import Annotated

import typer

from worker import telemetry
from worker.cli.base import DEFAULT_CONFIG, ConfigOption, LogOption, prepare, say
from worker.domain.words import counted
from worker.runtime import sources, watch_process
from worker.runtime.ledger import opened
from worker.sources.watch import PollResult

PORT = 9465

family = typer.Typer()


@family.command()
def watch(
    name: Annotated[str, typer.Argument(help="A directory among the sources of the settings.")],
    *,
    path: ConfigOption = DEFAULT_CONFIG,
    once: Annotated[bool, typer.Option("--once", help="Poll once and print what was published.")] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of /metrics, /livez and /readyz.")] = PORT,
    level: LogOption = "info",
) -> None:
    """Publish a directory's changes as messages, within a minute, until SIGTERM.

    The first poll publishes everything. A student who is gone from the branch, or moved to another one, has left.
    """
    settings = prepare(path)
    with opened(settings) as ledger:
        watched = sources.watch(settings, ledger, name)
        if once:
            say(_sentence(watched.poll()))
            return
        telemetry.configure_logging(level)
        watch_process.watching(watched, host=settings.web.host, port=port)


def _sentence(found: PollResult) -> str:
    published = ", ".join(f"{number} {kind}" for kind, number in sorted(found.published.items())) or "nothing"
    missing = f", {found.missed} missing, who have left if the next poll misses them too" if found.missed else ""
    entries = counted(found.entries, "entry", "entries")
    return f"{entries}, {found.read} of them new or changed{missing}; published: {published}"
