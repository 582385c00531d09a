import json
import sys
import unicodedata
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator, FormatChecker
from pydantic import TypeAdapter, ValidationError

import schemas
from schemas import generate
from schemas.envelope import Code16, Code32, Code100, Code128, Label255
from worker.domain.errors import InvalidMessage
from worker.formats.cloudevents import parse


def examples(name: str) -> list[dict[str, Any]]:
    """Read the examples of a topic."""
    lines = Path(schemas.__file__).with_name(name).read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines]


EXAMPLES, OF_SNAPSHOTS = examples("examples.jsonl"), examples("snapshot-examples.jsonl")
ACCEPTED = [example["message"] for example in EXAMPLES if example["verdict"] == "accepted"]
SNAPSHOT = [example["message"] for example in OF_SNAPSHOTS if example["verdict"] == "accepted"]
BEYOND_JSON_SCHEMA = {
    "A version with a decimal point.": "for JSON Schema 1.0 is an integer",
    "A merge of a number with itself.": "JSON Schema does not compare two fields",
    "A row whose number has a decimal point.": "for JSON Schema 1.0 is an integer",
}
VALIDATOR = Draft202012Validator(generate.json_schema(), format_checker=FormatChecker())
SNAPSHOT_VALIDATOR = Draft202012Validator(generate.snapshot_json_schema(), format_checker=FormatChecker())
DOCUMENTS = [
    pytest.param(generate.JSON_SCHEMA, generate.json_schema(), id="json-schema"),
    pytest.param(generate.SNAPSHOT_JSON_SCHEMA, generate.snapshot_json_schema(), id="snapshot-json-schema"),
    pytest.param(generate.ASYNCAPI, generate.asyncapi(), id="asyncapi"),
]


def every(examples: list[dict[str, Any]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("example", examples, ids=[example["name"] for example in examples])


def models_verdict(value: bytes, models: TypeAdapter[Any] = schemas.EVENTS) -> str | list[str]:
    try:
        models.validate_json(value)
    except ValidationError as error:
        return [f"{field}: {kind}" for field, kind in schemas.problems(error)]
    return "accepted"


def readers_verdict(value: bytes) -> str | list[str]:
    try:
        parse(value=value, origin="examples[0]@0")
    except InvalidMessage as error:
        return [str(problem) for problem in error.problems]
    return "accepted"


@every(EXAMPLES)
def test_models_and_reader_give_the_verdict_of_each_example(example: dict[str, Any]) -> None:
    value = json.dumps(example["message"]).encode()
    assert models_verdict(value) == example["verdict"]
    assert readers_verdict(value) == example["verdict"]


@every(OF_SNAPSHOTS)
def test_models_give_the_verdict_of_each_example_of_a_snapshot(example: dict[str, Any]) -> None:
    assert models_verdict(json.dumps(example["message"]).encode(), schemas.SNAPSHOT_EVENTS) == example["verdict"]


@every(EXAMPLES)
def test_json_schema_gives_the_verdict_of_each_example(example: dict[str, Any]) -> None:
    accepted = example["verdict"] == "accepted" or example["name"] in BEYOND_JSON_SCHEMA
    assert VALIDATOR.is_valid(example["message"]) is accepted


@every(OF_SNAPSHOTS)
def test_json_schema_gives_the_verdict_of_each_example_of_a_snapshot(example: dict[str, Any]) -> None:
    accepted = example["verdict"] == "accepted" or example["name"] in BEYOND_JSON_SCHEMA
    assert SNAPSHOT_VALIDATOR.is_valid(example["message"]) is accepted


def test_every_exception_of_the_json_schema_is_an_example_that_the_models_refuse() -> None:
    refused = {example["name"] for example in EXAMPLES + OF_SNAPSHOTS if example["verdict"] != "accepted"}
    assert BEYOND_JSON_SCHEMA.keys() <= refused


def test_every_type_has_an_accepted_example() -> None:
    assert {message["type"] for message in ACCEPTED} == schemas.MODELS.keys()
    assert {message["type"] for message in SNAPSHOT} == schemas.SNAPSHOT_MODELS.keys()


def test_each_topic_refuses_the_messages_of_the_other() -> None:
    for message in ACCEPTED:
        assert models_verdict(json.dumps(message).encode(), schemas.SNAPSHOT_EVENTS) == ["type: union_tag_invalid"]
    for message in SNAPSHOT:
        assert readers_verdict(json.dumps(message).encode()) == ["type: union_tag_invalid"]


@pytest.mark.parametrize("message", ACCEPTED, ids=[message["id"] for message in ACCEPTED])
def test_what_a_producer_writes_from_a_model_reads_as_the_same_model(message: dict[str, Any]) -> None:
    event = schemas.EVENTS.validate_json(json.dumps(message))
    written = event.model_dump_json(exclude_none=True)
    assert schemas.EVENTS.validate_json(written) == event
    assert VALIDATOR.is_valid(json.loads(written))


@pytest.mark.parametrize("message", SNAPSHOT)
def test_what_a_producer_writes_of_a_snapshot_reads_as_the_same_model(message: dict[str, Any]) -> None:
    event = schemas.SNAPSHOT_EVENTS.validate_json(json.dumps(message))
    written = event.model_dump_json(exclude_none=True)
    assert schemas.SNAPSHOT_EVENTS.validate_json(written) == event
    assert SNAPSHOT_VALIDATOR.is_valid(json.loads(written))


@pytest.mark.parametrize(
    ("kind", "key"),
    [
        ("fr.etape-cohorts.enrolment.state.v1", "29900001"),
        ("fr.etape-cohorts.enrolment.deleted.v1", "29900001"),
        ("fr.etape-cohorts.student.rekeyed.v1", "29900001"),
        ("fr.etape-cohorts.etape.described.v1", "XINFO1"),
    ],
)
def test_the_key_of_a_message_is_the_student_or_the_etape(kind: str, key: str) -> None:
    message = next(message for message in ACCEPTED if message["type"] == kind)
    assert schemas.message_key(schemas.EVENTS.validate_json(json.dumps(message))) == key


@pytest.mark.parametrize(("path", "document"), DOCUMENTS)
def test_generated_file_is_up_to_date(path: Path, document: dict[str, Any]) -> None:
    assert path.read_text("utf-8") == generate.written(document), "run python -m schemas.generate"


@pytest.mark.parametrize(
    "document", [generate.json_schema(), generate.snapshot_json_schema()], ids=["all", "snapshots"]
)
def test_json_schema_is_one_and_describes_every_field(document: dict[str, Any]) -> None:
    Draft202012Validator.check_schema(document)
    undescribed = [
        f"{name}.{field}"
        for name, definition in document["$defs"].items()
        for field, schema in definition["properties"].items()
        if not schema.get("description")
    ]
    assert undescribed == []


def test_asyncapi_has_every_message_on_its_channel() -> None:
    channels = generate.asyncapi()["channels"]
    assert len(channels["enrolments"]["messages"]) == len(schemas.MODELS)
    assert channels["snapshots"]["messages"].keys() == {model.__name__ for model in schemas.SNAPSHOT_MODELS.values()}


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


INVISIBLE = ("\u200b", "\u202e", "\u00ad", "\ufe0f", "\u3164", "\u2066", "\U000e0041", "\U0001d173")


def every_invisible() -> list[str]:
    """Unicode's whole category Cf."""
    return [chr(code) for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code)) == "Cf"]


@pytest.mark.parametrize("model", [Code16, Code32, Code100, Code128])
def test_hostile_code_with_an_invisible_character_is_refused_wherever_it_stands(model: type) -> None:
    code: TypeAdapter[str] = TypeAdapter(model)
    for character in (*INVISIBLE, *every_invisible()):
        for text in (f"{character}L1", f"L{character}1", f"L1{character}"):
            with pytest.raises(ValidationError):
                code.validate_json(orjson.dumps(text))


def test_invisible_characters_are_removed_from_labels() -> None:
    label = TypeAdapter(Label255)
    for character in (*INVISIBLE, *every_invisible()):
        assert label.validate_json(orjson.dumps(f"Licence{character} 1 é")) == "Licence 1 é"
    with pytest.raises(ValidationError):
        label.validate_json(orjson.dumps("\u200b"))


@given(st.text("ABCÉéœ01-_ ß", min_size=1, max_size=16).filter(lambda text: text == text.strip()))
def test_a_code_that_is_seen_is_accepted_as_it_is(text: str) -> None:
    assert TypeAdapter(Code16).validate_json(orjson.dumps(text)) == text
