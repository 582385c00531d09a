import json
import pydoc
import re
import subprocess
import tomllib
from datetime import date
from pathlib import Path
from typing import Any

import pytest

import schemas
from tests.support.paths import ROOT
from tools import prometheus_rule, reference
from worker.domain.rules import Mode
from worker.runtime import check
from worker.settings.root import load

DOCS = ROOT / "docs"
OPERATE = {path.stem: path.read_text(encoding="utf-8") for path in (DOCS / "operate").glob("*.md")}
ALERTS, RECORDS = (
    (ROOT / "deploy" / "prometheus" / name).read_text(encoding="utf-8") for name in ("alerts.yml", "recording.yml")
)
KUBERNETES_RULES = prometheus_rule.TARGET.read_text(encoding="utf-8")
DASHBOARDS = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "deploy" / "grafana").glob("*.json"))]
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
REFERENCE = "".join(reference.pages().values())


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def headings(page: Path) -> list[str]:
    text = re.sub(r"^ *```.*?^ *```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"^#+ (.*)$", text, re.MULTILINE)


def anchor(heading: str) -> str:
    """What code hosts and the site make of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize(("page", "text"), reference.pages().items(), ids=lambda each: getattr(each, "stem", ""))
def test_the_reference_is_what_the_code_says(page: Path, text: str) -> None:
    assert page.read_text(encoding="utf-8") == text, "run `make reference`"


def test_every_setting_is_described() -> None:
    described = [line for line in REFERENCE.splitlines() if line.startswith("| `")]
    assert not [line for line in described if line.endswith(("|  |", "| None |"))]


def test_every_alert_is_explained_and_no_other() -> None:
    alerts = [alert["alert"] for alert in reference.alerts()]
    assert alerts == headings(DOCS / "operate" / "alerts.md")[1:]


@pytest.mark.parametrize("alert", reference.alerts(), ids=lambda alert: alert["alert"])
def test_an_alert_says_how_bad_it_is_with_figures_and_where_to_read_on(alert: dict[str, Any]) -> None:
    assert alert["labels"]["severity"] in {"page", "warning"}
    said = alert["annotations"]
    assert said.keys() == {"summary", "description", "runbook_url"}
    assert re.search(r"\d|\{\{", said["description"])
    assert said["runbook_url"] == f"docs/operate/alerts.md#{alert['alert'].lower()}"


@pytest.mark.parametrize("rules", [ALERTS, KUBERNETES_RULES], ids=["prometheus", "kubernetes"])
def test_the_links_of_alerts_are_made_addresses_as_the_page_on_monitoring_says(rules: str) -> None:
    scripts = set(re.findall(r"sed '([^']+)'", OPERATE["monitoring"]))
    assert len(scripts) == 1
    done = subprocess.run(["sed", *scripts], input=rules, capture_output=True, check=True, text=True)  # noqa: S603, S607 - as the page has it
    links = re.findall(r"runbook_url: (.*)", done.stdout)
    assert len(links) == len(reference.alerts())
    assert all(re.fullmatch(r"https://\S+/docs/operate/alerts\.md#cohorts[a-z]+", link) for link in links)


@pytest.mark.parametrize("text", [ALERTS, RECORDS, *DASHBOARDS], ids=lambda text: text[:30])
def test_rules_and_dashboards_speak_of_metrics_that_exist(text: str) -> None:
    recorded = set(re.findall(r"- record: (\S+)", RECORDS))
    assert set(re.findall(r"\b[a-z_]+:cohorts_\w+:\w+", text)) <= recorded
    used = {re.sub(r"_(bucket|count|sum)$", "", name) for name in re.findall(r"(?<![:\w])cohorts_\w+", text)}
    assert used <= set(re.findall(r"^\| `(cohorts_\w+)`", REFERENCE, re.MULTILINE))


SECTIONS = re.split(r"^## ", OPERATE["alerts"], flags=re.MULTILINE)[1:]


@pytest.mark.parametrize("section", SECTIONS, ids=lambda s: s.split()[0])
def test_the_page_on_alerts_says_of_each_where_to_look_what_to_do_and_how_to_know_that_it_worked(section: str) -> None:
    for part in (r"\*\*Look\*\*", r"\*\*[Dd]o\*\*", r"\*\*It worked\*\*"):
        assert re.search(part, " ".join(section.split()))


def test_every_metric_is_on_a_dashboard_or_in_a_rule() -> None:
    watched = " ".join([ALERTS, RECORDS, *DASHBOARDS])
    assert [name for name in re.findall(r"^\| `(cohorts_\w+)`", REFERENCE, re.MULTILINE) if name not in watched] == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_pages_speak_of_commands_metrics_and_files_that_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    commands = set(re.findall(r"^\| `cohorts ([a-z-]+)", REFERENCE, re.MULTILINE))
    assert set(re.findall(r"(?:`|bin/)cohorts ([a-z][a-z-]*)", text, re.MULTILINE)) <= commands
    assert set(re.findall(r"`(cohorts_\w+)`", text)) <= set(re.findall(r"`(cohorts_\w+)`", REFERENCE))
    targets = set(re.findall(r"`make (\w+)`|^make (\w+)", text, re.MULTILINE))
    assert {name for pair in targets for name in pair if name} <= set(
        re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    )


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_to_files_and_headings_that_exist(page: Path) -> None:
    links = re.findall(r"\]\(([^):#]*)(?:#([^)]*))?\)", page.read_text(encoding="utf-8"))
    for link, fragment in links:
        target = page.parent / link if link else page
        assert target.exists(), link
        if fragment:
            assert fragment in set(map(anchor, headings(target))), f"{link}#{fragment}"


def test_pages_of_the_site_are_all_in_its_navigation() -> None:
    listed = {DOCS / "index.md", DOCS / "fr" / "index.md"}
    for page in DOCS.rglob("*.md"):
        for block in re.findall(r"```\{toctree\}(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            entries = [line for line in block.splitlines() if line and not line.startswith(":")]
            listed |= {(DOCS / e[1:] if e.startswith("/") else page.parent / e).with_suffix(".md") for e in entries}
    assert set(DOCS.rglob("*.md")) == listed


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_pages_speak_of_settings_that_exist(page: Path) -> None:
    known = {re.sub(r"\*\w+\*\.", "", path) for path in re.findall(r"^\| `([a-z_.*A-Zn]+)`", REFERENCE, re.MULTILINE)}
    known |= {path.split(".", 1)[1] for path in known if "." in path}
    said = re.findall(
        r"`((?:kafka|ledger|web|limits|converge|eligibility|retention)\.[a-z_]+)`", page.read_text(encoding="utf-8")
    )
    assert set(said) - {"retention.ms"} <= known  # which is Kafka's


@pytest.mark.parametrize("page", [page for page in PAGES if "```json\n" in page.read_text(encoding="utf-8")], ids=name)
def test_messages_in_the_documents_are_valid(page: Path) -> None:
    for message in re.findall(r"```json\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        schemas.EVENTS.validate_json(json.dumps(json.loads(message)))


def test_the_flows_to_begin_reading_with_exist() -> None:
    flows = re.findall(r"`(sync\.[\w.]+)`", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    assert len(flows) == 3
    assert [flow for flow in flows if pydoc.locate(f"worker.{flow}") is None] == []


def test_the_example_settings_are_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COHORTS_PLATFORMS__ECAMPUS__TOKEN", "t")
    monkeypatch.setenv("COHORTS_PLATFORMS__COLLEGIUM__TOKEN", "t")
    settings = load(ROOT / "deploy" / "cohorts.toml")
    assert settings.platforms["prelude"].mode is Mode.MANUAL


def test_the_functions_of_the_service_account_are_those_that_are_checked() -> None:
    assert set(re.findall(r"`(core_\w+)`", OPERATE["prepare"])) == {*check.READING, *check.WRITING}


def test_the_french_page_says_what_explain_says() -> None:
    page = (DOCS / "fr" / "appui.md").read_text(encoding="utf-8")
    words = (ROOT / "worker" / "explain" / "fr.toml").read_text(encoding="utf-8")
    said = re.findall(r"^\| \*([^*]+?)…?\* \|", page, re.MULTILINE)
    assert len(said) == 13
    assert [sentence for sentence in said if sentence not in words] == []


def sentences(language: str) -> list[re.Pattern[str]]:
    """The sentences of `cohorts explain`: `{name}` stands for a value, what is in brackets may be absent."""
    sections = tomllib.loads((ROOT / "worker" / "explain" / f"{language}.toml").read_text(encoding="utf-8"))
    templates = [text for section in ("headings", "sentences") for text in sections[section].values()]
    patterns = [re.sub(r"\\\{\w+\\\}", ".+", re.escape(text)) for text in templates]
    return [re.compile(pattern.replace(r"\[", "(?:").replace(r"\]", ")?")) for pattern in patterns if pattern != ".+"]


@pytest.mark.parametrize(
    ("page", "language"),
    [("README.md", "fr"), ("docs/fr/appui.md", "fr"), ("docs/tutorial/first-platform.md", "en")],
    ids=["readme", "appui", "tutorial"],
)
def test_answers_in_the_documents_are_in_the_words_of_explain(page: str, language: str) -> None:
    blocks = re.findall(r"```text\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
    [answer] = [block for block in blocks if "\n  - " in block]
    lines = [line.strip().removeprefix("- ") for line in answer.splitlines() if line and not line.startswith("$")]
    assert [line for line in lines if not any(known.match(line) for known in sentences(language))] == []


def test_the_lock_of_what_runs_says_when_it_was_made() -> None:
    lock = (ROOT / "requirements-runtime.lock").read_text(encoding="utf-8")
    locked = re.match(r"# locked on (\S+)\n", lock)
    assert locked is not None
    assert date.fromisoformat(locked[1]) >= date(2026, 11, 25)
