from collections.abc import Mapping
from dataclasses import replace

import pytest

from tests.support.builders import ECAMPUS, ETAPE, FOREIGN_UAI, POLICY, TOLD, deleted, told
from worker.domain.changes import EnrolmentChange
from worker.domain.rules import (
    NAME_LIMIT,
    AccountField,
    CohortTemplate,
    Mapper,
    Mode,
    PlatformPolicy,
    Route,
    Verdict,
    WantedCohort,
    account_key,
    canonical,
    eligibility,
)
from worker.domain.states import Payment, Status


def idnumbers(
    *enrolments: EnrolmentChange,
    routes: tuple[Route, ...] = (Route(),),
    templates: tuple[str, ...] = ("{etape}",),
    aliases: Mapping[str, str] | None = None,
    components: Mapping[str, str | None] | None = None,
) -> set[str]:
    """Cohorts that a student's enrolments lead to, on a platform like that."""
    platform = replace(ECAMPUS, routes=routes, templates=tuple(CohortTemplate(idnumber=t) for t in templates))
    mapper = Mapper(replace(POLICY, platforms=(platform,), aliases=aliases or {}))
    return {wanted.idnumber for wanted in mapper.desired(enrolments, components or {})}


# Who counts


@pytest.mark.parametrize(
    ("enrolment", "verdict"),
    [
        (told(), Verdict.ELIGIBLE),
        (told(payment=Payment.UNKNOWN), Verdict.ELIGIBLE),
        (told(component=None), Verdict.ELIGIBLE),
        (told(uai=FOREIGN_UAI), Verdict.FOREIGN_UAI),
        (told(etape=None), Verdict.NO_ETAPE),
        (deleted(), Verdict.NO_ETAPE),
        (told(status=Status.DELETED), Verdict.STATUS),
        (told(status=Status.CANCELLED), Verdict.STATUS),
        (told(status=Status.RESIGNED), Verdict.STATUS),
        (told(status=Status.PENDING), Verdict.STATUS),
        (told(academic_year=2025), Verdict.YEAR_NOT_ACTIVE),
        (told(academic_year=None), Verdict.YEAR_NOT_ACTIVE),
        (told(payment=Payment.DUE), Verdict.PAYMENT),
        (told(etape="EXT001"), Verdict.EXCLUDED),
        (told(component="EXT"), Verdict.EXCLUDED),
    ],
)
def test_every_verdict_has_its_reason(enrolment: EnrolmentChange, verdict: Verdict) -> None:
    policy = replace(POLICY, exclude_etapes=("EXT*",), exclude_components=("EXT",))
    assert eligibility(enrolment, enrolment.component, policy) is verdict


def test_settings_decide_which_statuses_payments_and_years_count() -> None:
    policy = replace(
        POLICY,
        statuses=frozenset({Status.ACTIVE, Status.PENDING}),
        payments=frozenset(Payment),
        active_years=frozenset({2025, 2026}),
    )
    lenient = told(status=Status.PENDING, payment=Payment.DUE, academic_year=2025)
    assert eligibility(lenient, "U99", policy) is Verdict.ELIGIBLE


def test_the_component_of_the_etape_excludes_where_the_enrolment_has_none() -> None:
    policy = replace(POLICY, exclude_components=("EXT",))
    mapper = Mapper(policy)
    assert mapper.desired([told(component=None)], {ETAPE: "U99"})
    assert not mapper.desired([told(component=None)], {ETAPE: "EXT"})
    assert mapper.desired([told(component="U99")], {ETAPE: "EXT"}), "its own component comes first"


def test_a_student_is_in_the_cohorts_of_any_valid_enrolment() -> None:
    cancelled = told(etape_version="102", status=Status.CANCELLED)
    assert idnumbers(told(), cancelled, told(etape="XDROI1")) == {"XINFO1", "XDROI1"}
    assert idnumbers(cancelled) == set()
    assert idnumbers() == set()


# Routes


@pytest.mark.parametrize(
    ("route", "etape", "component", "admitted"),
    [
        (Route(), "XINFO1", "U99", True),
        (Route(), "XINFO1", None, True),
        (Route(etapes=("XINFO?",)), "XINFO1", "U99", True),
        (Route(etapes=("XINFO?",)), "XINFO12", "U99", False),
        (Route(etapes=("X[ID]*",)), "XDROI1", None, True),
        (Route(etapes=("xinfo*",)), "XINFO1", None, False),
        (Route(etapes=("A*", "X*")), "XINFO1", None, True),
        (Route(components=("MED", "PHA")), "XINFO1", "PHA", True),
        (Route(components=("MED",)), "XINFO1", "U99", False),
        (Route(components=("MED",)), "XINFO1", None, False),
        (Route(components=("M*",)), "XINFO1", None, False),
        (Route(exclude_etapes=("XINFO*",)), "XINFO1", "U99", False),
        (Route(exclude_components=("U9?",)), "XINFO1", "U99", False),
        (Route(exclude_components=("*",)), "XINFO1", None, True),
    ],
)
def test_a_route_goes_by_globs(route: Route, etape: str, component: str | None, *, admitted: bool) -> None:
    assert route.admits(etape, component) is admitted


def test_one_route_is_enough() -> None:
    routes = (Route(components=("MED",)), Route(etapes=("XINFO1",), components=("U99",)))
    assert idnumbers(told(), routes=routes) == {ETAPE}
    assert idnumbers(told(etape="XDROI1"), routes=routes) == set()
    assert idnumbers(told(etape="XDROI1", component="MED"), routes=routes) == {"XDROI1"}


def test_a_manual_platform_desires_nothing_and_each_other_goes_its_own_way() -> None:
    health = PlatformPolicy(name="sante", mode=Mode.OBSERVE, routes=(Route(components=("MED",)),))
    prelude = PlatformPolicy(name="prelude", mode=Mode.MANUAL)
    mapper = Mapper(replace(POLICY, platforms=(ECAMPUS, health, prelude)))
    assert {wanted.platform for wanted in mapper.desired([told()], {})} == {"ecampus"}
    assert {wanted.platform for wanted in mapper.desired([told(component="MED")], {})} == {"ecampus", "sante"}


# Templates and names


def test_each_template_gives_a_cohort() -> None:
    templates = ("{etape}", "{etape}_{version}", "{year}-{component}")
    assert idnumbers(told(), templates=templates) == {"XINFO1", "XINFO1_101", "2026-U99"}


def test_a_cohort_whose_value_is_unknown_does_not_exist() -> None:
    templates = ("{etape}", "{etape}_{version}", "{component}")
    assert idnumbers(told(etape_version=None, component=None), templates=templates) == {"XINFO1"}


def test_an_idnumber_that_moodle_could_not_store_does_not_exist() -> None:
    assert idnumbers(told(etape="X" * 100)) == {"X" * 100}
    assert idnumbers(told(etape="X" * 101)) == set()


def test_a_cohort_that_gathers_etapes_is_the_same_from_each_of_them() -> None:
    assert idnumbers(told(), told(etape="XDROI1"), templates=("{component}",)) == {"U99"}
    mapper = Mapper(replace(POLICY, platforms=(replace(ECAMPUS, templates=(CohortTemplate(idnumber="{component}"),)),)))
    assert mapper.desired([told(), told(etape="XDROI1")], {}) == {
        WantedCohort(platform="ecampus", idnumber="U99", template=0, etape=None, component="U99")
    }


def name(template: str = "{component_label}: {etape_label}", etape_label: str | None = None, **more: str) -> str | None:
    templates = (CohortTemplate(name=template),)
    mapper = Mapper(replace(POLICY, platforms=(replace(ECAMPUS, templates=templates),)))
    [wanted] = mapper.cohorts(TOLD, "U99")
    return mapper.name(wanted, etape_label=etape_label, component="U99", component_label=more.get("component_label"))


def test_a_name_waits_for_all_its_labels() -> None:
    assert name() is None
    assert name(etape_label="Licence 1") is None
    assert name(etape_label="Licence 1", component_label="Sciences") == "Sciences: Licence 1"
    assert name("{idnumber} {etape} {component}") == "XINFO1 XINFO1 U99"


def test_a_name_is_cut_at_what_moodle_can_store() -> None:
    assert name("{etape_label}", etape_label="é" * 300) == "é" * NAME_LIMIT


def test_a_label_with_braces_is_taken_as_it_is() -> None:
    assert name("{etape_label}", etape_label="Licence {component} {}") == "Licence {component} {}"


def test_a_cohort_of_a_template_that_is_no_more_keeps_its_name() -> None:
    former = WantedCohort(platform="ecampus", idnumber="XINFO1_101", template=3, etape=ETAPE, component=None)
    assert Mapper(POLICY).name(former, etape_label="L", component="U99", component_label="S") is None


# Aliases


def test_aliases_are_followed_to_the_end_of_the_chain() -> None:
    aliases = {"A": "B", "B": "C"}
    assert [canonical(code, aliases) for code in "ABCD"] == ["C", "C", "C", "D"]


@pytest.mark.parametrize("aliases", [{"A": "A"}, {"A": "B", "B": "A"}, {"A": "B", "B": "C", "C": "B"}])
def test_a_circle_of_aliases_ends_where_it_closes(aliases: dict[str, str]) -> None:
    assert canonical("A", aliases) in aliases


def test_an_alias_leads_to_the_cohort_of_the_new_code() -> None:
    aliases = {"XINFO1": "XINFO1-101"}
    assert idnumbers(told(), told(etape="XINFO1-101"), aliases=aliases) == {"XINFO1-101"}


def test_a_cohort_lives_on_under_the_code_that_its_alias_says() -> None:
    mapper = Mapper(replace(POLICY, aliases={"XINFO1": "NINFO1", "NINFO1": "ZINFO1"}))
    assert mapper.successor("XINFO1", "XINFO1") == ("ZINFO1", "ZINFO1")
    assert mapper.successor("XINFO1", "2026-XINFO1_101") == ("ZINFO1", "2026-ZINFO1_101")
    assert mapper.successor("XDROI1", "XDROI1") == ("XDROI1", "XDROI1")


# Settings


def test_equal_policies_have_equal_fingerprints_and_others_do_not() -> None:
    aliased = replace(POLICY, aliases={"A": "B", "C": "D"})
    assert aliased.fingerprint() == replace(POLICY, aliases={"C": "D", "A": "B"}).fingerprint()
    others = [
        POLICY,
        aliased,
        replace(POLICY, active_years=frozenset({2025, 2026})),
        replace(POLICY, uais=frozenset({FOREIGN_UAI})),
        replace(POLICY, statuses=frozenset(Status)),
        replace(POLICY, payments=frozenset(Payment)),
        replace(POLICY, exclude_etapes=("A",)),
        replace(POLICY, exclude_components=("A",)),
        replace(POLICY, platforms=(replace(ECAMPUS, mode=Mode.MANUAL),)),
        replace(POLICY, platforms=(replace(ECAMPUS, routes=(Route(etapes=("A",)),)),)),
    ]
    assert len({policy.fingerprint() for policy in others}) == len(others)


# Accounts


@pytest.mark.parametrize(
    ("field", "template", "login", "key"),
    [
        (AccountField.USERNAME, "{student_id}", None, "p0000042"),
        (AccountField.IDNUMBER, "{student_id}", None, "P0000042"),
        (AccountField.USERNAME, "E{student_id}", None, "ep0000042"),
        (AccountField.USERNAME, "{login}", "Exemple-C", "exemple-c"),
        (AccountField.IDNUMBER, "{login}@Example.fr", "Exemple-C", "Exemple-C@Example.fr"),
        (AccountField.USERNAME, "{login}", None, None),
        (AccountField.IDNUMBER, "{login}", None, None),
    ],
)
def test_an_account_is_called_as_the_platform_writes_it(
    field: AccountField, template: str, login: str | None, key: str | None
) -> None:
    platform = replace(ECAMPUS, account_field=field, account_template=template)
    assert account_key(platform, "P0000042", login) == key


def test_leading_zeros_are_kept() -> None:
    assert account_key(replace(ECAMPUS, account_template="e{student_id}"), "00000100", None) == "e00000100"
