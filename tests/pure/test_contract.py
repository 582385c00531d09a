import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator, FormatChecker
from pydantic import ValidationError

import schemas
from schemas import generate
from worker.errors import InvalidMessage
from worker.messages import parse

EXAMPLES: list[dict[str, Any]] = [
    json.loads(line) for line in Path(schemas.__file__).with_name("examples.jsonl").read_text("utf-8").splitlines()
]
ACCEPTED = [example["message"] for example in EXAMPLES if example["verdict"] == "accepted"]
BEYOND_JSON_SCHEMA = {
    "A version with a decimal point.": "for JSON Schema 1.0 is an integer",
    "A merge of a number with itself.": "JSON Schema does not compare two fields",
}
VALIDATOR = Draft202012Validator(generate.json_schema(), format_checker=FormatChecker())

every_example = pytest.mark.parametrize("example", EXAMPLES, ids=[example["name"] for example in EXAMPLES])


def models_verdict(value: bytes) -> str | list[str]:
    try:
        schemas.EVENTS.validate_json(value)
    except ValidationError as error:
        return [f"{field}: {kind}" for field, kind in schemas.problems(error)]
    return "accepted"


def readers_verdict(value: bytes) -> str | list[str]:
    try:
        parse(value=value, origin="examples[0]@0")
    except InvalidMessage as error:
        return [str(problem) for problem in error.problems]
    return "accepted"


@every_example
def test_models_and_reader_give_the_verdict_of_each_example(example: dict[str, Any]) -> None:
    value = json.dumps(example["message"]).encode()
    assert models_verdict(value) == example["verdict"]
    assert readers_verdict(value) == example["verdict"]


@every_example
def test_json_schema_gives_the_verdict_of_each_example(example: dict[str, Any]) -> None:
    accepted = example["verdict"] == "accepted" or example["name"] in BEYOND_JSON_SCHEMA
    assert VALIDATOR.is_valid(example["message"]) is accepted


def test_every_exception_of_the_json_schema_is_an_example_that_the_models_refuse() -> None:
    refused = {example["name"] for example in EXAMPLES if example["verdict"] != "accepted"}
    assert BEYOND_JSON_SCHEMA.keys() <= refused


def test_every_type_has_an_accepted_example() -> None:
    assert {message["type"] for message in ACCEPTED} == schemas.MODELS.keys()


@pytest.mark.parametrize("message", ACCEPTED, ids=[message["id"] for message in ACCEPTED])
def test_what_a_producer_writes_from_a_model_reads_as_the_same_model(message: dict[str, Any]) -> None:
    event = schemas.EVENTS.validate_json(json.dumps(message))
    written = event.model_dump_json(exclude_none=True)
    assert schemas.EVENTS.validate_json(written) == event
    assert VALIDATOR.is_valid(json.loads(written))


@pytest.mark.parametrize(
    ("kind", "key"),
    [
        ("fr.etape-cohorts.enrolment.state.v1", "29900001"),
        ("fr.etape-cohorts.enrolment.deleted.v1", "29900001"),
        ("fr.etape-cohorts.student.rekeyed.v1", "29900001"),
        ("fr.etape-cohorts.etape.described.v1", "XINFO1"),
    ],
)
def test_key_is_the_student_or_the_etape(kind: str, key: str) -> None:
    message = next(message for message in ACCEPTED if message["type"] == kind)
    assert schemas.message_key(schemas.EVENTS.validate_json(json.dumps(message))) == key


@pytest.mark.parametrize(
    ("path", "document"),
    [(generate.JSON_SCHEMA, generate.json_schema()), (generate.ASYNCAPI, generate.asyncapi())],
    ids=["json-schema", "asyncapi"],
)
def test_generated_file_is_up_to_date(path: Path, document: dict[str, Any]) -> None:
    assert path.read_text("utf-8") == generate.written(document), "run python -m schemas.generate"


def test_json_schema_is_one_and_describes_every_field() -> None:
    document = generate.json_schema()
    Draft202012Validator.check_schema(document)
    undescribed = [
        f"{name}.{field}"
        for name, definition in document["$defs"].items()
        for field, schema in definition["properties"].items()
        if not schema.get("description")
    ]
    assert undescribed == []


def test_every_reference_of_the_asyncapi_document_leads_somewhere() -> None:
    document = generate.asyncapi()

    def references(part: object) -> list[str]:
        if isinstance(part, dict):
            own = [part["$ref"]] if isinstance(part.get("$ref"), str) else []
            return own + [reference for value in part.values() for reference in references(value)]
        if isinstance(part, list):
            return [reference for value in part for reference in references(value)]
        return []

    found = references(document)
    assert found
    for reference in found:
        target: Any = document
        for step in reference.removeprefix("#/").split("/"):
            target = target[step]


def test_models_are_frozen() -> None:
    source = schemas.Source(system="apogee", uai="0141408E")
    with pytest.raises(ValidationError, match="frozen"):
        source.uai = "0142222Z"  # type: ignore[misc]  # what the test is about


@pytest.mark.parametrize("year", [1999, 2100])
def test_producer_cannot_build_a_time_that_would_be_refused(year: int) -> None:
    event = schemas.EVENTS.validate_json(json.dumps(ACCEPTED[0]))
    fields = {name: getattr(event, name) for name in type(event).model_fields}
    with pytest.raises(ValidationError, match="time"):
        type(event)(**fields | {"time": datetime(year, 6, 1, tzinfo=UTC)})


def test_text_that_ends_with_a_line_break_is_refused() -> None:
    """Apart from the examples: in Python alone, the `$` of a JSON Schema's pattern would let it pass."""
    value = json.dumps(ACCEPTED[0]).replace("Licence 1 Informatique", r"Licence 1 Informatique\n")
    assert models_verdict(value.encode()) == ["data.etape.label: string_pattern_mismatch"]


def test_errors_of_the_models_hide_their_input() -> None:
    with pytest.raises(ValidationError) as caught:
        schemas.EVENTS.validate_json(json.dumps(ACCEPTED[0] | {"email": "prenom.martin@example.fr"}))
    assert "martin" not in str(caught.value)
