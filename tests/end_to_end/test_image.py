"""The steps of the Dockerfile, tried without Docker: the same commands in other folders, and a read-only root.

What it installs with apt-get must be here already, as this machine's release has it.
"""
# ruff: noqa: S602, S603 -- the commands are those of our Dockerfile

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.installation import UAI, YEAR, Install, Process, enrolment, eventually, lawyers, numbers, welcome
from tests.support.paths import ROOT
from tests.support.requirements import needed
from tests.support.servers import MissingServerError, free_ports
from tests.support.servers.slapd import PASSWORD, READER, Slapd
from tests.support.supann import entry
from worker.sandbox.moodle.server import SandboxMoodle

pytestmark = pytest.mark.end_to_end

LINES = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text(encoding="utf-8"))
Step = tuple[str, str]  # the instruction, and what follows it


def stage(number: int) -> list[Step]:
    """Return the steps of a stage of the Dockerfile."""
    steps = [(word, rest) for word, rest in re.findall(r"^([A-Z]+) +(.+)$", LINES, re.MULTILINE) if word != "ARG"]
    starts = [place for place, (word, _) in enumerate(steps) if word == "FROM"] + [len(steps)]
    return steps[starts[number] + 1 : starts[number + 1]]


def instructions(number: int, instruction: str) -> list[str]:
    """Return the arguments of each such instruction of a stage."""
    return [rest for word, rest in stage(number) if word == instruction]


def locked(name: str) -> dict[str, str]:
    """Return the packages of a lock, each with version, condition and hashes."""
    text = (ROOT / name).read_text(encoding="utf-8")
    return dict(re.findall(r"^([a-z0-9.-]+(?:\[\w+\])?)(==.*(?:\n    --hash.*)+)", text, re.MULTILINE))


@dataclass
class Image:
    """What the build leaves, and the folder that a container may write to."""

    environment: Path
    state: Path

    def files(self) -> dict[str, float]:
        """Return the files of the environment, with their times of change."""
        return {str(path): path.lstat().st_mtime for path in self.environment.rglob("*")}

    def command(self, words: list[str], **more: str) -> list[str]:
        """Return the command that runs these words as in a container, with more variables."""
        (assignments,) = instructions(1, "ENV")
        variables = dict(pair.split("=", 1) for pair in assignments.split()) | more
        variables["PATH"] = variables["PATH"].replace("/opt/cohorts", str(self.environment))
        return ["env", "-i", *(f"{name}={value}" for name, value in variables.items()), *words]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    """Run the steps of the first stage."""
    folder = tmp_path_factory.mktemp("image")
    names = {"/src": "src", "/build": "build", "/wheels": "wheels", "/opt/cohorts": "cohorts"}
    where = {path: folder / name for path, name in names.items()}
    where["/src"].mkdir()
    with needed():
        if not Path("/usr/include/ldap.h").exists():
            raise MissingServerError("no libldap2-dev and libsasl2-dev, which python-ldap is compiled with")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    for word, rest in stage(0):
        if word == "COPY":
            *sources, target = rest.split()
            for source in sources:
                _copy(ROOT / source, where["/src"] / target)
        elif word == "RUN" and not rest.startswith("apt-get"):
            command = rest
            for path, installation in where.items():
                command = re.sub(rf"(?<![\w/]){path}\b", str(installation), command)
            done = subprocess.run(
                command, shell=True, cwd=where["/src"], env=environment, capture_output=True, check=False, text=True
            )
            assert done.returncode == 0, done.stdout + done.stderr
    return Image(environment=where["/opt/cohorts"], state=folder / "state")


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(source, target)


def test_what_runs_is_a_part_of_what_was_tested() -> None:
    tested = locked("requirements.lock")
    for name in ("requirements-runtime.lock", "requirements-build.lock"):
        assert len(locked(name)) > 5
        assert locked(name).items() <= tested.items()
    assert locked("requirements-runtime.lock").items() <= locked("requirements-extras.lock").items()


def test_the_final_environment_has_no_tool_to_build_or_to_test_with(image: Image) -> None:
    packages = {path.name.split("-")[0].lower() for path in image.environment.rglob("*.dist-info")}
    assert {"etape_cohorts", "confluent_kafka", "psycopg_binary", "python_ldap", "oracledb"} <= packages
    assert not {"pip", "setuptools", "hatchling", "pytest", "mypy", "ruff", "hypothesis"} & packages


def test_what_is_compiled_needs_the_library_that_the_image_installs_and_no_other(image: Image) -> None:
    [compiled] = image.environment.rglob("_ldap.*.so")
    read = subprocess.run(["readelf", "--dynamic", compiled], capture_output=True, check=True, text=True)  # noqa: S607 - of binutils, as gcc
    assert set(re.findall(r"\(NEEDED\).*\[(\w+)", read.stdout)) == {"libldap", "liblber", "libc"}
    [installed] = [re.findall(r" (lib\S+)", run) for run in instructions(1, "RUN") if run.startswith("apt-get")]
    assert installed == ["libldap2"]  # which holds liblber, and brings what it needs itself


@pytest.fixture(scope="module")
def read_only(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return the words that run a command on a read-only root file system, except for the folder named before it."""
    apart = ["unshare", "--map-root-user", "--mount", "sh", "-ec"]
    script = 'mount --bind "$1" "$1"; mount -o remount,bind,ro /; cd "$1"; shift; exec "$@"'
    with needed():
        probe = [*apart, script, "sh", str(tmp_path_factory.mktemp("probe")), "touch", "here"]
        if subprocess.run(probe, capture_output=True, check=False).returncode:
            raise MissingServerError("no file systems of its own for a process: run as root, or allow user namespaces")
    return [*apart, script, "sh"]


def test_a_worker_of_the_image_works_on_a_read_only_root(
    install: Install, image: Image, moodle: SandboxMoodle, read_only: list[str], tmp_path: Path
) -> None:
    installation = install(ledger={"url": "sqlite:///ledger.db"})
    welcome(moodle, range(3))
    image.state.mkdir()
    (entry,), (arguments,), (health,) = (
        instructions(1, "ENTRYPOINT"),
        instructions(1, "CMD"),
        instructions(1, "HEALTHCHECK"),
    )
    (port,) = free_ports(1)
    before = image.files()
    variables = {"COHORTS_CONFIG": str(installation.file), "COHORTS_WEB__PORT": str(port)}
    command = image.command([*json.loads(entry), *json.loads(arguments)], **variables)
    look = image.command(json.loads(health.partition("CMD ")[2].replace("9464", str(port))))

    def healthy() -> bool:
        return subprocess.run(look, capture_output=True, check=False).returncode == 0

    worker = Process([*read_only, str(image.state), *command], tmp_path / "worker.log")
    installation.processes.append(worker)  # which are gone at the end, whatever happens
    worker.started()
    assert healthy()
    installation.publish(enrolment(rank) for rank in range(3))
    eventually(lambda: lawyers(moodle) == numbers(range(3)))
    assert worker.terminate() == 0
    assert not healthy()
    assert (image.state / "ledger.db").exists()
    assert image.files() == before


def test_sources_of_every_kind_can_be_read_from_the_image(
    install: Install, image: Image, slapd: Slapd, read_only: list[str], tmp_path: Path
) -> None:
    (port,) = free_ports(1)
    student = entry("22600001", f"[etab={{UAI}}{UAI}][anneeinsc={YEAR}][etape=L1DROI_101]")
    installation = install(sources={
        "directory": {
            "kind": "ldap", "base": slapd.branch([student]), "ca_file": str(slapd.ca),
            "uri": f"ldap://127.0.0.1:{slapd.ports['ldap']}", "bind_dn": READER, "password": PASSWORD,
        },
        "apogee": {"kind": "sql", "url": f"oracle+oracledb://cohorts:secret@127.0.0.1:{port}/?service_name=APOGEE"},
    })  # fmt: skip

    def read(source: str) -> subprocess.CompletedProcess[str]:
        words = ["cohorts", "snapshot", "publish", "--from", source, "--dry-run"]
        command = [*read_only, str(tmp_path), *image.command(words, COHORTS_CONFIG=str(installation.file))]
        return subprocess.run(command, capture_output=True, check=False, text=True)

    assert "1 enrolment (2026: 1)" in read("directory").stdout
    refused = read("apogee")
    assert refused.returncode == 6
    assert "apogee: the database can't be reached" in refused.stderr  # there is no Oracle, but there is its driver
