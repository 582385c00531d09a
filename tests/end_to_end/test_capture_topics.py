"""Topics of Debezium's envelopes, read by a worker process from a real Kafka."""

from collections.abc import Iterable
from typing import Any

import orjson
import pytest

from tests.support.builders import NOW, content
from tests.support.debezium import SECRET, Apogee, Capture, Event, as_numbers
from tests.support.installation import Install, Installation, Process, enrolment, eventually, pairs, platform
from tests.support.servers.kafka import Kafka
from worker.domain.states import Action
from worker.kafka import RecordProducer, describe
from worker.ledger import status
from worker.sandbox.moodle.server import SandboxMoodle
from worker.sandbox.university.generator import University

pytestmark = pytest.mark.end_to_end

OVER = {"ETA_IAE": "A"}


@pytest.fixture
def installation(install: Install, topic: str, moodle: SandboxMoodle) -> Installation:
    """Install without a guard: on a day like this, a small university loses more than it lets pass."""
    return install({"ecampus": platform(moodle, guard={"enabled": False})}, kafka={"formats": {topic: "debezium"}})


def produce(installation: Installation, events: Iterable[Event]) -> None:
    installation.produce((event.key, event.value, ()) for event in events)


def all_is_recorded_and_closed(installation: Installation, worker: Process) -> bool:
    worker.must_run()
    gaps = installation.state_of("ecampus").gaps
    return (
        installation.recorded() == installation.published() and gaps["waiting"] + gaps["ready"] + gaps["retrying"] == 0
    )


def in_an_unknown_word(event: Event) -> Event:
    """Return the event with an unknown state for one of its rows."""
    assert event.value is not None
    document: dict[str, Any] = orjson.loads(event.value)
    envelope = document.get("payload", document)
    envelope["source"]["scn"] = "99999999"
    envelope["after"]["ETA_IAE"] = "Z"
    return event._replace(value=orjson.dumps(document))


def test_a_captured_university_has_its_cohorts_whatever_is_repeated_or_changes_version(
    installation: Installation, moodle: SandboxMoodle
) -> None:
    university = University(seed=11, students=250, etapes=20)
    capture = Capture(university)
    initial = capture.initial()
    day = capture.day(university.september_day(120))
    people = [*university.accounts(), *university.late_accounts()]
    moodle.add_users((f"e{int(student)}", str(int(student))) for _, _, student in people)

    def in_step() -> bool:
        """See that the members of every cohort are those who must be and have an account, and that it has its name."""
        worker.must_run()
        wanted = pairs(as_numbers(university.truth()))
        members = {(code, username.removeprefix("e")) for code, username in pairs(moodle.memberships())}
        assert members == {(code, number) for code, number in wanted if f"e{number}" in moodle.user_ids}
        labels = university.labels()
        wrong = [c for c in moodle.cohorts() if c.name != f"{labels[c.idnumber][2]}: {labels[c.idnumber][0]}"]
        assert wrong == []
        return True

    # Enrolments come first, and wait for their students.
    worker = installation.worker()
    produce(installation, (event for event in initial if event.table != "INDIVIDU"))
    rows = sum(event.table == "INS_ADM_ETP" for event in initial)
    eventually(lambda: worker.metrics()["cohorts_waiting_enrolments",] == rows)
    assert f"waiting for the student number of their person: {rows} enrolments" in installation.run("status").stdout
    assert moodle.memberships() == {}

    # The students, the day, and some that can't be read.
    produce(installation, (event for event in initial if event.table == "INDIVIDU"))
    a_row = next(event for event in day if event.table == "INS_ADM_ETP" and event.value and b'"after":{' in event.value)
    poison = [in_an_unknown_word(a_row), a_row._replace(value=b"{" + SECRET.encode())]
    produce(installation, [*day[:50], *poison, *day[50:]])
    eventually(in_step)
    eventually(lambda: all_is_recorded_and_closed(installation, worker))
    assert worker.metrics()["cohorts_waiting_enrolments",] == 0
    assert set(status.applied(installation.ledger, "ecampus", Action.REMOVE)) <= pairs_as_numbers(
        university.removals_asked()
    )

    # Everything is emitted again, and every row of an étape gets another version.
    journal, members = content(installation.ledger)["journal"], moodle.memberships()
    produce(installation, capture.snapshot())
    produce(installation, moved_to_another_version(capture, next(iter(university.truth()))))
    eventually(lambda: all_is_recorded_and_closed(installation, worker))
    assert content(installation.ledger)["journal"] == journal
    assert moodle.memberships() == members

    letters = installation.letters()
    assert [letter.value for letter in letters if letter.value == b""] == [b""]
    assert len(letters) == 2
    assert SECRET not in worker.text() + "".join((letter.value or b"").decode() for letter in letters)
    assert worker.terminate() == 0


def test_dead_letters_of_change_capture_are_replayed_through_its_own_reading(installation: Installation) -> None:
    apogee = Apogee()
    row = {"COD_ANU": "2026", "COD_IND": 5, "COD_ETP": "L1DROI", "COD_VRS_VET": 101, "NUM_OCC_IAE": 1}
    row |= {"ETA_IAE": "E", "ETA_PMT_IAE": "P", "COD_CMP": "DRT"}
    installation.worker()
    produce(
        installation, [*apogee.put("INS_ADM_ETP", row, NOW), *apogee.put("INDIVIDU", {"COD_IND": 5, "COD_ETU": 7}, NOW)]
    )
    eventually(lambda: status.desired(installation.ledger, "ecampus") == {"L1DROI": {"7"}})
    letters = [*apogee.put("INS_ADM_ETP", row | {"ETA_IAE": "Z"}, NOW), *apogee.put("INS_ADM_ETP", row | OVER, NOW)]
    headers = (("__connect.errors.topic", installation.topic.encode()),)
    RecordProducer(installation.kafka.properties).send(
        (installation.dead_letters, each.key, each.value, headers) for each in letters
    )
    done = installation.run("dead-letters", "replay")
    assert done.stdout == "1 sent, 1 still can't be read, 0 come from no topic of kafka.topics\n"
    eventually(lambda: status.desired(installation.ledger, "ecampus") == {})


def test_messages_are_not_published_to_a_topic_of_change_capture(installation: Installation) -> None:
    (installation.directory / "messages.jsonl").write_bytes(enrolment(0).payload())
    done = installation.run("publish", str(installation.directory / "messages.jsonl"))
    assert (done.returncode, installation.published()) == (2, {})
    assert "every topic is in format debezium: name a topic in format native with --topic" in done.stderr


def pairs_as_numbers(some: Iterable[tuple[str, str]]) -> set[tuple[str, str]]:
    return {(code, str(int(number))) for code, number in some}


def moved_to_another_version(capture: Capture, etape: str) -> list[Event]:
    """Change the version of all rows of an étape, which deletes and creates them."""
    columns = ("COD_ANU", "COD_IND", "COD_ETP", "COD_VRS_VET", "NUM_OCC_IAE")
    of_etape = [row for row in capture.apogee.rows("INS_ADM_ETP") if row["COD_ETP"] == etape]
    return [
        event
        for row in of_etape
        for event in capture.apogee.change_key(
            "INS_ADM_ETP",
            tuple(row[column] for column in columns),
            {**row, "COD_VRS_VET": row["COD_VRS_VET"] + 500},
            capture.now + 60,
        )
    ]


def test_topics_of_change_capture_are_left_to_their_connector(install: Install, topic: str, kafka: Kafka) -> None:
    captured, missing, ours = topic, f"{topic}.missing", f"{topic}.ours"
    formats = {captured: "debezium", missing: "debezium"}
    installation = install(kafka={"topics": [captured, missing, ours], "formats": formats})
    done = installation.run("topics", "create", "--partitions", "2", "--replicas", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert f"{captured}: exists, 3 partitions" in lines
    assert f"{missing}: missing; the connector of change capture creates it" in lines
    assert f"{ours}: created, 2 partitions, messages kept for 14 days" in lines
    assert describe(kafka.properties, [missing, ours]).topics.keys() == {ours}
