"""The settings as a production Kafka needs them, and the rights of each command: enough, and none too many."""

import json
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.support.installation import UAI, YEAR, enrolment, eventually, toml
from tests.support.requirements import needed
from tests.support.servers.secured_kafka import SecuredKafka, openid_provider, secured_kafka
from tests.support.servers.slapd import PASSWORD, READER, Slapd
from tests.support.supann import entry
from worker.cli.main import main
from worker.domain.errors import BrokerError
from worker.kafka import RecordProducer, create_topics, topic_settings
from worker.ledger.status import read_status
from worker.runtime.ledger import open_ledger
from worker.runtime.topics import Right, definitions, rights
from worker.runtime.worker import Worker
from worker.settings.kafka import KafkaSettings
from worker.settings.root import load

pytestmark = [pytest.mark.end_to_end, pytest.mark.kafka]

Command = Callable[..., tuple[int, str]]
NAMES = KafkaSettings()  # the topics and the group that these settings have by default
RIGHTS = rights(NAMES)


@pytest.fixture(scope="module")
def secured() -> Iterator[SecuredKafka]:
    with needed(), secured_kafka() as kafka:
        create_topics(kafka.properties, definitions(NAMES, partitions=2, replicas=1))
        message = (b"22000001", enrolment(1).payload())
        letter = (NAMES.dead_letters, *message, (("__connect.errors.topic", NAMES.topics[0].encode()),))
        RecordProducer(kafka.properties).send([(NAMES.topics[0], *message, ()), letter])
        yield kafka


@pytest.fixture
def cohorts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """Run a command in this process, with these settings of Kafka; returns its exit code and its output."""

    def cohorts(kafka: dict[str, Any], *arguments: str) -> tuple[int, str]:
        file = settings(tmp_path, kafka)
        monkeypatch.setattr(sys, "argv", ["cohorts", *arguments, "--config", str(file)])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        return code, "".join(capfd.readouterr())

    return cohorts


def settings(folder: Path, kafka: dict[str, Any], **more: Any) -> Path:  # noqa: ANN401 - any section
    """Write the settings of who comes so to Kafka."""
    sections = {
        "uais": [UAI],
        "active_years": [YEAR],
        "platforms": {"prelude": {"mode": "manual"}},
        "ledger": {"url": f"sqlite:///{folder / 'ledger.db'}"},
        "web": {"port": 0},
        "kafka": kafka,
        **more,
    }
    file = folder / "cohorts.toml"
    file.write_text("".join(f"{name} = {toml(value)}\n" for name, value in sections.items()), encoding="utf-8")
    return file


# Who one is


@pytest.mark.parametrize("way", ["password over TLS", "certificate", "OpenID provider"])
def test_a_worker_connects_in_each_way_of_a_production_kafka(secured: SecuredKafka, cohorts: Command, way: str) -> None:
    secured.add_user("known")
    with openid_provider() as provider:
        ways = {
            "password over TLS": ("known", secured.by_password("known")),
            "certificate": ("certified", secured.by_certificate()),
            "OpenID provider": ("provided", secured.by_provider(f"{provider}/provided")),
        }
        user, kafka = ways[way]
        secured.allow(user, RIGHTS["check"])
        code, output = cohorts(kafka, "check")
    assert code == 0, output
    for topic in (*NAMES.topics, NAMES.snapshots, NAMES.dead_letters):
        assert f"ok kafka {topic}: " in output
    assert "warning kafka" not in output


def test_a_wrong_password_is_reported_and_not_shown(secured: SecuredKafka, cohorts: Command) -> None:
    secured.add_user("known")
    code, output = cohorts(secured.by_password("known", "not the password"), "check")
    assert code == 1
    assert "SASL authentication error" in output
    assert "see kafka.bootstrap and kafka.client" in output
    assert "not the password" not in output


# What one may do

ONE_SHOT: dict[str, tuple[str, tuple[str, ...]]] = {
    "publish": ("publish, watch", ("publish", "messages.jsonl")),
    "dead-letters list": ("dead-letters list, purge", ("dead-letters", "list")),
    "purge": ("dead-letters list, purge", ("purge",)),
    "dead-letters replay": ("dead-letters replay", ("dead-letters", "replay")),
    "snapshot publish": ("snapshot publish", ("snapshot", "publish", "image.jsonl")),
    "snapshot show": ("reconcile, snapshot show", ("snapshot", "show")),
    "reconcile": ("reconcile, snapshot show", ("reconcile",)),
}
CASES = [(command, missing) for command, (key, _) in ONE_SHOT.items() for missing in (None, *RIGHTS[key])]


def case(value: str | Right | None) -> str:
    if isinstance(value, Right):
        return f"without {value.operation} on {value.name}"
    return value or "with its rights"


def somebody(secured: SecuredKafka, rights: Iterable[Right]) -> dict[str, Any]:
    """Create a user with these rights; returns the settings to connect with."""
    user = f"user-{uuid.uuid4().hex}"
    secured.allow(user, rights)
    return secured.by_token(user)


@pytest.mark.parametrize(("command", "missing"), CASES, ids=case)
def test_a_command_works_with_its_rights_and_names_what_is_missing_without_one(
    secured: SecuredKafka, cohorts: Command, tmp_path: Path, command: str, missing: Right | None
) -> None:
    key, words = ONE_SHOT[command]
    (tmp_path / "messages.jsonl").write_bytes(enrolment(1).payload() + b"\n")
    (tmp_path / "image.jsonl").write_text(json.dumps(enrolment(1).value["data"]) + "\n", encoding="utf-8")
    arguments = [str(tmp_path / word) if word.endswith(".jsonl") else word for word in words]
    if command == "snapshot publish":
        arguments += ["--years", str(YEAR), "--taken-at", datetime.now(UTC).isoformat()]
    code, output = cohorts(somebody(secured, (right for right in RIGHTS[key] if right != missing)), *arguments)
    if missing is None:
        assert code == 0, output
    else:
        assert code in {1, 3}, output
        assert missing.name in output
        assert "`cohorts topics acls`" in output


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
@pytest.mark.parametrize("missing", [None, *RIGHTS["run"]], ids=case)
def test_a_worker_works_with_its_rights_and_names_what_is_missing_without_one(
    secured: SecuredKafka, tmp_path: Path, missing: Right | None, protocol: str
) -> None:
    kafka = somebody(secured, (right for right in RIGHTS["run"] if right != missing))
    kafka["client"]["group.protocol"] = protocol
    worker = Worker(load(settings(tmp_path, kafka)))

    def works() -> None:
        with worker.running() as wait_for_end, ThreadPoolExecutor() as threads:
            end = threads.submit(wait_for_end)
            ledger = open_ledger(load(tmp_path / "cohorts.toml"))
            try:
                eventually(lambda: end.done() or read_status(ledger, (), 0.0).enrolments == 1)
            finally:
                ledger.close()
                worker.stop()

    if missing is None:
        works()
    else:
        with pytest.raises(BrokerError, match="`cohorts topics acls`") as refused:
            works()
        assert missing.kind == "group" or missing.name in str(refused.value)


@pytest.mark.slapd
@pytest.mark.parametrize("missing", [None, *RIGHTS["publish, watch"]], ids=case)
def test_a_watch_works_with_its_rights_and_ends_with_the_one_that_is_missing(
    secured: SecuredKafka, slapd: Slapd, tmp_path: Path, missing: Right | None
) -> None:
    directory = {
        "kind": "ldap", "uri": f"ldap://127.0.0.1:{slapd.ports['ldap']}", "ca_file": str(slapd.ca),
        "bind_dn": READER, "password": PASSWORD,
        "base": slapd.branch([entry("22000001", f"[etab={{UAI}}{UAI}][anneeinsc={YEAR}][etape=L1DROI_101]")]),
    }  # fmt: skip
    kafka = somebody(secured, (right for right in RIGHTS["publish, watch"] if right != missing))
    file = settings(tmp_path, kafka, sources={"directory": directory})
    command = [sys.executable, "-m", "worker.cli", "watch", "directory", "--config", str(file), "--port", "0"]
    once = ["--once"] if missing is None else []  # else it must end by itself, so that its supervisor starts it again
    ended = subprocess.run([*command, *once], capture_output=True, text=True, timeout=60, check=False)  # noqa: S603 - our own arguments
    if missing is None:
        assert (ended.returncode, ended.stdout) == (0, "1 entry, 1 of them new or changed; published: 1 state\n")
    else:
        assert ended.returncode == 3
        assert missing.name in ended.stderr
        assert "`cohorts topics acls`" in ended.stderr


def test_topics_are_created_and_judged_by_who_may(secured: SecuredKafka, cohorts: Command) -> None:
    names = {"topics": ["new"], "snapshots": "new.snapshots", "dead_letters": NAMES.dead_letters}
    needed = rights(KafkaSettings.model_validate(names))["topics create"]
    code, output = cohorts(somebody(secured, needed) | names, "topics", "create", "--partitions", "3")
    assert (code, output.splitlines()) == (
        0,
        [
            "new: created, 3 partitions, messages kept for 14 days",
            "new.snapshots: created, 3 partitions, snapshots kept for 3 days",
            f"{NAMES.dead_letters}: exists, 1 partition",
        ],
    )
    found = topic_settings(secured.properties, ["new"])["new"]
    assert (found["cleanup.policy"], found["message.timestamp.type"]) == ("delete", "LogAppendTime")
    code, output = cohorts(somebody(secured, needed) | names | {"topics": ["newer"]}, "topics", "create")
    assert code == 3
    assert "The topic newer cannot be created: TOPIC_AUTHORIZATION_FAILED" in output


def test_check_warns_when_it_may_not_look_at_settings(secured: SecuredKafka, cohorts: Command) -> None:
    sees = [right for right in RIGHTS["check"] if right.operation == "Describe"]
    code, output = cohorts(somebody(secured, sees), "check")
    assert code == 0
    assert "warning kafka topics: Kafka does not return the settings of topics: TOPIC_AUTHORIZATION_FAILED" in output


def test_acls_prints_the_rights_of_a_command_for_kafkas_own_program(cohorts: Command) -> None:
    code, output = cohorts({}, "topics", "acls", "--command", "run", "--principal", "User:worker")
    assert (code, output.splitlines()) == (
        0,
        [
            "# cohorts run",
            *(
                f"kafka-acls.sh --bootstrap-server … --add --allow-principal User:worker --operation {what}"
                for what in (
                    "Read --topic enrolments",
                    "Read --group etape-cohorts",
                    "Write --topic enrolments.dead-letters",
                )
            ),
        ],
    )


def test_an_error_names_the_topic_that_one_may_not_write_while_a_record_waits(secured: SecuredKafka) -> None:
    """Kafka refuses the producer as such, some time after it was handed the record."""
    topic = NAMES.topics[0]
    kafka = KafkaSettings.model_validate(somebody(secured, [Right(operation="Read", kind="topic", name=topic)]))
    producer = RecordProducer(kafka.properties())
    with pytest.raises(BrokerError, match=rf"for {topic}.*`cohorts topics acls`"):
        producer.send([(topic, b"22000001", enrolment(1).payload(), ())])
