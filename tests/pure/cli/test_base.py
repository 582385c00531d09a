import os
import pwd
import tomllib

import prometheus_client
import pytest

from tests.support.paths import ROOT
from worker import __version__
from worker.cli.base import person
from worker.cli.main import cli


@pytest.fixture(autouse=True)
def nobody_logged_in(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)


def test_a_decision_is_journalled_under_the_name_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    assert person() == pwd.getpwuid(os.getuid()).pw_name
    monkeypatch.setenv("LOGNAME", "eve")
    assert person() == "eve"


def test_a_user_without_a_name_as_in_a_container_is_told_by_number(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(_uid: int) -> pwd.struct_passwd:
        raise KeyError("uid not found")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    assert person() == f"user {os.getuid()}"


def test_the_version_is_that_of_the_project(capsys: pytest.CaptureFixture[str]) -> None:
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    with pytest.raises(SystemExit) as end:
        cli(["--version"])
    assert (end.value.code, capsys.readouterr().out) == (0, pyproject["project"]["version"] + "\n")
    assert prometheus_client.REGISTRY.get_sample_value("cohorts_build_info", {"version": __version__}) == 1.0


@pytest.mark.parametrize("command", [["run"], ["watch", "directory"]])
@pytest.mark.parametrize("level", ["verbose", "", "critical"])
def test_an_unknown_level_of_the_log_is_refused_before_anything_is_read(
    command: list[str], level: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        cli([*command, "--log", level, "--config", "missing.toml"])
    assert end.value.code == 2
    assert f"no level {level}; choose one of debug, info, warning, error" in capsys.readouterr().err
