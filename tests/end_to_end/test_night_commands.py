"""The commands of the night and of the guard, as a person runs them."""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import orjson
import pytest

from schemas import EnrolmentRow
from tests.support.installation import (
    UAI,
    YEAR,
    Install,
    Installation,
    Process,
    enrolment,
    eventually,
    lawyers,
    number,
    numbers,
    platform,
    welcome,
)
from worker.domain.snapshots import SnapshotScope
from worker.domain.states import Action
from worker.kafka import RecordProducer
from worker.ledger import status
from worker.sandbox.moodle.server import Fault, SandboxMoodle
from worker.snapshots import collect
from worker.snapshots.publisher import Messages

pytestmark = pytest.mark.end_to_end

EVERYBODY, LEAVING = range(20), range(6)
GUARD = {"floor": 2, "cohort_percent": 20, "platform_percent": 100}
PARIS = ZoneInfo("Europe/Paris")  # the default of the settings
HASH = re.compile(r"\b[0-9a-f]{8}\b")


def said_by(installation: Installation, *arguments: str, code: int = 0) -> str:
    """Run a command that ends with this code; returns everything that it printed."""
    done = installation.run(*arguments)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def json_of(installation: Installation, *arguments: str, code: int = 0) -> Any:  # noqa: ANN401 - any JSON
    done = installation.run(*arguments, "--json")
    assert done.returncode == code, done.stdout + done.stderr
    return json.loads(done.stdout)


def status_of(installation: Installation) -> dict[str, Any]:
    """Return how the first platform stands."""
    first: dict[str, Any] = json_of(installation, "status")["platforms"][0]
    return first


def rows(ranks: Iterable[int]) -> Iterator[bytes]:
    """Return the rows of a snapshot with these students alone."""
    return (orjson.dumps(enrolment(rank).value["data"]) for rank in ranks)


@pytest.fixture
def law(install: Install, moodle: SandboxMoodle) -> Installation:
    """Twenty lawyers in their cohort, of whom at most four may leave in a day; no worker is left running."""
    installation = install({"ecampus": platform(moodle, guard=GUARD)})
    welcome(moodle, EVERYBODY)
    worker = installation.worker()
    installation.publish(enrolment(rank) for rank in EVERYBODY)
    eventually(lambda: lawyers(moodle) == numbers(EVERYBODY))
    eventually(lambda: installation.missing("ecampus") == set())
    assert worker.terminate() == 0
    return installation


@pytest.fixture
def departed(law: Installation) -> Installation:
    """A worker runs; by messages, six of the law students left, more than may leave."""
    law.worker()
    law.publish(enrolment(rank, status="resigned", revision=2) for rank in LEAVING)
    eventually(lambda: law.state_of("ecampus").gaps["held"] == len(LEAVING))
    return law


# Plan


def test_plan_says_who_would_leave_and_why_and_what_holds_them(departed: Installation) -> None:
    text = said_by(departed, "plan")
    line = next(line for line in text.splitlines() if "L1DROI" in line)
    assert "6 departed" in line
    assert "held: cohort limit" in line
    assert HASH.search(line)
    assert (
        "ecampus: guard: 20 memberships, 0 removed in 24 h and 0 in 30 days, 0 to be removed, "
        "worst cohort L1DROI 30 %, 6 HELD" in text
    )
    assert number(0) not in text
    named = said_by(departed, "plan", "--students", "--cohort", "L1*")
    assert f"ecampus/L1DROI: leave, departed: {', '.join(sorted(numbers(LEAVING)))}" in named
    assert "L1DROI" not in said_by(departed, "plan", "--cohort", "M1*").splitlines()[3]
    assert "no platform is called nowhere" in said_by(departed, "plan", "--platform", "nowhere", code=2)


def test_plan_as_json_has_the_hash_that_held_shows(departed: Installation) -> None:
    [found] = json_of(departed, "plan", "--students")
    [cohort] = found["cohorts"]
    assert cohort["cohort"] == "L1DROI"
    assert cohort["members"] == 20
    assert cohort["held"] == "cohort"
    assert cohort["removals"] == {"departed": sorted(numbers(LEAVING))}
    assert found["guard"]["enabled"] is True
    held = json_of(departed, "held", "--students")
    assert held == {"hash": cohort["hash"], "cohorts": [cohort], "changes": []}
    [counted] = json_of(departed, "held")["cohorts"]
    assert counted["removals"] == {"departed": 6}


def test_plan_shows_what_closing_a_year_would_do_and_changes_nothing(law: Installation, moodle: SandboxMoodle) -> None:
    [found] = json_of(law, "plan", "--active-years", str(YEAR + 1))
    [cohort] = found["cohorts"]
    assert cohort["removals"] == {"year_closed": 20}
    assert cohort["held"] == "cohort"
    text = said_by(law, "plan", "--active-years", str(YEAR + 1))
    assert "20 year closed" in text
    assert not HASH.search(text)
    refused = said_by(law, "approve", cohort["hash"], code=1)
    assert "nothing was shown under this hash" in refused
    assert json_of(law, "plan")[0]["cohorts"] == []
    both = ("--active-years", str(YEAR), "--active-years", str(YEAR + 1))
    assert json_of(law, "plan", *both)[0]["cohorts"] == []
    law.worker().started()
    assert status.desired(law.ledger, "ecampus") == {"L1DROI": numbers(EVERYBODY)}
    assert lawyers(moodle) == numbers(EVERYBODY)


# Approve, reject, undo


def test_held_removals_are_made_once_they_are_approved_and_undone_by_the_same_hash(
    departed: Installation, moodle: SandboxMoodle
) -> None:
    text = said_by(departed, "held")
    assert "held: 6 removals of 1 cohort; all of them: " in text
    name = HASH.findall(text)[0]
    assert lawyers(moodle) == numbers(EVERYBODY)
    approved = said_by(departed, "approve", name)
    assert "6 memberships of 1 cohort approved: they will be removed" in approved
    assert "  ecampus/L1DROI" in approved
    assert "the approval expires at " in approved
    eventually(lambda: lawyers(moodle) == numbers(EVERYBODY) - numbers(LEAVING))
    assert "held: 0 removals of 0 cohorts" in said_by(departed, "held")
    eventually(lambda: len(status.applied(departed.ledger, "ecampus", Action.REMOVE)) == len(LEAVING))
    assert "6 memberships of 1 cohort undone" in said_by(departed, "undo", name)
    eventually(lambda: lawyers(moodle) == numbers(EVERYBODY))
    departed.publish([enrolment(30)])
    welcome(moodle, [30])
    eventually(lambda: lawyers(moodle) == numbers(EVERYBODY) | {number(30)})
    assert "nothing to undo" in said_by(departed, "undo", name, code=1)


def test_an_approval_of_what_was_shown_before_is_refused_once_it_changed(
    departed: Installation, moodle: SandboxMoodle
) -> None:
    name = HASH.findall(said_by(departed, "held"))[0]
    departed.publish([enrolment(6, status="resigned", revision=2), enrolment(0, revision=3)])
    eventually(lambda: departed.recorded() == departed.published())
    refused = said_by(departed, "approve", name, code=1)
    assert f"{name}: the removals have changed since they were shown: 1 more (L1DROI)" in refused
    assert "1 no longer to be made (L1DROI); look at them again, then decide" in refused
    assert "nothing was shown under this hash" in said_by(departed, "approve", "01234567", code=1)
    eventually(lambda: departed.state_of("ecampus").gaps["held"] == 6)
    assert lawyers(moodle) == numbers(EVERYBODY)
    again = HASH.findall(said_by(departed, "held"))[0]
    said_by(departed, "approve", again)
    eventually(lambda: lawyers(moodle) == numbers([0, *range(7, 20)]))


def test_rejected_removals_are_not_made_and_no_longer_wait(departed: Installation, moodle: SandboxMoodle) -> None:
    name = HASH.findall(said_by(departed, "held"))[0]
    assert "6 memberships of 1 cohort rejected" in said_by(departed, "reject", name)
    assert "held: 0 removals of 0 cohorts" in said_by(departed, "held")
    departed.publish([enrolment(6, status="resigned", revision=2)])  # by itself it may pass
    eventually(lambda: lawyers(moodle) == numbers(EVERYBODY) - {number(6)})


# Reconcile


def test_a_night_is_done_listed_shown_and_undone(law: Installation, moodle: SandboxMoodle, tmp_path: Path) -> None:
    welcome(moodle, [30])
    moodle.add_user(username="a.teacher")
    [cohort] = [each.id for each in moodle.cohorts()]
    moodle.add_member(cohort, moodle.user_ids["a.teacher"])
    moodle.remove_member(cohort, moodle.user_ids[f"e{number(9)}"])
    choir = moodle.create_cohort(name="Chorale", idnumber="CHORALE")
    moodle.add_member(choir, moodle.user_ids[f"e{number(9)}"])
    law.publish_snapshot(rows([*range(2, 20), 30]))  # two have left, one message was lost
    text = said_by(law, "reconcile")
    assert "reconciliation 1: done" in text
    assert "19 enrolments, taken " in text
    assert "1 new or changed, 2 ended by absence, 3 memberships changed" in text
    assert "ecampus: 1 cohort of ours with 20 members; drift: 1 missing" in text
    assert "ecampus: 2 added, 2 removed, 0 held, 0 parked, 0 left; unmatched kept: 1" in text
    assert "ecampus: guard: 21 memberships, 2 removed in 24 h" in text
    assert "ecampus: 1 cohort of others, none changed meanwhile" in text
    assert lawyers(moodle) == numbers([*range(2, 20), 30]) | {"a.teacher"}

    [run] = json_of(law, "runs")
    assert (run["id"], run["state"], run["night"]) == (1, "done", None)
    assert "done" in said_by(law, "runs")
    assert said_by(law, "runs", "show", "1") == text
    report = json_of(law, "runs", "show", "1")
    assert report["snapshot"]["rows"] == 19
    [ecampus] = report["platforms"]
    assert (ecampus["added"], ecampus["removed"], ecampus["strangers"]) == (2, 2, 1)
    for language, words in (("fr", "cohortes"), ("en", "cohorts")):
        said_by(law, "runs", "show", "1", "--html", str(tmp_path / "page.html"), "--lang", language)
        page = (tmp_path / "page.html").read_text(encoding="utf-8")
        assert f'lang="{language}"' in page
        assert words in page
        assert "L1DROI" in page
        assert number(0) not in page
    assert said_by(law, "runs", "show", "1", "--html", "-", "--lang", "en") == page
    assert "run 7 has no report" in said_by(law, "runs", "show", "7", code=2)

    assert "2 memberships of 1 cohort undone" in said_by(law, "undo", "1")
    law.worker()
    eventually(lambda: lawyers(moodle) == numbers([*EVERYBODY, 30]) | {"a.teacher"})


def test_a_snapshot_that_is_not_whole_is_refused_and_nothing_is_changed(
    law: Installation, moodle: SandboxMoodle
) -> None:
    scope = SnapshotScope(uais=frozenset({UAI}), academic_years=frozenset({YEAR}))
    with collect((EnrolmentRow.model_validate_json(row) for row in rows([1])), scope) as image:
        cut = Messages(image, snapshot_id="S1", taken_at=datetime.now(UTC), partitions=law.partitions)
        for part in (cut.begins(), cut.rows(image)):
            RecordProducer(law.kafka.properties).send_to(law.snapshots, part)
    before, calls = status.desired(law.ledger, "ecampus"), len(moodle.calls)
    text = said_by(law, "reconcile", code=6)
    assert "reconciliation 1: refused" in text
    assert re.search(
        r"snapshot S1: partition \d has no end of it, after \d row\(s\): its producer did not finish", text
    )
    assert status.desired(law.ledger, "ecampus") == before
    assert not any(call.writes for call in moodle.calls[calls:])
    [run] = json_of(law, "runs")
    assert run["state"] == "refused"
    assert said_by(law, "runs", "show", "1") == text


def test_a_night_without_any_snapshot_is_refused_unless_it_only_reads_moodle_back(
    law: Installation, moodle: SandboxMoodle
) -> None:
    [cohort] = [each.id for each in moodle.cohorts()]
    moodle.remove_member(cohort, moodle.user_ids[f"e{number(9)}"])
    assert "there is no snapshot on the topic" in said_by(law, "reconcile", code=6)
    assert lawyers(moodle) == numbers(EVERYBODY) - {number(9)}
    report = json_of(law, "reconcile", "--without-snapshot")
    assert (report["state"], report["snapshot"]) == ("done", None)
    assert report["platforms"][0]["drift"] == {"missing": 1}
    assert lawyers(moodle) == numbers(EVERYBODY)


def test_a_platform_that_is_down_makes_a_night_partial(install: Install, moodle: SandboxMoodle) -> None:
    down = SandboxMoodle(name="Collegium", token="secret-of-collegium")
    with down.serving():
        installation = install({"ecampus": platform(moodle), "collegium": platform(down)})
        welcome(moodle, EVERYBODY)
        down.fault = Fault.PHP_DOWN
        installation.publish_snapshot(rows(EVERYBODY))
        text = said_by(installation, "reconcile", code=7)
        assert "reconciliation 1: partial" in text
        assert re.search(r"collegium: NOT READ since .*: .*HTTP 502", text.splitlines()[1])  # first of all
        assert lawyers(moodle) == numbers(EVERYBODY)
        assert lawyers(down) == set()


def test_a_platform_that_denies_makes_nights_partial_until_it_is_put_right(
    law: Installation, moodle: SandboxMoodle
) -> None:
    welcome(moodle, range(21))
    law.publish([enrolment(20)])
    moodle.fault = Fault.ACCOUNT_SUSPENDED
    worker = law.worker()
    eventually(lambda: status_of(law)["state"] == "denied")
    since = status_of(law)["since"]
    assert worker.terminate() == 0
    text = said_by(law, "reconcile", "--without-snapshot", code=7).splitlines()
    assert "reconciliation 1: partial" in text[0]
    began = datetime.fromtimestamp(since, PARIS).isoformat(" ", "minutes")
    assert text[1].startswith(f"ecampus: NOT READ since {began}: ")
    assert "suspended" in text[1]
    assert "last read: never; once it answers, run `cohorts reconcile --without-snapshot`" in text[2]
    assert text[3] == "ecampus: LEFT: 1 change; `cohorts status` says what they wait for"
    moodle.fault = None
    assert status_of(law)["next_attempt_at"] > datetime.now(UTC).timestamp() + 60
    assert "ecampus was denied: " in said_by(law, "retry", "ecampus")
    assert status_of(law)["next_attempt_at"] <= datetime.now(UTC).timestamp()
    said_by(law, "reconcile", "--without-snapshot")
    assert lawyers(moodle) == numbers(range(21))
    assert [run["state"] for run in json_of(law, "runs")] == ["done", "partial"]
    assert "answered all the time" in said_by(law, "retry", "ecampus")


def test_a_worker_that_is_started_again_retries_at_once(law: Installation, moodle: SandboxMoodle) -> None:
    welcome(moodle, range(21))
    law.publish([enrolment(20)])
    moodle.fault = Fault.INVALID_TOKEN
    worker = law.worker()
    eventually(lambda: status_of(law)["state"] == "denied")
    assert worker.terminate() == 0
    moodle.fault = None
    law.worker()
    eventually(lambda: lawyers(moodle) == numbers(range(21)))
    assert status_of(law)["state"] == "up"


def test_what_cannot_be_retried_is_told(install: Install, moodle: SandboxMoodle) -> None:
    by_hand = platform(moodle, mode="manual") | {"url": "https://prelude.invalid"}
    installation = install({"ecampus": platform(moodle), "prelude": by_hand})
    told = said_by(installation, "retry", "collegium", code=2)
    assert "no platform is called collegium" in told
    assert "ecampus, prelude" in told
    assert "managed by hand" in said_by(installation, "retry", "prelude", code=2)


def test_a_night_without_kafka_ends_with_its_code_and_counts_as_failed(law: Installation) -> None:
    law.settings["kafka"]["snapshots"] = "nowhere"
    law.write_settings()
    assert "The topic nowhere does not exist; create it" in said_by(law, "reconcile", code=3)
    [run] = json_of(law, "runs")
    assert run["state"] == "failed"
    assert "reconciliation 1: failed" in said_by(law, "runs", "show", "1")


# The guard


def test_a_guard_that_is_off_is_reported_everywhere(install: Install, moodle: SandboxMoodle) -> None:
    installation = install({"ecampus": platform(moodle, guard=GUARD | {"enabled": False})})
    welcome(moodle, EVERYBODY)
    installation.publish_snapshot(rows(EVERYBODY))
    said_by(installation, "reconcile")
    loud = "THE GUARD IS OFF"
    assert f"warning ecampus guard: {loud}" in said_by(installation, "check")
    assert f"ecampus: {loud}" in said_by(installation, "status")
    assert f"ecampus: {loud}" in said_by(installation, "plan")
    installation.publish_snapshot(rows(range(10, 20)))
    installation.settings["snapshot"] = {"max_shrink_percent": 100}
    installation.write_settings()
    assert f"ecampus: {loud}" in said_by(installation, "reconcile")
    assert lawyers(moodle) == numbers(range(10, 20))
    assert installation.worker().metrics()["cohorts_guard_enabled", "ecampus"] == 0
    installation.settings["platforms"]["ecampus"]["guard"]["enabled"] = True
    installation.write_settings()
    assert loud not in said_by(installation, "check") + said_by(installation, "status") + said_by(installation, "plan")


# Inside the workers


def test_a_night_has_one_run_among_two_workers_and_is_kept(
    install: Install, moodle: SandboxMoodle, postgres_url: str
) -> None:
    installation = install(ledger={"url": postgres_url})
    welcome(moodle, EVERYBODY)
    installation.publish_snapshot(rows(EVERYBODY))
    due = datetime.now(PARIS) - timedelta(minutes=5)
    workers = [installation.worker("--reconcile-at", f"{due:%H:%M}") for _ in range(2)]
    for worker in workers:
        eventually(polled(worker))
    eventually(lambda: any(worker.events("reconciliation ended") for worker in workers))
    assert lawyers(moodle) == numbers(EVERYBODY)
    [run] = json_of(installation, "runs")
    assert (run["night"], run["state"]) == (f"{due:%Y-%m-%d}", "done")
    report = json_of(installation, "runs", "show", str(run["id"]))
    assert (report["night"], report["snapshot"]["rows"]) == (run["night"], 20)
    assert [worker.terminate() for worker in workers] == [0, 0]
    assert sum(len(worker.events("reconciliation ended")) for worker in workers) == 1


def polled(worker: Process) -> Callable[[], bool]:
    return lambda: worker.metrics()["cohorts_last_poll_timestamp_seconds",] > 0
