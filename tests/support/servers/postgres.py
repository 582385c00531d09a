"""A temporary real PostgreSQL: the installed server binaries, without durability."""
# ruff: noqa: S603, S607 -- the programs and their arguments are our own

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import URL, make_url

from tests.support.servers import MissingServerError, free_ports

START_SECONDS = 60
STOP_SECONDS = 20


class Postgres:
    """A running server on which databases can be created."""

    def __init__(self, url: URL) -> None:
        self._url = url.set(drivername="postgresql+psycopg")

    @contextmanager
    def database(self) -> Iterator[str]:
        """Yield the URL of a new, empty database, dropped at the end even if somebody is connected."""
        name = f"test_{uuid.uuid4().hex}"
        self._run(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        try:
            yield self._url.set(database=name).render_as_string(hide_password=False)
        finally:
            self._run(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))

    def answers(self) -> bool:
        """Whether it accepts connections."""
        try:
            self._run(sql.SQL("SELECT 1"))
        except psycopg.OperationalError:
            return False
        return True

    def stop(self) -> None:
        """Only our own server can be stopped."""
        pytest.skip("the PostgreSQL of DATABASE_URL is not ours to stop")

    def start(self) -> None:
        """Do nothing: it was not stopped."""

    def _run(self, statement: sql.SQL | sql.Composed) -> None:
        address = self._url.set(drivername="postgresql").render_as_string(hide_password=False)
        with psycopg.connect(address, autocommit=True) as connection:
            connection.execute(statement)


class OwnPostgres(Postgres):
    """A server that runs from `start` to `stop`; it keeps its port and what it holds when started again."""

    def __init__(self, directory: Path) -> None:
        binaries, self._user, (port,) = _binaries(), _unprivileged_user(), free_ports(1)
        super().__init__(make_url(f"postgresql://postgres@127.0.0.1:{port}/postgres"))
        self._process: subprocess.Popen[bytes] | None = None
        self._directory, self._output = directory, directory / "output"
        data = directory / "data"
        if self._user:
            shutil.chown(directory, self._user)
        subprocess.run(
            [
                *(binaries / "initdb", "--pgdata", data, "--username=postgres", "--auth=trust"),
                *("--no-sync", "--no-locale", "--encoding=UTF8"),
            ],
            check=True,
            cwd=directory,
            stdout=subprocess.DEVNULL,
            user=self._user,
        )
        quick = ["-cfsync=off", "-cfull_page_writes=off", "-csynchronous_commit=off"]
        self._command: list[str | Path] = [
            *(binaries / "postgres", "-D", data, "-p", str(port), "-k", directory, "-h", "127.0.0.1"),
            *quick,
        ]

    def start(self) -> None:
        """Start it unless it runs, and wait until it responds."""
        if self._process:
            return
        with self._output.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, cwd=self._directory, stdout=log, stderr=subprocess.STDOUT, user=self._user
            )
        deadline = time.monotonic() + START_SECONDS
        while not self.answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise MissingServerError(f"PostgreSQL did not start:\n{self._output.read_text()[-2000:]}")

    def stop(self) -> None:
        """Stop it if it runs, and disconnect its clients."""
        if not self._process:
            return
        self._process.send_signal(signal.SIGINT)  # its fast shutdown
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None


@contextmanager
def real_postgres() -> Iterator[Postgres]:
    """Yield the server of DATABASE_URL, or a temporary one; raises MissingServerError."""
    if url := os.environ.get("DATABASE_URL"):
        yield Postgres(make_url(url))
        return
    with tempfile.TemporaryDirectory(prefix="postgres-", ignore_cleanup_errors=True) as directory:
        postgres = OwnPostgres(Path(directory))
        try:
            postgres.start()
            yield postgres
        finally:
            postgres.stop()


def _binaries() -> Path:
    """Find initdb and postgres, which aren't in the PATH on Debian."""
    candidates = [Path(folder) for folder in os.get_exec_path()]
    if shutil.which("pg_config"):
        answer = subprocess.run(["pg_config", "--bindir"], check=True, capture_output=True, text=True)
        candidates.append(Path(answer.stdout.strip()))
    candidates += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    for folder in candidates:
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            return folder
    raise MissingServerError("no PostgreSQL server: install one (Debian: postgresql), or set DATABASE_URL")


def _unprivileged_user() -> str | None:
    """Return the user to run the server as, since it refuses to be root; None is the present user."""
    if os.geteuid() != 0:
        return None
    known = {user.pw_name for user in pwd.getpwall()}
    return "postgres" if "postgres" in known else "nobody"
