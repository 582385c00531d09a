"""`cohorts explain` as the people of digital learning run it, beside a worker on a real Kafka."""

import json

import pytest

from tests.support.installation import Install, enrolment, eventually, lawyers, number, numbers, platform, welcome
from worker.sandbox.moodle.server import SandboxMoodle

pytestmark = pytest.mark.end_to_end


def test_explain_answers_why_and_why_not_in_both_languages_and_as_json(install: Install, moodle: SandboxMoodle) -> None:
    installation = install({"ecampus": platform(moodle), "prelude": {"mode": "manual"}}, partitions=1)
    welcome(moodle, [0, 2])
    installation.worker()
    installation.publish([enrolment(0), enrolment(1), enrolment(2)])
    eventually(lambda: lawyers(moodle) == numbers([0, 2]))
    installation.publish([enrolment(2, status="resigned", revision=2)])
    eventually(lambda: lawyers(moodle) == numbers([0]))
    eventually(lambda: installation.state_of("ecampus").reasons == {"no_account": 1})

    def explained(*arguments: str, code: int = 0) -> str:
        done = installation.run("explain", *arguments)
        assert (done.returncode, done.stderr) == (code, "")
        return done.stdout

    french = explained(number(0))
    assert f"Numéro étudiant {number(0)}, situation au " in french
    assert f"  - Source : {installation.topic}[0]@0 ; état au " in french
    assert "ecampus, cohorte L1DROI « UFR Droit: Licence 1 Droit »\n  Doit être membre, et l'est.\n" in french
    assert "  - Ajout effectué sur Moodle le " in french
    assert "prelude est gérée à la main" in french

    missing = explained(number(1), "--platform", "ecampus", "--cohort", "L1DROI", "--lang", "en")
    assert "  Must be a member, and isn't yet.\n" in missing
    assert f"  - No Moodle account whose username is e{number(1)} (searched on " in missing
    assert "prelude" not in missing

    gone = json.loads(explained(number(2), "--platform", "ecampus", "--json"))
    assert gone["student"] == number(2)
    [ended] = gone["enrolments"]
    assert (ended["fact"]["status"], ended["fact"]["origin"]) == ("resigned", f"{installation.topic}[0]@3")
    assert [finding["code"] for finding in ended["findings"]] == ["status"]
    [answer] = gone["answers"]
    assert (answer["platform"], answer["cohort"]) == ("ecampus", "L1DROI")
    assert answer["state"]["code"] == "not_member"
    assert {"would_lead", "ended_since", "removed"} <= {finding["code"] for finding in answer["findings"]}

    assert "Aucune source ne connaît le numéro 2000001." in explained("2000001", code=1)
    assert "Cohorte inconnue" in explained(number(0), "--cohort", "L1DRO1")
    assert "Plateformes connues : ecampus, prelude." in explained(number(0), "--platform", "nowhere", code=2)
    assert installation.run("explain", number(0), "--lang", "de").returncode == 2
