"""The compose files: valid, speaking of what exists, and alive when their programs run without containers."""
# ruff: noqa: S603 -- the programs and their arguments are our own

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from tests.support.installation import eventually
from tests.support.paths import DEPLOY
from tests.support.servers import free_ports
from tests.support.servers.kafka import Kafka
from worker.cli.main import cli
from worker.kafka import create_topics, read_to_end
from worker.ledger import status
from worker.runtime.ledger import open_ledger
from worker.runtime.topics import definitions
from worker.runtime.worker import Worker
from worker.sandbox import serve
from worker.settings.root import load

STUDENTS = 100
FILES = ("compose.yaml", "compose.moodle.yaml")


def services(file: str) -> dict[str, Any]:
    content = yaml.safe_load((DEPLOY / file).read_text(encoding="utf-8"))
    return dict(content["services"])


@pytest.mark.parametrize("file", FILES)
def test_a_compose_file_follows_the_specification(file: str) -> None:
    checker = Path(sys.executable).with_name("check-jsonschema")
    done = subprocess.run(
        [checker, "--builtin-schema", "vendor.compose-spec", DEPLOY / file], capture_output=True, check=False, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_second_file_changes_services_of_the_first() -> None:
    assert services("compose.moodle.yaml").keys() <= services("compose.yaml").keys()
    yours = services("compose.moodle.yaml")
    assert all(yours[name].keys() == {"environment", "volumes"} for name in OURS if name != "moodle")


def test_every_file_that_is_mounted_exists() -> None:
    mounts = [mount for service in services("compose.yaml").values() for mount in service.get("volumes", ())]
    files = [mount.split(":")[0] for mount in mounts if mount.startswith(".")]
    assert len(files) > 5
    yours = {"./prometheus", "./grafana"}  # folders
    assert [file for file in files if file not in yours and not (DEPLOY / file).is_file()] == []


OURS = ("worker", "topics", "moodle", "publish", "watch")


@pytest.mark.parametrize("service", OURS)
def test_the_commands_of_the_services_are_ours(service: str) -> None:
    words = services("compose.yaml")[service]["command"]
    command: Any = typer.main.get_command(cli)
    while hasattr(command, "commands"):
        command, words = command.commands[words[0]], words[1:]
    command.make_context(service, [*words])  # raises for what it doesn't know


def test_every_container_of_ours_can_write_nowhere_but_where_it_must() -> None:
    for name in OURS:
        service = services("compose.yaml")[name]
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]


@pytest.mark.end_to_end
def test_the_invented_university_fills_its_moodle_through_a_worker(
    kafka: Kafka, topic: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (port,) = free_ports(1)
    text = (DEPLOY / "compose" / "cohorts.toml").read_text(encoding="utf-8")
    text = text.replace("http://moodle:8080", f"http://127.0.0.1:{port}").replace("kafka:9092", kafka.bootstrap)
    names = f'topics = ["{topic}"]\nsnapshots = "{topic}.snapshots"\ndead_letters = "{topic}.dead"\ngroup = "{topic}"\n'
    (tmp_path / "cohorts.toml").write_text(text.replace("[kafka]\n", "[kafka]\n" + names), encoding="utf-8")
    monkeypatch.setenv("COHORTS_LEDGER__URL", f"sqlite:///{tmp_path / 'ledger.db'}")
    monkeypatch.setenv("COHORTS_WEB__PORT", "0")
    monkeypatch.setattr(serve, "DAY_SECONDS", 0.2)  # for weeks to go by
    settings = load(tmp_path / "cohorts.toml")
    create_topics(kafka.properties, definitions(settings.kafka, partitions=2, replicas=1))
    stop, worker = threading.Event(), Worker(settings)
    with ThreadPoolExecutor() as threads:
        university = threads.submit(serve.live, settings, host="127.0.0.1", port=port, students=STUDENTS, stop=stop)
        try:
            with worker.running():
                ledger = open_ledger(settings)
                half = STUDENTS / 2  # some have no account yet, or left
                eventually(
                    lambda: university.done() or sum(map(len, status.observed(ledger, "ecampus").values())) > half
                )
                ledger.close()
        finally:
            stop.set()
    university.result()
    records = list(read_to_end(kafka.properties, settings.kafka.snapshots))
    assert len(records) > STUDENTS  # the snapshot for the night
    assert [*read_to_end(kafka.properties, settings.kafka.dead_letters)] == []
