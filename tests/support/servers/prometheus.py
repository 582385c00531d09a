"""A temporary real Prometheus, and its tool for rules: the installed programs (Debian: prometheus)."""
# ruff: noqa: S603 -- the programs and their arguments are our own

import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.support.servers import MissingServerError, free_ports

START_SECONDS = 30
STOP_SECONDS = 20
CONFIGURATION = """\
global: {{scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}}
rule_files: [{rules}]
scrape_configs:
  - job_name: etape-cohorts
    static_configs: [{{targets: [{targets}]}}]
"""


class Prometheus:
    """A running server that scrapes and evaluates once a second."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client

    def answers(self) -> bool:
        """Whether it is ready."""
        try:
            return self._client.get("/status/buildinfo").is_success
        except httpx.TransportError:
            return False

    def query(self, expr: str) -> list[Any]:
        """Evaluate an expression; returns a list of series, or raises AssertionError with the reason."""
        reply = self._client.get("/query", params={"query": expr}).json()
        assert reply["status"] == "success", f"{expr}: {reply['error']}"
        data = reply["data"]
        return data["result"] if data["resultType"] == "vector" else [data["result"]]

    def rules(self) -> list[Any]:
        """Return its rules, with the outcome of their last evaluation."""
        groups = self._client.get("/rules").json()["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]


@contextmanager
def real_prometheus(addresses: Sequence[str], rules: Sequence[Path]) -> Iterator[Prometheus]:
    """Run a Prometheus that scrapes these addresses (host:port) with these rules; raises MissingServerError."""
    binary = program("prometheus")
    (port,) = free_ports(1)
    with tempfile.TemporaryDirectory(prefix="prometheus-", ignore_cleanup_errors=True) as directory:
        configuration, output = Path(directory) / "prometheus.yml", Path(directory) / "output"
        text = CONFIGURATION.format(rules=", ".join(map(str, rules)), targets=", ".join(f'"{a}"' for a in addresses))
        configuration.write_text(text, encoding="utf-8")
        arguments = [f"--config.file={configuration}", f"--storage.tsdb.path={directory}/data"]
        with output.open("wb") as log:
            process = subprocess.Popen(
                [binary, *arguments, f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=subprocess.STDOUT
            )
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v1/", timeout=10) as client:
                prometheus = Prometheus(client)
                deadline = time.monotonic() + START_SECONDS
                while not prometheus.answers():
                    if process.poll() is not None or time.monotonic() > deadline:
                        raise MissingServerError(f"Prometheus did not start:\n{output.read_text()[-2000:]}")
                    time.sleep(0.05)
                yield prometheus
        finally:
            _stop(process)


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run promtool to its end."""
    return subprocess.run([program("promtool"), *arguments], capture_output=True, check=False, encoding="utf-8")


def program(name: str) -> str:
    """Find a program of Prometheus; raises MissingServerError."""
    if found := shutil.which(name):
        return found
    raise MissingServerError(f"no {name}: install Prometheus (Debian: prometheus)")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
