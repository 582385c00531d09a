"""An invented university beside a real installation: its Moodle answers and its messages go to the real Kafka."""

import signal
import threading
from datetime import UTC, datetime, timedelta
from types import FrameType

from schemas import EnrolmentRow
from worker import snapshots
from worker.domain.errors import SettingsError
from worker.domain.rules import Mode
from worker.domain.snapshots import SnapshotScope
from worker.kafka import RecordProducer
from worker.sandbox.demo.stage import FEWEST_ETAPES, MOST_ETAPES, STUDENTS_PER_ETAPE
from worker.sandbox.moodle.server import MEASURED, SandboxMoodle
from worker.sandbox.university.generator import University
from worker.sandbox.university.records import Message
from worker.settings.root import Settings

CHANGES, EVERY_SECONDS = 30, 30.0
"""How many changes a day has, and how long that day lasts."""
SNAPSHOT_EVERY = 60
"""Days between two snapshots: half an hour."""


def live(settings: Settings, *, host: str, port: int, students: int, stop: threading.Event | None = None) -> None:
    """Serve and publish until `stop`, or SIGTERM without one. Its Moodle forgets everything at the end.

    It begins as it always does, with the same enrolments: to repeat them changes nothing. Raises SettingsError unless
    there is one automatic platform, whose token it takes.
    """
    platforms = [platform for platform in settings.platforms.values() if platform.mode is Mode.AUTOMATIC]
    if len(platforms) != 1 or platforms[0].token is None:
        raise SettingsError(f"the sandbox is one automatic platform; the settings have {len(platforms)}")
    if stop is None:
        stop = _told_to_stop()
    etapes = min(max(FEWEST_ETAPES, students // STUDENTS_PER_ETAPE), MOST_ETAPES)
    # A day is told when it is over: nothing is dated more than an hour ahead.
    opening = datetime.now(UTC) - timedelta(seconds=EVERY_SECONDS)
    university = University(students=students, etapes=etapes, opening=opening, day=EVERY_SECONDS)
    producer = RecordProducer(settings.kafka.properties())

    def publish(messages: list[Message]) -> None:
        producer.send((settings.kafka.topics[0], each.key.encode(), each.payload(), ()) for each in messages)

    moodle = SandboxMoodle(name="Bac à sable", token=platforms[0].token.get_secret_value(), cost=MEASURED)
    moodle.add_users((username, student) for username, _, student in university.accounts())
    with moodle.serving(port, host):
        publish([*university.initial()])
        day = 0
        while not stop.is_set():
            if day % SNAPSHOT_EVERY == 0:
                _publish_snapshot(settings, university)
            stop.wait(EVERY_SECONDS)
            publish([*university.september_day(CHANGES)])
            day += 1


def _told_to_stop() -> threading.Event:
    stop = threading.Event()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    return stop


def _publish_snapshot(settings: Settings, university: University) -> None:
    taken_at = datetime.now(UTC)
    years = frozenset({university.year - 1, university.year})
    scope = SnapshotScope(uais=frozenset({university.uai}), academic_years=years)
    with snapshots.collect(map(EnrolmentRow.model_validate_json, university.snapshot_rows()), scope) as image:
        publisher = snapshots.Publisher(settings.kafka.properties(), settings.kafka.snapshots)
        publisher.publish(image, snapshot_id=snapshots.new_id(image.system, taken_at), taken_at=taken_at)
