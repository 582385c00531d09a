# ruff: noqa: S603 -- the program is our own
import subprocess
from pathlib import Path

import pytest

from tests.support.installation import PROGRAM, environment, toml
from worker.ledger import Ledger

pytestmark = pytest.mark.end_to_end

SEVERAL = 4


def test_several_processes_may_migrate_one_new_ledger_at_once(ledger_url: str, tmp_path: Path) -> None:
    settings = {"uais": ["0141408E"], "active_years": [2026], "platforms": {"prelude": {"mode": "manual"}}}
    file = tmp_path / "cohorts.toml"
    sections = settings | {"ledger": {"url": ledger_url}}
    file.write_text("".join(f"{name} = {toml(value)}\n" for name, value in sections.items()), encoding="utf-8")
    processes = [
        subprocess.Popen(
            [PROGRAM, "migrate", "--config", str(file)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
        )
        for _ in range(SEVERAL)
    ]
    outputs = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0] * SEVERAL, outputs
    ledger = Ledger(ledger_url)
    try:
        sentence = f"{ledger.name} ledger, instance {ledger.instance}: its schema is up to date\n"
    finally:
        ledger.close()
    assert outputs == [(sentence, "")] * SEVERAL
