"""Commands are imported when they are called: what each of them loads, never how long that takes."""

import json
import subprocess
import sys
from dataclasses import dataclass

import pytest

from worker.cli.lazy import YOUNG, Commands, load, summary
from worker.cli.main import FAMILIES

HEAVY = {
    "alembic", "confluent_kafka", "httpx", "jinja2", "prometheus_client", "pydantic", "rich", "sqlalchemy", "structlog",
    "uvicorn",
}  # fmt: skip
SETTINGS = {"prometheus_client", "pydantic", "rich", "structlog"}
COMMAND = """
import atexit, gc, json, sys
from worker.cli.__main__ import main

@atexit.register
def tell():
    modules = sorted(sys.modules)
    print(json.dumps({"modules": modules, "collects": gc.isenabled(), "young": gc.get_threshold()[0]}), file=sys.stderr)

sys.argv[0] = "cohorts"
main()
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """A command that has ended: what it printed, what it had imported, how its garbage was collected."""

    said: str
    modules: set[str]
    collects: bool
    young: int

    @property
    def families(self) -> set[str]:
        return self.modules & FAMILIES.keys()


def process(*arguments: str) -> Process:
    command = [sys.executable, "-c", COMMAND, *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603 - it is this Python
    told = json.loads(done.stderr)
    return Process(said=done.stdout, modules=set(told["modules"]), collects=told["collects"], young=told["young"])


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_and_version_load_the_command_line_alone(option: str) -> None:
    done = process(option)
    assert done.modules & HEAVY == set()
    assert done.families == set()
    assert {name for name in done.modules if name.startswith("worker.")} == {
        "worker.cli", "worker.cli.__main__", "worker.cli.lazy", "worker.cli.main", "worker.domain",
        "worker.domain.errors",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "libraries"),
    [
        ("schema", {"pydantic"}),
        ("config --help", SETTINGS),
        ("topics create --help", SETTINGS | {"confluent_kafka"}),
        ("publish --help", SETTINGS | {"confluent_kafka"}),
        ("status --help", SETTINGS | {"sqlalchemy"}),
        ("explain --help", SETTINGS | {"sqlalchemy"}),
        ("plan --help", SETTINGS | {"sqlalchemy"}),
        ("runs show --help", SETTINGS | {"sqlalchemy", "jinja2"}),
        ("adopt --help", SETTINGS | {"sqlalchemy", "httpx"}),
        ("watch --help", SETTINGS | {"sqlalchemy", "confluent_kafka", "uvicorn"}),
    ],
)
def test_a_command_loads_its_own_family_and_what_that_needs(arguments: str, libraries: set[str]) -> None:
    done = process(*arguments.split())
    assert done.modules & HEAVY == libraries
    assert len(done.families) == 1


def test_the_help_lists_every_command_with_the_whole_first_paragraph_of_its_own() -> None:
    listed = " ".join(process("--help").said.split())
    commands = Commands(FAMILIES)
    for summaries in FAMILIES.values():
        for name, text in summaries.items():
            assert summary(commands[name].help) == text
            assert f" {name} {text} " in listed


def test_the_help_of_a_group_lists_each_command_with_its_whole_first_paragraph() -> None:
    group = Commands(FAMILIES)["snapshot"]
    listed = " ".join(process("snapshot", "--help").said.split())
    for name, command in vars(group)["commands"].items():
        assert f" {name} {summary(command.help)}" in listed


@pytest.mark.parametrize("module", FAMILIES)
def test_a_family_has_the_commands_that_are_listed_and_no_other(module: str) -> None:
    assert load(module).keys() == FAMILIES[module].keys()


def test_imports_are_left_out_by_the_garbage_collector_that_a_command_has_from_then_on() -> None:
    done = process("schema")
    assert done.collects
    assert done.young == YOUNG
