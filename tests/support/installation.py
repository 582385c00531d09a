"""An installation as a university has it: a settings file, the `cohorts` commands, worker processes."""
# ruff: noqa: S603 -- the programs and their arguments are our own

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.support.servers.kafka import Kafka
from worker.domain.states import PlatformState
from worker.kafka import Headers, Partition, Record, RecordProducer, create_topics, describe, read_to_end
from worker.ledger import Ledger, status
from worker.ledger.status import PlatformStatus, read_status
from worker.runtime.topics import definitions
from worker.sandbox.moodle.server import SandboxMoodle
from worker.sandbox.university.catalogue import CatalogueEtape, Faculty
from worker.sandbox.university.records import InventedEnrolment, Message, enrolled
from worker.settings.kafka import KafkaSettings

PROGRAM = str(Path(sys.executable).with_name("cohorts"))
TIMEOUT = 60.0  # seconds for what takes a few
UAI, YEAR = "0141408E", 2026
LAW = CatalogueEtape("L1DROI", "Licence 1 Droit", Faculty("DRT", "UFR Droit"), ("101",), 0)
T = TypeVar("T")


def eventually(probe: Callable[[], T], *, within: float = TIMEOUT, every: float = 0.1) -> T:
    """Probe until the result is true, and return it; raises AssertionError with what was wrong at last."""
    deadline = time.monotonic() + within
    while True:
        try:
            if result := probe():
                return result
            wrong = f"not within {within:g} s"
        except AssertionError as error:
            wrong = str(error)
        if time.monotonic() > deadline:
            raise AssertionError(wrong)
        time.sleep(every)


def toml(value: Any) -> str:  # noqa: ANN401 - what TOML can hold
    """Write a value as inline TOML, whose strings, numbers and lists are JSON's."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(key)} = {toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value)


class EndedError(Exception):
    """A worker ended by itself; the text is the end of its log."""


class Process:
    """A running `cohorts run`, `cohorts watch` or `cohorts reconcile`."""

    def __init__(self, arguments: list[str], errors: Path) -> None:
        self._errors = errors
        self.name = errors.stem
        """The application name of its connections to PostgreSQL."""
        with errors.open("wb") as stderr:
            self._popen = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                env=environment() | {"PGAPPNAME": self.name},
            )

    def must_run(self) -> None:
        """Raise EndedError if the process has ended."""
        if self._popen.poll() is not None:
            end = "\n".join(line[:500] for line in self.text().splitlines()[-30:])
            raise EndedError(f"exit code {self._popen.returncode}: …{end}")

    def text(self) -> str:
        """Return its standard error."""
        return self._errors.read_text(encoding="utf-8")

    def log(self) -> list[dict[str, Any]]:
        """Return its log, a JSON object per line."""
        return [json.loads(line) for line in self._lines() if line.startswith("{")]

    def other_lines(self) -> list[str]:
        """Return the lines on standard error that aren't log lines."""
        return [line for line in self._lines() if not line.startswith("{")]

    def _lines(self) -> list[str]:
        return [line for line in self.text().splitlines(keepends=True) if line.endswith("\n")]

    def events(self, event: str) -> list[dict[str, Any]]:
        """Return the log lines of one event."""
        return [line for line in self.log() if line["event"] == event]

    def started(self) -> str:
        """Wait until it has started; returns the address of its web pages."""

        def address() -> str:
            self.must_run()
            return next((str(line["web"]) for line in self.events("started")), "")

        return eventually(address)

    def get(self, path: str) -> httpx.Response:
        """Request a path from its web server."""
        return httpx.get(f"{self.started()}/{path}", timeout=10)

    def metrics(self) -> dict[tuple[str, ...], float]:
        """Return every sample of /metrics by its name and the values of its labels."""
        return {
            (sample.name, *sample.labels.values()): sample.value
            for family in text_string_to_metric_families(self.get("metrics").text)
            for sample in family.samples
        }

    def kill(self) -> None:
        """End it at once, like a power cut."""
        self._popen.kill()
        self._popen.wait()

    @property
    def pid(self) -> int:
        """The id of the process, which names the holder of a lease."""
        return self._popen.pid

    def stop(self) -> None:
        """Freeze it until `go_on`, and wait until it has stopped: on a busy machine, a signal may take some time."""
        self._popen.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def go_on(self) -> None:
        """Let a frozen process go on."""
        self._popen.send_signal(signal.SIGCONT)

    def terminate(self) -> int:
        """Ask it to stop, as a supervisor does; returns its exit code."""
        self._popen.send_signal(signal.SIGTERM)
        return self.wait()

    def is_running(self) -> bool:
        """Whether it has not ended yet."""
        return self._popen.poll() is None

    def wait(self, *, within: float = TIMEOUT) -> int:
        """Wait for its end; returns its exit code."""
        return self._popen.wait(within)


def environment() -> dict[str, str]:
    """Return the environment of our processes, without the settings of the person who runs the tests."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("COHORTS_")}
    return ours | {"COLUMNS": "200"}


@dataclass
class Installation:
    """Settings, topics and ledger of one university. Its processes end with the context of `installed`."""

    directory: Path
    kafka: Kafka
    topic: str
    settings: dict[str, Any]
    partitions: int = 3
    program: Sequence[str] = (PROGRAM,)
    processes: list[Process] = field(default_factory=list)
    ledgers: list[Ledger] = field(default_factory=list)
    numbers: Iterator[int] = field(default_factory=itertools.count)

    @property
    def dead_letters(self) -> str:
        """The topic of messages that can't be read."""
        return f"{self.topic}.dead-letters"

    @property
    def snapshots(self) -> str:
        """The topic of snapshots."""
        return f"{self.topic}.snapshots"

    @property
    def file(self) -> Path:
        """The settings file."""
        return self.directory / "cohorts.toml"

    @property
    def ledger(self) -> Ledger:
        """The ledger, opened beside the workers."""
        if not self.ledgers:
            self.ledgers.append(Ledger(self.settings["ledger"]["url"]))
        return self.ledgers[0]

    def write_settings(self) -> None:
        """Write the settings to their file."""
        lines = [f"{name} = {toml(value)}\n" for name, value in self.settings.items()]
        self.file.write_text("".join(lines), encoding="utf-8")

    def run(
        self, *arguments: str, config: Path | None = None, given: str | None = None, within: float = TIMEOUT
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, as a person does; `given` is its standard input."""
        return subprocess.run(
            [*self.program, *arguments, "--config", str(config or self.file)],
            capture_output=True,
            check=False,
            encoding="utf-8",
            env=environment(),
            input=given,
            timeout=within,
        )

    def outputs(self, *arguments: str) -> list[str]:
        """Run a command that takes no settings and succeeds; returns the lines that it prints."""
        done = subprocess.run([PROGRAM, *arguments], capture_output=True, check=True, encoding="utf-8")
        return done.stdout.splitlines()

    def worker(self, *options: str) -> Process:
        """Start a worker."""
        errors = self.directory / f"worker-{next(self.numbers)}.log"
        return self._start(errors, "run", *options)

    def reconciliation(self, *options: str) -> Process:
        """Start a `cohorts reconcile`."""
        errors = self.directory / f"reconcile-{next(self.numbers)}.log"
        return self._start(errors, "reconcile", *options)

    def watch(self, name: str) -> Process:
        """Start a `cohorts watch`."""
        errors = self.directory / f"watch-{next(self.numbers)}.log"
        return self._start(errors, "watch", name, "--port", "0")

    def _start(self, errors: Path, *arguments: str) -> Process:
        self.processes.append(Process([*self.program, *arguments, "--config", str(self.file)], errors))
        return self.processes[-1]

    def publish_snapshot(
        self, rows: Iterable[bytes], *, years: Iterable[int] = (YEAR,), taken_at: float | None = None
    ) -> None:
        """Publish a snapshot of these rows, taken now by default, with the command for it."""
        done = self.run(*self.snapshot(rows, years=years, taken_at=taken_at))
        assert done.returncode == 0, done.stdout + done.stderr

    def snapshot(
        self, rows: Iterable[bytes], *, years: Iterable[int] = (YEAR,), taken_at: float | None = None
    ) -> list[str]:
        """Return the arguments of the command that publishes a snapshot of these rows."""
        file = self.directory / "snapshot.jsonl"
        file.write_bytes(b"".join(row + b"\n" for row in rows))
        taken = datetime.fromtimestamp(time.time() if taken_at is None else taken_at, UTC).isoformat()
        scope = [word for year in years for word in ("--years", str(year))]
        return ["snapshot", "publish", str(file), "--taken-at", taken, *scope]

    def publish(self, messages: Iterable[Message]) -> None:
        """Produce messages, as student-records software does."""
        self.produce((message.key.encode(), message.payload(), ()) for message in messages)

    def produce(self, records: Iterable[tuple[bytes | None, bytes | None, Headers]]) -> None:
        """Produce any records: key, value and headers."""
        RecordProducer(self.kafka.properties).send((self.topic, *record) for record in records)

    def letters(self) -> list[Record]:
        """Return the dead letters."""
        return list(read_to_end(self.kafka.properties, self.dead_letters))

    def published(self) -> dict[Partition, int]:
        """Return the end offset of each partition that has records, of a topic without transactions."""
        counts = {(self.topic, number): 0 for number in range(self.partitions)}
        for record in read_to_end(self.kafka.properties, self.topic):
            counts[record.topic, record.partition] = record.offset + 1
        return {partition: count for partition, count in counts.items() if count}

    def recorded(self) -> dict[Partition, int]:
        """Return the positions in the ledger."""
        ids = {name: topic.id for name, topic in describe(self.kafka.properties, [self.topic]).topics.items()}
        return status.positions(self.ledger, ids)

    def status(self) -> status.LedgerStatus:
        """Return the status of the ledger."""
        return read_status(self.ledger, sorted(self.settings["platforms"]), time.time())

    def state_of(self, platform: str) -> PlatformStatus:
        """Return the status of one platform."""
        return next(status for status in self.status().platforms if status.name == platform)

    def is_up(self, platform: str) -> bool:
        """Whether a platform responded last time."""
        return self.state_of(platform).state is PlatformState.UP

    def missing(self, platform: str) -> set[tuple[str, str]]:
        """Return the memberships (cohort, student) that are desired and not known to be on Moodle."""
        return pairs(status.desired(self.ledger, platform)) - pairs(status.observed(self.ledger, platform))


@contextmanager
def installed(
    directory: Path,
    kafka: Kafka,
    topic: str,
    platforms: Mapping[str, Any],
    more: Mapping[str, Mapping[str, Any]],
    *,
    partitions: int = 3,
) -> Iterator[Installation]:
    """Install a worker for these platforms, with delays of seconds; `more` holds further settings by section."""
    delays = {"coalesce_seconds": 0.2, "removal_delay_seconds": 1.0, "poll_seconds": 0.2}
    retries = {"park_seconds": 1.0, "park_most_seconds": 5.0}
    sections: dict[str, dict[str, Any]] = {
        "kafka": {
            "bootstrap": kafka.bootstrap,
            "topics": [topic],
            "dead_letters": f"{topic}.dead-letters",
            "snapshots": f"{topic}.snapshots",
            "group": topic,
        },
        "ledger": {"url": f"sqlite:///{directory / 'ledger.db'}"},
        "converge": delays | retries,
        "web": {"port": 0},
    }
    for section, values in more.items():
        sections.setdefault(section, {}).update(values)
    settings = {"uais": [UAI], "active_years": [YEAR], "platforms": dict(platforms), **sections}
    installation = Installation(directory, kafka, topic, settings, partitions)
    topics = KafkaSettings(topics=(topic,), dead_letters=installation.dead_letters, snapshots=installation.snapshots)
    create_topics(kafka.properties, definitions(topics, partitions=partitions, replicas=1))
    installation.write_settings()
    try:
        yield installation
    finally:
        for process in installation.processes:
            process.kill()
            print(process.text()[-2000:])  # noqa: T201 - pytest shows it if the test failed
        for ledger in installation.ledgers:
            ledger.close()


def platform(moodle: SandboxMoodle, *, timeout: float = 5.0, **more: object) -> dict[str, object]:
    """Return the settings of an automatic platform with accounts named `e` and the student number."""
    return {
        "mode": "automatic",
        "url": moodle.url,
        "token": moodle.token,
        "account": {"template": "e{student_id}"},
        "limits": {"calls_per_second": 1000, "timeout_seconds": timeout},
    } | more


def pairs(members: Mapping[str, Iterable[str]]) -> set[tuple[str, str]]:
    """Return (cohort, member) for every member of every cohort."""
    return {(cohort, member) for cohort, of_cohort in members.items() for member in of_cohort}


# The students of the small tests: all of them in law, each with a rank.


def number(rank: int) -> str:
    return f"22{rank:06}"


def enrolment(rank: int, *, status: str = "active", revision: int = 1) -> Message:
    """Return the message of the enrolment in law of the student with this rank."""
    return enrolled(
        InventedEnrolment(
            uai=UAI, person=rank, number=number(rank), year=YEAR, etape=LAW, etape_version="101",
            status=status, revision=revision, at=1_788_000_000.0 + revision,
        )
    )  # fmt: skip


def welcome(moodle: SandboxMoodle, ranks: Iterable[int]) -> None:
    """Create the accounts of these students."""
    moodle.add_users((f"e{number(rank)}", number(rank)) for rank in ranks)


def lawyers(moodle: SandboxMoodle) -> set[str]:
    """Return the student numbers of the members of the cohort of law."""
    return {username.removeprefix("e") for username in moodle.memberships().get("L1DROI", set())}


def numbers(ranks: Iterable[int]) -> set[str]:
    return {number(rank) for rank in ranks}


Install = Callable[..., Installation]
"""Makes an installation: platforms, then more settings by section."""
