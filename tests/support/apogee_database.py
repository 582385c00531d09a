"""APOGÉE's tables, as far as enrolments need them, in a database of the tests; and a whole university in them.

Names and types are those of APOGÉE. `INDIVIDU` also has columns that nobody may read, under invented names.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from importlib import resources
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import sqlalchemy as sa

from tests.support.builders import UAI
from worker.sandbox.university.generator import University
from worker.sources.sql import SqlSource

STATUSES = {"active": "E", "pending": "C", "cancelled": "A", "resigned": "R"}
PAYMENTS = {"paid": "P", "due": "A", "unknown": "V"}
PARIS = ZoneInfo("Europe/Paris")

tables = sa.MetaData()


def _number(name: str, digits: int, **more: Any) -> sa.Column[Any]:  # noqa: ANN401 - whatever Column takes
    return sa.Column(name, sa.Numeric(digits, asdecimal=False), **more)


ins_adm_etp = sa.Table(
    "ins_adm_etp",
    tables,
    sa.Column("cod_anu", sa.String(4), primary_key=True),
    _number("cod_ind", 8, primary_key=True),
    sa.Column("cod_etp", sa.String(6), primary_key=True),
    _number("cod_vrs_vet", 3, primary_key=True),
    _number("num_occ_iae", 2, primary_key=True),
    sa.Column("eta_iae", sa.CHAR(1)),
    sa.Column("eta_pmt_iae", sa.CHAR(1)),
    sa.Column("tem_iae_prm", sa.CHAR(1)),
    sa.Column("cod_dip", sa.String(7)),
    _number("cod_vrs_vdi", 3),
    sa.Column("cod_cge", sa.CHAR(3)),
    sa.Column("cod_cmp", sa.CHAR(3)),
    sa.Column("dat_cre_iae", sa.DateTime),
    sa.Column("dat_mod_iae", sa.DateTime),
    sa.Column("dat_annul_res_iae", sa.DateTime),
)
individu = sa.Table(
    "individu",
    tables,
    _number("cod_ind", 8, primary_key=True),
    _number("cod_etu", 8),
    sa.Column("social_security", sa.CHAR(15)),
    sa.Column("born", sa.DateTime),
)
etape = sa.Table(
    "etape", tables, sa.Column("cod_etp", sa.String(6), primary_key=True), sa.Column("lib_etp", sa.String(60))
)
version_etape = sa.Table(
    "version_etape",
    tables,
    sa.Column("cod_etp", sa.String(6), primary_key=True),
    _number("cod_vrs_vet", 3, primary_key=True),
    sa.Column("lib_web_vet", sa.String(120)),
)
composante = sa.Table(
    "composante",
    tables,
    sa.Column("cod_cmp", sa.CHAR(3), primary_key=True),
    sa.Column("lib_cmp", sa.String(40)),
    sa.Column("cod_tpc", sa.CHAR(3)),
)

ENROLMENT: dict[str, Any] = {
    "cod_anu": "2026",
    "cod_ind": 104233,
    "cod_etp": "XINFO1",
    "cod_vrs_vet": 101,
    "num_occ_iae": 1,
    "eta_iae": "E",
    "eta_pmt_iae": "P",
    "tem_iae_prm": "O",
    "cod_cmp": "U99",
}
"""The columns of `enrol`, by default."""


class ApogeeDatabase:
    """A database with APOGÉE's tables; `url` is SQLAlchemy's, of an empty database at first."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.engine = sa.create_engine(url)
        tables.create_all(self.engine)

    def execute(self, statement: sa.Executable | str, **values: object) -> None:
        """Do something else, and commit."""
        with self.engine.begin() as connection:
            connection.execute(sa.text(statement) if isinstance(statement, str) else statement, values)

    def describe(self) -> None:
        """Describe the one étape of ENROLMENT, and its component."""
        self.execute(sa.insert(etape), cod_etp="XINFO1", lib_etp="L1 INFO")
        self.execute(sa.insert(version_etape), cod_etp="XINFO1", cod_vrs_vet=101, lib_web_vet="Licence 1 Informatique")
        self.execute(sa.insert(composante), cod_cmp="U99", lib_cmp="UFR Sciences", cod_tpc="UFR")

    def person(self, cod_ind: int = 104233, cod_etu: int | None = 29900001) -> None:
        """Open the file of a person."""
        self.execute(sa.insert(individu), cod_ind=cod_ind, cod_etu=cod_etu, social_security="299127512345678")

    def enrol(self, **columns: object) -> None:
        """Write an enrolment."""
        self.execute(sa.insert(ins_adm_etp), **ENROLMENT | columns)

    def load(self, university: University) -> None:
        """Put all that the university's records hold now in place of all that there was. On PostgreSQL only.

        The rows are those of `snapshot_rows`: its own enrolments of all years, without deleted ones. COD_ETU is the
        number that lives on, for all whose numbers were merged: each COD_IND stays, so that no two rows share a key.
        It is a NUMBER and loses leading zeros, of which the university has some: read it by `padded`.
        """
        with self.engine.begin() as connection:
            cursor = connection.connection.cursor()
            for table, rows in _rows(university).items():
                connection.execute(sa.delete(table))
                names = ", ".join(column.name for column in table.c if column.name in rows[0])
                with cursor.copy(f"COPY {table.name} ({names}) FROM STDIN") as copy:
                    for row in rows:
                        copy.write_row(list(row.values()))

    def padded(self, folder: Path) -> SqlSource:
        """Return a source with the university's own query, whose student numbers have all their eight digits."""
        apogee = (resources.files("worker.sources") / "apogee.sql").read_text(encoding="utf-8")
        columns, comma, rest = apogee.partition("ind.cod_etu,")
        assert comma
        query = folder / "padded.sql"
        number = "LPAD(CAST(ind.cod_etu AS VARCHAR(8)), 8, '0') AS cod_etu,"
        query.write_text(columns + number + rest, encoding="utf-8")
        return SqlSource("apogee", self.url, uai=UAI, query=query)


@contextmanager
def apogee_database(url: str) -> Iterator[ApogeeDatabase]:
    """Make APOGÉE's tables in an empty database, and give the connections back at the end."""
    database = ApogeeDatabase(url)
    yield database
    database.engine.dispose()


def _rows(university: University) -> dict[sa.Table, list[dict[str, Any]]]:
    """Return the rows of each table; every dictionary of one has its columns in their order."""
    records = university._records
    given = [
        (student, row)
        for student in records.students()
        for row in records._rows[student].values()
        if row.uai == university.uai and row.status != "deleted"
    ]
    firsts = {student: row.key for student, row in reversed(given)}
    versions = [(code, int(version)) for code, etape in university._etapes.items() for version in etape.versions]
    labels = university.labels()
    return {
        ins_adm_etp: [
            {
                "cod_anu": str(row.year),
                "cod_ind": row.person,
                "cod_etp": row.etape.code,
                "cod_vrs_vet": int(row.etape_version),
                "num_occ_iae": row.occurrence,
                "eta_iae": STATUSES[row.status],
                "eta_pmt_iae": PAYMENTS[row.payment],
                "tem_iae_prm": "O" if firsts[student] == row.key else "N",
                "cod_cge": row.etape.component.code,
                "cod_cmp": row.etape.component.code,
                "dat_mod_iae": datetime.fromtimestamp(row.at, PARIS).replace(tzinfo=None),
            }
            for student, row in given
        ],
        individu: [
            {"cod_ind": person, "cod_etu": int(student), "social_security": f"{person:015}"}
            for person, student in {row.person: student for student, row in given}.items()
        ],
        etape: [{"cod_etp": code, "lib_etp": label[:60]} for code, (label, _, _) in labels.items()],
        version_etape: [
            {"cod_etp": code, "cod_vrs_vet": version, "lib_web_vet": _web_label(labels[code][0], number)}
            for number, (code, version) in enumerate(versions)
        ],
        composante: [
            {"cod_cmp": code, "lib_cmp": label, "cod_tpc": "UFR"}
            for code, label in {component: label for _, component, label in labels.values()}.items()
        ],
    }


def _web_label(label: str, number: int) -> str | None:
    """Leave out some of those that fit into LIB_ETP, as null or as nothing but spaces."""
    return (None, "", "  ", label)[number % 4] if len(label) <= 60 else label
