"""A Moodle and an installation for each test."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support.installation import Install, Installation, installed, platform
from tests.support.servers.kafka import Kafka
from worker.sandbox.moodle.server import SandboxMoodle


@pytest.fixture
def moodle() -> Iterator[SandboxMoodle]:
    """A Moodle without any account of a student."""
    site = SandboxMoodle(name="Ecampus", token="secret-of-ecampus")
    with site.serving():
        yield site


@pytest.fixture
def install(kafka: Kafka, topic: str, tmp_path: Path, moodle: SandboxMoodle) -> Iterator[Install]:
    """Install a worker for that Moodle, or for other platforms; more settings by section."""
    with ExitStack() as stack:

        def install(
            platforms: Mapping[str, Any] | None = None, *, partitions: int = 3, **more: Mapping[str, Any]
        ) -> Installation:
            chosen = {"ecampus": platform(moodle)} if platforms is None else platforms
            return stack.enter_context(installed(tmp_path, kafka, topic, chosen, more, partitions=partitions))

        yield install
