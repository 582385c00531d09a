import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import stamina

from tests.support.world import Build, World, building
from worker.ledger import Ledger


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
