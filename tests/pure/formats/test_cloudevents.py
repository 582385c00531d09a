import json
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import schemas
from worker.domain.changes import Change, EnrolmentChange, EtapeChange, NumberChange, Tombstone
from worker.domain.errors import InvalidMessage, Problem
from worker.domain.states import Payment, Status
from worker.formats.cloudevents import parse

ORIGIN = "enrolments[3]@1042"
STRUCTURED = ("content-type", b"application/cloudevents+json; charset=utf-8")
BINARY = ("content-type", b"application/json")
ACCEPTED: list[dict[str, Any]] = [
    example["message"]
    for example in map(json.loads, Path(schemas.__file__).with_name("examples.jsonl").read_text("utf-8").splitlines())
    if example["verdict"] == "accepted"
]
STATE = ACCEPTED[0]

Headers = Iterable[tuple[str, bytes | None]]


def encoded(message: object) -> bytes:
    return json.dumps(message).encode()


def read(message: object, *headers: tuple[str, bytes | None]) -> Change:
    return parse(value=encoded(message), headers=headers, origin=ORIGIN)


def in_binary(message: dict[str, Any]) -> tuple[bytes, list[tuple[str, bytes | None]]]:
    attributes = {name: value for name, value in message.items() if name != "data" and value is not None}
    return encoded(message["data"]), [(f"ce_{name}", value.encode()) for name, value in attributes.items()]


def refusal(value: bytes | None, headers: Headers = ()) -> InvalidMessage:
    with pytest.raises(InvalidMessage) as caught:
        parse(value=value, headers=headers, origin=ORIGIN)
    return caught.value


def of_type(kind: str) -> dict[str, Any]:
    return next(message for message in ACCEPTED if message["type"] == f"fr.etape-cohorts.{kind}.v1")


def test_state_becomes_a_change() -> None:
    assert read(STATE) == EnrolmentChange(
        uai="0141408E",
        enrolment_id="2026:104233:XINFO1:101:1",
        system="apogee",
        version=48211934,
        changed_at=1788243151.482,
        student_id="29900001",
        status=Status.ACTIVE,
        origin=ORIGIN,
        academic_year=2026,
        login="29900001",
        etape="XINFO1",
        etape_version="101",
        etape_label="Licence 1 Informatique",
        component="U99",
        component_label="UFR des Sciences",
        payment=Payment.PAID,
    )


def test_deletion_becomes_a_change_that_knows_no_etape() -> None:
    assert read(of_type("enrolment.deleted")) == EnrolmentChange(
        uai="0141408E",
        enrolment_id="2026:104233:XINFO1:101:1",
        system="apogee",
        version=48400001,
        changed_at=1788243151.482,
        student_id="29900001",
        status=Status.DELETED,
        origin=ORIGIN,
        academic_year=2026,
    )


def test_merge_keeps_both_numbers() -> None:
    assert read(of_type("student.rekeyed")) == NumberChange(
        uai="0141408E",
        previous_student_id="29900417",
        student_id="29900001",
        changed_at=1788243151.482,
        origin=ORIGIN,
    )


def test_description_keeps_label_and_component() -> None:
    assert read(of_type("etape.described")) == EtapeChange(
        uai="0141408E",
        etape="XINFO1",
        changed_at=1788243151.482,
        origin=ORIGIN,
        etape_version="101",
        etape_label="Licence 1 Informatique et applications",
        component="U99",
        component_label="UFR des Sciences",
    )


def test_leading_zeros_are_kept() -> None:
    message = STATE | {"data": STATE["data"] | {"student": {"student_id": "000000042"}}}
    change = read(message)
    assert isinstance(change, EnrolmentChange)
    assert change.student_id == "000000042"


@pytest.mark.parametrize("message", ACCEPTED, ids=[message["id"] for message in ACCEPTED])
def test_structured_binary_and_framed_messages_read_as_the_same_change(message: dict[str, Any]) -> None:
    expected = read(message)
    frame = b"\x00\x00\x00\x01\x2c"
    data, attributes = in_binary(message)
    assert read(message, STRUCTURED) == expected
    assert read(message, BINARY) == expected
    assert parse(value=frame + encoded(message), origin=ORIGIN) == expected
    assert read(message, ("__value_schema_id", b"\x01" + bytes(16))) == expected
    assert parse(value=data, headers=attributes, origin=ORIGIN) == expected
    assert parse(value=data, headers=[BINARY, *attributes], origin=ORIGIN) == expected
    assert parse(value=frame + data, headers=[BINARY, *attributes], origin=ORIGIN) == expected


def test_headers_of_a_dead_letter_do_not_matter() -> None:
    assert read(STATE, ("__connect.errors.topic", b"enrolments"), ("x-trace", None)) == read(STATE)


def test_content_type_decides_before_ce_headers() -> None:
    assert read(STATE, STRUCTURED, ("ce_id", b"another")) == read(STATE)


@pytest.mark.parametrize("headers", [[], [STRUCTURED], [("ce_id", b"1")], [("content-type", b"text/xml")]])
def test_message_without_a_value_is_a_tombstone_whatever_its_headers(headers: Headers) -> None:
    assert parse(value=None, headers=headers, origin=ORIGIN) == Tombstone(origin=ORIGIN)


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (b"", "value: json_invalid"),
        (b"\x00", "value: json_invalid"),
        (b"\x00\x00\x00\x00\x01", "value: json_invalid"),
        (b"{", "value: json_invalid"),
        (b"\xef\xbb\xbf" + encoded(STATE), "value: json_invalid"),
        (encoded(STATE) + b"{}", "value: json_invalid"),
        (b"[" * 100_000, "value: json_invalid"),
        (b"null", "value: dict_type"),
        (b"[]", "value: dict_type"),
        (b'{"type": "Dupont"}', "type: union_tag_invalid"),
        (b'{"type": 7}', "type: union_tag_invalid"),
    ],
    ids=lambda part: part if isinstance(part, str) else repr(part[:12]),
)
def test_value_that_is_no_message_is_refused(value: bytes, problem: str) -> None:
    assert str(refusal(value)) == problem


@pytest.mark.parametrize("media_type", [b"application/avro", b"application/cloudevents-batch+json", b"\xff"])
def test_other_media_types_are_refused(media_type: bytes) -> None:
    problem = Problem("content-type", "unsupported_media_type")
    assert refusal(encoded(STATE), [("content-type", media_type)]).problems == (problem,)


def test_binary_message_without_an_attribute_is_refused() -> None:
    data, attributes = in_binary(STATE)
    without_time = [header for header in attributes if header[0] != "ce_time"]
    assert str(refusal(data, without_time)) == "time: missing"


def test_binary_header_that_is_not_utf_8_is_refused() -> None:
    data, attributes = in_binary(STATE)
    assert str(refusal(data, [*attributes, ("ce_subject", b"\xe9tape")])) == "headers: string_unicode"


def test_binary_attribute_that_the_contract_does_not_name_is_refused() -> None:
    data, attributes = in_binary(STATE)
    assert str(refusal(data, [*attributes, ("ce_mail", b"prenom.martin@example.fr")])) == "mail: extra_forbidden"


@pytest.mark.parametrize("tail", [b"}", b', "id": "forged"', b"{}"])
def test_binary_data_cannot_reach_out_into_the_envelope(tail: bytes) -> None:
    data, attributes = in_binary(STATE)
    assert str(refusal(data + tail, attributes)) == "value: json_invalid"


def test_repeated_json_key_counts_once_and_the_last_one_wins() -> None:
    value = encoded(STATE).replace(b'"version": 48211934', b'"version": 1, "version": 48211934')
    assert parse(value=value, origin=ORIGIN) == read(STATE)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("nom", "nom"),
        ("n" * 60, "n" * 40),
        ("29900001", "?"),
        ("prenom.martin@example.fr", "?"),
        ("Éloïse", "?"),
        ("two words", "?"),
        ("line\n", "?"),
        ("", "?"),
    ],
)
def test_unknown_field_is_named_only_when_it_looks_like_a_name(name: str, sentence: str) -> None:
    assert str(refusal(encoded(STATE | {name: 1}))) == f"{sentence}: extra_forbidden"


def test_list_of_problems_has_an_end() -> None:
    assert len(refusal(encoded(STATE | {f"field_{n}": n for n in range(1000)})).problems) == 20


HEADER_NAMES = st.sampled_from(["content-type", "ce_id", "ce_type", "ce_time", "ce_specversion", "x"]) | st.text()
HEADERS = st.lists(st.tuples(HEADER_NAMES, st.none() | st.binary() | st.sampled_from([BINARY[1], STRUCTURED[1]])))


@given(value=st.binary(), headers=HEADERS)
def test_no_bytes_raise_anything_but_invalid_message(value: bytes, headers: Headers) -> None:
    refusal(value, headers)


SECRET = "Zéphyrine 29912345"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.just(SECRET),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | st.just(SECRET), inner),
    max_leaves=8,
)


def replaced(message: dict[str, Any], path: list[int], value: object) -> dict[str, Any]:
    """Replace the field that a path of choices leads to."""
    name = list(message)[path[0] % len(message)]
    deeper = isinstance(message[name], dict) and path[1:]
    return message | {name: replaced(message[name], path[1:], value) if deeper else value}


@given(
    message=st.sampled_from(ACCEPTED),
    path=st.lists(st.integers(0, 20), min_size=1, max_size=4),
    value=JSON,
    binary=st.booleans(),
    cut=st.integers(0, 3),
)
def test_error_repeats_nothing_that_the_message_held(
    *, message: dict[str, Any], path: list[int], value: object, binary: bool, cut: int
) -> None:
    changed = replaced(message, path, {"nested": value, SECRET: SECRET})
    if binary and all(isinstance(part, str) for name, part in changed.items() if name != "data"):
        data, headers = in_binary(changed)
    else:
        data, headers = encoded(changed), []
    error = refusal(data[: len(data) - cut], headers)
    message_sent = "".join(traceback.format_exception(error)) + repr(error.args) + repr(error.problems)
    assert "phyrine" not in message_sent
    assert "29912345" not in message_sent
    assert "29900001" not in message_sent
    assert error.__context__ is None
    assert error.__cause__ is None
