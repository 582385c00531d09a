"""Collisions that a Moodle on MariaDB would refuse, told beforehand: by the templates, the aliases and the étapes."""

from dataclasses import replace

from tests.support.builders import ECAMPUS, NOW, POLICY, told
from tests.support.scenes import Scene
from worker.domain.rules import CohortTemplate, PlatformPolicy, Policy
from worker.domain.states import CohortState, Status
from worker.ledger import Ledger
from worker.runtime.collisions import collisions


def found(ledger: Ledger, policy: Policy = POLICY, platform: PlatformPolicy = ECAMPUS) -> list[str]:
    """Return what collides, without the sentence's explanation."""
    return [sentence.partition(":")[0] for sentence in collisions(policy, platform, ledger)]


def enrol(ledger: Ledger, *etapes: str) -> Scene:
    scene = Scene(ledger)
    scene.tell(*(told(enrolment_id=etape, student_id=f"2990{rank}", etape=etape) for rank, etape in enumerate(etapes)))
    return scene


def test_settings_and_etapes_that_differ_do_not_collide(ledger: Ledger) -> None:
    enrol(ledger, "C2ABC", "C2ABD", "C2 ABC")
    assert found(ledger) == []


def test_etapes_that_mariadb_takes_for_one_are_named_together(ledger: Ledger) -> None:
    enrol(ledger, "C2ABC", "C2abc", "C2ÉTÉ", "C2ETE", "L1DROI")
    assert found(ledger) == ["étapes lead to 'C2ABC' and 'C2abc'", "étapes lead to 'C2ETE' and 'C2ÉTÉ'"]


def test_etapes_that_moodle_has_side_by_side_do_not_collide_there(ledger: Ledger) -> None:
    enrol(ledger, "C2ABC", "C2abc").settle()
    assert found(ledger) == []


def test_a_collision_that_moodle_has_refused_already_is_not_told_twice(ledger: Ledger) -> None:
    scene = enrol(ledger, "C2ABC", "C2abc")
    scene.change_cohort(state=CohortState.COLLIDING, blocker_id=7, blocker="C2ABC")
    assert found(ledger) == []


def test_an_etape_that_nobody_is_enrolled_in_collides_with_none(ledger: Ledger) -> None:
    scene = enrol(ledger, "C2ABC", "C2abc")
    scene.tell(
        told(enrolment_id="C2abc", student_id="29901", etape="C2abc", version=2, changed_at=NOW, status=Status.RESIGNED)
    )
    assert found(ledger) == []


def test_an_alias_is_followed_before_the_worker_is_started_with_it(ledger: Ledger) -> None:
    enrol(ledger, "C2OLD", "C2ABC", "C2abc")
    assert found(ledger, replace(POLICY, aliases={"C2OLD": "L1", "C2abc": "C2ABC"})) == []
    assert found(ledger, replace(POLICY, aliases={"C2OLD": "C2ABç"})) == [
        "étapes lead to 'C2ABC' and 'C2ABç' and 'C2abc'"
    ]


def test_aliases_to_two_spellings_of_one_code_collide(ledger: Ledger) -> None:
    aliases = {"A": "C2ABC", "B": "C2abc"}
    assert found(ledger, replace(POLICY, aliases=aliases)) == ["aliases lead to 'C2ABC' and 'C2abc'"]


def test_templates_that_differ_by_case_alone_collide(ledger: Ledger) -> None:
    templates = (CohortTemplate(idnumber="E-{etape}"), CohortTemplate(idnumber="é-{etape}"))
    platform = replace(ECAMPUS, templates=templates)
    assert found(ledger, replace(POLICY, platforms=(platform,)), platform) == ["templates 'E-{etape}' and 'é-{etape}'"]
