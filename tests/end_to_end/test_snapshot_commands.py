"""Publishing snapshots and looking at them, as a person does, on a real Kafka."""

import json
import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import orjson
import pytest

from tests.support.installation import UAI, YEAR, Install, Installation, enrolment
from tests.support.snapshots import line, rows, sent
from worker import kafka
from worker.kafka import RecordProducer

pytestmark = pytest.mark.end_to_end

TAKEN_AT = datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=5)
AT = ("--taken-at", TAKEN_AT.isoformat())
ID = re.compile(rf"apogee-{TAKEN_AT:%Y%m%dT%H%M%S}-[0-9a-f]{{8}}\b")
HEAD = "enrolment_id;academic_year;student_id;etape;status;payment;system;uai"
CELLS = "{year}:{rank}:L1DROI;{year};22{rank:06};L1DROI;active;paid;apogee;0141408E"


@pytest.fixture
def installation(install: Install) -> Installation:
    return install()


def lines_of(installation: Installation, *arguments: str, code: int = 0) -> list[str]:
    """Run a command that ends with this code; returns the lines that it printed or, if it failed, its error."""
    done = installation.run(*arguments)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == "" or code == 0
    return (done.stderr if code else done.stdout).splitlines()


def on_topic(installation: Installation) -> list[dict[str, object]]:
    """Return the messages of the topic of snapshots."""
    return [
        orjson.loads(record.value or b"")
        for record in kafka.read_to_end(installation.kafka.properties, installation.snapshots)
    ]


def kinds(installation: Installation) -> dict[str, int]:
    """Count the messages of the topic by what they are."""
    names = [str(message["type"]).split(".")[-2] for message in on_topic(installation)]
    return {name: names.count(name) for name in names}


def json_lines(ranks: Iterable[int]) -> Iterator[str]:
    """Return the lines of a file with these students."""
    return (json.dumps(enrolment(rank).value["data"]) for rank in ranks)


def csv(ranks: Iterable[int], *, year: int = YEAR) -> list[str]:
    return [HEAD, *(CELLS.format(year=year, rank=rank) for rank in ranks)]


def written(directory: Path, some: Iterable[str], *, encoding: str = "utf-8", ending: str = "\n") -> str:
    """Write a file and give its path."""
    path = directory / "enrolments"
    path.write_bytes("".join(each + ending for each in some).encode(encoding))
    return str(path)


# Publishing


def test_json_lines_are_published_as_a_snapshot_that_show_finds_whole(
    installation: Installation, tmp_path: Path
) -> None:
    [output] = lines_of(installation, "snapshot", "publish", written(tmp_path, json_lines(range(20))), *AT)
    [name] = ID.findall(output)
    assert output == (
        f"20 enrolments (2026: 20), 0 of them repeated: published to {installation.snapshots} over 3 partitions "
        f"as {name}"
    )
    assert kinds(installation) == {"begin": 3, "enrolment": 20, "end": 3}
    [shown] = lines_of(installation, "snapshot", "show")
    assert re.fullmatch(rf"{name}: whole, 20 enrolments \(2026: 20\), taken \d+ min ago", shown)
    assert json.loads("".join(lines_of(installation, "snapshot", "show", "--json"))) == {
        "id": name,
        "taken_at": TAKEN_AT.timestamp(),
        "system": "apogee",
        "rows_by_year": {"2026": 20},
        "unknown": 0,
        "passed_over": [],
        "ignored": 0,
    }


@pytest.mark.parametrize(
    ("encoding", "ending", "delimiter"), [("utf-8", "\n", ","), ("utf-8-sig", "\r\n", ";")], ids=["unix", "spreadsheet"]
)
def test_a_csv_file_is_published_as_a_snapshot(
    installation: Installation, tmp_path: Path, encoding: str, ending: str, delimiter: str
) -> None:
    some = [each.replace(";", delimiter) for each in [*csv(range(20)), *csv([3])[1:], "#rows;21"]]
    file = written(tmp_path, some, encoding=encoding, ending=ending)
    [output] = lines_of(installation, "snapshot", "publish", file, *AT, "--count", "21")
    assert output.startswith(f"20 enrolments (2026: 20), 1 of them repeated: published to {installation.snapshots} ")
    assert kinds(installation)["enrolment"] == 20


def test_a_snapshot_says_for_what_it_is_complete(installation: Installation, tmp_path: Path) -> None:
    file = written(tmp_path, [*csv(range(5)), *csv(range(5), year=2025)[1:]])
    scope = ["--years", "2025", "--years", "2026", "--uai", UAI, "--etapes", "L?DROI"]
    [output] = lines_of(installation, "snapshot", "publish", file, *AT, *scope)
    assert output.startswith("10 enrolments (2025: 5, 2026: 5)")
    begin = orjson.loads(orjson.dumps(on_topic(installation)[0]["data"]))
    assert begin["scope"] == {"uais": [UAI], "academic_years": [2025, 2026], "etapes": ["L?DROI"]}
    assert begin["taken_at"] == TAKEN_AT.isoformat()


def test_a_dry_run_reads_and_counts_and_sends_nothing(installation: Installation, tmp_path: Path) -> None:
    file = written(tmp_path, csv(range(20)))
    output = lines_of(installation, "snapshot", "publish", file, *AT, "--dry-run")
    assert output[-2:] == [
        "1 étapes, such as L1DROI (20)",
        "20 enrolments (2026: 20), 0 of them repeated: whole, and not sent",
    ]
    [line] = [each for each in output if "unknown" in each]  # the file has no components
    assert "20" in line
    assert on_topic(installation) == []


def test_nothing_is_sent_of_a_file_that_is_not_whole(installation: Installation, tmp_path: Path) -> None:
    whole, table = list(json_lines(range(5))), csv(range(5))
    for some, options, wrong in (
        ([*whole[:4], whole[4][:-9]], [], "1 of 5 rows can't be read, the first on line 5: value: json_invalid (1)"),
        (whole, ["--count", "6"], "the file has 5 rows, and 6 were asked for"),
        ([*table, "#rows;6"], [], "the file has 5 rows, and 6 were in its trailer"),
        ([*table, table[1].replace("paid", "due")], [], "enrolments occur twice with different contents (1)"),
        (table, ["--years", "2025"], "rows lie outside its scope, by their academic_year (5)"),
        (table[:1], [], "the source has no row at all"),
    ):  # fmt: skip
        output = lines_of(installation, "snapshot", "publish", written(tmp_path, some), *AT, *options, code=6)
        assert output[0].startswith(f"cohorts: {wrong}"), output
        assert output[0].endswith(": nothing was published")
        assert not re.search(r"22\d{6}", output[0])
    assert on_topic(installation) == []


def test_a_file_that_was_cut_in_its_last_cell_is_not_sent(installation: Installation, tmp_path: Path) -> None:
    cut = tmp_path / "cut.csv"
    cut.write_text("\n".join(csv(range(5))), encoding="utf-8")
    [output] = lines_of(installation, "snapshot", "publish", str(cut), *AT, code=6)
    assert output.startswith("cohorts: the last line has no line break, as if the file was cut")
    assert on_topic(installation) == []


def test_an_instant_that_means_nothing_ends_with_the_code_of_the_command_line(
    installation: Installation, tmp_path: Path
) -> None:
    file = written(tmp_path, csv(range(5)))
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    for instant, wrong in (
        ("this morning", "is not a time"),
        ("2026-09-01T01:00:00", "has no offset from UTC"),
        (tomorrow.isoformat(), "is in the future"),
    ):
        assert wrong in " ".join(lines_of(installation, "snapshot", "publish", file, "--taken-at", instant, code=2))
    lines_of(installation, "snapshot", "publish", file, code=2)
    lines_of(installation, "snapshot", "publish", str(tmp_path / "missing"), *AT, code=2)
    assert on_topic(installation) == []


def test_a_missing_topic_ends_with_the_code_of_kafka_and_the_remedy(install: Install, tmp_path: Path) -> None:
    installation = install(kafka={"snapshots": "nowhere"})
    for command in (["snapshot", "publish", written(tmp_path, csv(range(5))), *AT], ["snapshot", "show"]):
        [sentence] = lines_of(installation, *command, code=3)
        assert sentence.startswith("cohorts: The topic nowhere does not exist; create it (`cohorts topics create` does")


def test_the_standard_input_is_published_as_a_snapshot(installation: Installation) -> None:
    given = "".join(f"{each}\n" for each in csv(range(20)))
    done = installation.run("snapshot", "publish", "-", *AT, given=given)
    assert done.returncode == 0, done.stderr
    assert kinds(installation) == {"begin": 3, "enrolment": 20, "end": 3}


def test_a_source_of_the_settings_is_published_by_its_name(install: Install, tmp_path: Path) -> None:
    file = written(
        tmp_path,
        ["Numéro;Année;Étape;État", "22000001;2026;L1DROI;E", "22000002;2026;L1DROI;R"],
        encoding="windows-1252",
    )
    names = {"Numéro": "student_id", "Année": "academic_year", "Étape": "etape", "État": "status"}
    export = {"kind": "file", "path": file, "columns": names, "constants": {"system": "apogee", "uai": UAI}}
    installation = install(sources={"export": export | {"words": {"status": {"E": "active", "R": "resigned"}}}})
    [output] = lines_of(installation, "snapshot", "publish", "--from", "export", *AT)
    assert output.startswith("2 enrolments (2026: 2), 0 of them repeated: published to")
    enrolments = [m["data"] for m in on_topic(installation) if str(m["type"]).endswith("snapshot.enrolment.v1")]
    rows = sorted(
        (orjson.loads(orjson.dumps(each))["enrolment"] for each in enrolments), key=lambda row: row["enrolment_id"]
    )
    assert [(row["enrolment_id"], row["status"]) for row in rows] == [
        ("22000001:2026:L1DROI:", "active"),
        ("22000002:2026:L1DROI:", "resigned"),
    ]
    [wrong] = lines_of(installation, "snapshot", "publish", "--from", "nowhere", *AT, code=2)
    assert wrong == "cohorts: no source nowhere in the settings; there are: export"
    [wrong] = lines_of(installation, "snapshot", "publish", file, "--from", "export", *AT, code=2)
    assert wrong == "cohorts: name a file, or a source with --from"


# Looking


def test_show_says_why_there_is_no_snapshot_and_what_it_passed_over(installation: Installation, tmp_path: Path) -> None:
    assert lines_of(installation, "snapshot", "show", code=6) == ["cohorts: there is no snapshot on the topic"]
    producer = RecordProducer(installation.kafka.properties)
    partial = sent(rows(20), "apogee-partial", taken_at=TAKEN_AT.timestamp() + 60)
    producer.send_to(installation.snapshots, partial[:-1])
    first, second = lines_of(installation, "snapshot", "show", code=6)
    output = "snapshot apogee-partial: partition 2 has no end of it, after 5 row(s)"
    assert (first, second[: len(output)]) == ("cohorts: no snapshot can be accepted:", output)

    old = sent(rows(20), "apogee-old", taken_at=TAKEN_AT.timestamp() - 86_400)
    producer.send_to(installation.snapshots, old)
    assert "snapshot.max_age_hours is 20" in lines_of(installation, "snapshot", "show", code=6)[2]

    file = written(tmp_path, [line(each).decode() for each in rows(20)])
    [name] = ID.findall(lines_of(installation, "snapshot", "publish", file, *AT)[0])
    passed, shown = lines_of(installation, "snapshot", "show")
    assert passed.startswith(f"passed over: {output}")
    assert shown.startswith(f"{name}: whole, 20 enrolments")
    [refusal] = json.loads("".join(lines_of(installation, "snapshot", "show", "--json")))["passed_over"]
    assert (refusal["snapshot_id"], refusal["fault"]) == ("apogee-partial", "incomplete")


def test_show_finds_a_snapshot_whose_messages_a_producer_of_another_kind_has_sent(installation: Installation) -> None:
    """Only the contract counts: neither keys nor headers do."""
    messages = sent(rows(20), "foreign-1", taken_at=TAKEN_AT.timestamp())
    RecordProducer(installation.kafka.properties).send_to(
        installation.snapshots, ((partition, b"", value, ()) for partition, _, value, _ in messages)
    )
    assert len(messages) == len(on_topic(installation))
    [shown] = lines_of(installation, "snapshot", "show")
    assert shown.startswith("foreign-1: whole, 20 enrolments (2026: 20)")


def test_check_warns_of_a_missing_topic_of_snapshots_and_finds_nothing_wrong_with_it(install: Install) -> None:
    installation = install(kafka={"snapshots": "nowhere"})
    found = lines_of(installation, "check")
    sentence = "no such topic; the first reconciliation needs a snapshot; create it"
    assert [line for line in found if line.startswith(f"warning kafka nowhere: {sentence}")]


def test_check_names_the_topic_of_snapshots(installation: Installation) -> None:
    assert f"ok kafka {installation.snapshots}: 3 partitions" in lines_of(installation, "check")


def test_schema_prints_the_contract_of_snapshots(installation: Installation) -> None:
    assert (
        json.loads("".join(installation.outputs("schema", "snapshot-json-schema")))["title"]
        == "Snapshots of étape cohorts"
    )
    examples = [json.loads(each) for each in installation.outputs("schema", "snapshot-examples")]
    assert {"accepted"} < {str(example["verdict"]) for example in examples}
