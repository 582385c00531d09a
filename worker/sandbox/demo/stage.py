"""What the demo runs on: an invented university, three Moodles, a broker, a ledger and a worker in this process.

Nothing outside is touched: settings are in a temporary folder, and those of the environment are ignored.
"""

import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from socket import create_server
from string import Template
from tempfile import TemporaryDirectory

from worker.kafka import RecordProducer
from worker.ledger import Ledger
from worker.ledger.status import PlatformStatus, read_status
from worker.runtime.ledger import open_ledger
from worker.runtime.worker import Worker
from worker.sandbox.broker import EmbeddedBroker
from worker.sandbox.demo.platform import Comparison, Platform
from worker.sandbox.moodle.server import MEASURED, SandboxMoodle
from worker.sandbox.university.catalogue import etapes_for
from worker.sandbox.university.generator import University
from worker.sandbox.university.publish import publish_snapshot
from worker.settings.root import SECRETS_VARIABLE, Settings, load

TOPIC, SNAPSHOTS, DEAD_LETTERS = "enrolments", "enrolments.snapshots", "enrolments.dead-letters"
PARTITIONS = 16  # the embedded broker keeps 5 MiB a partition; a message has 0.6 KiB
FIRST_DAY_AGE = timedelta(hours=22)
"""How long ago the first day began, so that the night's snapshot is dated after its evening and before the next day."""
AUTOMATIC = ("ecampus", "collegium")
"""The platforms that the worker writes to."""
DEFAULT_PORT = 9464
REMOVAL_DELAY_SECONDS = 5

SETTINGS = Template("""\
# Settings of a demo; `cohorts config --describe` describes them.
uais = ["$uai"]
active_years = [$year]

[platforms.ecampus]  # every étape
mode = "automatic"
url = "$ecampus"
token = "demo"
account = { field = "username", template = "e{student_id}" }
guard = { platform_percent = 15 }  # here the guard's 24 hours hold a day of the rentrée and two nights

[platforms.collegium]  # Collegium Santé: étapes of the health component only
mode = "automatic"
url = "$collegium"
token = "demo"
account = { field = "idnumber", template = "{student_id}" }
routes = [{ components = [$health] }]
guard = { platform_percent = 15 }
limits = { timeout_seconds = 10 }  # after a 502, the cohorts of a write call are left alone for as long

[platforms.prelude]  # managed by hand: never written
mode = "manual"
url = "$prelude"
token = "demo"

[kafka]
bootstrap = "$bootstrap"
topics = ["$topic"]
snapshots = "$snapshots"
dead_letters = "$dead_letters"

[ledger]
url = "sqlite:///$ledger"

[converge]  # shorter than the defaults, as somebody is watching
coalesce_seconds = 0.5
removal_delay_seconds = $removal_delay
park_seconds = 2
park_most_seconds = 4
poll_seconds = 0.25

[reconcile]
wait_minutes = 1

[web]
port = $port
""")


@dataclass(kw_only=True)
class Stage:
    """Everything that the steps of the demo act on and look at."""

    university: University
    platforms: dict[str, Platform]
    settings: Settings
    settings_file: Path
    ledger: Ledger
    worker_ended: Callable[[], bool]
    overrides: dict[str, frozenset[str]] = field(default_factory=dict)
    """Members by étape where the guard or a person's decision makes them differ from the true ones."""
    held: Counter[str] = field(default_factory=Counter)
    """How many removals the guard must hold, by platform."""
    expected_removals: set[tuple[str, str]] = field(default_factory=set)
    """Each (étape, student) whose removal is right although the generator didn't ask for it."""
    published: int = 0
    poison: list[tuple[bytes, bytes]] = field(default_factory=list)
    """Key and value of every unreadable message sent."""

    def __post_init__(self) -> None:
        self._producer = RecordProducer(self.settings.kafka.properties())

    def publish(self, messages: Iterable[tuple[bytes, bytes]]) -> None:
        """Send messages (key, value) and wait until the broker has them."""
        records = [(TOPIC, key, value, ()) for key, value in messages]
        self._producer.send(records)
        self.published += len(records)

    def publish_snapshot(self, rows: Iterable[bytes]) -> int:
        """Publish a snapshot of the university, taken now, with these rows; returns how many."""
        return publish_snapshot(self.university, rows, self.settings.kafka)

    def compare(self, name: str) -> Comparison:
        """Compare a platform with what must be there now: the truth of the generator, `overrides` applied."""
        return self.platforms[name].compare(self.university.truth() | self.overrides, self.university.labels())

    def wrong_gaps(self, name: str, comparison: Comparison) -> list[str]:
        """Return where the ledger counts other gaps than expected: parked, foreign and held ones, and no others."""
        status = self.status(name)
        expected = {"parked": comparison.accountless, "foreign": comparison.foreign, "held": self.held[name]}
        return [
            f"{name}: the ledger counts {number} {state} gaps instead of {expected.get(state, 0)}"
            for state, number in status.gaps.items()
            if number != expected.get(state, 0)
        ]

    def status(self, name: str) -> PlatformStatus:
        """What `cohorts status` shows of a platform."""
        return read_status(self.ledger, [name], time.time()).platforms[0]

    def create_late_accounts(self) -> None:
        """Create the accounts of the students who get one late."""
        for name in AUTOMATIC:
            self.platforms[name].add_accounts(_accounts(name, self.university.late_accounts()))


@contextmanager
def open_stage(*, students: int, seed: int) -> Iterator[Stage]:
    """Build everything and start the worker; at the end, stop it and raise the error that ended it, if any."""
    for name in [*os.environ]:  # a demo must never reach a real ledger or Moodle
        if name == SECRETS_VARIABLE or (name.startswith("COHORTS_") and not name.startswith("COHORTS_WEB_")):
            del os.environ[name]
    opening = datetime.now(UTC) - FIRST_DAY_AGE
    university = University(seed=seed, students=students, etapes=etapes_for(students), opening=opening)
    platforms = {platform.name: platform for platform in _platforms(university)}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="cohorts-demo-")))
        broker = stack.enter_context(EmbeddedBroker())
        broker.create_topic(TOPIC, PARTITIONS)
        broker.create_topic(SNAPSHOTS, PARTITIONS)
        broker.create_topic(DEAD_LETTERS, 1)
        urls = {name: stack.enter_context(platform.moodle.serving()) for name, platform in platforms.items()}
        file = folder / "cohorts.toml"
        file.write_text(_settings(university, broker.bootstrap, urls, folder), encoding="utf-8")
        settings = load(file)
        ledger = open_ledger(settings)
        stack.callback(ledger.close)
        worker = Worker(settings)
        end = stack.enter_context(ThreadPoolExecutor()).submit(stack.enter_context(worker.running()))
        yield Stage(
            university=university,
            platforms=platforms,
            settings=settings,
            settings_file=file,
            ledger=ledger,
            worker_ended=end.done,
        )
        worker.stop()
        end.result()


def _platforms(university: University) -> Iterator[Platform]:
    """Yield the three Moodles, with their accounts and, on two of them, cohorts that people made."""
    truth = university.truth()
    etape = sorted(truth, key=lambda code: (len(truth[code]), code))[len(truth) // 2]
    by_hand = {
        "ecampus": [("Tuteurs", "TUTORAT-2026"), ("Étudiants élus", ""), (f"{etape} à la main", etape)],
        "prelude": [("Découverte de Moodle", ""), ("Liaison lycées", "LYCEES"), (f"{etape} à la main", etape)],
    }
    components: dict[str, frozenset[str]] = {"collegium": university.health_components, "prelude": frozenset()}
    for name in ("ecampus", "collegium", "prelude"):
        moodle = SandboxMoodle(name=name.capitalize(), token="demo", cost=MEASURED)  # noqa: S106 - a sandbox's
        platform = Platform(name=name, moodle=moodle, components=components.get(name))
        platform.add_accounts(_accounts(name, university.accounts()))
        students = [*platform.students.values()]
        for rank, (cohort, idnumber) in enumerate(by_hand.get(name, [])):
            platform.add_by_hand(cohort, idnumber, students[rank::40])
        yield platform


def _accounts(platform: str, accounts: Iterable[tuple[str, str, str]]) -> Iterator[tuple[str, str]]:
    """Yield (username, student) as the platform has them: Collegium has usernames of its own and goes by idnumber."""
    for username, _, student in accounts:
        yield (f"sante.{student}" if platform == "collegium" else username), student


def _settings(university: University, bootstrap: str, urls: Mapping[str, str], folder: Path) -> str:
    return SETTINGS.substitute(
        urls,
        uai=university.uai,
        year=university.year,
        health=", ".join(f'"{code}"' for code in sorted(university.health_components)),
        bootstrap=bootstrap,
        topic=TOPIC,
        snapshots=SNAPSHOTS,
        dead_letters=DEAD_LETTERS,
        ledger=(folder / "ledger.db").as_posix(),
        removal_delay=REMOVAL_DELAY_SECONDS,
        port=_free_port(),
    )


def _free_port() -> int:
    """Return the default port if it is free, else any other."""
    for port in (DEFAULT_PORT, 0):
        try:
            with create_server(("127.0.0.1", port)) as server:
                return int(server.getsockname()[1])
        except OSError:
            continue
    raise OSError("no port is free")
