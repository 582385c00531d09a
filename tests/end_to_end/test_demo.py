import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from worker.sandbox.demo import day, run
from worker.sandbox.demo.show import Show
from worker.sandbox.demo.stage import Stage

STUDENTS = 250
TUTORIAL = Path(__file__).parents[2] / "docs" / "tutorial" / "demo.md"


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(day, "DAY_SECONDS", 2.0)
    monkeypatch.setattr("worker.sandbox.demo.show.TIMEOUT_SECONDS", 30.0)
    monkeypatch.setenv("COHORTS_LEDGER__URL", "sqlite:////nowhere/real.db")  # must not be reached
    with capture_logs():
        yield


def test_the_demo_finds_every_cohort_as_the_generator_says_and_leaves_a_decision_to_the_spectator(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "_run_on", not_at_all)  # it would go on until Ctrl-C
    held = run.run(students=STUDENTS, seed=2, serve=True)
    printed = capsys.readouterr().out
    assert held, printed
    assert "every check held" in printed
    assert "FAILED" not in printed
    for shown in (
        "2 changed hands, 1 extra, 1 gone account, 1 missing, 1 renamed, 1 unmatched kept",
        "1 vanished",
        "`cohorts held`",
    ):
        assert shown in printed
    assert "This time the decision is yours." in printed
    assert [line for line in quoted_by_the_tutorial() if words(line) not in set(map(words, printed.splitlines()))] == []


def not_at_all(stage: Stage, show: Show) -> None:
    """Let no further day pass."""


def quoted_by_the_tutorial() -> list[str]:
    blocks = re.findall(r"^```text\n(.*?)^```", TUTORIAL.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line]


def words(line: str) -> str:
    """Return a line without its figures, codes, hashes and functions of Moodle: they are those of one university."""
    return re.sub(r"core_\w+|[\w.]*\d[\w.]*|\b[A-Z]{2,}\b", "#", line)


def test_the_demo_fails_and_prints_what_differs_when_somebody_meddles(capsys: pytest.CaptureFixture[str]) -> None:
    expected: dict[str, str] = {}

    def meddle(stage: Stage) -> None:
        ecampus, prelude = stage.platforms["ecampus"], stage.platforms["prelude"]
        crowded, emptied, renamed = sorted(
            (cohort for cohort in ecampus.moodle.cohorts() if cohort.id not in ecampus.by_hand),
            key=lambda cohort: (-len(ecampus.moodle.members(cohort.id)), cohort.idnumber),
        )[:3]
        missing = min(ecampus.moodle.members(crowded.id))
        ecampus.moodle.remove_member(crowded.id, missing)
        ecampus.moodle.delete_cohort(emptied.id)
        ecampus.moodle.rename_cohort(renamed.id, "Autre nom")
        prelude.moodle.add_member(min(prelude.by_hand), min(prelude.students))
        prelude.moodle.remove_member(max(prelude.by_hand), next(iter(prelude.moodle.members(max(prelude.by_hand)))))
        prelude.moodle.create_cohort(name="En trop", idnumber="L9TROP")
        stage.poison.pop()
        expected["missing"] = f"ecampus: {crowded.idnumber}: 1 missing: {ecampus.students[missing]}"
        expected["deleted"] = f"ecampus: {emptied.idnumber}: 0 cohorts instead of one"
        expected["renamed"] = f"ecampus: {renamed.idnumber}: is named «Autre nom», not «"
        expected["handmade"] = f"FAILED prelude: the {len(prelude.by_hand)} cohorts made by hand are untouched"
        expected["added"] = "prelude: L9TROP: is named «En trop»"
        expected["letters"] = f"FAILED {len(stage.poison) + 1} dead letters: exactly the {len(stage.poison)}"

    assert not run.run(students=STUDENTS, meddle=meddle)
    printed = capsys.readouterr().out
    for sentence in expected.values():
        assert sentence in printed, printed
    assert "4 checks FAILED" in printed, printed


def test_the_demo_stops_when_somebody_meddles_while_it_reconciles(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected: dict[str, str] = {}

    def meddle(stage: Stage) -> None:
        ecampus, prelude = stage.platforms["ecampus"], stage.platforms["prelude"]
        [(code, members)] = stage.overrides.items()
        missing = min(members)
        ecampus.moodle.remove_member(ecampus.etapes()[code], ecampus.accounts()[missing])
        cohort_id, (cohort, _) = max(prelude.by_hand.items())
        prelude.moodle.rename_cohort(cohort_id, "Autre nom")
        expected["member"] = f"ecampus: {code}: 1 missing: {missing}"
        expected["untouched"] = "FAILED foreign cohorts are untouched"
        expected["proof"] = f"prelude: {cohort.idnumber}: name (0 entries in our journal)"
        monkeypatch.setattr("worker.sandbox.demo.show.TIMEOUT_SECONDS", 1.0)

    assert not run.run(students=STUDENTS, meddle_at_night=meddle)
    printed = capsys.readouterr().out
    for sentence in expected.values():
        assert sentence in printed, printed
    assert "cohorts approve" not in printed
    assert "FAILED" in printed.rpartition("Verdict")[2]
