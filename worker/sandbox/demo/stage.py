"""What the demo plays on: an invented university, three Moodles, a broker, a ledger and a worker in this process.

Nothing outside is touched: the settings lie in a folder of their own, and those of the environment are put aside.
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

from schemas import EnrolmentRow
from worker import snapshots
from worker.domain.snapshots import SnapshotScope
from worker.kafka import RecordProducer
from worker.ledger import Ledger
from worker.ledger.status import PlatformStatus, read_status
from worker.runtime.ledger import open_ledger
from worker.runtime.worker import Worker
from worker.sandbox.broker import EmbeddedBroker
from worker.sandbox.demo.platform import Comparison, Platform
from worker.sandbox.moodle.server import MEASURED, SandboxMoodle
from worker.sandbox.university.university import University
from worker.settings.root import SECRETS_VARIABLE, Settings, load

TOPIC, SNAPSHOTS, DEAD_LETTERS = "enrolments", "enrolments.snapshots", "enrolments.dead-letters"
PARTITIONS = 16  # the embedded broker keeps 5 MiB a partition; a message has 0.6 KiB
OPENED = timedelta(hours=22)
"""How long ago the first day began: its evening is over when the night's snapshot is taken, and the next day is not."""
KEPT = ("ecampus", "collegium")
"""The platforms that the worker keeps."""
USUAL_PORT = 9464
REMOVAL_DELAY_SECONDS = 5
STUDENTS_PER_ETAPE = 25
FEWEST_ETAPES, MOST_ETAPES = 25, 1_200

SETTINGS = Template("""\
# Settings of a demo: `cohorts config --describe` tells what each of them is.
uais = ["$uai"]
active_years = [$year]

[platforms.ecampus]  # every étape
mode = "automatic"
url = "$ecampus"
token = "demo"
account = { field = "username", template = "e{student_id}" }
guard = { platform_percent = 15 }  # a day of the rentrée and two nights pass here within the guard's 24 hours

[platforms.collegium]  # Collegium Santé: étapes of the health component only
mode = "automatic"
url = "$collegium"
token = "demo"
account = { field = "idnumber", template = "{student_id}" }
routes = [{ components = [$health] }]
guard = { platform_percent = 15 }
limits = { timeout_seconds = 10 }  # for so long, the cohort of a writing call that a 502 cut short is left alone

[platforms.prelude]  # kept by hand: never written
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

[converge]  # shorter than in earnest, where nobody sits and waits
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
    """Everything that the demo's steps act on and look at."""

    university: University
    platforms: dict[str, Platform]
    settings: Settings
    settings_file: Path
    ledger: Ledger
    worker_ended: Callable[[], bool]
    apart: dict[str, frozenset[str]] = field(default_factory=dict)
    """Members that some étapes' cohorts must have instead of the true ones: the guard or a person keeps them so."""
    held: Counter[str] = field(default_factory=Counter)
    """How many removals the guard must hold, by platform."""
    unasked: set[tuple[str, str]] = field(default_factory=set)
    """Each (étape, student) whose removal is right though the generator doesn't ask for it."""
    published: int = 0
    poison: list[tuple[bytes, bytes]] = field(default_factory=list)
    """Key and value of every message sent that nobody can read."""

    def __post_init__(self) -> None:
        self._producer = RecordProducer(self.settings.kafka.properties())

    def publish(self, messages: Iterable[tuple[bytes, bytes]]) -> None:
        """Send messages (key, value), and wait until the broker has them."""
        records = [(TOPIC, key, value, ()) for key, value in messages]
        self._producer.send(records)
        self.published += len(records)

    def publish_snapshot(self, rows: Iterable[bytes]) -> int:
        """Publish a snapshot of the university, taken now, that has these rows; gives how many."""
        taken_at = datetime.now(UTC)
        years = frozenset({self.university.year - 1, self.university.year})
        scope = SnapshotScope(uais=frozenset({self.university.uai}), academic_years=years)
        with snapshots.collect(map(EnrolmentRow.model_validate_json, rows), scope) as image:
            publisher = snapshots.Publisher(self.settings.kafka.properties(), SNAPSHOTS)
            publisher.publish(image, snapshot_id=snapshots.new_id(image.system, taken_at), taken_at=taken_at)
            return image.rows

    def compare(self, name: str) -> Comparison:
        """Compare a platform with what the generator says is true now, `apart` aside."""
        return self.platforms[name].compare(self.university.truth() | self.apart, self.university.labels())

    def miscounted(self, name: str, found: Comparison) -> list[str]:
        """Say where the ledger counts other gaps than those that must be left: parked, foreign and held ones."""
        status = self.status(name)
        expected = {"parked": found.accountless, "foreign": found.foreign, "held": self.held[name]}
        return [
            f"{name}: the ledger counts {number} gaps that are {state}, and there are {expected.get(state, 0)}"
            for state, number in status.gaps.items()
            if number != expected.get(state, 0)
        ]

    def status(self, name: str) -> PlatformStatus:
        """What `cohorts status` says of a platform."""
        return read_status(self.ledger, [name], time.time()).platforms[0]

    def create_late_accounts(self) -> None:
        """Give their accounts to the students that get one late."""
        for name in ("ecampus", "collegium"):
            self.platforms[name].add_accounts(_named(name, self.university.late_accounts()))


@contextmanager
def staged(*, students: int, seed: int) -> Iterator[Stage]:
    """Build everything and start the worker; at the end it is stopped, and what ended it before is raised."""
    for name in [*os.environ]:  # a demo must never meet a real ledger or Moodle
        if name == SECRETS_VARIABLE or (name.startswith("COHORTS_") and not name.startswith("COHORTS_WEB_")):
            del os.environ[name]
    etapes = min(max(FEWEST_ETAPES, students // STUDENTS_PER_ETAPE), MOST_ETAPES)
    university = University(seed=seed, students=students, etapes=etapes, opening=datetime.now(UTC) - OPENED)
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
    """The three Moodles with their accounts and, on two of them, the cohorts that people made."""
    truth = university.truth()
    etape = sorted(truth, key=lambda code: (len(truth[code]), code))[len(truth) // 2]
    made = {
        "ecampus": [("Tuteurs", "TUTORAT-2026"), ("Étudiants élus", ""), (f"{etape} à la main", etape)],
        "prelude": [("Découverte de Moodle", ""), ("Liaison lycées", "LYCEES"), (f"{etape} à la main", etape)],
    }
    components: dict[str, frozenset[str]] = {"collegium": university.health_components, "prelude": frozenset()}
    for name in ("ecampus", "collegium", "prelude"):
        moodle = SandboxMoodle(name=name.capitalize(), token="demo", cost=MEASURED)  # noqa: S106 - a sandbox's
        platform = Platform(name=name, moodle=moodle, components=components.get(name))
        platform.add_accounts(_named(name, university.accounts()))
        students = [*platform.students.values()]
        for rank, (cohort, idnumber) in enumerate(made.get(name, [])):
            platform.add_by_hand(cohort, idnumber, students[rank::40])
        yield platform


def _named(platform: str, accounts: Iterable[tuple[str, str, str]]) -> Iterator[tuple[str, str]]:
    """Usernames as each platform writes them, with the student: Collegium has its own, and goes by idnumber."""
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
    """The port that everybody knows, if it is free, else any."""
    for port in (USUAL_PORT, 0):
        try:
            with create_server(("127.0.0.1", port)) as server:
                return int(server.getsockname()[1])
        except OSError:
            continue
    raise OSError("no port is free")
