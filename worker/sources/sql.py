"""APOGÉE's database, or a copy of its tables, as a source of snapshots: by SQL, read only.

The query is apogee.sql, or the university's own with the same columns (COLUMNS) in any order and case; other columns
are ignored. It is one statement, and shows one instant: Oracle, PostgreSQL, SQLite and InnoDB guarantee that for a
statement however long its rows are fetched, SQL Server only with READ_COMMITTED_SNAPSHOT. On PostgreSQL its transaction
is also REPEATABLE READ, so that functions in a query see the same instant, and READ ONLY.

That instant is not taken from the database, and no date is read from it: APOGÉE's are wall-clock times without a zone,
and an hour of October happens twice. The command notes the time of its own machine before it reads, so that clock and
those of the producers of messages must agree (NTP).
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from decimal import Decimal
from importlib import resources
from math import isfinite
from pathlib import Path
from typing import Annotated, Any

import sqlalchemy as sa
from pydantic import BaseModel, Field, ValidationError

import schemas
from schemas import EnrolmentRow, SnapshotRow, UnknownRow
from schemas.envelope import Code32
from worker.domain import apogee
from worker.domain.errors import SettingsError, SourceIncomplete
from worker.domain.snapshots import SnapshotScope
from worker.sources.reading import LeftOut, SourceReading
from worker.sources.tally import counted_kinds

NO_STUDENT_NUMBER, UNKNOWN_STATUS = "no_student_number", "unknown_status"
INVALID = {"student.student_id": "invalid_student_number", "etape.component.code": "invalid_component"}
"""Fields of a row with a good key that the contract may refuse, and the reason that is then counted."""
OTHER_YEAR, OTHER_ETAPE = "other_year", "other_etape"
ROWS_AT_A_TIME = 1_000
_CONSISTENT = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
_EXACT = 2**53
"""From here on a float may stand for another number than the one that was stored."""
_WHOLE = re.compile(r"\A([0-9]+)\.0+\Z")
_PARENTHESES = re.compile(r"\(\s*(:years)\s*\)")
_CODE = re.compile(r"\b(?:ORA|DPY)-[0-9]{4,5}\b")
_REMEDIES = {
    "ORA-01555": "it has lost the state in which reading began; read at a quieter hour, or raise its UNDO_RETENTION",
    "57014|ORA-01013|DPY-4024": "it was cancelled; raise the account's time limit, or read at a quieter hour",
    "42501|42P01|ORA-00942|ORA-01031": (
        "a table or column is hidden from the account; grant it what docs/sources/apogee.md lists"
    ),
    "(?:22|25|42)...|ORA-009..|ORA-01722": "the query doesn't suit this database; try it by hand",
    ".*": "check that it runs and can be reached, then read again",
}
"""What to do, by SQLSTATE or Oracle code; the first match counts."""


_Number = Annotated[int, Field(ge=0, lt=10**15)]  # leading zeros and a fraction of zeros don't matter


class _Key(BaseModel):
    """The primary key of INS_ADM_ETP, which names an enrolment."""

    cod_anu: _Number
    cod_ind: _Number
    cod_etp: Code32
    cod_vrs_vet: _Number
    num_occ_iae: _Number

    @property
    def enrolment_id(self) -> str:
        return apogee.enrolment_id(
            year=self.cod_anu,
            person=self.cod_ind,
            etape=self.cod_etp,
            version=self.cod_vrs_vet,
            occurrence=self.num_occ_iae,
        )


COLUMNS = (*_Key.model_fields, "cod_etu", "eta_iae", "eta_pmt_iae", "lib_etape", "cod_cmp", "lib_cmp")


class SqlSource:
    """A database to read snapshots from. `url` is SQLAlchemy's; the file `query` takes the place of apogee.sql.

    Raises SettingsError, which never quotes the URL, when it can't be used at all, or when the query has no `:years`.
    """

    def __init__(self, name: str, url: str, *, uai: str, query: Path | None = None) -> None:
        self._name = name
        self._uai = uai
        self._statement = _statement(name, query)
        self._engine = _engine(name, url)

    def read(self, scope: SnapshotScope) -> SourceReading:
        """Stream the enrolments of the scope's years; memory holds ROWS_AT_A_TIME of them.

        Unknown are enrolments with `no_student_number`, with an `unknown_status` (a word that isn't APOGÉE's), and
        those of INVALID. Left out, and counted, are `other_year` and `other_etape`.

        Raises SourceIncomplete when the database can't be read to the end, when columns are missing, and when the key
        of a row can't be read, so that its enrolment can't be named. Its text never holds a value.
        """
        return SourceReading(self._items(scope))

    def _items(self, scope: SnapshotScope) -> Iterator[SnapshotRow | LeftOut]:
        if scope.uais != {self._uai}:  # absence would end the enrolments of others
            asked = ", ".join(sorted(scope.uais))
            raise SourceIncomplete(f"{self._name} holds only {self._uai}, and was asked for all enrolments of {asked}")
        rows, unnamed, problems = 0, 0, Counter[str]()
        for cells in self._cells(scope.academic_years):
            rows += 1
            try:
                key = _Key.model_validate(cells)
            except ValidationError as error:
                unnamed += 1
                problems.update(f"{field}: {kind}" for field, kind in schemas.problems(error, depth=0))
                continue
            if key.cod_anu not in scope.academic_years:
                yield LeftOut(OTHER_YEAR)
            elif not scope.covers_etape(key.cod_etp):
                yield LeftOut(OTHER_ETAPE)
            else:
                yield self._row(key, cells)
        if unnamed:
            sentence = f"{self._name}: {unnamed} of {rows} rows have a key that can't be read: "
            raise SourceIncomplete(sentence + counted_kinds(problems))

    def _cells(self, years: frozenset[int]) -> Iterator[dict[str, Any]]:
        """Yield the cells of each row, by the name of their column in COLUMNS."""
        rows = 0
        with self._connected() as connection:
            try:
                asked = {"years": [str(year) for year in sorted(years)]}
                with connection.execute(self._statement, asked) as result:
                    positions = self._positions(result.keys())
                    for row in result:
                        yield {name: _cell(row[position]) for name, position in positions.items()}
                        rows += 1
            except sa.exc.SQLAlchemyError as error:
                raise SourceIncomplete(f"{self._name}: the database failed after {rows} rows ({_why(error)})") from None

    def _connected(self) -> sa.Connection:
        try:
            return self._engine.connect()
        except sa.exc.SQLAlchemyError as error:
            reason = str(getattr(error, "orig", None) or error).partition("\n")[0]
            if self._engine.url.password:
                reason = reason.replace(self._engine.url.password, "***")
            raise SourceIncomplete(f"{self._name}: the database can't be reached: {reason}") from None
        except TypeError:
            raise SettingsError(f"sources.{self._name}.url: the driver doesn't know one of its options") from None

    def _positions(self, names: Iterable[str]) -> dict[str, int]:
        """Return where each column stands, whatever their order and case; others don't matter."""
        given = [name.lower() for name in names]
        for problem, wrong in (
            ("doesn't give", [name for name in COLUMNS if name not in given]),
            ("gives twice", [name for name in COLUMNS if given.count(name) > 1]),
        ):
            if wrong:
                raise SourceIncomplete(f"{self._name}: the query {problem} {', '.join(wrong)}")
        return {name: given.index(name) for name in COLUMNS}

    def _row(self, key: _Key, cells: dict[str, Any]) -> SnapshotRow:
        enrolment_id = key.enrolment_id
        if cells["cod_etu"] is None:
            return UnknownRow(enrolment_id=enrolment_id, reason=NO_STUDENT_NUMBER)
        if (status := apogee.STATUSES.get(cells["eta_iae"])) is None:
            return UnknownRow(enrolment_id=enrolment_id, reason=UNKNOWN_STATUS)
        component = {"code": cells["cod_cmp"], "label": _label(cells["lib_cmp"])}
        row = {
            "enrolment_id": enrolment_id,
            "academic_year": key.cod_anu,
            "student": {"student_id": _student_number(cells["cod_etu"])},
            "etape": {
                "code": key.cod_etp,
                "version": str(key.cod_vrs_vet),
                "label": _label(cells["lib_etape"]),
                "component": None if cells["cod_cmp"] is None else component,
            },
            "status": status.value,
            "payment": apogee.payment(cells["eta_pmt_iae"]).value,
            "source": {"system": "apogee", "uai": self._uai},
        }
        try:
            return EnrolmentRow.model_validate(row)
        except ValidationError as error:
            field, _ = schemas.problems(error, depth=0)[0]
            return UnknownRow(enrolment_id=enrolment_id, reason=INVALID[field])


def _statement(name: str, query: Path | None) -> sa.Executable:
    source = query or resources.files("worker.sources") / "apogee.sql"
    try:
        text = source.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"sources.{name}.query: {error}") from None
    # The list of years brings its own parentheses, and Oracle refuses the semicolon at which tools end a statement.
    statement = sa.text(_PARENTHESES.sub(r"\1", text.rstrip().removesuffix(";")))
    if {*statement.compile().bind_names.values()} != {"years"}:
        raise SettingsError(f"sources.{name}.query: needs `IN (:years)`, and no other parameter")
    years = sa.bindparam("years", expanding=True, type_=sa.String())  # COD_ANU is text
    return statement.bindparams(years).execution_options(yield_per=ROWS_AT_A_TIME)


def _engine(name: str, url: str) -> sa.Engine:
    where = f"sources.{name}.url"
    wanted = "use oracle+oracledb://USER@HOST:1521/?service_name=NAME or postgresql+psycopg://USER@HOST/DATABASE"
    try:
        engine = sa.create_engine(url, poolclass=sa.NullPool, hide_parameters=True)
    except (sa.exc.SQLAlchemyError, ValueError):  # whose text may hold the password
        raise SettingsError(f"{where}: not the address of a known kind of database; {wanted}") from None
    except ImportError as error:
        module = error.name or "its driver"
        install = "pip install 'etape-cohorts[oracle]'" if "oracle" in module.lower() else f"install {module}"
        raise SettingsError(f"{where}: {module} is missing: {install}") from None
    return engine.execution_options(**_CONSISTENT) if engine.dialect.name == "postgresql" else engine


def _why(error: sa.exc.SQLAlchemyError) -> str:
    """Return the code of an error and what to do about it, without its text, which may quote values."""
    cause = getattr(error, "orig", None) or error
    oracle = _CODE.search(str(cause))
    code = getattr(cause, "sqlstate", None) or (oracle[0] if oracle else type(cause).__name__)
    return f"{code}: {next(remedy for codes, remedy in _REMEDIES.items() if re.fullmatch(codes, code))}"


def _cell(value: Any) -> Any:  # noqa: ANN401 - whatever the driver gives
    """Return a cell as text: without the padding of CHAR, None when nothing is left, the digits of a whole number.

    Anything else stays what it is, and is refused where text is needed.
    """
    if isinstance(value, str):
        return value.strip() or None
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool) and isfinite(value):
        exact = not isinstance(value, float) or abs(value) < _EXACT
        return str(int(value)) if exact and value == int(value) else value
    return value


def _student_number(value: Any) -> Any:  # noqa: ANN401 - idem
    """Remove the fraction of a number that went through a spreadsheet; leading zeros are the database's own."""
    return _WHOLE.sub(r"\1", value) if isinstance(value, str) else value


def _label(value: Any) -> str | None:  # noqa: ANN401 - idem
    return apogee.label(value) if isinstance(value, str) else None
