"""What the files at the root of the repository say of the others."""

import re

import yaml

from tests.support.paths import ROOT


def test_pre_commit_runs_what_make_check_does() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    [recipe] = re.findall(r"^check:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)
    commands = [line.strip().replace("$(BIN)", ".venv/bin") for line in recipe.splitlines()]
    settings = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    assert [hook["entry"] for repo in settings["repos"] for hook in repo["hooks"]] == commands


def test_owners_are_of_folders_that_exist() -> None:
    lines = (ROOT / "CODEOWNERS").read_text(encoding="utf-8").splitlines()
    patterns = [line.split()[0] for line in lines if line and not line.startswith("#")]
    assert [pattern for pattern in patterns if pattern != "*" and not (ROOT / pattern.strip("/")).is_dir()] == []
