"""Workers in processes of their own, started by `cohorts run`."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.installation import PROGRAM, environment, toml
from tools.bench.parts import PLATFORM, TOKEN


def write_settings(file: Path, *, ledger: str, moodle: str, bootstrap: str) -> Path:
    """Write the settings of `parts.settings` to a file; returns it."""
    values = {
        "uais": ["0141408E"],
        "active_years": [2026],
        "ledger": {"url": ledger},
        "kafka": {"bootstrap": bootstrap},
        "web": {"port": 0},
        "platforms": {
            PLATFORM: {"mode": "automatic", "url": moodle, "token": TOKEN, "account": {"template": "e{student_id}"}}
        },
    }
    file.write_text("".join(f"{name} = {toml(value)}\n" for name, value in values.items()), encoding="utf-8")
    return file


def installed_environment() -> dict[str, str]:
    """Return the environment of an installed program, whose modules are compiled only once."""
    return environment() | {"PYTHONDONTWRITEBYTECODE": ""}


@contextmanager
def running(file: Path) -> Iterator[tuple[int, float]]:
    """Run a worker; yields the id of its process, and the seconds until it had started."""
    began = time.perf_counter()
    command = [PROGRAM, "run", "--config", str(file)]
    log = file.with_suffix(".log")
    with log.open("w+") as stderr:
        process = subprocess.Popen(command, stderr=stderr, env=installed_environment())  # noqa: S603 - our own program
        try:
            while '"started"' not in log.read_text(encoding="utf-8"):
                if process.poll() is not None:
                    raise RuntimeError(f"the worker ended: {log.read_text(encoding='utf-8')[-2000:]}")
                time.sleep(0.01)
            yield process.pid, time.perf_counter() - began
        finally:
            process.terminate()
            process.wait()
