"""What a system engineer relies on, of worker processes on a real Kafka."""

import re
import time
from pathlib import Path

import pytest
import sqlalchemy as sa
from confluent_kafka import Consumer, TopicPartition

from tests.support.installation import (
    TIMEOUT,
    Install,
    Installation,
    Process,
    enrolment,
    eventually,
    lawyers,
    number,
    numbers,
    pairs,
    platform,
    welcome,
)
from tests.support.privacy import headers_of, personal_words, shown
from tests.support.servers import free_ports
from tests.support.servers.kafka import Kafka
from worker.domain.states import PlatformState
from worker.kafka import Partition
from worker.ledger import schema
from worker.sandbox.moodle.server import Cost, Fault, SandboxMoodle
from worker.sandbox.university.generator import University

pytestmark = pytest.mark.end_to_end

INVALID = b'{"specversion": "1.0", "student": "22009999"}'
SECONDS = 20.0
"""What has to be quick takes at most this long, on a machine that is busy with other things."""


def expected(university: University, moodle: SandboxMoodle) -> set[tuple[str, str]]:
    """Return the memberships (étape, username) of students with an account."""
    wanted = ((code, f"e{student}") for code, students in university.truth().items() for student in students)
    return {(code, username) for code, username in wanted if username in moodle.user_ids}


def committed(installation: Installation) -> dict[Partition, int]:
    """Return the committed offsets of the group, as Kafka's own tools show them."""
    consumer = Consumer({**installation.kafka.properties, "group.id": installation.topic})
    try:
        asked = [TopicPartition(installation.topic, number) for number in range(installation.partitions)]
        return {(each.topic, each.partition): each.offset for each in consumer.committed(asked) if each.offset >= 0}
    finally:
        consumer.close()


def all_recorded(installation: Installation) -> bool:
    return installation.recorded() == installation.published()


def leased(installation: Installation) -> int:
    with installation.ledger.read() as connection:
        held = sa.select(sa.func.count()).select_from(schema.cohort).where(schema.cohort.c.lease_until > 0)
        return connection.scalar(held) or 0


def stopped(worker: Process, reason: str) -> str:
    """Wait until consumption has stopped for that reason; returns the sentence of /readyz."""
    response = eventually(lambda: (answer := worker.get("readyz")).status_code == 503 and answer)
    assert response is not False
    assert worker.metrics()["cohorts_consumption_stopped", reason] == 1
    assert worker.get("livez").status_code == 200
    return response.text


# Stopping and starting


def test_a_worker_told_to_stop_ends_in_seconds_and_the_next_one_reads_on_from_there(
    install: Install, moodle: SandboxMoodle
) -> None:
    installation = install(kafka={"batch": 50})
    moodle.cost = Cost(call=0.05)
    university = University(students=400, etapes=25)
    moodle.add_users((username, idnumber) for username, idnumber, _ in university.accounts())
    worker = installation.worker()
    installation.publish(university.initial())
    eventually(lambda: any(moodle.memberships().values()))
    begun = time.monotonic()
    assert worker.terminate() == 0
    assert time.monotonic() - begun < SECONDS
    assert [line["signal"] for line in worker.events("stopping")] == ["SIGTERM"]
    assert leased(installation) == 0
    read = installation.recorded()
    assert committed(installation) == read

    welcome(moodle, range(900_000, 900_009))
    installation.publish(enrolment(rank) for rank in range(900_000, 900_009))
    rest = sum(installation.published().values()) - sum(read.values())
    after = installation.worker()
    members = expected(university, moodle) | {("L1DROI", f"e{number(rank)}") for rank in range(900_000, 900_009)}
    eventually(lambda: all_recorded(installation) and pairs(moodle.memberships()) == members)
    outcomes = {name[1]: value for name, value in after.metrics().items() if name[0] == "cohorts_changes_total"}
    assert sum(outcomes.values()) == rest


def test_a_missing_topic_ends_the_worker_with_the_code_of_kafka_and_the_remedy(install: Install) -> None:
    installation = install(kafka={"topics": ["nowhere"]})
    worker = installation.worker()
    assert worker.wait() == 3
    assert "nowhere" in worker.text()
    assert "create" in worker.text()


def test_a_kafka_that_is_not_there_ends_the_worker_with_its_code(install: Install) -> None:
    [port] = free_ports(1)
    installation = install(kafka={"bootstrap": f"127.0.0.1:{port}"})
    worker = installation.worker()
    assert worker.wait() == 3
    assert f"127.0.0.1:{port}" in worker.text()


def test_wrong_settings_end_the_worker_with_their_code_and_name_the_key(install: Install) -> None:
    installation = install(kafka={"tropics": ["enrolments"]})
    worker = installation.worker()
    assert worker.wait() == 2
    assert "kafka.tropics: no such setting; did you mean topics?" in worker.text()


def test_a_ledger_that_cannot_be_opened_ends_the_worker_with_its_code(install: Install, tmp_path: Path) -> None:
    installation = install(ledger={"url": f"sqlite:///{tmp_path}/nowhere/ledger.db"})
    worker = installation.worker()
    assert worker.wait() == 4
    assert "nowhere/ledger.db" in worker.text()


# Kafka


def test_a_run_of_invalid_messages_stops_consumption_and_not_the_converging(
    install: Install, moodle: SandboxMoodle
) -> None:
    installation = install(kafka={"invalid_limit": 5})
    welcome(moodle, range(9))
    worker = installation.worker()
    key = b"one partition"
    valid = [(key, enrolment(rank).payload(), ()) for rank in range(20)]
    installation.produce([*valid[:10], *[(key, INVALID, ())] * 8, *valid[10:]])
    sentence = stopped(worker, "contract_broken")
    assert "5 messages in a row are invalid" in sentence
    assert "cohorts dead-letters list" in sentence
    assert sum(installation.recorded().values()) == 10 + 5
    assert len(installation.letters()) == 5
    assert "NO MESSAGE IS READ since" in installation.run("status").stdout
    checked = installation.run("check")
    assert checked.returncode == 1
    assert "FAILURE consumption: stopped: 5 messages in a row are invalid" in checked.stdout

    welcome(moodle, range(9, 20))  # the tenth was recorded, and waits for an account
    eventually(lambda: lawyers(moodle) == numbers(range(10)))
    assert worker.terminate() == 0

    after = installation.worker()
    eventually(lambda: lawyers(moodle) == numbers(range(20)))
    assert all_recorded(installation)
    assert len(installation.letters()) == 8
    assert "NO MESSAGE IS READ" not in installation.run("status").stdout
    assert after.get("readyz").status_code == 200


def test_kafka_stops_and_starts_again_and_the_worker_goes_on_by_itself(
    install: Install, moodle: SandboxMoodle, kafka: Kafka
) -> None:
    installation = install()
    welcome(moodle, [0])
    worker = installation.worker()
    installation.publish([enrolment(0), enrolment(1)])
    eventually(lambda: lawyers(moodle) == numbers([0]))
    kafka.stop()
    welcome(moodle, [1, 2])
    eventually(lambda: lawyers(moodle) == numbers([0, 1]))
    assert worker.get("livez").status_code == 200
    assert worker.get("readyz").status_code == 200
    kafka.start()
    installation.publish([enrolment(2)])
    eventually(lambda: lawyers(moodle) == numbers([0, 1, 2]))
    assert worker.terminate() == 0


def test_the_log_of_an_outage_of_kafka_is_json(install: Install, moodle: SandboxMoodle, kafka: Kafka) -> None:
    installation = install()
    welcome(moodle, [0])
    worker = installation.worker()
    installation.publish([enrolment(0)])
    eventually(lambda: lawyers(moodle) == numbers([0]))
    kafka.stop()
    eventually(lambda: any(line["library"] == "librdkafka" for line in worker.events("a library says")))
    assert worker.other_lines() == []


def test_a_worker_whose_database_fails_says_so_in_one_sentence_and_the_next_one_goes_on(
    install: Install, moodle: SandboxMoodle, postgres_url: str
) -> None:
    installation = install(ledger={"url": postgres_url})
    welcome(moodle, [0, 1])
    worker = installation.worker()
    installation.publish([enrolment(0)])
    eventually(lambda: lawyers(moodle) == numbers([0]))
    cut = sa.text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = :name")
    with installation.ledger.read() as administrator:
        administrator.execute(cut, {"name": worker.name})
    assert worker.wait() == 4
    [sentence] = worker.other_lines()
    assert re.match(r"cohorts: postgresql\+psycopg://.*: the ledger failed: .*; nothing is left half done$", sentence)
    installation.publish([enrolment(1)])
    following = installation.worker()
    eventually(lambda: lawyers(moodle) == numbers([0, 1]))
    assert following.terminate() == 0


def test_a_topic_that_was_recreated_is_read_from_its_beginning(
    install: Install, moodle: SandboxMoodle, kafka: Kafka
) -> None:
    installation = install()
    welcome(moodle, range(40))
    worker = installation.worker()
    installation.publish(enrolment(rank) for rank in range(30))
    eventually(lambda: lawyers(moodle) == numbers(range(30)))
    assert worker.terminate() == 0

    kafka.delete_topic(installation.topic)
    kafka.create_topic(installation.topic, installation.partitions)
    installation.publish(enrolment(rank) for rank in range(30, 40))
    after = installation.worker()
    eventually(lambda: lawyers(moodle) == numbers(range(40)))
    assert all_recorded(installation)
    assert [line["topic"] for line in after.events("topic was re-created: read from its beginning")] == [
        installation.topic
    ]


def test_a_topic_that_is_deleted_under_a_worker_ends_it_before_messages_of_a_new_one_are_skipped(
    install: Install, moodle: SandboxMoodle, kafka: Kafka
) -> None:
    installation = install(partitions=1)
    welcome(moodle, range(20))
    worker = installation.worker()
    installation.publish(enrolment(rank) for rank in range(5))
    eventually(lambda: lawyers(moodle) == numbers(range(5)))
    kafka.delete_topic(installation.topic)
    kafka.create_topic(installation.topic, installation.partitions)
    installation.publish(enrolment(rank) for rank in range(5, 20))  # the worker stood at 5
    assert worker.wait() == 3
    assert f"topics were re-created: {installation.topic}; a restart reads them from their beginning" in worker.text()
    installation.worker()
    eventually(lambda: lawyers(moodle) == numbers(range(20)))


def test_a_worker_ends_with_the_code_of_kafka_when_its_topic_is_deleted(
    install: Install, moodle: SandboxMoodle, kafka: Kafka
) -> None:
    installation = install()
    welcome(moodle, [0])
    worker = installation.worker()
    installation.publish([enrolment(0)])
    eventually(lambda: lawyers(moodle) == numbers([0]))
    kafka.delete_topic(installation.topic)
    assert worker.wait() == 3
    assert f"topics were deleted: {installation.topic}; create them" in worker.text()


def test_messages_that_are_gone_before_they_were_read_stop_consumption_until_a_person_decides(
    install: Install, moodle: SandboxMoodle, kafka: Kafka
) -> None:
    installation = install()
    welcome(moodle, range(9))
    key = b"one partition"
    valid = [(key, enrolment(rank).payload(), ()) for rank in range(9)]
    worker = installation.worker()
    installation.produce(valid[:3])
    eventually(lambda: lawyers(moodle) == numbers(range(3)))
    assert worker.terminate() == 0
    installation.produce(valid[3:])
    [(_, partition)] = installation.recorded()
    kafka.delete_before(installation.topic, partition, 6)

    lost = installation.worker()
    sentence = stopped(lost, "position_lost")
    assert f"Position 3 of {installation.topic}[{partition}] no longer exists: it holds 6 to 9" in sentence
    assert "cohorts positions --forget TOPIC" in sentence
    assert lost.terminate() == 0
    assert lawyers(moodle) == numbers(range(3))

    assert installation.run("positions", "--forget", installation.topic).returncode == 0
    installation.worker()
    eventually(lambda: lawyers(moodle) == numbers([0, 1, 2, 6, 7, 8]))


# Moodle


def test_messages_are_recorded_while_moodle_is_down_and_applied_when_it_comes_back(install: Install) -> None:
    [port] = free_ports(1)
    moodle = SandboxMoodle(name="Ecampus", token="secret-of-ecampus")
    moodle.url = f"http://127.0.0.1:{port}"
    welcome(moodle, range(30))
    installation = install({"ecampus": platform(moodle)})
    worker = installation.worker()
    installation.publish(enrolment(rank) for rank in range(30))
    eventually(lambda: all_recorded(installation))
    eventually(lambda: committed(installation) == installation.published())
    status = eventually(lambda: (s := installation.state_of("ecampus")).state is PlatformState.UNAVAILABLE and s)
    assert status is not False
    assert status.sentence is not None
    assert "check that the address is right and the site is up" in status.sentence
    assert worker.get("readyz").status_code == 200
    assert worker.metrics()["cohorts_platform_up", "ecampus"] == 0
    with moodle.serving(port):
        eventually(lambda: lawyers(moodle) == numbers(range(30)))
        eventually(lambda: worker.metrics()["cohorts_platform_up", "ecampus"] == 1)


def test_a_platform_that_is_down_does_not_delay_another(install: Install, moodle: SandboxMoodle) -> None:
    down = SandboxMoodle(name="Collegium", token="secret-of-collegium")
    with down.serving():
        down.fault = Fault.APPLIED_THEN_LATE  # the worst: each call waits for its time-out
        down.late = 10 * TIMEOUT
        welcome(moodle, range(30))
        installation = install({"ecampus": platform(moodle), "collegium": platform(down, timeout=10 * TIMEOUT)})
        worker = installation.worker()
        installation.publish(enrolment(rank) for rank in range(30))
        eventually(lambda: lawyers(moodle) == numbers(range(30)))
        assert installation.is_up("ecampus")
        assert lawyers(down) == set()
        worker.kill()  # its call is still waited for


# Several workers


def test_two_workers_share_the_messages_and_the_cohorts_without_touching_one_at_once(
    install: Install, moodle: SandboxMoodle, postgres_url: str
) -> None:
    installation = install(ledger={"url": postgres_url}, kafka={"batch": 50})
    moodle.cost = Cost(call=0.02, added=0.001)
    moodle.php_workers = 8
    university = University(students=1_000, etapes=60)
    moodle.add_users((username, idnumber) for username, idnumber, _ in university.accounts())
    workers = [installation.worker(), installation.worker()]
    for worker in workers:
        worker.started()
    installation.publish(university.initial())
    installation.publish(university.september_day(100))
    members = expected(university, moodle)
    eventually(lambda: all_recorded(installation) and pairs(moodle.memberships()) == members, within=120)
    assert moodle.collisions == []
    assert all(worker.events("batch applied") for worker in workers)
    assert [worker.terminate() for worker in workers] == [0, 0]


# What can be seen from outside


def test_metrics_are_there_and_nobody_can_be_recognised_in_what_leaves_the_worker(
    install: Install, moodle: SandboxMoodle
) -> None:
    installation = install()
    university = University(students=200, etapes=25)
    moodle.add_users((username, idnumber) for username, idnumber, _ in university.accounts())
    worker = installation.worker("--log", "debug")
    poison = [(key.encode(), payload, ()) for key, payload in university.poison()]
    messages = [*university.initial(), *university.september_day(30)]
    installation.publish(messages[: university.students])
    installation.produce(poison)
    installation.publish(messages[university.students :])

    def settled() -> bool:
        gaps = installation.state_of("ecampus").gaps
        return all_recorded(installation) and gaps["ready"] == gaps["waiting"] == gaps["retrying"] == 0

    eventually(settled)
    page = worker.get("metrics").text
    metrics = worker.metrics()
    assert metrics["cohorts_changes_total", "invalid"] == len(poison)
    assert metrics["cohorts_dead_letters_total",] == len(poison)
    assert metrics["cohorts_lag_messages", installation.topic] == 0
    assert metrics["cohorts_platform_up", "ecampus"] == 1
    assert metrics["cohorts_memberships", "ecampus"] == sum(map(len, university.truth().values()))
    assert metrics["cohorts_gaps", "ecampus", "parked"] == len(installation.missing("ecampus"))
    assert metrics["cohorts_cohorts", "ecampus", "owned"] > 0
    assert {name[0] for name in metrics} >= {
        "cohorts_change_to_moodle_seconds_bucket",
        "cohorts_last_poll_timestamp_seconds",
        "cohorts_last_success_timestamp_seconds",
        "cohorts_moodle_call_seconds_bucket",
        "cohorts_moodle_calls_total",
        "cohorts_platform_denied",
        "cohorts_record_seconds_bucket",
    }
    assert worker.terminate() == 0

    letters = installation.letters()
    assert len(letters) == len(poison)
    outside = [page, worker.text(), *headers_of(letters)]
    assert not any(moodle.token in text for text in outside)
    assert shown(outside, personal_words(messages) | {"Camille", "Exemple"}) == set()
    assert (
        shown([(letter.value or b"").decode(errors="replace") for letter in letters], personal_words(messages)) != set()
    )
    assert len(worker.events("invalid message")) == len(poison)
