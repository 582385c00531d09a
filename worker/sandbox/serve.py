"""An invented university for a real installation to try: a sandbox Moodle, and messages to the real Kafka."""

import signal
import threading
from datetime import UTC, datetime, timedelta
from types import FrameType

from worker.domain.errors import SettingsError
from worker.domain.rules import Mode
from worker.kafka import RecordProducer
from worker.sandbox.moodle.server import MEASURED, SandboxMoodle
from worker.sandbox.university.catalogue import etapes_for
from worker.sandbox.university.generator import University
from worker.sandbox.university.publish import publish_snapshot
from worker.sandbox.university.records import Message
from worker.settings.root import Settings

CHANGES, DAY_SECONDS = 30, 30.0
"""How many changes a day has, and how long that day lasts."""
SNAPSHOT_EVERY = 60
"""Days between two snapshots: half an hour."""


def live(settings: Settings, *, host: str, port: int, students: int, stop: threading.Event | None = None) -> None:
    """Serve and publish until `stop` is set, or until SIGTERM if there is none. Its Moodle forgets everything then.

    It always begins with the same enrolments: repeating them changes nothing. Raises SettingsError unless there is
    exactly one automatic platform, whose token it accepts.
    """
    platforms = [platform for platform in settings.platforms.values() if platform.mode is Mode.AUTOMATIC]
    if len(platforms) != 1 or platforms[0].token is None:
        raise SettingsError(f"the sandbox needs exactly one automatic platform; the settings have {len(platforms)}")
    if stop is None:
        stop = _set_by_signal()
    # A day is published once it is over, so that no message is dated more than an hour ahead.
    opening = datetime.now(UTC) - timedelta(seconds=DAY_SECONDS)
    university = University(students=students, etapes=etapes_for(students), opening=opening, day=DAY_SECONDS)
    producer = RecordProducer(settings.kafka.properties())

    def publish(messages: list[Message]) -> None:
        topic = settings.kafka.topics[0]
        producer.send((topic, message.key.encode(), message.payload(), ()) for message in messages)

    moodle = SandboxMoodle(name="Bac à sable", token=platforms[0].token.get_secret_value(), cost=MEASURED)
    moodle.add_users((username, student) for username, _, student in university.accounts())
    with moodle.serving(port, host):
        publish([*university.initial()])
        day = 0
        while not stop.is_set():
            if day % SNAPSHOT_EVERY == 0:
                publish_snapshot(university, university.snapshot_rows(), settings.kafka)
            stop.wait(DAY_SECONDS)
            publish([*university.september_day(CHANGES)])
            day += 1


def _set_by_signal() -> threading.Event:
    """Return an event that SIGTERM and SIGINT set."""
    stop = threading.Event()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    return stop
