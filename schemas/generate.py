"""The contract in other languages: JSON Schema 2020-12 and AsyncAPI 3.0.0, generated from the models.

`python -m schemas.generate` writes the files beside this one; tests compare them with the models.
"""

import inspect
import json
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import models_json_schema

from schemas import snapshot
from schemas.catalogue import EVENTS, MODELS, SNAPSHOT_EVENTS, SNAPSHOT_MODELS

HERE = Path(__file__).parent
JSON_SCHEMA = HERE / "etape-cohorts.schema.json"
SNAPSHOT_JSON_SCHEMA = HERE / "snapshots.schema.json"
ASYNCAPI = HERE / "asyncapi.json"

_STRUCTURED = "application/cloudevents+json"
_KEY = "Student id (for a merge, the number that remains); for `etape.described`, the code of the étape. UTF-8."
_SNAPSHOT_KEY = "Student id of a row, or id of an enrolment that is unknown; `begin` and `end` have none. UTF-8."
_ATTRIBUTES = ("specversion", "id", "source", "type", "time")
_FAILURE = {
    "topic": "Topic that the message was read from.",
    "partition": "Its partition, in decimal digits.",
    "offset": "Its offset, in decimal digits.",
    "stage": "What the worker was doing.",
    "exception.class.name": "Class of the error.",
    "exception.message": "Fields and types of error; never a value of the message.",
}


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of every message of the enrolments' topic in its structured form."""
    return _json_schema("messages", "Messages of étape cohorts", EVENTS)


def snapshot_json_schema() -> dict[str, Any]:
    """Return the JSON Schema of every message of the snapshots' topic in its structured form."""
    return _json_schema("snapshots", "Snapshots of étape cohorts", SNAPSHOT_EVENTS)


def _json_schema(name: str, title: str, events: TypeAdapter[Any]) -> dict[str, Any]:
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:etape-cohorts:{name}:v1",
        "title": title,
        "description": "CloudEvents 1.0 in JSON. Generated from the models of the Python package `schemas`.",
        **events.json_schema(),
    }


def asyncapi() -> dict[str, Any]:
    """Return the AsyncAPI document: topics, keys, headers and messages. Settings may rename the topics."""
    _, definitions = models_json_schema(
        [(model, "validation") for model in [*MODELS.values(), *SNAPSHOT_MODELS.values()]],
        ref_template="#/components/schemas/{model}",
    )
    names = {kind: model.__name__ for kind, model in MODELS.items()}
    snapshot_names = {kind: model.__name__ for kind, model in SNAPSHOT_MODELS.items()}
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "étape cohorts",
            "version": "1.0.0",
            "description": "The messages that the worker reads from Kafka, and the dead letters that it writes.",
        },
        "defaultContentType": _STRUCTURED,
        "channels": {
            "enrolments": {
                "address": "enrolments",
                "description": (
                    "Enrolments, merges of student numbers, and descriptions of étapes. CloudEvents 1.0, "
                    "structured or binary (`ce_*` headers, the value is `data`), with or without the frame "
                    "of a Confluent serializer. A message without a value is acknowledged and has no effect."
                ),
                "messages": {name: _ref("messages", name) for name in names.values()},
            },
            "snapshots": {
                "address": "enrolments.snapshots",
                "description": inspect.cleandoc(snapshot.__doc__ or ""),
                "messages": {name: _ref("messages", name) for name in snapshot_names.values()},
            },
            "deadLetters": {
                "address": "enrolments.dead-letters",
                "description": "Messages that can never be read, with their original key, value and headers.",
                "messages": {"DeadLetter": _ref("messages", "DeadLetter")},
            },
        },
        "operations": {
            "readEnrolments": {"action": "receive", "channel": {"$ref": "#/channels/enrolments"}},
            "readSnapshots": {"action": "receive", "channel": {"$ref": "#/channels/snapshots"}},
            "writeDeadLetters": {"action": "send", "channel": {"$ref": "#/channels/deadLetters"}},
        },
        "components": {
            "messages": {name: _message(kind, name, _KEY) for kind, name in names.items()}
            | {name: _message(kind, name, _SNAPSHOT_KEY) for kind, name in snapshot_names.items()}
            | {"DeadLetter": _dead_letter()},
            "schemas": definitions["$defs"],
        },
    }


def _ref(kind: str, name: str) -> dict[str, str]:
    return {"$ref": f"#/components/{kind}/{name}"}


def _kafka_key(description: str) -> dict[str, Any]:
    return {"kafka": {"key": _text(description), "bindingVersion": "0.5.0"}}


def _message(kind: str, name: str, key: str) -> dict[str, Any]:
    content_type = _text(f"`{_STRUCTURED}` (assumed) when structured, `application/json` when binary.")
    attributes = {f"ce_{name}": _text(f"Binary form only: `{name}` of the envelope.") for name in _ATTRIBUTES}
    return {
        "name": kind,
        "contentType": _STRUCTURED,
        "headers": {"type": "object", "properties": {"content-type": content_type, **attributes}},
        "payload": _ref("schemas", name),
        "bindings": _kafka_key(key),
    }


def _dead_letter() -> dict[str, Any]:
    headers = {f"__connect.errors.{name}": _text(description) for name, description in _FAILURE.items()}
    return {
        "name": "DeadLetter",
        "contentType": "application/octet-stream",
        "headers": {"type": "object", "required": list(headers), "properties": headers},
        "payload": {"description": "The value as it was read, whatever it is."},
        "bindings": _kafka_key("The key as it was read."),
    }


def _text(description: str) -> dict[str, str]:
    return {"type": "string", "description": description}


def written(document: dict[str, Any]) -> str:
    """Return the text of a document's file."""
    return json.dumps(document, ensure_ascii=False, indent=2) + "\n"


if __name__ == "__main__":
    JSON_SCHEMA.write_text(written(json_schema()), encoding="utf-8")
    SNAPSHOT_JSON_SCHEMA.write_text(written(snapshot_json_schema()), encoding="utf-8")
    ASYNCAPI.write_text(written(asyncapi()), encoding="utf-8")
