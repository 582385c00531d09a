"""A producer and a Moodle that mean no good, against real processes."""

import json
import unicodedata
from pathlib import Path

import pytest

from schemas.envelope import visible
from tests.support.installation import (
    UAI,
    YEAR,
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
from worker.kafka import RecordProducer
from worker.sandbox.moodle.server import SandboxMoodle

pytestmark = pytest.mark.end_to_end

EVERYBODY = range(60)
STEERING = "\x1b]0;owned\x07\x1b[2J\x9b31m"
MISLEADING = "Licence \N{RIGHT-TO-LEFT OVERRIDE}tiord <script>alert(1)</script> [/red] {0.__class__}"


def event(kind: str, data: dict[str, object], *, key: str = "1") -> tuple[bytes, bytes, tuple[()]]:
    """Write a message of any content."""
    envelope = {"specversion": "1.0", "id": "1", "source": "urn:nobody", "time": "2026-09-01T08:00:00Z"}
    value = {**envelope, "type": f"fr.etape-cohorts.{kind}.v1", "data": data}
    return key.encode(), json.dumps(value).encode(), ()


def enrolled(rank: int, code: str, label: str) -> tuple[bytes, bytes, tuple[()]]:
    etape = {"code": code, "label": label, "component": {"code": "[/]", "label": "=1+1"}}
    return event(
        "enrolment.state",
        {
            "enrolment_id": f"{rank}:{code}", "academic_year": YEAR, "student": {"student_id": number(rank)},
            "etape": etape, "status": "active", "source": {"system": "apogee", "uai": UAI}, "version": 1,
        },
    )  # fmt: skip


def test_a_producer_that_has_everybody_resign_or_renumbered_empties_no_cohort(
    install: Install, moodle: SandboxMoodle
) -> None:
    installation = install()
    welcome(moodle, EVERYBODY)
    worker = installation.worker()
    installation.publish(enrolment(rank) for rank in EVERYBODY)
    eventually(lambda: lawyers(moodle) == numbers(EVERYBODY))
    eventually(lambda: installation.missing("ecampus") == set())

    installation.publish(enrolment(rank, status="resigned", revision=2) for rank in range(40))
    source = {"system": "apogee", "uai": UAI}
    installation.produce(
        event("student.rekeyed", {"previous_student_id": number(rank), "student_id": number(40), "source": source})
        for rank in range(41, 60)
    )
    eventually(lambda: installation.state_of("ecampus").gaps["held"] == 59)
    assert lawyers(moodle) == numbers(EVERYBODY)
    assert worker.events("removals are held until a person decides")
    assert "held: 59 removals of 1 cohort" in installation.run("held").stdout


def shown(installation: Installation, *arguments: str, codes: tuple[int, ...] = (0,)) -> str:
    """Run a command; returns what it prints, which must not control a terminal."""
    done = installation.run(*arguments)
    text = done.stdout + done.stderr
    assert done.returncode in codes, text
    assert "Traceback" not in text
    assert {character for character in text if unicodedata.category(character) in {"Cc", "Cf", "Zl", "Zp"}} <= {"\n"}
    return text


def test_what_others_write_touches_no_cohort_of_others_and_steers_no_terminal(
    install: Install, moodle: SandboxMoodle, tmp_path: Path
) -> None:
    installation = install({"ecampus": platform(moodle), "prelude": {"mode": "manual"}})
    welcome(moodle, range(4))
    foreign = moodle.create_cohort(name=f"Professeurs {STEERING}", idnumber="PROFS")
    moodle.create_cohort(name=MISLEADING, idnumber="[/bold]")
    moodle.create_cohort(name=MISLEADING, idnumber=STEERING)
    moodle.add_member(foreign, moodle.user_ids[f"e{number(3)}"])
    worker = installation.worker()
    codes = ("PROFS", "[/red]", "[/bold]")
    installation.produce(
        [*(enrolled(rank, code, MISLEADING) for rank, code in enumerate(codes)), (b"1", STEERING.encode(), ())]
    )
    forged = (("__connect.errors.exception.message", STEERING.encode()), ("__connect.errors.topic", b"a\nb"))
    RecordProducer(installation.kafka.properties).send([(installation.dead_letters, b"1", b"{}", forged)])
    eventually(lambda: installation.state_of("ecampus").gaps["foreign"] == 2 and len(installation.letters()) == 2)
    eventually(lambda: "[/red]" in moodle.memberships())

    table = shown(installation, "adopt", "ecampus")
    assert "[/bold]" in table
    assert r"Professeurs \u001b]0;owned\u0007\u001b[2J\u009b31m" in "".join(table.split("\n"))
    assert moodle.memberships()["PROFS"] == {f"e{number(3)}"}
    assert moodle.memberships()["[/bold]"] == set()
    rows = tmp_path / "rows.csv"
    rows.write_text(
        "student_id;academic_year;etape;component;status;system;uai\n"
        f"{number(1)};{YEAR};[/red];[/];active;apogee;{UAI}\n"
    )
    dry = ("snapshot", "publish", str(rows), "--taken-at", "2026-11-25T01:30:00+01:00", "--dry-run")
    assert "[/]" in shown(installation, *dry)
    shown(installation, "check")
    shown(installation, "status")
    shown(installation, "plan", "--students")
    for language in ("fr", "en"):
        assert visible(MISLEADING) in shown(installation, "explain", number(1), "--lang", language)
    moodle.create_cohort(name="new", idnumber=f"new {STEERING}\nforged: all is well")
    shown(installation, "reconcile", "--without-snapshot", codes=(0, 7))
    for form in ([], ["--json"], ["--html", "-"], ["--html", "-", "--lang", "en"]):
        text = shown(installation, "runs", "show", "1", *form)
        assert "<script>" not in text
        assert "\nforged" not in text
    letters = shown(installation, "dead-letters", "list")
    assert r"a\nb[?]@?  \u001b]0;owned" in letters
    for command in (["status"], ["plan", "--students"], ["held"], ["runs"], ["explain", number(1)]):
        assert json.loads(shown(installation, *command, "--json"))
    assert worker.metrics()["cohorts_gaps", "ecampus", "foreign"] == 2
    assert worker.other_lines() == []
