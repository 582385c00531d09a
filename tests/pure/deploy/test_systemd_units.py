"""The units are checked by systemd itself, without being started."""
# ruff: noqa: S603, S607 -- the programs and their arguments are our own

import os
import re
import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from tests.support.paths import ROOT
from tests.support.requirements import needed
from tests.support.servers import MissingServerError

UNITS = ROOT / "deploy" / "systemd"
EXPOSURE = 1.5
"""systemd's measure goes from 0 to 10; below 2 it says OK."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The units as they are installed, with a program that is there."""
    with needed():
        if shutil.which("systemd-analyze") is None:
            raise MissingServerError("no systemd-analyze: install systemd")
    folder = tmp_path_factory.mktemp("systemd") / "system"
    shutil.copytree(UNITS, folder)
    for unit in folder.glob("*.service"):
        unit.write_text(unit.read_text(encoding="utf-8").replace("/opt/cohorts/bin/cohorts", "/bin/true"))
    return folder


def analyze(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Let systemd look at units of that folder before its own."""
    return subprocess.run(
        ["systemd-analyze", "--no-pager", *arguments],
        capture_output=True,
        check=False,
        text=True,
        env=os.environ | {"SYSTEMD_UNIT_PATH": f"{folder}:"},
    )


def units(kind: str) -> list[str]:
    return sorted(path.name for path in UNITS.glob(f"*.{kind}"))


@pytest.mark.parametrize("unit", units("service") + units("timer"))
def test_systemd_finds_nothing_wrong_with_a_unit(folder: Path, unit: str) -> None:
    found = analyze(folder, "verify", str(folder / unit))
    assert (found.returncode, found.stdout + found.stderr) == (0, "")


@pytest.mark.parametrize("unit", units("service"))
def test_a_service_can_do_little_else_than_its_work(folder: Path, unit: str) -> None:
    found = analyze(folder, "security", "--offline=true", f"--threshold={EXPOSURE * 10:.0f}", str(folder / unit))
    assert found.returncode == 0, found.stdout


def test_without_its_hardening_a_service_would_be_refused(folder: Path, tmp_path: Path) -> None:
    bare = shutil.copytree(folder, tmp_path / "system")
    (bare / "cohorts-.service.d" / "20-hardening.conf").unlink()
    found = analyze(bare, "security", "--offline=true", "--threshold=15", str(bare / "cohorts-worker.service"))
    assert found.returncode != 0


def test_every_night_has_the_hour_of_the_timer_exactly_once() -> None:
    timer = (UNITS / "cohorts-night.timer").read_text(encoding="utf-8")
    [(hour, minute, zone)] = re.findall(r"^OnCalendar=\*-\*-\* (\d+):(\d+):00 (\S+)$", timer, re.MULTILINE)
    for day in range(2 * 366):
        at = datetime(2026, 1, 1, int(hour), int(minute), tzinfo=ZoneInfo(zone)) + timedelta(days=day)
        assert at.astimezone(UTC).astimezone(at.tzinfo).time() == at.time(), "skipped when summer begins"
        assert at.utcoffset() == at.replace(fold=1).utcoffset(), "twice when summer ends"
