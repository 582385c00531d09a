"""APOGÉE's database as a source of snapshots: what is read, what is left alone, and what isn't whole."""

import re
import sys
import uuid
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects.oracle.base import OracleDialect

from schemas import EnrolmentRow, SnapshotRow, UnknownRow
from tests.support.apogee_database import ApogeeDatabase, apogee_database, individu, ins_adm_etp
from tests.support.builders import FOREIGN_UAI, UAI
from tests.support.paths import ROOT
from tests.support.servers import free_ports
from tests.support.snapshots import SCOPE
from worker import snapshots
from worker.domain.errors import SettingsError, SourceIncomplete
from worker.domain.snapshots import SnapshotScope
from worker.runtime import sources
from worker.settings.root import Settings, load
from worker.sources import SnapshotSource, sql
from worker.sources.sql import SqlSource

PAGE = ROOT / "docs" / "sources" / "apogee.md"
ROW = {
    "enrolment_id": "2026:104233:XINFO1:101:1",
    "academic_year": 2026,
    "student": {"student_id": "29900001"},
    "etape": {
        "code": "XINFO1",
        "version": "101",
        "label": "Licence 1 Informatique",
        "component": {"code": "U99", "label": "UFR Sciences"},
    },
    "status": "active",
    "payment": "paid",
    "source": {"system": "apogee", "uai": UAI},
}
COLUMNS = {
    "cod_anu": "'2026'",
    "cod_ind": "104233",
    "cod_etu": "29900001",
    "cod_etp": "'XINFO1'",
    "cod_vrs_vet": "101",
    "num_occ_iae": "1",
    "eta_iae": "'E'",
    "eta_pmt_iae": "'P'",
    "lib_etape": "'Licence 1 Informatique'",
    "cod_cmp": "'U99'",
    "lib_cmp": "'UFR Sciences'",
}


@pytest.fixture
def apogee(ledger_url: str) -> Iterator[ApogeeDatabase]:
    """A database of each kind, with the student and the étape, and nobody enrolled."""
    with apogee_database(ledger_url) as database:
        database.describe()
        database.person()
        yield database


@pytest.fixture
def real(postgres_url: str) -> Iterator[ApogeeDatabase]:
    """The same on PostgreSQL."""
    with apogee_database(postgres_url) as database:
        database.describe()
        database.person()
        yield database


class Query:
    """A query of the university's own: one row, with the given cells."""

    def __init__(self, path: Path, url: str) -> None:
        self._path = path
        self._url = url

    def source(self, text: str) -> SqlSource:
        self._path.write_text(text, encoding="utf-8")
        return SqlSource("copy", self._url, uai=UAI, query=self._path)

    def read(self, **cells: str) -> list[SnapshotRow]:
        columns = ", ".join(f"{cell} AS {name}" for name, cell in {**COLUMNS, **cells}.items())
        return read(self.source(f"SELECT {columns} WHERE '2026' IN (:years)"))


@pytest.fixture
def query(ledger_url: str, tmp_path: Path) -> Query:
    return Query(tmp_path / "query.sql", ledger_url)


def source(apogee: ApogeeDatabase) -> SqlSource:
    return SqlSource("apogee", apogee.url, uai=UAI)


def read(source: SnapshotSource, scope: SnapshotScope = SCOPE) -> list[SnapshotRow]:
    return list(source.read(scope))


def enrolments(source: SnapshotSource, scope: SnapshotScope = SCOPE) -> list[EnrolmentRow]:
    rows = read(source, scope)
    assert not [row for row in rows if isinstance(row, UnknownRow)]
    return [row for row in rows if isinstance(row, EnrolmentRow)]


def refused(source: SqlSource, scope: SnapshotScope = SCOPE) -> str:
    with pytest.raises(SourceIncomplete) as raised:
        read(source, scope)
    return str(raised.value)


def row(**more: object) -> EnrolmentRow:
    return EnrolmentRow.model_validate({**ROW, **more})


def unknown(reason: str) -> UnknownRow:
    return UnknownRow(enrolment_id="2026:104233:XINFO1:101:1", reason=reason)


# What is read


def test_an_enrolment_is_told_with_its_student_number_its_labels_and_its_words(apogee: ApogeeDatabase) -> None:
    apogee.enrol()
    assert read(source(apogee)) == [row()]


@pytest.mark.parametrize(("word", "status"), [("E", "active"), ("C", "pending"), ("A", "cancelled"), ("R", "resigned")])
@pytest.mark.parametrize(("code", "payment"), [("P", "paid"), ("A", "due"), ("C", "unknown"), (None, "unknown")])
def test_every_status_and_payment_is_told_whether_it_counts_or_not(
    query: Query, word: str, status: str, code: str | None, payment: str
) -> None:
    read_rows = query.read(eta_iae=f"'{word}'", eta_pmt_iae=f"'{code}'" if code else "NULL")
    assert read_rows == [row(status=status, payment=payment)]


def test_second_etapes_versions_and_occurrences_are_enrolments_of_their_own(apogee: ApogeeDatabase) -> None:
    apogee.enrol()
    apogee.enrol(cod_etp="XMATH1", tem_iae_prm="N")
    apogee.enrol(cod_vrs_vet=221)
    apogee.enrol(num_occ_iae=2)
    assert {read_rows.enrolment_id for read_rows in enrolments(source(apogee))} == {
        "2026:104233:XINFO1:101:1",
        "2026:104233:XMATH1:101:1",
        "2026:104233:XINFO1:221:1",
        "2026:104233:XINFO1:101:2",
    }


def test_all_years_of_the_scope_are_read_and_no_other(apogee: ApogeeDatabase) -> None:
    for year in ("2024", "2025", "2026", "2027"):
        apogee.enrol(cod_anu=year)
    both = SnapshotScope(uais=frozenset({UAI}), academic_years=frozenset({2025, 2026}))
    assert {read_rows.academic_year for read_rows in enrolments(source(apogee), both)} == {2025, 2026}
    assert {read_rows.academic_year for read_rows in enrolments(source(apogee))} == {2026}


def test_a_label_is_that_of_the_version_else_that_of_the_etape(apogee: ApogeeDatabase) -> None:
    apogee.enrol()
    for label in (None, "", "   "):
        apogee.execute("UPDATE version_etape SET lib_web_vet = :label", label=label)
        assert [read_rows.etape.label for read_rows in enrolments(source(apogee))] == ["L1 INFO"]
    apogee.execute("DELETE FROM version_etape")
    assert [read_rows.etape.label for read_rows in enrolments(source(apogee))] == ["L1 INFO"]


def test_an_enrolment_whose_etape_or_component_is_not_described_is_told_all_the_same(apogee: ApogeeDatabase) -> None:
    apogee.enrol(cod_etp="NEW", cod_cmp="NEW")
    apogee.enrol(cod_etp="NONE", cod_cmp=None)
    found = {read_rows.etape.code: read_rows.etape for read_rows in enrolments(source(apogee))}
    assert found["NEW"].label is None
    assert found["NEW"].component is not None
    assert found["NEW"].component.label is None
    assert found["NONE"].component is None


# What it doesn't know


def test_an_enrolment_without_a_student_number_is_counted_and_its_person_is_not_taken_for_one(
    apogee: ApogeeDatabase,
) -> None:
    apogee.person(7, None)
    for person in (104233, 7, 8):  # nobody has opened a file for 8
        apogee.enrol(cod_ind=person)
    with snapshots.collect(source(apogee).read(SCOPE), SCOPE) as gathered:
        assert (gathered.rows, gathered.unknown) == (1, Counter({"no_student_number": 2}))
        assert sorted(gathered)[1:] == [
            b'{"enrolment_id":"2026:7:XINFO1:101:1","reason":"no_student_number"}\n',
            b'{"enrolment_id":"2026:8:XINFO1:101:1","reason":"no_student_number"}\n',
        ]


@pytest.mark.parametrize("word", ["'X'", "'e'", "'EN COURS'", "NULL", "' '", "5"])
def test_an_unknown_status_is_counted_and_not_guessed(query: Query, word: str) -> None:
    assert query.read(eta_iae=word) == [unknown("unknown_status")]


@pytest.mark.parametrize("number", ["29900001.5", "'" + "9" * 33 + "'", "'299\t00001'", "CAST('1e30' AS REAL)"])
def test_a_student_number_that_is_none_is_counted(query: Query, number: str) -> None:
    assert query.read(cod_etu=number) == [unknown("invalid_student_number")]


def test_a_component_that_the_contract_refuses_is_counted(query: Query) -> None:
    assert query.read(cod_cmp="'" + "U" * 33 + "'") == [unknown("invalid_component")]


@pytest.mark.parametrize(
    ("cells", "problem"),
    [
        ({"cod_ind": "NULL"}, "cod_ind: int_type (1)"),
        ({"cod_ind": "'EXEMPLE'"}, "cod_ind: int_parsing (1)"),
        ({"cod_vrs_vet": "101.5"}, "cod_vrs_vet: int_from_float (1)"),
        ({"num_occ_iae": "-1"}, "num_occ_iae: greater_than_equal (1)"),
        ({"cod_etp": "''"}, "cod_etp: string_type (1)"),
        ({"cod_anu": "'2026-2027'", "cod_etp": "NULL"}, "cod_anu: int_parsing (1); cod_etp: string_type (1)"),
    ],
)
def test_a_row_that_cannot_be_named_makes_the_whole_incomplete_and_is_not_quoted(
    query: Query, cells: dict[str, str], problem: str
) -> None:
    with pytest.raises(SourceIncomplete) as raised:
        query.read(**cells)
    assert str(raised.value) == f"copy: 1 of 1 rows have a key that can't be read: {problem}"


# Types and padding


@pytest.mark.parametrize(
    ("cell", "number"),
    [
        ("29900001", "29900001"),
        ("CAST(29900001 AS DOUBLE PRECISION)", "29900001"),
        ("CAST(29900001 AS NUMERIC(10, 2))", "29900001"),
        ("CAST('29900001' AS CHAR(12))", "29900001"),
        ("'  29900001 '", "29900001"),
        ("'29900001.0'", "29900001"),
        ("'00000100'", "00000100"),
        ("'00000100.0'", "00000100"),
        ("100", "100"),
        ("'E2990001'", "E2990001"),
    ],
)
def test_a_student_number_is_text_whatever_its_type_and_leading_zeros_stay(
    query: Query, cell: str, number: str
) -> None:
    assert query.read(cod_etu=cell) == [row(student={"student_id": number})]


def test_every_number_may_be_text_or_have_a_fraction_of_zeros(query: Query) -> None:
    numbers = ("cod_ind", "cod_etu", "cod_vrs_vet", "num_occ_iae")
    for form in ("'{} '", "'{}.0'", "CAST({} AS DOUBLE PRECISION)", "CAST({} AS NUMERIC(12, 2))"):
        assert query.read(**{name: form.format(COLUMNS[name]) for name in numbers}) == [row()]
    assert query.read(cod_anu="2026", cod_vrs_vet="'0101'", num_occ_iae="'01'") == [row()]


def test_the_padding_of_char_is_taken_away_everywhere(real: ApogeeDatabase, tmp_path: Path) -> None:
    padded = {name: f"CAST({cell} AS CHAR(40))" for name, cell in COLUMNS.items()}
    assert Query(tmp_path / "query.sql", real.url).read(**padded) == [row()]


@pytest.mark.parametrize("nothing", ["NULL", "''", "'   '"])
def test_an_empty_string_is_null(query: Query, nothing: str) -> None:
    assert query.read(cod_etu=nothing) == [unknown("no_student_number")]
    etape = {"code": "XINFO1", "version": "101"}
    assert query.read(lib_etape=nothing, cod_cmp=nothing, lib_cmp=nothing) == [row(etape=etape)]
    assert query.read(eta_pmt_iae=nothing) == [row(payment="unknown")]


def test_a_label_never_makes_an_enrolment_unknown(query: Query) -> None:
    [read_rows] = query.read(lib_etape="'Licence\r\n1\tDroit '", lib_cmp="'" + "é" * 300 + "'")
    assert isinstance(read_rows, EnrolmentRow)
    assert read_rows.etape.label == "Licence 1 Droit"
    assert read_rows.etape.component is not None
    assert read_rows.etape.component.label == "é" * 255


def test_dates_in_the_hour_that_october_has_twice_change_nothing(real: ApogeeDatabase, tmp_path: Path) -> None:
    """APOGÉE's dates have no zone: neither this hour nor the zone of the session may matter."""
    twice = datetime(2026, 10, 25, 2, 30)  # noqa: DTZ001 - as APOGÉE has it
    dates = dict.fromkeys(["dat_cre_iae", "dat_mod_iae", "dat_annul_res_iae"], twice)
    real.enrol()
    real.enrol(cod_etp="XMATH1", **dates)
    apogee = (resources.files("worker.sources") / "apogee.sql").read_text(encoding="utf-8")
    more = apogee.replace("SELECT", "SELECT iae.dat_cre_iae, iae.dat_mod_iae AT TIME ZONE 'Europe/Paris' AS dat,", 1)
    expected = {"2026:104233:XINFO1:101:1": "XINFO1", "2026:104233:XMATH1:101:1": "XMATH1"}
    for zone in ("Europe/Paris", "UTC", "Indian/Reunion"):
        url = sa.make_url(real.url).update_query_dict({"options": f"-c TimeZone={zone}"})
        for text in (apogee, more):
            source = Query(tmp_path / "query.sql", url.render_as_string(hide_password=False)).source(text)
            assert {read_rows.enrolment_id: read_rows.etape.code for read_rows in enrolments(source)} == expected


# The query


def test_rows_that_a_join_repeats_count_once(apogee: ApogeeDatabase, tmp_path: Path) -> None:
    apogee.enrol()
    apogee.execute("CREATE TABLE vdi_fractionner_vet (cod_etp VARCHAR(6), cod_dip VARCHAR(7))")
    for diploma in ("A", "B", "C"):
        apogee.execute("INSERT INTO vdi_fractionner_vet VALUES ('XINFO1', :diploma)", diploma=diploma)
    text = (resources.files("worker.sources") / "apogee.sql").read_text(encoding="utf-8")
    joined = text.replace("WHERE", "JOIN vdi_fractionner_vet vdi ON vdi.cod_etp = iae.cod_etp WHERE")
    reading = Query(tmp_path / "query.sql", apogee.url).source(joined).read(SCOPE)
    with snapshots.collect(reading, SCOPE) as gathered:
        assert (gathered.rows, gathered.repeated) == (1, 2)


def test_columns_are_found_by_name_in_any_order_and_case_and_others_are_ignored(query: Query) -> None:
    columns = ", ".join(f'{cell} AS "{name.upper()}"' for name, cell in reversed(COLUMNS.items()))
    text = f"SELECT 'Exemple' AS lib_nom_pat_ind, {columns} WHERE '2026' IN (:years)"
    assert read(query.source(text)) == [row()]


def test_all_missing_columns_are_named_before_any_row_is_read(query: Query) -> None:
    assert refused(query.source("SELECT 1 AS cod_ind, 2 AS cod_etu WHERE '2026' IN (:years)")) == (
        "copy: the query doesn't give cod_anu, cod_etp, cod_vrs_vet, num_occ_iae, eta_iae, eta_pmt_iae, lib_etape, "
        "cod_cmp, lib_cmp"
    )


def test_a_column_that_is_given_twice_is_refused(query: Query) -> None:
    columns = ", ".join(f"{cell} AS {name}" for name, cell in [*COLUMNS.items(), ("COD_ETU", "NULL")])
    assert refused(query.source(f"SELECT {columns} WHERE '2026' IN (:years)")) == "copy: the query gives twice cod_etu"


@pytest.mark.parametrize("years", [":years", "(:years)", "( :years )"])
@pytest.mark.parametrize("end", ["", ";", " ;\n"])
def test_years_may_have_parentheses_and_the_statement_a_semicolon(query: Query, years: str, end: str) -> None:
    columns = ", ".join(f"{cell} AS {name}" for name, cell in COLUMNS.items())
    assert read(query.source(f"SELECT {columns} WHERE '2026' IN {years}{end}")) == [row()]


def test_what_a_query_gives_outside_of_the_scope_is_left_out_and_counted(apogee: ApogeeDatabase) -> None:
    apogee.enrol()
    apogee.enrol(cod_etp="YINFO1")
    scope = SnapshotScope(uais=frozenset({UAI}), academic_years=frozenset({2026}), etapes=("X*",))
    reading = source(apogee).read(scope)
    assert list(reading) == [row()]
    assert reading.left_out == {"other_etape": 1}


def test_a_query_that_gives_other_years_than_those_asked_for_is_seen(query: Query) -> None:
    columns = ", ".join(f"{cell} AS {name}" for name, cell in {**COLUMNS, "cod_anu": "'2025'"}.items())
    reading = query.source(f"SELECT {columns} WHERE '2026' IN (:years)").read(SCOPE)
    assert list(reading) == []
    assert reading.left_out == {"other_year": 1}


def test_a_scope_of_another_university_is_refused_since_absence_would_end_its_enrolments(
    apogee: ApogeeDatabase,
) -> None:
    scope = SnapshotScope(uais=frozenset({UAI, FOREIGN_UAI}), academic_years=frozenset({2026}))
    sentence = f"apogee holds only {UAI}, and was asked for all enrolments of {UAI}, {FOREIGN_UAI}"
    assert refused(source(apogee), scope) == sentence


def test_the_query_is_one_that_oracle_reads(tmp_path: Path) -> None:
    statement = SqlSource("apogee", f"sqlite:///{tmp_path / 'any.db'}", uai=UAI)._statement
    assert isinstance(statement, sa.TextClause)
    text = str(
        statement.bindparams(years=["2025", "2026"]).compile(
            dialect=OracleDialect(), compile_kwargs={"render_postcompile": True}
        )
    )
    assert text.endswith("WHERE iae.cod_anu IN (:years_1, :years_2)")
    assert ";" not in text
    code = re.sub(r"--.*", "", text)
    assert not re.search(r"::|\bAS\s+cmp\b|\bIFNULL\b|\bFROM\s+\w+\s+AS\b", code)


# Whole, or not at all


def test_rows_are_those_of_one_instant_whatever_is_committed_while_they_are_read(real: ApogeeDatabase) -> None:
    many = 3 * sql.ROWS_AT_A_TIME
    real.execute(
        "INSERT INTO individu (cod_ind, cod_etu) SELECT n, 20000000 + n FROM generate_series(1, :many) n", many=many
    )
    real.execute("INSERT INTO ins_adm_etp SELECT '2026', cod_ind, 'XINFO1', 101, 1, 'E', 'P', 'O' FROM individu")
    rows = source(real).read(SCOPE)
    first = next(rows)
    real.execute(sa.update(ins_adm_etp).values(eta_iae="A"))
    real.execute(sa.update(individu).values(cod_etu=None))
    read_rows = [first, *rows]
    assert len(read_rows) == many + 1
    assert {each.status for each in read_rows if isinstance(each, EnrolmentRow)} == {"active"}
    assert {each.reason for each in read(source(real)) if isinstance(each, UnknownRow)} == {"no_student_number"}


def many_rows(real: ApogeeDatabase, tmp_path: Path, **cells: str) -> SqlSource:
    """Return a source of 10,000 rows, n from 1, which the database makes while they are read."""
    columns = ", ".join(f"{cell} AS {name}" for name, cell in {**COLUMNS, "cod_ind": "n", **cells}.items())
    text = f"SELECT {columns} FROM generate_series(1, 10000) n WHERE '2026' IN (:years)"  # noqa: S608 - the tests' own words
    return Query(tmp_path / "query.sql", real.url).source(text)


def test_rows_are_read_as_a_stream_and_an_error_among_them_says_after_how_many(
    real: ApogeeDatabase, tmp_path: Path
) -> None:
    rows = many_rows(real, tmp_path, cod_etu="20000000 + 1 / (7000 - n)").read(SCOPE)
    assert isinstance(next(rows), EnrolmentRow), "before the database comes to its error"
    with pytest.raises(SourceIncomplete) as raised:
        list(rows)
    assert re.fullmatch(r"copy: the database failed after \d{4} rows \(22012: .*try it by hand\)", str(raised.value))


def test_a_value_that_the_database_quotes_in_its_error_is_not_repeated(real: ApogeeDatabase, tmp_path: Path) -> None:
    sentence = refused(many_rows(real, tmp_path, cod_etu="CAST('Exemple' || n AS INTEGER)"))
    assert sentence.startswith("copy: the database failed after 0 rows (22P02: ")
    assert "Exemple" not in sentence


def test_a_connection_that_is_lost_on_the_way_makes_it_incomplete(real: ApogeeDatabase, tmp_path: Path) -> None:
    rows = many_rows(real, tmp_path).read(SCOPE)
    next(rows)
    real.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    with pytest.raises(SourceIncomplete, match=r"failed after \d+ rows \(.*: check that it runs and can be reached"):
        list(rows)


def test_a_statement_that_takes_too_long_says_so(real: ApogeeDatabase, tmp_path: Path) -> None:
    columns = ", ".join(f"{cell} AS {name}" for name, cell in COLUMNS.items())
    url = sa.make_url(real.url).update_query_dict({"options": "-c statement_timeout=20"})
    slow = Query(tmp_path / "query.sql", url.render_as_string(hide_password=False)).source(
        f"SELECT {columns} FROM pg_sleep(120) WHERE '2026' IN (:years)"  # noqa: S608 - idem
    )
    assert refused(slow) == (
        "copy: the database failed after 0 rows "
        "(57014: it was cancelled; raise the account's time limit, or read at a quieter hour)"
    )


def test_a_query_cannot_write(real: ApogeeDatabase, tmp_path: Path) -> None:
    real.execute("CREATE FUNCTION gone() RETURNS integer LANGUAGE sql AS 'DELETE FROM individu; SELECT 29900001'")
    sentence = refused(many_rows(real, tmp_path, cod_etu="gone()"))
    assert sentence.startswith("copy: the database failed after 0 rows (25006: ")
    real.enrol()
    assert read(source(real)) == [row()]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("ORA-01555: snapshot too old: rollback segment number 9", "raise its UNDO_RETENTION"),
        ("ORA-01013: user requested cancel of current operation", "raise the account's time limit"),
        ("DPY-4024: call timeout of 5000 ms exceeded", "raise the account's time limit"),
        ("ORA-00942: table or view does not exist", "grant it what docs/sources/apogee.md lists"),
        ('ORA-00904: "Exemple": invalid identifier', "try it by hand"),
        ("DPY-4011: the database or network closed the connection", "check that it runs"),
    ],
)
def test_an_error_of_oracle_says_its_code_and_what_to_do(text: str, sentence: str) -> None:
    why = sql._why(sa.exc.DatabaseError("SELECT", {}, Exception(text)))
    assert why.startswith(text.partition(":")[0] + ": ")
    assert sentence in why
    assert "Exemple" not in why


# Accounts and addresses


@pytest.fixture
def reader(real: ApogeeDatabase) -> Iterator[ApogeeDatabase]:
    """A database that we reach as an account with the grants of the documents, and no other."""
    name, password = f"reader_{uuid.uuid4().hex}", uuid.uuid4().hex
    real.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{password}'")
    [grants] = re.findall(r"```sql\n(GRANT.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    for grant in grants.replace("TO cohorts", f"TO {name}").split(";")[:-1]:
        real.execute(grant)
    administrator = real.url
    real.url = sa.make_url(administrator).set(username=name, password=password).render_as_string(hide_password=False)
    yield real
    real.execute(f"DROP OWNED BY {name}")
    real.execute(f"DROP ROLE {name}")


def test_the_grants_of_the_readme_are_enough_and_no_personal_column_is_among_them(reader: ApogeeDatabase) -> None:
    reader.enrol()
    assert read(source(reader)) == [row()]
    engine = sa.create_engine(reader.url)
    for column in ("social_security", "born"):
        with engine.connect() as connection, pytest.raises(sa.exc.ProgrammingError, match="permission denied"):
            connection.execute(sa.select(individu.c[column]))
    engine.dispose()


def test_a_column_that_the_account_may_not_read_says_so(reader: ApogeeDatabase, tmp_path: Path) -> None:
    text = (resources.files("worker.sources") / "apogee.sql").read_text(encoding="utf-8")
    nosy = Query(tmp_path / "query.sql", reader.url).source(text.replace("SELECT", "SELECT ind.social_security,", 1))
    assert refused(nosy) == (
        "copy: the database failed after 0 rows "
        "(42501: a table or column is hidden from the account; grant it what docs/sources/apogee.md lists)"
    )


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("postgresql+psycopg://cohorts:failed@127.0.0.1:{}/apogee", "connection ***: "),
        ("oracle+oracledb://cohorts:connect@127.0.0.1:{}/?service_name=APOGEE", "DPY-6005: cannot *** to database"),
    ],
)
def test_a_database_that_cannot_be_reached_says_so_and_never_its_password(url: str, reason: str) -> None:
    if "oracledb" in url:
        pytest.importorskip("oracledb")
    [port] = free_ports(1)
    sentence = refused(SqlSource("apogee", url.format(port), uai=UAI))
    assert sentence.startswith(f"apogee: the database can't be reached: {reason}")


@pytest.mark.parametrize("url", ["s3cret", "nothing://u:s3cret@host/x", "postgresql://u:s3cret@host:port/x"])
def test_a_url_that_is_none_is_refused_without_quoting_it(url: str) -> None:
    with pytest.raises(SettingsError) as raised:
        SqlSource("apogee", url, uai=UAI)
    assert str(raised.value).startswith("sources.apogee.url: not the address of a known kind of database; use oracle+")
    assert "s3cret" not in str(raised.value)


def test_a_driver_that_is_missing_is_named_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("oracledb", "pymysql"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(SettingsError) as raised:
        SqlSource("apogee", "oracle+oracledb://u:s3cret@host/?service_name=X", uai=UAI)
    sentence = "sources.apogee.url: oracledb is missing: pip install 'etape-cohorts[oracle]'"
    assert str(raised.value) == sentence
    with pytest.raises(SettingsError, match="pymysql is missing: install pymysql"):
        SqlSource("apogee", "mysql+pymysql://u:s3cret@host/x", uai=UAI)


def test_an_option_that_the_driver_of_oracle_does_not_know_says_so() -> None:
    pytest.importorskip("oracledb")
    source = SqlSource("apogee", "oracle+oracledb://u:s3cret@127.0.0.1:1/?service_name=X&servise=Y", uai=UAI)
    with pytest.raises(SettingsError, match=r"^sources.apogee.url: the driver doesn't know one of its options$"):
        read(source)


@pytest.mark.parametrize("text", ["SELECT 1", "SELECT 1 WHERE 2026 IN (:years) AND 1 = :another"])
def test_a_query_without_its_years_or_with_other_parameters_is_refused(tmp_path: Path, text: str) -> None:
    query = Query(tmp_path / "query.sql", "sqlite://")
    with pytest.raises(SettingsError, match=r"^sources.copy.query: needs `IN \(:years\)`, and no other parameter$"):
        query.source(text)


def test_a_query_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"^sources\.copy\.query: .*No such file"):
        SqlSource("copy", "sqlite://", uai=UAI, query=tmp_path / "none.sql")


# The settings


def settings(**apogee: Any) -> Settings:  # noqa: ANN401 - any field
    return Settings(
        uais=[UAI],
        active_years=[2026],
        platforms={"prelude": {"mode": "manual"}},
        sources={"apogee": {"kind": "sql"} | apogee, "file": {"kind": "file", "path": "x"}},
    )


def test_the_address_comes_from_the_environment(
    apogee: ApogeeDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    apogee.enrol()
    monkeypatch.setenv("COHORTS_SOURCES__APOGEE__URL", apogee.url)
    file = tmp_path / "cohorts.toml"
    file.write_text(
        f'uais = ["{UAI}"]\nactive_years = [2026]\n[platforms.prelude]\nmode = "manual"\n'
        '[sources.apogee]\nkind = "sql"\n',
        encoding="utf-8",
    )
    assert read(sources.source(load(file), "apogee")) == [row()]


def test_the_settings_name_the_database_and_the_query(apogee: ApogeeDatabase, tmp_path: Path) -> None:
    apogee.enrol()
    assert read(sources.source(settings(url=apogee.url), "apogee")) == [row()]
    query = tmp_path / "query.sql"
    columns = ", ".join(f"{cell} AS {name}" for name, cell in {**COLUMNS, "cod_etp": "'OWN'"}.items())
    query.write_text(f"SELECT {columns} WHERE '2026' IN (:years)", encoding="utf-8")
    [read_rows] = enrolments(sources.source(settings(url=apogee.url, query=query), "apogee"))
    assert read_rows.etape.code == "OWN"


def test_of_several_universities_a_database_speaks_for_its_own() -> None:
    of_two = settings(url="sqlite://", uai="0751717J").model_copy(update={"uais": frozenset({UAI, "0751717J"})})
    assert sources.uais_of(of_two, "apogee") == {"0751717J"}
    assert sources.uais_of(of_two, "file") == {UAI, "0751717J"}
    unsaid = of_two.model_copy(update={"sources": settings(url="sqlite://").sources})
    with pytest.raises(SettingsError, match="the source needs its uai"):
        sources.uais_of(unsaid, "apogee")
