"""What the demo plays on: an invented university, three Moodles, a broker, a ledger and a worker in this process.

Nothing outside is touched: the settings lie in a folder of their own, and those of the environment are put aside.
"""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from socket import create_server
from string import Template
from tempfile import TemporaryDirectory

from worker import app, config, parts
from worker.broker import RecordProducer
from worker.ledger import Ledger, reading
from worker.sandbox.broker import EmbeddedBroker
from worker.sandbox.moodle import MEASURED, SandboxMoodle
from worker.sandbox.moodle_site import Cohort
from worker.sandbox.university import University

TOPIC, DEAD_LETTERS = "enrolments", "enrolments.dead-letters"
PARTITIONS = 16  # the embedded broker keeps 5 MiB a partition; a message has 0.6 KiB
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

[platforms.collegium]  # Collegium Santé: étapes of the health component only
mode = "automatic"
url = "$collegium"
token = "demo"
account = { field = "idnumber", template = "{student_id}" }
routes = [{ components = [$health] }]

[platforms.prelude]  # kept by hand: never written
mode = "manual"
url = "$prelude"
token = "demo"

[kafka]
bootstrap = "$bootstrap"
topics = ["$topic"]
dead_letters = "$dead_letters"

[ledger]
url = "sqlite:///$ledger"

[converge]  # shorter than in earnest, where nobody sits and waits
coalesce_seconds = 0.5
removal_delay_seconds = $removal_delay
park_seconds = 2
park_most_seconds = 4
poll_seconds = 0.25

[web]
port = $port
""")

Members = frozenset[str | int]
"""Students, and ids of accounts that are no student's."""
Print = dict[int, tuple[Cohort, Members]]
"""Cohorts by id, as they are with their members: equal prints, nothing was touched."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A platform's cohorts, people's own aside, against what the generator says is true."""

    cohorts: int
    wanted: int
    """Memberships of students with an account."""
    right: int
    """Those of them that Moodle shows."""
    accountless: int
    """Memberships of students without an account: they are parked."""
    foreign: int
    """Memberships in étape cohorts that people made and nobody adopted: they wait."""
    differences: tuple[str, ...]


@dataclass(kw_only=True)
class Platform:
    """A sandbox Moodle, whose accounts are whose, and the cohorts that people made there."""

    name: str
    moodle: SandboxMoodle
    components: frozenset[str] | None = None
    """Components that lead here; None for every one."""
    students: dict[int, str] = field(default_factory=dict)
    """Student by id of the account."""
    by_hand: Print = field(default_factory=dict)

    def add_accounts(self, accounts: Iterable[tuple[str, str]]) -> None:
        """Create the accounts (username, student id) that are not there yet."""
        there = set(self.students.values())
        for username, student in accounts:
            if student not in there:
                self.students[self.moodle.add_user(username=username, idnumber=student)] = student

    def add_by_hand(self, name: str, idnumber: str, students: Iterable[str]) -> None:
        """Let a person make a cohort."""
        cohort = self.moodle.create_cohort(name=name, idnumber=idnumber)
        accounts = {student: account for account, student in self.students.items()}
        for student in students:
            self.moodle.add_member(cohort, accounts[student])
        self.by_hand[cohort] = self.print()[cohort]

    def print(self) -> Print:
        """Every cohort, with its members."""
        return {
            cohort.id: (cohort, frozenset(self.students.get(user, user) for user in self.moodle.members(cohort.id)))
            for cohort in self.moodle.cohorts()
        }

    def touched(self) -> list[str]:
        """Names of the cohorts made by hand that are no longer what they were."""
        now = self.print()
        return [cohort.name for id_, (cohort, _) in self.by_hand.items() if now.get(id_) != self.by_hand[id_]]

    def compare(self, truth: Mapping[str, frozenset[str]], labels: Mapping[str, tuple[str, str, str]]) -> Comparison:
        """Compare every cohort that no person made: its members and its name."""
        here = {
            code: members
            for code, members in truth.items()
            if self.components is None or labels[code][1] in self.components
        }
        taken = {cohort.idnumber for cohort, _ in self.by_hand.values()}
        students = frozenset(self.students.values())
        wanted = {code: members & students for code, members in here.items() if code not in taken}
        shown: dict[str, list[tuple[Cohort, Members]]] = {code: [] for code in wanted}
        for id_, (cohort, members) in self.print().items():
            if id_ not in self.by_hand:
                shown.setdefault(cohort.idnumber, []).append((cohort, members))
        return Comparison(
            cohorts=sum(map(len, shown.values())),
            wanted=sum(map(len, wanted.values())),
            right=sum(len(wanted.get(code, frozenset()) & found[0][1]) for code, found in shown.items() if found),
            accountless=sum(len(here[code] - students) for code in wanted),
            foreign=sum(len(members) for code, members in here.items() if code in taken),
            differences=tuple(
                f"{self.name}: {code}: {difference}"
                for code in sorted(shown)
                for difference in _differences(wanted.get(code, frozenset()), shown[code], labels.get(code))
            ),
        )


def _differences(
    wanted: frozenset[str], shown: list[tuple[Cohort, Members]], label: tuple[str, str, str] | None
) -> Iterator[str]:
    """Say how the cohorts of one idnumber differ from the one that must be there."""
    if len(shown) != 1:
        if wanted or shown:
            yield f"{len(shown)} cohorts instead of one, which has {len(wanted)} members"
        return
    [(cohort, members)] = shown
    if missing := wanted - members:
        yield f"{len(missing)} missing: {_some(missing)}"
    if extra := members - wanted:
        yield f"{len(extra)} too many: {_some(extra)}"
    name = f"{label[2]}: {label[0]}" if label else None
    if cohort.name != name:
        yield f"is named «{cohort.name}», not «{name}»"


def _some(members: Members) -> str:
    names = sorted(map(str, members))
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")  # noqa: PLR2004 - enough to look into it


@dataclass(kw_only=True)
class Stage:
    """Everything that the demo's steps act on and look at."""

    university: University
    platforms: dict[str, Platform]
    settings: config.Settings
    settings_file: Path
    ledger: Ledger
    worker_ended: Callable[[], bool]
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

    def compare(self, name: str) -> Comparison:
        """Compare a platform with what the generator says is true now."""
        return self.platforms[name].compare(self.university.truth(), self.university.labels())

    def status(self, name: str) -> reading.PlatformStatus:
        """What `cohorts status` says of a platform."""
        return reading.status(self.ledger, [name], time.time()).platforms[0]

    def create_late_accounts(self) -> None:
        """Give their accounts to the students that get one late."""
        for name in ("ecampus", "collegium"):
            self.platforms[name].add_accounts(_named(name, self.university.late_accounts()))


@contextmanager
def staged(*, students: int, seed: int) -> Iterator[Stage]:
    """Build everything and start the worker; at the end it is stopped, and what ended it before is raised."""
    for name in [*os.environ]:  # a demo must never meet a real ledger or Moodle
        if name == config.SECRETS_VARIABLE or (name.startswith("COHORTS_") and not name.startswith("COHORTS_WEB_")):
            del os.environ[name]
    etapes = min(max(FEWEST_ETAPES, students // STUDENTS_PER_ETAPE), MOST_ETAPES)
    university = University(seed=seed, students=students, etapes=etapes)
    platforms = {platform.name: platform for platform in _platforms(university)}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="cohorts-demo-")))
        broker = stack.enter_context(EmbeddedBroker())
        broker.create_topic(TOPIC, PARTITIONS)
        broker.create_topic(DEAD_LETTERS, 1)
        urls = {name: stack.enter_context(platform.moodle.serving()) for name, platform in platforms.items()}
        file = folder / "cohorts.toml"
        file.write_text(_settings(university, broker.bootstrap, urls, folder), encoding="utf-8")
        settings = config.load(file)
        ledger = parts.open_ledger(settings)
        stack.callback(ledger.close)
        worker = app.Worker(settings)
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
