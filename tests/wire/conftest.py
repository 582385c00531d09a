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
    """A ledger without anything in it, to copy: quicker than migrating each anew."""
    path = tmp_path_factory.mktemp("ledger") / "ledger.db"
    Ledger(f"sqlite:///{path}").close()
    return path


@pytest.fixture
def build(tmp_path: Path, empty_ledger: Path) -> Iterator[Build]:
    """Build a world over a fresh SQLite ledger, with these platforms."""

    def url() -> str:
        return f"sqlite:///{shutil.copy(empty_ledger, tmp_path / 'ledger.db')}"

    with building(url) as build:
        yield build


@pytest.fixture
def world(build: Build) -> World:
    """One automatic platform whose accounts are named by student number, with the students s1 to s5."""
    world = build()
    world.accounts("s1", "s2", "s3", "s4", "s5")
    return world
