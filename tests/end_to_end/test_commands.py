"""The commands as a person runs them, beside a worker on a real Kafka."""

import json
import re
from pathlib import Path

import pytest

from tests.support.installation import (
    UAI,
    Install,
    Installation,
    enrolment,
    eventually,
    lawyers,
    number,
    numbers,
    platform,
    welcome,
)
from tests.support.servers import free_ports
from worker import kafka
from worker.domain.states import Action
from worker.kafka import RecordProducer
from worker.ledger import status
from worker.sandbox.moodle.server import Fault, SandboxMoodle
from worker.sandbox.university.records import rekeyed

pytestmark = pytest.mark.end_to_end

INVALID = b'{"specversion": "1.0", "student": "22009999"}'
CONTENT_TYPE = ("content-type", b"application/cloudevents+json")


def lines_of(installation: Installation, *arguments: str, code: int = 0) -> list[str]:
    """Run a command that ends with this code; returns the lines that it wrote on standard output."""
    done = installation.run(*arguments)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout.splitlines()


# Messages


def test_publish_sends_a_valid_file_under_the_students_numbers(install: Install, tmp_path: Path) -> None:
    installation = install()
    payloads = [enrolment(rank).payload() for rank in range(3)]
    (tmp_path / "messages.jsonl").write_bytes(b"\n".join([*payloads, b"", b""]))
    assert lines_of(installation, "publish", str(tmp_path / "messages.jsonl")) == [
        f"3 messages published to {installation.topic}"
    ]
    records = list(kafka.read_to_end(installation.kafka.properties, installation.topic))
    assert {(record.key, record.value, record.headers) for record in records} == {
        (number(rank).encode(), payload, (CONTENT_TYPE,)) for rank, payload in enumerate(payloads)
    }


def test_publish_sends_nothing_of_a_file_with_invalid_lines_and_names_them(install: Install, tmp_path: Path) -> None:
    installation = install()
    file = tmp_path / "messages.jsonl"
    file.write_bytes(b"\n".join([enrolment(0).payload(), INVALID, enrolment(1).payload(), b"{"]))
    first, second, last = lines_of(installation, "publish", str(file), code=1)
    assert first.startswith(f"{file}:2: ")
    assert second.startswith(f"{file}:4: ")
    assert last == "2 invalid lines: nothing was sent"
    assert "22009999" not in first
    assert installation.published() == {}


def test_publish_to_a_missing_topic_ends_with_the_code_of_kafka_and_the_remedy(
    install: Install, tmp_path: Path
) -> None:
    installation = install()
    (tmp_path / "messages.jsonl").write_bytes(enrolment(0).payload())
    done = installation.run("publish", str(tmp_path / "messages.jsonl"), "--topic", "nowhere")
    assert done.returncode == 3
    assert "create the topic nowhere" in done.stderr


def test_dead_letters_are_listed_and_those_that_can_be_read_by_now_are_replayed(
    install: Install, moodle: SandboxMoodle
) -> None:
    installation = install(partitions=1)
    welcome(moodle, range(3))
    installation.worker()
    installation.produce([(b"22009999", INVALID, ()), (b"22000000", enrolment(0).payload(), ())])
    eventually(lambda: lawyers(moodle) == numbers([0]))
    # An earlier version of the worker could not read this one.
    about = {"topic": installation.topic, "partition": "0", "offset": "1", "exception.message": "data.payment: enum"}
    headers = tuple((f"__connect.errors.{name}", text.encode()) for name, text in about.items())
    letter = (installation.dead_letters, b"22000001", enrolment(1).payload(), (CONTENT_TYPE, *headers))
    RecordProducer(installation.kafka.properties).send([letter])

    listed = lines_of(installation, "dead-letters", "list")
    assert [line.split("  ")[:2] for line in listed[:2]] == [
        [f"{installation.dead_letters}[0]@0", f"from {installation.topic}[0]@0"],
        [f"{installation.dead_letters}[0]@1", f"from {installation.topic}[0]@1"],
    ]
    assert listed[2] == f"2 dead letters in {installation.dead_letters}"
    assert "22009999" not in "".join(listed)
    as_json = [json.loads(line) for line in lines_of(installation, "dead-letters", "list", "--json")]
    assert [line["origin"] for line in as_json] == [f"{installation.topic}[0]@0", f"{installation.topic}[0]@1"]
    assert as_json[1]["problem"] == "data.payment: enum"

    counts = "1 {}sent, 1 still can't be read, 0 come from no topic of kafka.topics"
    assert lines_of(installation, "dead-letters", "replay", "--dry-run") == [counts.format("would be ")]
    assert installation.published() == {(installation.topic, 0): 2}
    assert lines_of(installation, "dead-letters", "replay") == [counts.format("")]
    eventually(lambda: lawyers(moodle) == numbers([0, 1]))
    replayed = list(kafka.read_to_end(installation.kafka.properties, installation.topic))[-1]
    assert (replayed.key, replayed.headers) == (b"22000001", (CONTENT_TYPE,))


def test_an_old_dead_letter_that_is_replayed_changes_nothing_that_is_newer(
    install: Install, moodle: SandboxMoodle
) -> None:
    installation = install(partitions=1)
    welcome(moodle, range(2))
    installation.worker()
    installation.publish([enrolment(0, revision=1), enrolment(0, status="resigned", revision=3)])
    headers = (("__connect.errors.topic", installation.topic.encode()),)
    letter = (installation.dead_letters, b"22000000", enrolment(0, revision=2).payload(), headers)
    RecordProducer(installation.kafka.properties).send([letter])
    lines_of(installation, "dead-letters", "replay")
    installation.publish([enrolment(1)])
    eventually(lambda: lawyers(moodle) == numbers([1]))
    assert installation.recorded() == installation.published() == {(installation.topic, 0): 4}
    assert status.desired(installation.ledger, "ecampus") == {"L1DROI": {number(1)}}


# Looking


def test_status_says_how_every_platform_stands(install: Install, moodle: SandboxMoodle) -> None:
    installation = install(partitions=1)
    welcome(moodle, range(3))
    installation.worker()
    installation.publish(enrolment(rank) for rank in range(5))
    eventually(lambda: lawyers(moodle) == numbers(range(3)))
    eventually(lambda: installation.state_of("ecampus").reasons == {"no_account": 2})

    text = "\n".join(lines_of(installation, "status"))
    assert "ecampus: 2 waiting for: no_account" in text
    assert f"5 enrolments; positions {installation.topic}[0] 5" in text
    found = json.loads("".join(lines_of(installation, "status", "--json")))
    assert found["enrolments"] == 5
    assert found["positions"] == {f"{installation.topic}[0]": 5}
    [ecampus] = found["platforms"]
    assert (ecampus["name"], ecampus["state"], ecampus["memberships"]) == ("ecampus", "up", 5)
    assert ecampus["cohorts"] == {"wanted": 0, "owned": 1, "foreign": 0, "colliding": 0}
    assert ecampus["gaps"]["parked"] == 2


def test_status_without_a_ledger_that_can_be_opened_ends_with_its_code(install: Install, tmp_path: Path) -> None:
    installation = install(ledger={"url": f"sqlite:///{tmp_path}/nowhere/ledger.db"})
    assert lines_of(installation, "status", code=4) == []


def test_config_shows_what_is_in_force_and_no_secret(install: Install, moodle: SandboxMoodle) -> None:
    installation = install()
    shown = lines_of(installation, "config")
    assert f'kafka.topics = ["{installation.topic}"]' in shown
    assert f'platforms.ecampus.url = "{moodle.url}"' in shown
    assert "converge.coalesce_seconds = 0.2" in shown
    described = lines_of(installation, "config", "--describe")
    assert [line for line in described if not line.startswith("# ")] == shown
    assert moodle.token not in "".join(described)


def test_a_command_without_its_settings_file_ends_with_the_code_of_settings_and_says_so(
    install: Install, tmp_path: Path
) -> None:
    installation = install()
    for command in (["status"], ["check"], ["positions"], ["config"], ["dead-letters", "list"], ["adopt", "ecampus"]):
        done = installation.run(*command, config=tmp_path / "missing.toml")
        assert (command, done.returncode) == (command, 2)
        assert "missing.toml: no such file" in done.stderr


def test_schema_prints_the_contract(install: Install) -> None:
    installation = install()
    for what in ("json-schema", "asyncapi"):
        assert json.loads("".join(installation.outputs("schema", what)))
    examples = [json.loads(line) for line in installation.outputs("schema", "examples")]
    assert len(examples) > 10


def test_positions_are_shown_and_forgotten_so_that_a_restart_reads_everything_again(
    install: Install, moodle: SandboxMoodle
) -> None:
    installation = install(partitions=1)
    welcome(moodle, range(5))
    worker = installation.worker()
    installation.publish(enrolment(rank) for rank in range(5))
    eventually(lambda: lawyers(moodle) == numbers(range(5)))
    assert worker.terminate() == 0
    assert lines_of(installation, "positions") == [f"{installation.topic}[0] 5"]
    assert lines_of(installation, "positions", "--forget", installation.topic) == [
        f"1 position of {installation.topic} forgotten"
    ]
    again = installation.worker()
    eventually(lambda: installation.recorded() == installation.published())
    eventually(lambda: again.metrics().get(("cohorts_changes_total", "stale")) == 5)
    assert lawyers(moodle) == numbers(range(5))
    assert status.applied(installation.ledger, "ecampus", Action.REMOVE) == []


# Check


def findings(installation: Installation, *, code: int) -> dict[str, tuple[str, str]]:
    """Return the level and the sentence of each subject."""
    found = {}
    for line in lines_of(installation, "check", code=code):
        head, _, sentence = line.partition(": ")
        level, _, subject = head.partition(" ")
        found[subject] = (level, sentence)
    return found


def test_check_finds_nothing_wrong_where_all_is_well(install: Install, moodle: SandboxMoodle) -> None:
    installation = install()
    welcome(moodle, [0])
    cohort = moodle.create_cohort(name="Lecteurs", idnumber="BU")
    moodle.add_member(cohort, moodle.user_ids[f"e{number(0)}"])
    found = findings(installation, code=0)
    assert {level for level, _ in found.values()} == {"ok"}
    assert found.keys() == {
        "settings", "kafka", f"kafka {installation.topic}", f"kafka {installation.dead_letters}",
        f"kafka {installation.snapshots}", "ledger", "ecampus", "ecampus functions", "ecampus fields",
        "ecampus accounts", "ecampus cohorts",
    }  # fmt: skip
    assert [call.function for call in moodle.calls if call.writes] == []


def test_check_finds_a_kafka_that_is_down_and_still_checks_the_rest(install: Install) -> None:
    [port] = free_ports(1)
    found = findings(install(kafka={"bootstrap": f"127.0.0.1:{port}"}), code=1)
    level, sentence = found["kafka"]
    assert level == "FAILURE"
    assert "see kafka.bootstrap" in sentence
    assert found["ecampus"][0] == "ok"


def test_check_finds_a_missing_topic(install: Install) -> None:
    found = findings(install(kafka={"dead_letters": "nowhere"}), code=1)
    level, sentence = found["kafka nowhere"]
    assert (level, sentence.partition(" (")[0]) == ("FAILURE", "no such topic; create it")


def test_check_finds_a_ledger_that_cannot_be_opened(install: Install, tmp_path: Path) -> None:
    found = findings(install(ledger={"url": f"sqlite:///{tmp_path}/nowhere/ledger.db"}), code=1)
    assert found["ledger"][0] == "FAILURE"
    assert found["ecampus"][0] == "ok"


def test_check_finds_a_moodle_that_is_not_there(install: Install, moodle: SandboxMoodle) -> None:
    installation = install()
    moodle.fault = Fault.PHP_DOWN
    level, sentence = findings(installation, code=1)["ecampus"]
    assert level == "FAILURE"
    assert "HTTP 502" in sentence


def test_check_finds_an_invalid_token(install: Install, moodle: SandboxMoodle) -> None:
    installation = install()
    moodle.token = "another"
    level, sentence = findings(installation, code=1)["ecampus"]
    assert level == "FAILURE"
    assert "invalidtoken: Moodle doesn't know it" in sentence
    assert "secret-of-ecampus" not in sentence


def test_check_finds_a_limit_of_fields_that_php_does_not_grant(install: Install, moodle: SandboxMoodle) -> None:
    moodle.max_input_vars = 499
    level, sentence = findings(install(), code=1)["ecampus fields"]
    assert level == "FAILURE"
    assert "500 fit: set platforms.ecampus.limits.fields to 500 or less" in sentence


@pytest.mark.parametrize(
    ("fault", "advice"),
    [
        (Fault.ACCOUNT_SUSPENDED, "activate it on Moodle"),
        (Fault.POLICY_NOT_AGREED, "sign in as it once and agree"),
        (Fault.FIREWALL, "let it pass"),
        (Fault.WRITE_REFUSED, "can't write to its database"),
        (Fault.APPLIED_THEN_PRINTED, "switch debugdisplay off"),
    ],
)
def test_check_says_what_to_do_about_a_refusal_and_names_the_platform_once(
    install: Install, moodle: SandboxMoodle, fault: Fault, advice: str
) -> None:
    installation = install()
    moodle.fault = fault
    failures = [line for line in lines_of(installation, "check", code=1) if line.startswith("FAILURE ecampus")]
    (line,) = failures
    assert advice in line
    assert line.count("ecampus") == 1


def test_check_finds_a_function_that_is_not_granted(install: Install, moodle: SandboxMoodle) -> None:
    installation = install()
    moodle.granted.remove("core_cohort_delete_cohort_members")
    level, sentence = findings(installation, code=1)["ecampus functions"]
    assert level == "FAILURE"
    assert "core_cohort_delete_cohort_members; add them to its external service" in sentence


@pytest.mark.parametrize("right", ["moodle/user:viewdetails", "moodle/user:viewalldetails"])
def test_check_finds_a_token_that_sees_nobody(install: Install, moodle: SandboxMoodle, right: str) -> None:
    installation = install()
    welcome(moodle, [0])
    cohort = moodle.create_cohort(name="Lecteurs", idnumber="BU")
    moodle.add_member(cohort, moodle.user_ids[f"e{number(0)}"])
    moodle.capabilities.remove(right)
    level, sentence = findings(installation, code=1)["ecampus accounts"]
    assert level == "FAILURE"
    assert f"{right} " in sentence


def test_check_warns_of_an_idnumber_that_several_cohorts_carry(install: Install, moodle: SandboxMoodle) -> None:
    installation = install()
    for name in ("Droit", "Droit, ancienne"):
        moodle.create_cohort(name=name, idnumber="L1DROI")
    level, sentence = findings(installation, code=0)["ecampus cohorts"]
    assert level == "warning"
    assert "L1DROI; make them unique" in sentence


# Merged numbers


def test_a_person_sees_merges_and_ends_or_approves_one_after_a_preview(install: Install, moodle: SandboxMoodle) -> None:
    installation = install({"ecampus": platform(moodle)})
    welcome(moodle, range(2))
    worker = installation.worker()
    installation.publish([enrolment(0)])
    eventually(lambda: lawyers(moodle) == numbers([0]))
    installation.publish([rekeyed(number(0), number(1), UAI, 1_788_000_100.0)])
    eventually(lambda: lawyers(moodle) == numbers([1]))
    assert worker.terminate() == 0
    (merge,) = json.loads("".join(lines_of(installation, "merges", "--json")))
    assert (merge["student_id"], merge["merged_into"], merge["state"]) == (number(0), number(1), "applied")
    assert lines_of(installation, "merges")[-1] == "1 merge, 0 held"
    assert lines_of(installation, "merges", "end", number(0))[-1] == "nothing was changed; add --apply to decide so"
    assert json.loads("".join(lines_of(installation, "merges", "--json"))) == [merge]
    ended = lines_of(installation, "merges", "end", number(0), "--apply")
    assert ended == ["decided; desired otherwise: 2 memberships; see `cohorts plan`"]
    assert status.desired(installation.ledger, "ecampus") == {"L1DROI": {number(0)}}
    lines_of(installation, "merges", "end", number(0), "--apply", code=1)
    lines_of(installation, "merges", "approve", number(0), "--apply")
    assert status.desired(installation.ledger, "ecampus") == {"L1DROI": {number(1)}}


# A cohort that somebody deleted


def test_a_deleted_cohort_is_said_first_by_every_command_until_a_person_acknowledges_it(
    install: Install, moodle: SandboxMoodle
) -> None:
    installation = install({"ecampus": platform(moodle)})
    welcome(moodle, range(3))
    worker = installation.worker()
    installation.publish(enrolment(rank) for rank in range(3))
    eventually(lambda: lawyers(moodle) == numbers(range(3)))
    assert worker.terminate() == 0
    (cohort,) = moodle.cohorts()
    moodle.delete_cohort(cohort.id)
    night = lines_of(installation, "reconcile", "--without-snapshot")
    assert lawyers(moodle) == numbers(range(3))
    (again,) = moodle.cohorts()
    assert night[1].startswith("ecampus: COHORT DELETED ON MOODLE: L1DROI")
    assert night[1].endswith(f"3 members lost; made again (id {again.id})")
    assert night[2].startswith("ecampus: EVERY COURSE HAS LOST ITS SYNCHRONISATION with it")
    assert "1 vanished" in "\n".join(night)
    for command in (["status"], ["plan"]):
        assert lines_of(installation, *command)[:2] == night[1:3]
    asked = lines_of(installation, "explain", number(0))
    (title,) = [line for line in asked if line.startswith("ecampus, cohorte L1DROI")]
    assert asked[asked.index(title) + 1].startswith("  ATTENTION : quelqu'un a supprimé cette cohorte sur Moodle")
    assert json.loads("".join(lines_of(installation, "status", "--json")))["platforms"][0]["deleted"][0]["lost"] == 3

    assert lines_of(installation, "acknowledge", "ecampus", "M*", code=1) == []
    assert lines_of(installation, "acknowledge", "nowhere", "L1*", code=2) == []
    assert lines_of(installation, "acknowledge", "ecampus", "L1*") == [
        "1 deleted cohorts of ecampus acknowledged: L1DROI"
    ]
    assert not any("DELETED" in line for line in lines_of(installation, "status"))


# Adopting


def test_a_cohort_made_by_hand_is_adopted_when_a_person_says_so_and_nobody_leaves_it(
    install: Install, moodle: SandboxMoodle
) -> None:
    installation = install({"ecampus": platform(moodle), "prelude": {"mode": "manual"}})
    welcome(moodle, range(6))
    cohort = moodle.create_cohort(name="Droit, première année", idnumber="L1DROI")
    for rank in (0, 1, 5):  # the last isn't enrolled: a person's guest
        moodle.add_member(cohort, moodle.user_ids[f"e{number(rank)}"])
    worker = installation.worker()
    installation.publish(enrolment(rank) for rank in range(4))
    eventually(lambda: installation.state_of("ecampus").gaps["foreign"] == 4)

    shown = "\n".join(lines_of(installation, "adopt", "ecampus"))
    assert "Droit, première année" in shown
    assert re.search(r"L1DROI .* 3 +│ 2 +│ 0 +│ 1 +│ 2 ", shown)
    assert "ecampus: unknown, matching no student: 1 member; they stay" in shown
    assert "1 cohort could be adopted on ecampus; --apply adopts them" in shown
    assert installation.state_of("ecampus").cohorts["foreign"] == 1
    nothing = "\n".join(lines_of(installation, "adopt", "ecampus", "M*"))
    assert "ecampus: not adopted, matches no cohort: M*" in nothing
    assert "0 cohorts could be adopted" in nothing
    assert lawyers(moodle) == numbers([0, 1, 5])

    assert "1 of 1 cohort adopted on ecampus" in lines_of(installation, "adopt", "ecampus", "L1*", "--apply")
    eventually(lambda: lawyers(moodle) == numbers([0, 1, 2, 3, 5]))
    installation.publish([enrolment(0, status="resigned", revision=2)])
    eventually(lambda: lawyers(moodle) == numbers([1, 2, 3, 5]))
    eventually(lambda: status.applied(installation.ledger, "ecampus", Action.REMOVE) == [("L1DROI", number(0))])
    assert [each.id for each in moodle.cohorts()] == [cohort]
    assert worker.terminate() == 0

    assert lines_of(installation, "adopt", "prelude", code=2) == []
    assert lines_of(installation, "adopt", "nowhere", code=2) == []
    moodle.fault = Fault.PHP_DOWN
    assert lines_of(installation, "adopt", "ecampus", code=5) == []
