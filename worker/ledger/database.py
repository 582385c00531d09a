"""Opens the ledger, and its two kinds of transaction."""

import os
import sqlite3
import stat
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeVar

import orjson
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from worker.domain.errors import LedgerError
from worker.ledger import schema

BUSY_SECONDS = 60
"""How long a SQLite writer waits for another one."""
SILENT_SECONDS = 60
"""How long a PostgreSQL writer may be silent within its transaction, while all others wait."""
OTHERS = 0o077
"""What a file allows others than its owner."""
STREAMED = 2_000
"""Rows that a stream reads at a time."""
_SQLITE_OUTAGES = {
    sqlite3.SQLITE_BUSY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_READONLY,
}  # fmt: skip
T = TypeVar("T")
_NAMELESS = sa.make_url("sqlite://")
_WRITER_LOCK = 0x65_74_61_70_65  # "etape"; any number that no other program of the database uses


class Ledger:
    """The database, at the newest version of its schema.

    There is one writer at a time, on SQLite by its nature and on PostgreSQL by an advisory lock: transactions are
    short, Moodle is a thousand times slower, and no two of them ever work from the same stale reading.
    """

    def __init__(self, url: str | None) -> None:
        """Open a ledger; without a URL, a new one to try something on, which one thread may use at a time.

        That one is a file of SQLite without a name: nothing of it is left, however the process ends.
        """
        where = _NAMELESS if url is None else _parsed(url)
        self._public = public = where.set(query={}).render_as_string(hide_password=True)
        try:
            self.engine = _engine(where)
        except (sa.exc.SQLAlchemyError, ImportError) as error:
            raise LedgerError(f"{public}: the ledger cannot be opened: {error}") from None
        try:
            self.instance = self._ready() or self._prepare()
        except sa.exc.SQLAlchemyError as error:
            self.close()
            raise LedgerError(f"{public}: the ledger cannot be opened: {_reason(error)}") from None
        except LedgerError as error:
            self.close()
            raise LedgerError(f"{public}: {error}") from None
        self.name = self.engine.dialect.name

    def _ready(self) -> str | None:
        """Return the ledger's name if nothing has to be written first: opening it must not wait for a writer."""
        with self.engine.begin() as connection:
            return _instance(connection) if _is_current(connection) else None

    def _prepare(self) -> str:
        """Bring the schema up to date, name the ledger, and return its name."""
        with self._writing() as connection:
            if not _is_current(connection):
                from worker.ledger.upgrade import upgrade  # noqa: PLC0415 - Alembic is slow to import and rarely needed

                upgrade(connection)
            name = _instance(connection)
            if name is None:
                name = uuid.uuid4().hex[:12]
                connection.execute(sa.insert(schema.meta), {"key": "instance", "value": name})
            return name

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """Yield a consistent view, without waiting for writers. Raises LedgerError when the database is unavailable."""
        engine = self.engine
        if engine.dialect.name == "postgresql":  # where each statement would see newer data, by default
            engine = engine.execution_options(isolation_level="REPEATABLE READ")
        with self._in_reach(), engine.begin() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """Yield a transaction as the only writer; it commits at the end, or rolls everything back.

        PostgreSQL rolls back a writer that is silent for a minute, because its process is stopped or its machine gone,
        so that the others go on; if that writer resumes, it gets an error.

        Raises LedgerError when the database is unavailable, full, locked for a minute, or broken. A wrong statement
        stays an error of SQLAlchemy: it is a defect of ours.
        """
        with self._in_reach(), self._writing() as connection:
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        with self.engine.connect().execution_options(writes=True) as connection, connection.begin():
            if self.engine.dialect.name == "postgresql":
                silence = sa.func.set_config("idle_in_transaction_session_timeout", f"{SILENT_SECONDS}s", sa.true())
                connection.execute(sa.select(silence, sa.func.pg_advisory_xact_lock(_WRITER_LOCK)))
            yield connection

    @contextmanager
    def _in_reach(self) -> Iterator[None]:
        try:
            yield
        except sa.exc.DBAPIError as error:
            if not _is_outage(error):
                raise
            remedy = "repair the database, then start this again; nothing is left half done"
            raise LedgerError(f"{self._public}: the ledger failed: {_reason(error)}; {remedy}") from error

    def compact(self) -> None:
        """Release the space of deleted rows, so that SQLite's file no longer contains them; PostgreSQL does so itself.

        Raises LedgerError when others keep the file busy; what was deleted stays deleted.
        """
        if self.engine.dialect.name != "sqlite":
            return
        connection = self.engine.raw_connection()  # VACUUM can't be in a transaction
        try:
            connection.cursor().execute("VACUUM")
            (busy, *_) = connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        except sqlite3.OperationalError as error:
            raise LedgerError(f"the ledger's file could not be compacted: {error}; do it again") from None
        finally:
            connection.close()
        if busy:
            raise LedgerError("the ledger's file could not be compacted while others read it; do it again")

    def close(self) -> None:
        """Close the connections."""
        self.engine.dispose()


def upsert(
    connection: sa.Connection, table: sa.Table, rows: Sequence[dict[str, Any]], *, update: Iterable[str]
) -> None:
    """Insert rows, all of the same columns, or update these columns of rows whose primary key exists.

    SQLAlchemy and psycopg would take longer to send many rows than the database takes to write them.
    """
    if not rows:
        return
    if connection.dialect.name == "sqlite":
        _execute_many(connection, *_sqlite_upsert(table, frozenset(rows[0]), tuple(update)), rows)
    else:
        insert = postgresql.insert(table).from_select(list(rows[0]), sa.select(_as_table(table, rows)))
        connection.execute(_upserting(insert, update))


def update(connection: sa.Connection, table: sa.Table, rows: Sequence[dict[str, Any]]) -> None:
    """Update existing rows, all of the same columns, the primary key among them."""
    if not rows:
        return
    if connection.dialect.name == "sqlite":
        _execute_many(connection, *_sqlite_update(table, frozenset(rows[0])), rows)
    else:
        source = _as_table(table, rows).alias("source")
        names = [column.name for column in table.c if column.name in rows[0] and not column.primary_key]
        same = [column == source.c[column.name] for column in table.primary_key]
        connection.execute(sa.update(table).where(*same).values({name: source.c[name] for name in names}))


def _as_table(table: sa.Table, rows: Sequence[dict[str, Any]]) -> sa.TableValuedAlias:
    """Return rows as a table that PostgreSQL gets in one parameter."""
    rowset = sa.func.json_populate_recordset(sa.literal_column(f'NULL::"{table.name}"'), sa.literal(rows, sa.JSON))
    return rowset.table_valued(*rows[0])


def _execute_many(
    connection: sa.Connection, statement: str, names: Sequence[str], rows: Sequence[dict[str, Any]]
) -> None:
    connection.exec_driver_sql(statement, list(map(itemgetter(*names), rows)))


@cache  # to write a statement takes as long as some hundred rows
def _sqlite_upsert(table: sa.Table, names: frozenset[str], update: tuple[str, ...]) -> tuple[str, list[str]]:
    """Return the statement, and the columns of its parameters."""
    ordered = [column.name for column in table.c if column.name in names]
    statement = _upserting(sqlite.insert(table), update)
    return str(statement.compile(dialect=sqlite.dialect(), column_keys=ordered)), ordered


@cache
def _sqlite_update(table: sa.Table, names: frozenset[str]) -> tuple[str, list[str]]:
    keys = [column.name for column in table.primary_key]
    others = [column.name for column in table.c if column.name in names and not column.primary_key]
    statement = sa.update(table).where(*(table.c[key] == sa.bindparam(key) for key in keys))
    return str(statement.compile(dialect=sqlite.dialect(), column_keys=others)), [*others, *keys]


def _upserting(insert: sqlite.Insert | postgresql.Insert, update: Iterable[str]) -> sa.Insert:
    return insert.on_conflict_do_update(
        index_elements=list(insert.table.primary_key), set_={name: insert.excluded[name] for name in update}
    )


def select_in(
    connection: sa.Connection, statement: sa.Select[Any], column: sa.ColumnElement[Any], values: Iterable[Any]
) -> list[sa.Row[Any]]:
    """Read the rows whose column is among the values, however many these are."""
    ordered = list(values)
    if not ordered:
        return []
    return list(connection.execute(statement.where(among(connection, column, ordered))).all())


def stream(connection: sa.Connection, statement: sa.Select[Any]) -> Iterator[tuple[Any, ...]]:
    """Read rows as tuples, some at a time: one by one is slow, all at once takes memory."""
    for some in connection.execute(statement.execution_options(yield_per=STREAMED)).partitions():
        yield from map(tuple, some)


def among(connection: sa.Connection, column: sa.ColumnElement[Any], values: Sequence[Any]) -> sa.ColumnElement[bool]:
    """Select by a column among values, in one parameter, so that any number of them is the same statement."""
    if connection.dialect.name == "sqlite":
        each = sa.func.json_each(orjson.dumps(values).decode()).table_valued("value")
        return column.in_(sa.select(each.c.value))
    array = sa.cast(sa.literal(_array(values)), postgresql.ARRAY(column.type))
    return column.in_(sa.select(sa.func.unnest(array)))


def _array(values: Iterable[object]) -> str:
    """Write an array in PostgreSQL's syntax; psycopg takes six times as long for that."""
    quoted = (str(value).replace("\\", "\\\\").replace('"', '\\"') for value in values)
    return "{" + ",".join([f'"{value}"' for value in quoted]) + "}"


def chunks(values: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Cut values into pieces of this size."""
    for start in range(0, len(values), size):
        yield values[start : start + size]


def _parsed(url: str) -> sa.URL:
    wanted = "use sqlite:///FILE or postgresql+psycopg://USER@HOST/DATABASE"
    try:
        parsed = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError):  # whose text may hold the password
        raise LedgerError(f"ledger.url: not an address; {wanted}") from None
    kind = parsed.get_backend_name()
    if kind not in {"sqlite", "postgresql"}:
        raise LedgerError(f"ledger.url: {kind} is not a ledger; {wanted}")
    if kind == "sqlite" and parsed.database in {None, "", ":memory:"}:
        raise LedgerError(f"ledger.url: a ledger in memory would forget everything; {wanted}")
    return parsed


def has_password(url: str) -> bool:
    """Whether a ledger's address holds a password. Raises LedgerError when it is no address."""
    parsed = _parsed(url)
    return parsed.password is not None or "password" in parsed.query


def exposed_files(url: str) -> dict[str, int]:
    """Return the files of a ledger that others than their owner may read or write, each with its mode."""
    parsed = _parsed(url)
    if parsed.get_backend_name() != "sqlite" or parsed.database is None:
        return {}
    files = [Path(f"{parsed.database}{end}") for end in ("", "-wal", "-shm")]
    modes = {str(file): stat.S_IMODE(file.stat().st_mode) for file in files if file.exists()}
    return {file: mode for file, mode in modes.items() if mode & OTHERS}


def _engine(url: sa.URL) -> sa.Engine:
    pool: dict[str, Any] = {"pool_size": 8, "max_overflow": 24}
    if url == _NAMELESS:
        pool = {"poolclass": sa.StaticPool, "creator": lambda: sqlite3.connect("")}
    engine = sa.create_engine(url, json_serializer=_json, hide_parameters=True, **pool)
    if engine.dialect.name == "sqlite":
        if url.database is not None:
            _keep_private(Path(url.database))
        sa.event.listen(engine, "connect", _prepare_sqlite)
        sa.event.listen(engine, "begin", _begin_sqlite)
    else:
        sa.event.listen(engine, "handle_error", _quote_nothing)
    return engine


def _keep_private(file: Path) -> None:
    """Let only its owner read a new ledger, also one that is made in an empty file. Raises LedgerError for a bad link.

    Only a new file is opened here: closing one that this process has open would release SQLite's locks on it, and other
    processes could corrupt it.
    """
    if file.is_symlink() and not file.exists():
        raise LedgerError(f"{file} is a link to a file that doesn't exist: whoever made it chooses where the ledger is")
    with suppress(OSError):  # it exists; or SQLite itself will say why it can't be created
        os.close(os.open(file, os.O_CREAT | os.O_EXCL, 0o600))
    with suppress(OSError):  # idem; or it is another user's
        if file.stat().st_size == 0:
            file.chmod(0o600)
        for beside in (file.with_name(f"{file.name}{end}") for end in ("-wal", "-shm")):
            if beside.exists() and not beside.is_symlink():
                beside.chmod(beside.stat().st_mode & file.stat().st_mode)


def _reason(error: sa.exc.SQLAlchemyError) -> str:
    """Return what the database reports, in one line."""
    return " ".join(str(getattr(error, "orig", None) or error).split())


def _is_outage(error: sa.exc.DBAPIError) -> bool:
    """Whether the database failed, rather than the statement being wrong."""
    of_sqlite = getattr(error.orig, "sqlite_errorcode", None)
    if of_sqlite is not None:
        return of_sqlite & 0xFF in _SQLITE_OUTAGES  # above are details
    return error.connection_invalidated or isinstance(error, sa.exc.OperationalError)


def _json(value: object) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS)  # a column's name is a str of SQLAlchemy's own kind


def _quote_nothing(context: sa.engine.ExceptionContext) -> None:
    """Remove from an error of PostgreSQL what must not end in a log: it quotes rows and data."""
    error: Any = context.original_exception
    if code := getattr(error, "sqlstate", None):  # otherwise it isn't an error of the server
        of_data = code.startswith("22")
        error.args = (f"{type(error).__name__} ({code})" if of_data else error.diag.message_primary,)
        if context.sqlalchemy_exception is not None:
            context.sqlalchemy_exception.args = error.args


def _prepare_sqlite(connection: Any, _record: object) -> None:  # noqa: ANN401 - the driver's connection
    connection.isolation_level = None  # the driver must not begin transactions by itself: see _begin_sqlite
    connection.execute(f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000}")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")


def _begin_sqlite(connection: sa.Connection) -> None:
    # A transaction that began by reading can't write once another one has written: lock at the start.
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _is_current(connection: sa.Connection) -> bool:
    """Whether the schema is at the newest revision."""
    if not sa.inspect(connection).has_table(schema.REVISIONS.name):
        return False
    return bool(connection.scalar(sa.select(schema.REVISIONS.c.version_num)) == schema.REVISION)


def _instance(connection: sa.Connection) -> str | None:
    """Return the ledger's own name, which the cohorts that it creates carry in their description."""
    return connection.scalar(sa.select(schema.meta.c.value).where(schema.meta.c.key == "instance"))
