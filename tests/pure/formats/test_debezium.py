import json
import traceback
from base64 import b64encode
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.domain.changes import (
    BELOW_ALL_VERSIONS,
    Change,
    ComponentChange,
    EnrolmentChange,
    EtapeChange,
    PersonEnrolled,
    PersonNumbered,
    Tombstone,
)
from worker.domain.errors import InvalidMessage, Problem
from worker.domain.states import Payment, Status
from worker.formats import Debezium

UAI, ORIGIN = "0141408E", "apogee[3]@1042"
SECRET = "299029914099942"
SOURCE = {"table": "INS_ADM_ETP", "scn": "48211934", "ts_ms": 1788243151482, "user_name": SECRET, "redo_sql": SECRET}
KEY = {"COD_ANU": "2026", "COD_IND": 104233, "COD_ETP": "XINFO1", "COD_VRS_VET": 101, "NUM_OCC_IAE": 1}
ROW = KEY | {"ETA_IAE": "E", "ETA_PMT_IAE": "P", "COD_CMP": "U99", "COD_NNE_IND": SECRET}
INDIVIDU = {"COD_IND": 104233, "COD_ETU": 29900001, "COD_NNE_IND": SECRET, "LIB_NOM_PAT_IND": SECRET}
CREATED: dict[str, Any] = {"op": "c", "before": None, "after": ROW, "source": SOURCE, "ts_ms": 1788243153000}
READER = Debezium(UAI)


def encoded(message: object) -> bytes:
    return json.dumps(message).encode()


def read(message: object) -> Sequence[Change]:
    return READER.read(value=encoded(message), headers=(), origin=ORIGIN)


def message(table: str = "INS_ADM_ETP", **parts: object) -> dict[str, Any]:
    return CREATED | {"source": SOURCE | {"table": table}} | parts


def refusal(value: bytes) -> tuple[Problem, ...]:
    """Return what is wrong with a message, which holds a secret that nobody sees."""
    with pytest.raises(InvalidMessage) as caught:
        READER.read(value=value, headers=(), origin=ORIGIN)
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    assert caught.value.__context__ is None
    return caught.value.problems


def enrolled(**changes: Any) -> PersonEnrolled:  # noqa: ANN401 - any field of it
    facts: dict[str, Any] = {
        "uai": UAI,
        "enrolment_id": "2026:104233:XINFO1:101:1",
        "system": "apogee",
        "version": 48211934,
        "changed_at": 1788243151.482,
        "student_id": "",
        "status": Status.ACTIVE,
        "origin": ORIGIN,
        "academic_year": 2026,
        "etape": "XINFO1",
        "etape_version": "101",
        "component": "U99",
        "payment": Payment.PAID,
    }
    return PersonEnrolled(person=104233, enrolment=EnrolmentChange(**facts | changes))


GONE = enrolled(status=Status.DELETED, component=None, payment=Payment.UNKNOWN)


# Envelopes


@pytest.mark.parametrize("op", ["r", "c", "u"])
def test_a_row_is_an_enrolment_of_a_person_bare_beside_its_schema_and_framed(op: str) -> None:
    bare = message(op=op, before=ROW if op == "u" else None)
    assert [*read(bare)] == [enrolled()]
    assert [*read({"schema": {"type": "struct"}, "payload": bare})] == [enrolled()]
    assert [*READER.read(value=b"\x00\x00\x00\x00\x07" + encoded(bare), headers=(), origin=ORIGIN)] == [enrolled()]


def test_a_deleted_row_is_a_deleted_enrolment_and_its_tombstone_has_no_effect() -> None:
    assert [*read(message(op="d", before=ROW, after=None))] == [GONE]
    assert [*READER.read(value=None, headers=(), origin=ORIGIN)] == [Tombstone(origin=ORIGIN)]


def test_an_update_that_gives_a_row_another_key_tells_both_enrolments() -> None:
    before = {**ROW, "COD_VRS_VET": 99}
    gone = enrolled(
        enrolment_id="2026:104233:XINFO1:99:1",
        etape_version="99",
        status=Status.DELETED,
        component=None,
        payment=Payment.UNKNOWN,
    )
    assert [*read(message(op="u", before=before))] == [gone, enrolled()]


@pytest.mark.parametrize("table", ["INS_ADM_ETP", "INDIVIDU", "ETAPE", "VERSION_ETAPE", "COMPOSANTE"])
def test_a_truncated_table_is_an_invalid_message(table: str) -> None:
    assert refusal(encoded(message(table, op="t", after=None))) == (Problem("op", "truncate"),)


def test_other_tables_and_deleted_rows_of_labels_have_no_effect() -> None:
    assert [*read(message("ANNEE_UNI", after={"COD_ANU": "2026"}))] == []
    for table in ("ETAPE", "VERSION_ETAPE", "COMPOSANTE"):
        assert [*read(message(table, op="d", before=INDIVIDU, after=None))] == []


def test_the_place_in_the_redo_log_orders_what_one_scn_says() -> None:
    def sequence(**source: object) -> str:
        (change,) = read(message(source=SOURCE | source))
        assert isinstance(change, PersonEnrolled)
        return change.enrolment.sequence

    sentence = [
        sequence(),
        sequence(rs_id=" 0x00003d.0000187c.0010 ", ssn=9),
        sequence(rs_id=" 0x00003d.0000187c.0010 ", ssn=10),
        sequence(rs_id=" 0x00003d.00001880.0010 ", ssn=0),
    ]
    assert sentence == sorted(sentence)
    assert sequence(lcr_position="000a") < sequence(lcr_position="000b")


# Columns


def in_every_encoding(number: int) -> dict[str, object]:
    binary = b64encode(number.to_bytes(number.bit_length() // 8 + 1, "big", signed=True)).decode()
    decimals = b64encode((number * 100).to_bytes(9, "big", signed=True)).decode()
    return {
        "int": number,
        "double": float(number),
        "text": str(number),
        "text with decimals": f"{number}.00",
        "decimal": binary,
        "variable scale": {"scale": 0, "value": binary},
        "variable scale of two": {"scale": 2, "value": decimals},
    }


@given(st.integers(0, 99_999_999))
def test_numbers_are_read_in_every_encoding(number: int) -> None:
    for encoding in in_every_encoding(number).values():
        (sentence,) = read(message("INDIVIDU", after=INDIVIDU | {"COD_ETU": encoding}))
        assert isinstance(sentence, PersonNumbered)
        assert sentence.student_id == str(number)


def test_a_negative_scale_adds_zeros() -> None:
    (sentence,) = read(message("INDIVIDU", after=INDIVIDU | {"COD_ETU": {"scale": -3, "value": "BQ=="}}))
    assert isinstance(sentence, PersonNumbered)
    assert sentence.student_id == "5000"


@pytest.mark.parametrize(
    "value",
    [True, -1, 1.5, "", "x", "1e9", "-5", "/w==", [], {}, {"scale": 0}, {"scale": 1, "value": "BQ=="},
     {"scale": -(10**9), "value": "BQ=="}, 10**30, "9" * 40, "A" * 400, None],
)  # fmt: skip
def test_what_is_no_number_of_oracle_is_refused(value: object) -> None:
    (problem,) = refusal(encoded(message(after=ROW | {"COD_IND": value})))
    assert problem.field == "after.COD_IND"


def test_columns_may_be_in_lower_case_and_char_is_padded() -> None:
    padded = ROW | {"COD_ETP": "XINFO1 ", "ETA_IAE": "E ", "ETA_PMT_IAE": "P ", "COD_CMP": "U99  "}
    assert [*read(message(after={name.lower(): value for name, value in padded.items()}))] == [enrolled()]


@pytest.mark.parametrize(("word", "status"), [("C", Status.PENDING), ("A", Status.CANCELLED), ("R", Status.RESIGNED)])
def test_annulment_and_resignation_are_states_of_the_row(word: str, status: Status) -> None:
    assert [*read(message(op="u", after=ROW | {"ETA_IAE": word}))] == [enrolled(status=status)]


@pytest.mark.parametrize(
    ("code", "payment"), [("A", Payment.DUE), ("V", Payment.UNKNOWN), (None, Payment.UNKNOWN), (" ", Payment.UNKNOWN)]
)
def test_payments_are_those_of_apogee(code: str | None, payment: Payment) -> None:
    assert [*read(message(after=ROW | {"ETA_PMT_IAE": code}))] == [enrolled(payment=payment)]


@pytest.mark.parametrize("word", ["Z", "e", "EE", "", None, 5, SECRET])
def test_an_unknown_state_of_an_enrolment_is_refused_and_never_a_removal(word: object) -> None:
    (problem,) = refusal(encoded(message(after=ROW | {"ETA_IAE": word})))
    assert problem.field == "after.ETA_IAE"


@pytest.mark.parametrize("column", sorted(ROW.keys() - {"COD_NNE_IND"}))
def test_a_column_that_the_connector_leaves_out_is_named(column: str) -> None:
    row = {name: value for name, value in ROW.items() if name != column}
    assert refusal(encoded(message(after=row))) == (Problem(f"after.{column}", "missing"),)


@pytest.mark.parametrize("field", ["table", "scn", "ts_ms"])
def test_without_its_place_and_time_a_message_cannot_be_read(field: str) -> None:
    source = {name: value for name, value in SOURCE.items() if name != field}
    assert refusal(encoded(message(source=source))) == (Problem(f"source.{field}", "missing"),)
    assert refusal(encoded(message(source=source | {field: None})))[0].field == f"source.{field}"


@pytest.mark.parametrize(("op", "part"), [("c", "after"), ("u", "after"), ("r", "after"), ("d", "before")])
def test_a_message_without_its_row_is_refused(op: str, part: str) -> None:
    assert refusal(encoded(message(op=op, before=None, after=None))) == (Problem(part, "missing"),)


# The other tables


def test_a_number_is_text_without_the_zeros_that_oracle_does_not_have() -> None:
    (sentence,) = read(message("INDIVIDU", after=INDIVIDU | {"COD_ETU": "00000042"}))
    assert sentence == PersonNumbered(
        uai=UAI,
        person=104233,
        student_id="42",
        version=48211934,
        sequence="",
        changed_at=1788243151.482,
        origin=ORIGIN,
    )


def test_who_has_no_number_or_no_row_any_more_is_told_as_such() -> None:
    lost = message("INDIVIDU", after=INDIVIDU | {"COD_ETU": None})
    deleted = message("INDIVIDU", op="d", before=INDIVIDU, after=None)
    for told in (lost, deleted):
        (change,) = read(told)
        assert isinstance(change, PersonNumbered)
        assert (change.person, change.student_id) == (104233, "")
    assert refusal(encoded(message("INDIVIDU", op="d", before=None, after=None))) == (Problem("before", "missing"),)
    assert refusal(encoded(message("INDIVIDU", after={"COD_IND": 1}))) == (Problem("after.COD_ETU", "missing"),)


def test_labels_of_etapes_versions_and_components_are_read() -> None:
    of_etape = {"COD_ETP": "XINFO1", "LIB_ETP": "L1 Info"}
    of_version = {"COD_ETP": "XINFO1", "COD_VRS_VET": 101, "LIB_WEB_VET": "Licence 1 \n Informatique  "}
    of_component = {"COD_CMP": "U99", "LIB_CMP": "UFR des Sciences"}
    about = {"uai": UAI, "changed_at": 1788243151.482, "origin": ORIGIN}
    assert [*read(message("ETAPE", after=of_etape))] == [
        EtapeChange(etape="XINFO1", etape_version=BELOW_ALL_VERSIONS, etape_label="L1 Info", **about)  # type: ignore[arg-type] # texts
    ]
    assert [*read(message("version_etape", after=of_version))] == [
        EtapeChange(etape="XINFO1", etape_version="101", etape_label="Licence 1 Informatique", **about)  # type: ignore[arg-type] # idem
    ]
    assert [*read(message("COMPOSANTE", after=of_component))] == [
        ComponentChange(component="U99", component_label="UFR des Sciences", **about)  # type: ignore[arg-type] # idem
    ]


@pytest.mark.parametrize("label", [None, "", "  \n"])
def test_no_label_is_no_news(label: str | None) -> None:
    assert [*read(message("ETAPE", after={"COD_ETP": "X", "LIB_ETP": label}))] == []
    assert [*read(message("VERSION_ETAPE", after={"COD_ETP": "X", "COD_VRS_VET": 1, "LIB_WEB_VET": label}))] == []
    assert [*read(message("COMPOSANTE", after={"COD_CMP": "X", "LIB_CMP": label}))] == []


# What is kept of what can't be read


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_dead_letter_keeps_what_is_read_and_nothing_else(wrapped: bool) -> None:  # noqa: FBT001 - a case
    wrong = message(op="u", before=ROW, after=ROW | {"ETA_IAE": "Z"})
    value = encoded({"schema": {"doc": SECRET}, "payload": wrong} if wrapped else wrong)
    kept = READER.letter(value)
    assert kept is not None
    assert SECRET not in kept.decode()
    assert refusal(kept) == (Problem("after.ETA_IAE", "literal_error"),)
    mended = kept.replace(b'"Z"', b'"E"')
    assert [*READER.read(value=mended, headers=(), origin=ORIGIN)] == [enrolled()]


@pytest.mark.parametrize("value", [b"\x00\x00\x00\x00\x07\x02avro " + SECRET.encode(), SECRET.encode() + b"{", b"[]"])
def test_nothing_is_kept_of_what_is_no_json_object(value: bytes) -> None:
    assert READER.letter(value) == b""
    assert refusal(b"") != ()


# Whatever comes


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["E", "2026", "BQ=="]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["payload", "op", "source", "table", "after", "before", "scale", "value"]) | st.text(),
            inner,
        )
    ),
    max_leaves=8,
)
NAMES = [*KEY, "ETA_IAE", "ETA_PMT_IAE", "COD_CMP", "COD_ETU", "LIB_ETP", "LIB_WEB_VET", "LIB_CMP"]
ROWS = st.dictionaries(st.sampled_from(NAMES), JSON) | st.builds(lambda more: ROW | more, st.dictionaries(
    st.sampled_from(NAMES), JSON, max_size=2
))  # fmt: skip
TABLES = st.sampled_from(["INS_ADM_ETP", "INDIVIDU", "ETAPE", "VERSION_ETAPE", "COMPOSANTE"])
ENVELOPES = st.fixed_dictionaries(
    {
        "op": st.sampled_from("rcudt") | JSON,
        "source": st.builds(
            lambda table, more: SOURCE | {"table": table} | more,
            TABLES,
            st.dictionaries(st.sampled_from(["table", "scn", "ts_ms", "rs_id", "ssn"]), JSON, max_size=1),
        ),
        "before": st.none() | ROWS,
        "after": st.none() | ROWS | JSON,
    }
)


@given(st.binary() | st.text().map(str.encode) | (JSON | ENVELOPES).map(encoded))
def test_no_bytes_make_the_reader_raise_anything_but_what_is_wrong_with_them(value: bytes) -> None:
    with suppress(InvalidMessage):
        READER.read(value=value, headers=(), origin=ORIGIN)
    assert READER.letter(value) is not None


@pytest.mark.parametrize("opened", [b'{"op":', b"[", b'{"after":{"COD_IND":'])
def test_nesting_without_end_is_refused(opened: bytes) -> None:
    assert refusal(opened * 100_000) != ()
    assert READER.letter(opened * 100_000) == b""


def test_what_is_nested_deep_within_a_column_is_not_kept() -> None:
    deep = b'{"op":"c","after":{"COD_IND":' + b"[" * 400 + b"]" * 400 + b"}}"
    assert refusal(deep) != ()
    assert READER.letter(deep) == b'{"op":"c","source":null,"before":null,"after":{"COD_IND":null}}'
