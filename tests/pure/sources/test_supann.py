from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import EnrolmentRow
from worker.runtime.sources import supann_form
from worker.settings.sources import LdapSourceSettings
from worker.sources.supann import EntryFacts, Supann, Unreadable, compose, parse

OURS, FOREIGN = "0141408E", "0751717J"
L1 = (
    f"[etab={{UAI}}{OURS}][anneeinsc=2025][regimeinsc={{SISE}}10][sectdisc={{SISE}}27][typedip={{SISE}}XA]"
    f"[cursusann={{SUPANN}}L1][affect=HS_U99][diplome={{UAI:{OURS}}}XINFO_101][etape={{UAI:{OURS}}}XINFO1_101]"
)
L2 = (
    f"[etab={{UAI}}{OURS}][anneeinsc=2026][regimeinsc={{SISE}}10][sectdisc={{INCONNU}}][typedip={{SISE}}XA]"
    f"[cursusann={{SUPANN}}L2][affect=HS_U99][diplome={{UAI:{OURS}}}XINFO_101][etape={{UAI:{OURS}}}XINFO2_101]"
)


def read(
    *composites: str,
    numbers: Sequence[str] = ("29900001",),
    logins: Sequence[str] = (),
    uais: frozenset[str] = frozenset({OURS}),
    entry: dict[str, tuple[str, ...]] | None = None,
    **settings: Any,  # noqa: ANN401 - as TOML gives them
) -> EntryFacts:
    directory = LdapSourceSettings(kind="ldap", uri="ldaps://ldap.example.fr", base="dc=example,dc=fr", **settings)
    attributes: dict[str, Sequence[str]] = {
        "supannetuid": numbers,
        "supannaliaslogin": logins,
        "supannetuinscription": composites,
        **(entry or {}),
    }
    present = {name: values for name, values in attributes.items() if values}
    return Supann(supann_form(directory, uai=OURS, uais=uais)).read(present)


def one(composite: str, /, **more: Any) -> EnrolmentRow:  # noqa: ANN401 - idem
    facts = read(composite, **more)
    assert not facts.unknown
    assert not facts.left_out
    [row] = facts.rows
    return row


def etape(value: str, **settings: Any) -> tuple[str, str | None]:  # noqa: ANN401 - idem
    found = one(compose({"anneeinsc": "2026", "etape": value}), **settings).etape
    return found.code, found.version


def why_unknown(facts: EntryFacts) -> list[tuple[str | None, str]]:
    return [(row.student_id, row.reason) for row in facts.unknown]


# Composites


def test_the_usual_composite_tells_an_enrolment() -> None:
    row = one(L2, logins=["29900001"], component_prefix="HS_")
    assert row.model_dump(exclude_none=True) == {
        "enrolment_id": "29900001:2026:XINFO2:101",
        "academic_year": 2026,
        "student": {"student_id": "29900001", "login": "29900001"},
        "etape": {"code": "XINFO2", "version": "101", "component": {"code": "U99"}},
        "status": "active",
        "payment": "unknown",
        "source": {"system": "supann", "uai": OURS},
    }


def test_each_year_keeps_its_own_etape() -> None:
    facts = read(L1, L2, entry={"supannetuetape": ("XINFO1_101",), "supannetuanneeinscription": ("2025", "2026")})
    assert {(row.academic_year, row.etape.code) for row in facts.rows} == {(2025, "XINFO1"), (2026, "XINFO2")}


@pytest.mark.parametrize(
    "composite",
    [
        f"[etape={{UAI:{OURS}}}XINFO2_101][anneeinsc=2026][etab={{UAI}}{OURS}]",
        f"[etab={OURS}][anneeinsc=2026][etape=XINFO2_101]",
        f"[etab={{UAI}}{OURS}][anneeinsc=2026][etape={{UAI}}XINFO2_101]",
        "[etab={INCONNU}][anneeinsc=2026][etape={INCONNU}XINFO2_101]",
        "[anneeinsc=2026][etape=XINFO2_101][affect={INCONNU}][eltpedago=]",
        "[anneeinsc={SUPANN}2026][etape=XINFO2#5F101]",
        "[anneeinsc=2026][etape=XINFO2_1#301]",
        "[Anneeinsc=2026][ETAPE=xinfo2_101]",
        "[local=a]b[c=d][anneeinsc=2026][etape=XINFO2_101]",
        "[local=#5D#5B][anneeinsc=2026][etape=XINFO2_101][new=value]",
        " [anneeinsc= 2026 ][etape= XINFO2_101 ] ",
    ],
)
def test_the_same_enrolment_can_be_written_in_many_ways(composite: str) -> None:
    row = one(composite)
    assert (row.source.uai, row.academic_year) == (OURS, 2026)
    assert (row.etape.code, row.etape.version, row.etape.component) == ("XINFO2", "101", None)


@pytest.mark.parametrize(
    ("value", "settings", "code", "version"),
    [
        ("DFASM1_101", {}, "DFASM1", "101"),
        ("DFASM1-101", {"etape_separator": "-"}, "DFASM1", "101"),
        ("DFASM1-101", {}, "DFASM1-101", None),
        ("DFASM1", {}, "DFASM1", None),
        ("X_INFO_101", {}, "X_INFO", "101"),
        ("X_INFO", {}, "X_INFO", None),
        ("X_2026", {}, "X_2026", None),
        ("DFASM1_101", {"etape_separator": ""}, "DFASM1_101", None),
        ("VET-DFASM1_101", {"etape_prefix": "VET-"}, "DFASM1", "101"),
        (f"{{UAI:{OURS}}}vet-dfasm1_101", {"etape_prefix": "VET-"}, "DFASM1", "101"),
        ("DFASM1_101", {"etape_prefix": "VET-"}, "DFASM1", "101"),
    ],
)
def test_code_and_version_are_told_apart_as_configured(
    value: str, settings: dict[str, str], code: str, version: str | None
) -> None:
    assert etape(value, **settings) == (code, version)


@pytest.mark.parametrize(
    "composite",
    [
        f"[etab={{UAI}}{FOREIGN}][anneeinsc=2026][etape={{UAI:{FOREIGN}}}XINFO2_101]",
        f"[etab={{UAI}}{FOREIGN}][anneeinsc=2026][etape=XINFO2_101]",
        f"[anneeinsc=2026][etape={{UAI:{FOREIGN}}}XINFO2_101]",
        f"[etab={{UAI}}{OURS}][anneeinsc=2026][etape={{UAI:{FOREIGN}}}XINFO2_101]",
        f"[etab={{UAI}}{FOREIGN}][anneeinsc=20XX][etape=XINFO2_101]",
    ],
)
def test_enrolments_elsewhere_are_left_out_and_counted(composite: str) -> None:
    facts = read(composite)
    assert (facts.rows, facts.unknown, facts.left_out) == ((), (), ("foreign_etab",))


def test_a_merged_university_may_name_the_etapes_of_either_half() -> None:
    composite = f"[etab={{UAI}}{FOREIGN}][anneeinsc=2026][etape={{UAI:{OURS}}}XINFO2_101]"
    assert one(composite, uais=frozenset({OURS, FOREIGN})).source.uai == FOREIGN


@pytest.mark.parametrize(
    "composite", [f"[etab={{UAI}}{OURS}][anneeinsc=2026]", "[anneeinsc=2026][etape={INCONNU}]", "[etape=]"]
)
def test_what_names_no_etape_is_no_enrolment_of_a_cohort(composite: str) -> None:
    assert read(composite, L2).left_out == ("no_etape",)


@pytest.mark.parametrize(
    ("composite", "reason"),
    [
        ("[anneeinsc=2026][etape=XINFO2_101][etape=XINFO3_101]", "unreadable"),
        ("[anneeinsc=2026][anneeinsc=2025][etape=XINFO2_101]", "unreadable"),
        ("[anneeinsc=2026][etape=XINFO2_101][ETAPE=XINFO2_101]", "unreadable"),
        ("[anneeinsc=2026] [etape=XINFO2_101]", "unreadable"),
        ("[anneeinsc=2026][etape=XINFO2_101", "unreadable"),
        ("anneeinsc=2026;etape=XINFO2_101", "unreadable"),
        ("[anneeinsc=2026][etape]", "unreadable"),
        ("[]", "unreadable"),
        ("", "unreadable"),
        ("[anneeinsc=2026][etape=X#FF]", "unreadable"),
        ("[anneeinsc=2026][etape=\udcff]", "unreadable"),
        (f"[anneeinsc=2026][etape={'X' * 33}_101]", "unreadable"),
        ("[anneeinsc=1926][etape=XINFO2_101]", "unreadable"),
        ("[anneeinsc=2026-2027][etape=XINFO2_101]", "no_year"),
        ("[anneeinsc={INCONNU}][etape=XINFO2_101]", "no_year"),
        ("[etape=XINFO2_101]", "no_year"),
        ("[etab=Caen][anneeinsc=2026][etape=XINFO2_101]", "unreadable_etab"),
        ("[anneeinsc=2026][etape={UAI:141408E}XINFO2_101]", "unreadable_etab"),
    ],
)
def test_of_what_cannot_be_understood_the_student_is_unknown_and_the_rest_is_told(composite: str, reason: str) -> None:
    facts = read(composite, L2)
    assert why_unknown(facts) == [("29900001", reason)]
    assert [row.etape.code for row in facts.rows] == ["XINFO2"]


def test_the_same_enrolment_said_twice_is_told_once() -> None:
    assert len(read(L2, L2.replace("{SISE}10", "{SISE}11")).rows) == 1


# Students


@pytest.mark.parametrize("number", ["00001234", "0", "E22-0001", "aBc"])
def test_a_student_number_is_text_as_it_stands(number: str) -> None:
    assert one(L2, numbers=[number]).student.student_id == number


def test_of_an_entry_with_several_numbers_nobody_is_known() -> None:
    facts = read(L2, numbers=["29900002", "29900001"])
    assert not facts.rows
    assert why_unknown(facts) == [("29900001", "several_student_ids"), ("29900002", "several_student_ids")]


def test_numbers_that_differ_by_case_are_several() -> None:
    assert len(read(L2, numbers=["a1", "A1"]).unknown) == 2


@pytest.mark.parametrize("numbers", [[], ["2" * 33], ["29\u200000\n01"], [" "]])
def test_an_entry_without_a_number_that_can_be_one_is_counted(numbers: list[str]) -> None:
    facts = read(L2, numbers=numbers)
    assert (facts.rows, facts.unknown, facts.left_out) == ((), (), ("no_student_id",))


@pytest.mark.parametrize(
    ("logins", "login"),
    [
        ([], None),
        ([" "], None),
        (["camille1"], "camille1"),
        (["camille1 "], "camille1"),
        (["camille1", "exemple1"], None),
    ],
)
def test_a_login_is_taken_where_there_is_exactly_one(logins: list[str], login: str | None) -> None:
    assert one(L2, logins=logins).student.login == login


def test_attributes_have_the_names_of_the_settings() -> None:
    [row] = read(
        student_id="ucbnNumero",
        login="uid",
        composite="ucbnInscription",
        component="composante",
        entry={
            "ucbnnumero": ("29900009",),
            "uid": ("e29900009",),
            "ucbninscription": ("[anneeinsc=2026][etape=XINFO2_101][composante={UAI}SCI]",),
        },
    ).rows
    assert (row.student.student_id, row.student.login) == ("29900009", "e29900009")
    assert row.etape.component is not None
    assert row.etape.component.code == "SCI"


# Directories without the composite


def without_composite(etapes: Sequence[str], years: Sequence[str]) -> EntryFacts:
    entry = {"supannetuetape": tuple(etapes), "supannetuanneeinscription": tuple(years)}
    return read(composite="", entry={name: values for name, values in entry.items() if values})


def test_without_a_composite_one_etape_and_one_year_are_an_enrolment() -> None:
    facts = without_composite([f"{{UAI:{OURS}}}XINFO2_101"], ["2026"])
    assert [row.enrolment_id for row in facts.rows] == ["29900001:2026:XINFO2:101"]
    assert not facts.unknown


@pytest.mark.parametrize(
    ("etapes", "years"),
    [
        (["XINFO1_101"], ["2025", "2026"]),
        (["XINFO1_101", "XINFO2_101"], ["2026"]),
        (["XINFO1_101", "XINFO2_101"], ["2025", "2026"]),
        (["XINFO1_101"], []),
    ],
)
def test_without_a_composite_several_of_either_are_ambiguous(etapes: list[str], years: list[str]) -> None:
    facts = without_composite(etapes, years)
    assert not facts.rows
    assert why_unknown(facts) == [("29900001", "ambiguous_year")]


def test_without_a_composite_an_escape_is_none() -> None:
    assert [row.etape.code for row in without_composite(["X#41"], ["2026"]).rows] == ["X#41"]


@pytest.mark.parametrize("years", [[], ["2026"]])
def test_without_a_composite_who_has_no_etape_has_no_enrolment(years: list[str]) -> None:
    assert without_composite([], years) == EntryFacts(rows=(), unknown=(), left_out=read().left_out)


def test_without_a_composite_etapes_of_others_are_left_out() -> None:
    assert without_composite([f"{{UAI:{FOREIGN}}}XINFO2_101"], ["2026"]).left_out == ("foreign_etab",)


# Laws

KEYS = st.text(st.characters(codec="utf-8", exclude_categories=["Z", "C", "Lu", "Lt"]), min_size=1).filter(
    lambda key: key == key.strip().lower()
)
VALUES = st.text(st.characters(codec="utf-8")).map(str.strip)


@given(st.dictionaries(KEYS, VALUES, min_size=1))
def test_what_is_composed_is_parsed_to_the_same(parts: dict[str, str]) -> None:
    assert parse(compose(parts)) == parts


@given(st.text(st.sampled_from("[]=#5Bx {}")))
def test_any_text_is_read_or_refused_and_never_loses_a_bracket(text: str) -> None:
    try:
        parts = parse(text)
    except Unreadable:
        return
    assert parse(compose(parts)) == parts


@given(st.lists(st.text(), max_size=3), st.lists(st.text(), max_size=3))
def test_whatever_an_entry_holds_its_student_is_told_unknown_or_counted(numbers: list[str], texts: list[str]) -> None:
    facts = read(*texts, numbers=numbers)
    understood = len(facts.rows) + len(facts.unknown) + len(facts.left_out)
    assert understood or not texts
