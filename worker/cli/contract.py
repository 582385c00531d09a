"""The command for producers: schema."""

import sys
from importlib import resources
from typing import Annotated, Any

import typer

from schemas import generate

family = typer.Typer()


@family.command()
def schema(
    what: Annotated[
        str, typer.Argument(help="json-schema, examples, snapshot-json-schema, snapshot-examples or asyncapi.")
    ] = "json-schema",
) -> None:
    """Print the contract of the messages, for producers."""
    documents: dict[str, Any] = {
        "json-schema": generate.json_schema,
        "snapshot-json-schema": generate.snapshot_json_schema,
        "asyncapi": generate.asyncapi,
    }
    examples = {"examples": "examples.jsonl", "snapshot-examples": "snapshot-examples.jsonl"}
    if what in documents:
        sys.stdout.write(generate.written(documents[what]()))
    elif what in examples:
        sys.stdout.write((resources.files("schemas") / examples[what]).read_text(encoding="utf-8"))
    else:
        raise typer.BadParameter(f"no document {what}; choose one of {', '.join([*documents, *examples])}")
