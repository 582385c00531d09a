import json
import re
from pathlib import Path

import pytest

import schemas
from tests import reference
from worker import check, config
from worker.rules import Mode

ROOT = Path(__file__).parent.parent.parent
RUNBOOK = (ROOT / "deploy" / "runbook.md").read_text(encoding="utf-8")
ALERTS = (ROOT / "deploy" / "alerts.yml").read_text(encoding="utf-8")
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "DECISIONS.md", "CHANGELOG.md")]
PAGES += [ROOT / "deploy" / name for name in ("runbook.md", "reference.md")]
REFERENCE = reference.page()


def test_the_reference_is_what_the_code_says() -> None:
    assert reference.PAGE.read_text(encoding="utf-8") == REFERENCE, "run `make reference`"


def test_every_setting_is_described() -> None:
    described = [line for line in REFERENCE.splitlines() if line.startswith("| `")]
    assert not [line for line in described if line.endswith(("|  |", "| None |"))]


def test_every_alert_is_explained_in_the_runbook_and_no_other() -> None:
    alerts = re.findall(r"- alert: (\w+)", ALERTS)
    explained = re.findall(r"^### (\w+)$", RUNBOOK, re.MULTILINE)
    assert alerts == explained


def test_alerts_speak_of_metrics_that_exist() -> None:
    used = set(re.findall(r"\bcohorts_\w+", " ".join(re.findall(r"expr: (.*)", ALERTS))))
    assert used <= set(re.findall(r"^\| `(cohorts_\w+)`", REFERENCE, re.MULTILINE))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_speak_of_commands_metrics_and_files_that_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    commands = set(re.findall(r"^\| `cohorts ([a-z-]+)", REFERENCE, re.MULTILINE))
    assert set(re.findall(r"(?:`|bin/)cohorts ([a-z-]+)", text, re.MULTILINE)) <= commands
    assert set(re.findall(r"`(cohorts_\w+)`", text)) <= set(re.findall(r"`(cohorts_\w+)`", REFERENCE))
    targets = set(re.findall(r"`make (\w+)`|^make (\w+)", text, re.MULTILINE))
    assert {name for pair in targets for name in pair if name} <= set(
        re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    )
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (page.parent / link).exists(), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_speak_of_settings_that_exist(page: Path) -> None:
    known = {re.sub(r"\*\w+\*\.", "", path) for path in re.findall(r"^\| `([a-z_.*A-Zn]+)`", REFERENCE, re.MULTILINE)}
    known |= {path.split(".", 1)[1] for path in known if "." in path}
    said = re.findall(
        r"`((?:kafka|ledger|web|limits|converge|eligibility)\.[a-z_]+)`", page.read_text(encoding="utf-8")
    )
    assert set(said) <= known


def test_the_message_of_the_readme_is_valid() -> None:
    (message,) = re.findall(r"```json\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert schemas.EVENTS.validate_json(json.dumps(json.loads(message))).data.student.student_id == "02260017"  # type: ignore[union-attr] # an enrolment


def test_the_example_settings_are_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COHORTS_PLATFORMS__ECAMPUS__TOKEN", "t")
    monkeypatch.setenv("COHORTS_PLATFORMS__COLLEGIUM__TOKEN", "t")
    settings = config.load(ROOT / "deploy" / "cohorts.toml")
    assert settings.platforms["prelude"].mode is Mode.MANUAL


def test_the_functions_of_the_runbook_are_those_that_are_checked() -> None:
    assert set(re.findall(r"`(core_\w+)`", RUNBOOK)) == {*check.READING, *check.WRITING}
