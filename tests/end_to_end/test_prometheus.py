"""Prometheus and Grafana, as operators deploy them: rules that fire, and queries that find what workers tell."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

from tests.support.installation import Install, enrolment, eventually, lawyers, numbers, platform, welcome
from tests.support.paths import ROOT
from tests.support.requirements import needed
from tests.support.servers import free_ports
from tests.support.servers.prometheus import Prometheus, promtool, real_prometheus
from tools.dashboards.__main__ import DASHBOARDS, HERE, text
from worker.sandbox.moodle.server import SandboxMoodle

pytestmark = [pytest.mark.end_to_end, pytest.mark.prometheus]

DEPLOY = ROOT / "deploy" / "prometheus"
RULES = [DEPLOY / "recording.yml", DEPLOY / "alerts.yml"]
TESTS = [DEPLOY / "tests.yml", DEPLOY / "tests-days.yml"]

EXPECTED = {
    "CohortsGuardOff",
    "CohortsNightPartial",
    "CohortsSnapshotRefused",
    "CohortsDeadLetters",
    "CohortsPlatformDown",
}
"""Alerts of which the world of the test has the cause."""
EMPTY = {
    "cohorts_consumption_stopped": "nothing has stopped it",
    "cohorts_watch_": "no directory is watched",
    "offset 1d": "there was no day before",
    "platform:cohorts_oldest_gap_age_seconds:max": "nothing that could be applied waits",
}
"""What a query may hold that finds nothing here, and why."""


def parsed(path: Path) -> Any:  # noqa: ANN401 - whatever YAML holds
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def rules_of(kind: str) -> list[dict[str, Any]]:
    return [rule for path in RULES for group in parsed(path)["groups"] for rule in group["rules"] if kind in rule]


def queries(name: str) -> Iterator[tuple[str, str]]:
    """Return the queries of a dashboard as Grafana sends them when every platform is chosen: (panel, expression)."""
    for panel in json.loads((HERE / name).read_text(encoding="utf-8"))["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"].replace("$platform", ".*").replace("$__rate_interval", "1m")


# The rules alone


def test_the_rules_are_sound() -> None:
    with needed():
        done = promtool("check", "rules", "--lint-fatal", *RULES)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("tests", TESTS, ids=lambda path: path.stem)
def test_the_rules_pass_their_unit_tests(tests: Path) -> None:
    with needed():
        done = promtool("test", "rules", tests)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_seen_to_fire_and_not_to_fire() -> None:
    seen: dict[bool, set[str]] = {True: set(), False: set()}
    for case in (case for path in TESTS for test in parsed(path)["tests"] for case in test["alert_rule_test"]):
        seen[bool(case["exp_alerts"])].add(case["alertname"])
    alerts = {rule["alert"] for rule in rules_of("alert")}
    assert seen[True] == alerts
    assert seen[False] == alerts


def test_unit_tests_evaluate_every_group_in_an_order_that_is_given() -> None:
    groups = [group["name"] for path in RULES for group in parsed(path)["groups"]]
    assert all(parsed(path)["group_eval_order"] == groups for path in TESTS)


def test_a_record_of_a_window_looks_at_that_window() -> None:
    windows = 0
    for rule in rules_of("record"):
        if window := re.search(r"(?:increase|ratio)(\d+[mhd])$", rule["record"]):
            windows += 1
            assert set(re.findall(r"\[(\w+)\]|increase(\d+\w)", rule["expr"])) <= {(window[1], ""), ("", window[1])}
    assert windows == 12


# The dashboards alone


@pytest.mark.parametrize("name", DASHBOARDS)
def test_the_dashboards_are_what_the_code_says(name: str) -> None:
    assert (HERE / name).read_text(encoding="utf-8") == text(name), "run `make dashboards`"


@pytest.mark.parametrize("name", DASHBOARDS)
def test_no_dashboard_names_a_data_source_and_each_panel_is_explained(name: str) -> None:
    page = json.loads((HERE / name).read_text(encoding="utf-8"))
    sources = re.findall(r'"datasource": (\{[^}]*\}|"[^"]*")', (HERE / name).read_text(encoding="utf-8"))
    assert {json.loads(source)["uid"] for source in sources} == {"$datasource"}
    assert {variable["name"] for variable in page["templating"]["list"]} == {"datasource", "platform"}
    assert len({panel["id"] for panel in page["panels"]}) == len(page["panels"])
    for panel in page["panels"]:
        assert panel["title"]
        letters = [target["refId"] for target in panel.get("targets", ())]
        assert all(letters)
        assert len(set(letters)) == len(letters)
        if panel["type"] != "row":
            assert panel["description"].endswith("."), panel["title"]
            assert letters, panel["title"]


# A real Prometheus that scrapes a real worker


def test_every_rule_and_every_query_finds_the_metrics_of_a_worker(install: Install, moodle: SandboxMoodle) -> None:
    """A day with a bit of everything: changes, a dead letter, people without account, removals held, a night."""
    elsewhere = SandboxMoodle(name="Elsewhere", token="secret-of-elsewhere")
    elsewhere.url = f"http://127.0.0.1:{free_ports(1)[0]}"  # where nobody serves it
    installation = install({
        "ecampus": platform(moodle),
        "sante": platform(elsewhere, guard={"enabled": False}, routes=[{"components": ["MED"]}]),
    })  # fmt: skip
    welcome(moodle, range(40))
    worker = installation.worker()
    address = worker.started().removeprefix("http://")
    with needed(), real_prometheus([address], RULES) as prometheus:
        eventually(lambda: prometheus.query("sum(cohorts_changes_total) == 0"))
        installation.publish(enrolment(rank) for rank in range(43))  # three of whom have no account
        eventually(lambda: lawyers(moodle) == numbers(range(40)))
        installation.produce([(b"poison", b"{}", ())])
        installation.publish(enrolment(rank, status="resigned", revision=2) for rank in range(20))
        eventually(lambda: installation.state_of("ecampus").gaps["held"] == 20)
        installation.publish_snapshot(orjson.dumps(enrolment(rank).value["data"]) for rank in range(20, 43))
        assert installation.run("reconcile").returncode == 7  # elsewhere could not be read
        installation.publish_snapshot([orjson.dumps(enrolment(20).value["data"])])
        assert installation.run("reconcile").returncode == 7  # as before; and so small a snapshot is refused

        eventually(lambda: prometheus.query("max(cohorts_snapshot_refusals) > 0"))
        eventually(lambda: prometheus.query("sum(cohorts_dead_letters_total) == 1"))
        eventually(lambda: firing(prometheus) >= {"CohortsNightPartial", "CohortsSnapshotRefused"})
        rules = {rule["name"]: rule for rule in prometheus.rules()}
        assert [rule for rule in rules.values() if rule["health"] != "ok"] == []
        recorded = {rule["record"] for rule in rules_of("record")}
        assert recorded <= rules.keys()
        for name in sorted(recorded):
            assert prometheus.query(name) or name in EMPTY, name
        for name in DASHBOARDS:
            for panel, expr in queries(name):
                found = prometheus.query(expr)
                why = [reason for part, reason in EMPTY.items() if part in expr]
                assert found or why, f"{name}, {panel}: nothing is found by {expr}"
        pending = {name for name, rule in rules.items() if rule.get("alerts")}
        assert pending == EXPECTED


def firing(prometheus: Prometheus) -> set[str]:
    return {series["metric"]["alertname"] for series in prometheus.query('ALERTS{alertstate="firing"}')}
