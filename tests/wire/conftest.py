import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import stamina

from tests.support.world import TOKEN, Build, World, building, platform
from worker.ledger import Ledger
from worker.sandbox.moodle.server import SandboxMoodle


@pytest.fixture(autouse=True)
def retries_without_waiting() -> Iterator[None]:
    with stamina.set_testing(testing=True, attempts=2):
        yield


@pytest.fixture(scope="session")
def empty_ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty ledger to copy, which is quicker than a migration for each test."""
    path = tmp_path_factory.mktemp("ledger") / "ledger.db"
    Ledger(f"sqlite:///{path}").close()
    return path


@pytest.fixture
def build(tmp_path: Path, empty_ledger: Path) -> Iterator[Build]:
    """Build a world on a new SQLite ledger, with these platforms."""

    def url() -> str:
        return f"sqlite:///{shutil.copy(empty_ledger, tmp_path / 'ledger.db')}"

    with building(url) as build:
        yield build


@pytest.fixture
def world(build: Build) -> World:
    """A world with one automatic platform, whose accounts are named by student number, and the students s1 to s5."""
    world = build()
    world.accounts("s1", "s2", "s3", "s4", "s5")
    return world


@pytest.fixture(scope="module")
def playground(tmp_path_factory: pytest.TempPathFactory, empty_ledger: Path) -> Iterator[Build]:
    """Build a fresh world at each call, on one and the same web server, with the students s1 to s4."""
    path = tmp_path_factory.mktemp("ledger") / "ledger.db"
    moodle = SandboxMoodle(token=TOKEN)
    with moodle.serving(), ExitStack() as last:

        def play(**more: Any) -> World:  # noqa: ANN401 # fields of World
            last.close()
            for leftover in path.parent.iterdir():
                leftover.unlink()
            shutil.copy(empty_ledger, path)
            moodle.fault = None
            for table in (moodle.users, moodle.user_ids, moodle.cohort_rows, moodle.members_of, moodle.calls):
                table.clear()
            for name in ("etape-cohorts", "s1", "s2", "s3", "s4"):
                moodle.add_user(username=name)
            return World(f"sqlite:///{path}", [platform()], last, moodles={"ecampus": moodle}, **more)

        yield play
