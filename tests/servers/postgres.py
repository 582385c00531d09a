"""A real PostgreSQL that is thrown away: the installed server binaries, without durability."""
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
from psycopg import sql
from sqlalchemy import URL, make_url

from tests.servers import MissingServerError, free_ports

START_SECONDS = 60
STOP_SECONDS = 20


class Postgres:
    """A running server on which databases can be created."""

    def __init__(self, url: URL) -> None:
        self._url = url.set(drivername="postgresql+psycopg")

    @contextmanager
    def database(self) -> Iterator[str]:
        """Give the URL of a new, empty database, dropped at the end whoever is still connected."""
        name = f"test_{uuid.uuid4().hex}"
        self._run(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        try:
            yield self._url.set(database=name).render_as_string(hide_password=False)
        finally:
            self._run(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))

    def answers(self) -> bool:
        """Say whether it accepts connections."""
        try:
            self._run(sql.SQL("SELECT 1"))
        except psycopg.OperationalError:
            return False
        return True

    def _run(self, statement: sql.SQL | sql.Composed) -> None:
        address = self._url.set(drivername="postgresql").render_as_string(hide_password=False)
        with psycopg.connect(address, autocommit=True) as connection:
            connection.execute(statement)


@contextmanager
def real_postgres() -> Iterator[Postgres]:
    """Give the server of DATABASE_URL, or a server that is gone at the end; raises MissingServerError."""
    if url := os.environ.get("DATABASE_URL"):
        yield Postgres(make_url(url))
        return
    binaries = _binaries()
    user = _unprivileged_user()
    (port,) = free_ports(1)
    with tempfile.TemporaryDirectory(prefix="postgres-", ignore_cleanup_errors=True) as directory:
        if user:
            shutil.chown(directory, user)
        data, output = Path(directory) / "data", Path(directory) / "output"
        subprocess.run(
            [
                *(binaries / "initdb", "--pgdata", data, "--username=postgres", "--auth=trust"),
                *("--no-sync", "--no-locale", "--encoding=UTF8"),
            ],
            check=True,
            cwd=directory,
            stdout=subprocess.DEVNULL,
            user=user,
        )
        quick = ["-cfsync=off", "-cfull_page_writes=off", "-csynchronous_commit=off"]
        with output.open("wb") as log:
            process = subprocess.Popen(
                [
                    binaries / "postgres",
                    "-D",
                    data,
                    "-p",
                    str(port),
                    "-k",
                    directory,
                    "-h",
                    "127.0.0.1",
                    *quick,
                ],
                cwd=directory,
                stdout=log,
                stderr=subprocess.STDOUT,
                user=user,
            )
        try:
            postgres = Postgres(make_url(f"postgresql://postgres@127.0.0.1:{port}/postgres"))
            deadline = time.monotonic() + START_SECONDS
            while not postgres.answers():
                if process.poll() is not None or time.monotonic() > deadline:
                    raise MissingServerError(f"PostgreSQL did not start:\n{output.read_text()[-2000:]}")
            yield postgres
        finally:
            _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGINT)  # its fast shutdown: clients are disconnected
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _binaries() -> Path:
    """Find initdb and postgres, which Debian keeps out of the PATH."""
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
    """Say as whom to run the server, which refuses to be root: None is the present user."""
    if os.geteuid() != 0:
        return None
    known = {user.pw_name for user in pwd.getpwall()}
    return "postgres" if "postgres" in known else "nobody"
