"""The commands about topics: create, acls."""

from typing import Annotated

import typer

from worker import kafka
from worker.cli.base import DEFAULT_CONFIG, ConfigOption, prepare, say
from worker.domain.words import counted
from worker.runtime.topics import definitions, rights, shortcomings, uses

family = typer.Typer()
topics = typer.Typer(no_args_is_help=True, help="Create the topics in Kafka, and print the rights on them.")
family.add_typer(topics, name="topics")


@topics.command()
def create(
    path: ConfigOption = DEFAULT_CONFIG,
    partitions: Annotated[
        int,
        typer.Option(min=1, help="Partitions of each topic of messages: as many as the workers that you may ever run."),
    ] = 6,
    replicas: Annotated[
        int, typer.Option(min=-1, help="Copies of each partition; -1 is the cluster's default, 3 is usual.")
    ] = -1,
) -> None:
    """Create the missing topics of the settings, except those of change capture, which their connector creates.

    Existing topics are checked and stay as they are.
    """
    loaded = prepare(path)
    settings, several = loaded.kafka, loaded.ledger.serves_several
    wanted = definitions(settings, partitions=partitions, replicas=replicas)
    created = kafka.create_topics(settings.properties(), wanted)
    existing = kafka.describe(settings.properties(), uses(settings).keys() - created).topics
    current = kafka.topic_settings(settings.properties(), existing)
    for name, use in uses(settings).items():
        if name in created:
            days = int(wanted[name].settings["retention.ms"]) // 86_400_000
            say(f"{name}: created, {counted(wanted[name].partitions, 'partition')}, {use} kept for {days} days")
        elif name not in existing:
            say(f"{name}: missing; the connector of change capture creates it")
        else:
            say(f"{name}: exists, {counted(existing[name].partitions, 'partition')}")
            for sentence in shortcomings(use, existing[name], current[name], several=several):
                say(f"{name}: {sentence}")


@topics.command()
def acls(
    principal: Annotated[str, typer.Option(help="The principal that gets the rights.")] = "User:cohorts",
    path: ConfigOption = DEFAULT_CONFIG,
    command: Annotated[str | None, typer.Option(help="Only the rights of this command, e.g. `run`.")] = None,
) -> None:
    """Print the rights that each command needs, as arguments of Kafka's own kafka-acls.sh."""
    by_command = rights(prepare(path).kafka)
    for commands, needed in by_command.items():
        if command is not None and command not in commands.split(", "):
            continue
        say(f"# cohorts {commands}")
        for right in needed:
            say(
                f"kafka-acls.sh --bootstrap-server … --add --allow-principal {principal} "
                f"--operation {right.operation} --{right.kind} {right.name}"
            )
