from dataclasses import replace

import pytest
import sqlalchemy as sa

from tests.support.builders import (
    ECAMPUS,
    ETAPE,
    FOREIGN_UAI,
    NOW,
    POLICY,
    STUDENT,
    content,
    deleted,
    described,
    memberships,
    merged,
    names,
    received,
    recorder,
    told,
    workbook,
)
from worker.domain.changes import Change, Received, Tombstone
from worker.domain.rules import AccountField, CohortTemplate, Mode, PlatformPolicy, Policy, Route
from worker.domain.states import Kept, Payment, Reason, Status
from worker.ledger import Ledger, status
from worker.ledger.schema import cohort, enrolment, membership
from worker.ledger.work_queue import Applied, Parked

OTHER = "29900002"
MEMBER = {ETAPE: frozenset({STUDENT})}
UFR = "UFR des Sciences"


def desired(ledger: Ledger, platform: str = "ecampus") -> dict[str, frozenset[str]]:
    return status.desired(ledger, platform)


def record(ledger: Ledger, *changes: Change, policy: Policy = POLICY, now: float = NOW) -> None:
    """Record each change in a transaction of its own."""
    for change in changes:
        recorder(ledger, policy).record([Received(change=change, published_at=now)], now=now)


def settle_all(ledger: Ledger, *, now: float = NOW, platform: str = "ecampus") -> list[tuple[bool, str]]:
    """Do on an imaginary Moodle all that is due; returns (added or removed, student id)."""
    book = workbook(ledger, platform=platform)
    gaps = book.claim(now, limit=1000).gaps
    sent = book.mark_in_flight([(gap, 31) for gap in gaps], now)
    book.settle(applied=[Applied(gap=gap, user_id=user_id) for gap, user_id in sent], now=now)
    book.release()
    return [(gap.desired, gap.student_id) for gap in gaps]


# Facts


def test_an_enrolment_makes_a_membership(ledger: Ledger) -> None:
    counts = recorder(ledger).record(received(told()), now=NOW)
    assert desired(ledger) == MEMBER
    assert (counts.applied, counts.stale, counts.memberships) == (1, 0, 1)


def test_replayed_change_leaves_the_ledger_untouched(ledger: Ledger) -> None:
    changes = received(
        told(login="exemple"),
        told(enrolment_id="2", student_id=OTHER, status=Status.CANCELLED),
        merged(OTHER, STUDENT),
        described("Licence 1", component="U99", component_label=UFR),
        deleted(enrolment_id="3"),
    )
    recorder(ledger).record(changes, now=NOW)
    settle_all(ledger)
    before = content(ledger)
    for again in (changes, changes[::-1], *([change] for change in changes)):
        counts = recorder(ledger).record(again, now=NOW + 60)
        assert counts.memberships == 0
        assert counts.applied == 0
        assert counts.stale == len(again)
    assert content(ledger) == before


def test_a_newer_version_that_says_the_same_is_remembered_all_the_same(ledger: Ledger) -> None:
    record(ledger, told())
    before = memberships(ledger)
    counts = recorder(ledger).record(received(told(version=3, changed_at=NOW + 60)), now=NOW)
    assert (counts.applied, counts.memberships) == (1, 0)
    assert memberships(ledger) == before
    record(ledger, told(version=2, status=Status.CANCELLED))
    record(ledger, told(system="supann", changed_at=NOW + 30, status=Status.CANCELLED))
    assert desired(ledger) == MEMBER


@pytest.mark.parametrize("number", [STUDENT, "29900003"])
def test_a_person_s_undo_ends_by_newer_word_even_if_it_is_the_same_as_before(ledger: Ledger, number: str) -> None:
    over = told(student_id=number, status=Status.RESIGNED)
    record(ledger, merged("29900003", STUDENT), over._replace(status=Status.ACTIVE), over._replace(version=2))
    undone = {"desired": True, "kept": Kept.UNDONE.value, "kept_at": NOW + 10}
    with ledger.write() as connection:
        connection.execute(sa.update(membership).values(undone))
    recorder(ledger).record(received(over._replace(version=3), at=NOW + 5), now=NOW + 20)
    assert desired(ledger) == MEMBER
    recorder(ledger).record(received(over._replace(version=4), at=NOW + 20), now=NOW + 20)
    assert desired(ledger) == {}


@pytest.mark.parametrize("number", ['a"b', "a\\b", "a\\", '"', "a,b", "{a}", "NULL", "a b", "d'Été ✓", "0"])
def test_whoever_has_odd_characters_in_their_number_is_found_again(ledger: Ledger, number: str) -> None:
    odd = told(student_id=number, enrolment_id=number, login=number)
    record(ledger, odd, told(student_id=OTHER, enrolment_id="2"))
    assert desired(ledger) == {ETAPE: frozenset({number, OTHER})}
    assert recorder(ledger).record(received(odd), now=NOW).stale == 1
    record(ledger, odd._replace(version=2, status=Status.RESIGNED))
    assert desired(ledger) == {ETAPE: frozenset({OTHER})}


def test_an_older_version_never_replaces_a_newer_one(ledger: Ledger) -> None:
    newest = told(version=9, status=Status.RESIGNED)
    record(ledger, newest, told(version=8, changed_at=NOW + 60))
    assert desired(ledger) == {}
    recorder(ledger).record(received(told(version=10), told(version=7, status=Status.CANCELLED)), now=NOW)
    assert desired(ledger) == MEMBER


def test_versions_are_compared_as_numbers(ledger: Ledger) -> None:
    record(ledger, told(version=10), told(version=9, status=Status.CANCELLED), told(version=2**63 - 1))
    assert desired(ledger) == MEMBER


def test_what_was_deleted_does_not_come_back(ledger: Ledger) -> None:
    record(ledger, told(version=1), deleted(version=3), told(version=2), told(version=1))
    assert desired(ledger) == {}
    record(ledger, told(version=4))
    assert desired(ledger) == MEMBER


def test_a_deletion_may_arrive_before_what_it_deletes(ledger: Ledger) -> None:
    record(ledger, deleted(version=3), told(version=2))
    assert desired(ledger) == {}


def test_a_tombstone_has_no_effect(ledger: Ledger) -> None:
    record(ledger, told())
    before = content(ledger)
    counts = recorder(ledger).record([Received(change=Tombstone(origin="t"), published_at=NOW)], now=NOW)
    assert (counts.tombstone, counts.memberships) == (1, 0)
    assert content(ledger) == before


def test_one_cancelled_enrolment_does_not_end_a_membership_that_another_gives(ledger: Ledger) -> None:
    other_version = told(enrolment_id="2026:104233:XINFO1:102:1", etape_version="102")
    record(ledger, told(), other_version, told(version=2, status=Status.CANCELLED))
    assert desired(ledger) == MEMBER
    record(ledger, other_version._replace(version=2, status=Status.RESIGNED))
    assert desired(ledger) == {}


def test_last_year_cancelled_late_does_not_unenrol_who_repeats_the_year(ledger: Ledger) -> None:
    both_years = replace(POLICY, active_years=frozenset({2025, 2026}))
    last_year = told(enrolment_id="2025:104233:XINFO1:101:1", academic_year=2025, changed_at=NOW - 1e7)
    for policy in (POLICY, both_years):
        recorder(ledger, policy).apply_policy(now=NOW)
        record(ledger, last_year, told(), policy=policy)
        last_year = last_year._replace(version=last_year.version + 1, changed_at=NOW + 60, status=Status.CANCELLED)
        record(ledger, last_year, policy=policy)
        assert desired(ledger) == MEMBER


def test_payment_decides_where_it_is_asked_for(ledger: Ledger) -> None:
    record(ledger, told(payment=Payment.DUE))
    assert desired(ledger) == {}
    record(ledger, told(version=2))
    assert desired(ledger) == MEMBER


def test_an_enrolment_that_changes_student_leaves_the_former_one(ledger: Ledger) -> None:
    record(ledger, told(), told(version=2, student_id=OTHER))
    assert desired(ledger) == {ETAPE: frozenset({OTHER})}


def test_the_same_code_or_enrolment_id_elsewhere_concerns_nobody_here(ledger: Ledger) -> None:
    record(ledger, told(), described("Licence 1", component="U99", component_label=UFR))
    before = desired(ledger), names(ledger)
    record(
        ledger,
        told(uai=FOREIGN_UAI, version=9, status=Status.CANCELLED, login="someone", component="XXX"),
        told(uai=FOREIGN_UAI, enrolment_id="9", student_id=OTHER),
        described("Autre", at=NOW + 60, uai=FOREIGN_UAI, component="U99", component_label="Autre"),
        merged(STUDENT, OTHER, uai=FOREIGN_UAI),
    )
    assert (desired(ledger), names(ledger)) == before
    assert status.logins(ledger) == {}


# Two sources


@pytest.mark.parametrize("first", ["apogee", "supann"])
def test_between_two_sources_of_one_enrolment_time_decides(ledger: Ledger, first: str) -> None:
    resigned = told(system="apogee", version=900, changed_at=NOW + 60, status=Status.RESIGNED)
    active = told(system="supann", version=1, changed_at=NOW)
    record(ledger, *sorted([resigned, active], key=lambda change: change.system != first))
    assert desired(ledger) == {}
    record(ledger, active._replace(version=2, changed_at=NOW + 120))
    assert desired(ledger) == MEMBER


@pytest.mark.parametrize("reverse", [False, True])
def test_the_later_source_also_decides_whose_enrolment_it_is(ledger: Ledger, *, reverse: bool) -> None:
    former = told(system="supann", changed_at=NOW)
    renumbered = told(system="apogee", changed_at=NOW + 60, student_id=OTHER)
    record(ledger, *((renumbered, former) if reverse else (former, renumbered)))
    assert desired(ledger) == {ETAPE: frozenset({OTHER})}


# Merged student numbers


def test_a_merge_gives_the_memberships_to_the_survivor(ledger: Ledger) -> None:
    record(ledger, told(), told(enrolment_id="2", student_id=OTHER, etape="XDROI1"))
    record(ledger, merged(STUDENT, OTHER))
    assert desired(ledger) == {ETAPE: frozenset({OTHER}), "XDROI1": frozenset({OTHER})}


def test_what_is_told_later_under_a_former_number_is_the_survivors(ledger: Ledger) -> None:
    record(ledger, merged(STUDENT, OTHER), told())
    assert desired(ledger) == {ETAPE: frozenset({OTHER})}
    record(ledger, told(version=2, status=Status.CANCELLED))
    assert desired(ledger) == {}


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0), (0, 2, 1)])
def test_a_chain_of_merges_leads_to_its_end_whatever_came_first(ledger: Ledger, order: tuple[int, ...]) -> None:
    changes: list[Change] = [told(), merged(STUDENT, OTHER, at=NOW), merged(OTHER, "29900003", at=NOW + 60)]
    record(ledger, *(changes[i] for i in order))
    assert desired(ledger) == {ETAPE: frozenset({"29900003"})}


def test_a_merge_that_is_reversed_gives_everything_back(ledger: Ledger) -> None:
    record(ledger, told(), merged(STUDENT, OTHER), merged(OTHER, STUDENT, at=NOW + 60))
    assert desired(ledger) == MEMBER


def test_a_merge_that_is_corrected_leads_to_the_right_number(ledger: Ledger) -> None:
    record(ledger, told(), merged(STUDENT, OTHER), merged(STUDENT, "29900003", at=NOW + 60))
    assert desired(ledger) == {ETAPE: frozenset({"29900003"})}
    record(ledger, merged(STUDENT, OTHER))
    assert desired(ledger) == {ETAPE: frozenset({"29900003"})}


# Names


def test_a_cohort_is_named_once_its_labels_are_known(ledger: Ledger) -> None:
    record(ledger, told())
    assert names(ledger) == {ETAPE: None}
    record(ledger, described("Licence 1"))
    assert names(ledger) == {ETAPE: None}
    record(ledger, told(version=2, component_label=UFR))
    assert names(ledger) == {ETAPE: f"{UFR}: Licence 1"}


def test_labels_that_came_first_name_the_cohort_at_once(ledger: Ledger) -> None:
    record(ledger, described("Licence 1", component="U99", component_label=UFR), told(component=None))
    assert names(ledger) == {ETAPE: f"{UFR}: Licence 1"}


def label(ledger: Ledger, *changes: Change) -> str:
    record(ledger, *changes)
    return str(names(ledger)[ETAPE]).removeprefix(f"{UFR}: ")


def test_the_label_of_the_highest_version_wins_whatever_was_said_last(ledger: Ledger) -> None:
    old = told(etape_label="Licence 1 (ancienne)", component_label=UFR)
    new = told(enrolment_id="2", etape_version="221", etape_label="Licence 1")
    assert label(ledger, old, new) == "Licence 1"
    assert label(ledger, old._replace(version=2, changed_at=NOW + 60)) == "Licence 1"
    assert label(ledger, new._replace(version=2, changed_at=NOW + 90, etape_label="L1")) == "L1"
    assert label(ledger, old._replace(version=3, etape_version="99", changed_at=NOW + 99)) == "L1", "99 < 221"
    assert label(ledger, described("Licence 1 (2027)", etape_version="301", at=NOW)) == "Licence 1 (2027)"


def test_a_new_name_of_the_etape_as_a_whole_is_above_those_of_its_versions(ledger: Ledger) -> None:
    record(ledger, told(etape_label="Licence 1", component_label=UFR))
    assert label(ledger, described("Licence première année", at=NOW + 60)) == "Licence première année"
    late = told(enrolment_id="2", etape_version="221", etape_label="Licence 1", changed_at=NOW + 90)
    assert label(ledger, late) == "Licence première année"
    assert label(ledger, described("L1", at=NOW + 120), described("Late", at=NOW + 30)) == "L1"


def test_a_component_that_is_renamed_renames_its_cohorts(ledger: Ledger) -> None:
    record(ledger, told(etape_label="Licence 1", component_label=UFR))
    record(ledger, described(etape="XDROI1", component="U99", component_label="Sciences", at=NOW + 60))
    assert names(ledger) == {ETAPE: "Sciences: Licence 1"}


def test_an_etape_that_changes_component_is_renamed(ledger: Ledger) -> None:
    record(ledger, told(etape_label="Licence 1", component_label=UFR))
    record(ledger, described(component="MED", component_label="UFR Santé", at=NOW + 60))
    assert names(ledger) == {ETAPE: "UFR Santé: Licence 1"}


# Routes that go by component

SANTE = PlatformPolicy(name="sante", mode=Mode.AUTOMATIC, routes=(Route(components=("MED",)),))
TWO = replace(POLICY, platforms=(ECAMPUS, SANTE))


def test_a_component_that_arrives_late_routes_the_students(ledger: Ledger) -> None:
    record(ledger, told(component=None), policy=TWO)
    assert desired(ledger, "sante") == {}
    record(ledger, described(component="MED", at=NOW + 60), policy=TWO)
    assert desired(ledger, "sante") == MEMBER
    record(ledger, described(component="U99", at=NOW + 30), policy=TWO)
    assert desired(ledger, "sante") == MEMBER, "what is older doesn't take them back"
    record(ledger, described(component="U99", at=NOW + 90), policy=TWO)
    assert desired(ledger, "sante") == {}


def test_the_component_of_the_enrolment_comes_before_that_of_the_etape(ledger: Ledger) -> None:
    record(ledger, told(component="U99"), described(component="MED", at=NOW + 60), policy=TWO)
    assert desired(ledger, "sante") == {}


# When it is due, and why


def test_removals_wait_longer_than_additions(ledger: Ledger) -> None:
    patient = recorder(ledger, coalesce=2, removal_delay=120)
    patient.record(received(told()), now=NOW)
    assert memberships(ledger)[ETAPE, STUDENT].next_attempt_at == NOW + 2
    settle_all(ledger, now=NOW + 2)
    patient.record(received(told(version=2, status=Status.RESIGNED)), now=NOW + 10)
    assert memberships(ledger)[ETAPE, STUDENT].next_attempt_at == NOW + 130
    assert settle_all(ledger, now=NOW + 129) == []
    assert settle_all(ledger, now=NOW + 130) == [(False, STUDENT)]


def test_a_deletion_followed_by_a_creation_leaves_no_gap(ledger: Ledger) -> None:
    patient = recorder(ledger, removal_delay=120)
    patient.record(received(told()), now=NOW)
    settle_all(ledger)
    patient.record(received(deleted(version=2)), now=NOW + 10)
    patient.record(received(told(enrolment_id="new", etape_version="102")), now=NOW + 15)
    assert settle_all(ledger, now=NOW + 1000) == []
    assert status.observed(ledger, "ecampus") == MEMBER


def test_the_promise_counts_from_the_publication(ledger: Ledger) -> None:
    recorder(ledger).record(received(told(), at=NOW - 3600), now=NOW)
    row = memberships(ledger)[ETAPE, STUDENT]
    assert (row.since, row.due_by) == (NOW - 3600, NOW - 3600 + 86_400)


def test_a_membership_carries_the_cause_and_the_origin_of_its_own_enrolment(ledger: Ledger) -> None:
    record(ledger, told())
    settle_all(ledger)
    change_of_etape = [
        told(version=2, status=Status.CANCELLED, origin="enrolments[0]@7"),
        told(enrolment_id="2", etape="XDROI1", origin="enrolments[0]@8"),
        told(enrolment_id="3", etape="ELSE", academic_year=2025, origin="enrolments[0]@9"),
    ]
    recorder(ledger).record(received(*change_of_etape), now=NOW)
    why = {key: (row.desired, row.cause, row.origin) for key, row in memberships(ledger).items()}
    assert why == {
        (ETAPE, STUDENT): (False, "cancelled", "enrolments[0]@7"),
        ("XDROI1", STUDENT): (True, "active", "enrolments[0]@8"),
    }


def test_a_deletion_that_does_not_know_its_etape_is_the_cause_all_the_same(ledger: Ledger) -> None:
    record(ledger, told())
    gone = deleted(version=2, origin="enrolments[0]@7")
    recorder(ledger).record(received(gone, told(enrolment_id="2", etape="XDROI1")), now=NOW)
    row = memberships(ledger)[ETAPE, STUDENT]
    assert (row.desired, row.cause, row.origin) == (False, "deleted", "enrolments[0]@7")


def test_merges_and_components_are_causes(ledger: Ledger) -> None:
    record(ledger, told(component=None), merged(STUDENT, OTHER), policy=TWO)
    assert {row.cause for row in memberships(ledger).values()} == {"rekeyed"}
    record(ledger, described(component="MED"), policy=TWO)
    with ledger.read() as connection:
        where = sa.select(cohort.c.id).where(cohort.c.platform == "sante")
        cohort_id = connection.scalar(where)
    assert [row.cause for row in memberships(ledger).values() if row.cohort_id == cohort_id] == ["described"]


# Logins

BY_LOGIN = replace(
    POLICY, platforms=(replace(ECAMPUS, account_template="{login}", account_field=AccountField.USERNAME),)
)


def test_a_login_that_arrives_late_is_tried_at_once(ledger: Ledger) -> None:
    record(ledger, told(), policy=BY_LOGIN)
    book = workbook(ledger)
    [gap] = book.claim(NOW, limit=10).gaps
    assert gap.login is None
    book.settle(parked=[Parked(gap=gap, reason=Reason.NO_LOGIN, retry_at=NOW + 86_400, observed=False)], now=NOW)
    book.release()
    record(ledger, told(version=2, changed_at=NOW + 60, login="exemple"), policy=BY_LOGIN, now=NOW + 60)
    [gap] = book.claim(NOW + 60, limit=10).gaps
    assert gap.login == "exemple"


def test_a_login_does_not_hurry_what_waits_for_moodle(ledger: Ledger) -> None:
    record(ledger, told(), policy=BY_LOGIN)
    book = workbook(ledger)
    [gap] = book.claim(NOW, limit=10).gaps
    book.settle(parked=[Parked(gap=gap, reason=Reason.TIMEOUT, retry_at=NOW + 600, observed=None)], now=NOW)
    book.release()
    record(ledger, told(version=2, changed_at=NOW + 60, login="exemple"), policy=BY_LOGIN, now=NOW + 60)
    assert not book.claim(NOW + 60, limit=10)


def test_the_latest_login_is_kept_and_silence_says_nothing(ledger: Ledger) -> None:
    record(
        ledger,
        told(version=3, changed_at=NOW + 60, login="new"),
        told(version=2, changed_at=NOW, login="old"),
        told(version=4, changed_at=NOW + 90),
    )
    assert status.logins(ledger) == {STUDENT: "new"}


@pytest.mark.parametrize("logins", [("first", "second"), ("second", "first")])
def test_of_two_logins_of_one_instant_the_order_of_arrival_decides_nothing(
    ledger: Ledger, logins: tuple[str, str]
) -> None:
    for version, login in enumerate(logins, start=2):
        record(ledger, told(version=version, login=login))
    assert status.logins(ledger) == {STUDENT: "second"}


# Settings


def apply(ledger: Ledger, policy: Policy, now: float = NOW) -> int:
    changed = recorder(ledger, policy).apply_policy(now=now)
    before = content(ledger)
    assert recorder(ledger, policy).apply_policy(now=now + 60) == 0
    assert content(ledger) == before
    return changed


def test_other_settings_derive_everything_anew_and_the_same_ones_do_nothing(ledger: Ledger) -> None:
    assert apply(ledger, POLICY) == 0
    record(ledger, told(), told(enrolment_id="2", student_id=OTHER, academic_year=2025))
    assert apply(ledger, replace(POLICY, active_years=frozenset({2025}))) == 2
    assert desired(ledger) == {ETAPE: frozenset({OTHER})}
    causes = {student: row.cause for (_, student), row in memberships(ledger).items()}
    assert causes == {STUDENT: "year_closed", OTHER: "settings"}
    assert apply(ledger, replace(POLICY, active_years=frozenset({2025, 2026}))) == 1
    assert desired(ledger) == {ETAPE: frozenset({STUDENT, OTHER})}


def test_settings_derive_merged_students_too(ledger: Ledger) -> None:
    record(ledger, told(academic_year=2025), merged(STUDENT, OTHER))
    apply(ledger, replace(POLICY, active_years=frozenset({2025})))
    assert desired(ledger) == {ETAPE: frozenset({OTHER})}


def test_a_platform_that_becomes_manual_is_left_as_it_is(ledger: Ledger) -> None:
    apply(ledger, TWO)
    record(ledger, told(component="MED"), policy=TWO)
    manual = replace(TWO, platforms=(ECAMPUS, replace(SANTE, mode=Mode.MANUAL)))
    apply(ledger, manual)
    record(ledger, told(version=2, status=Status.RESIGNED), policy=manual)
    record(ledger, described("Licence 1", component="MED", component_label="Santé"), policy=manual)
    assert desired(ledger, "sante") == MEMBER
    assert names(ledger, "sante") == {ETAPE: None}
    assert desired(ledger) == {}


def test_a_platform_that_is_no_longer_named_is_left_as_it_is(ledger: Ledger) -> None:
    record(ledger, told(component="MED"), policy=TWO)
    apply(ledger, POLICY)
    assert desired(ledger, "sante") == MEMBER


def templated(*templates: CohortTemplate) -> Policy:
    return replace(POLICY, platforms=(replace(ECAMPUS, templates=templates),))


def test_another_name_template_renames_every_kind_of_cohort(ledger: Ledger) -> None:
    record(
        ledger,
        told(etape_label="Licence 1", component_label=UFR),
        policy=templated(
            CohortTemplate(),
            CohortTemplate(idnumber="{component}", name="{component_label}"),
            CohortTemplate(idnumber="{year}", name="{idnumber}"),
        ),
    )
    assert names(ledger) == {ETAPE: f"{UFR}: Licence 1", "U99": UFR, "2026": "2026"}
    apply(
        ledger,
        templated(
            CohortTemplate(name="CEMU: {etape_label}"),
            CohortTemplate(idnumber="{component}", name="CEMU: {component_label}"),
            CohortTemplate(idnumber="{year}", name="CEMU: {idnumber}"),
        ),
    )
    assert names(ledger) == {ETAPE: "CEMU: Licence 1", "U99": f"CEMU: {UFR}", "2026": "CEMU: 2026"}


def test_templates_may_be_dropped_and_change_places(ledger: Ledger) -> None:
    by_etape = CohortTemplate(name="L {etape_label}")
    by_version = CohortTemplate(idnumber="{etape}_{version}", name="V {etape_label}")
    record(ledger, told(etape_label="Licence 1"), policy=templated(by_etape, by_version))
    apply(ledger, templated(by_version, by_etape))
    record(ledger, described("L1"), policy=templated(by_version, by_etape))
    assert names(ledger) == {ETAPE: "L L1", "XINFO1_101": "V L1"}
    apply(ledger, templated(by_etape))
    record(ledger, described("Licence", at=NOW + 60), policy=templated(by_etape))
    assert names(ledger) == {ETAPE: "L Licence"}
    assert desired(ledger) == MEMBER


# Aliases


def test_a_cohort_lives_on_under_the_code_of_its_alias(ledger: Ledger) -> None:
    record(ledger, told(etape_label="Licence 1", component_label=UFR))
    settle_all(ledger)
    [(old_id, *_)] = rows(ledger)
    book = workbook(ledger)
    record(ledger, told(enrolment_id="2", student_id=OTHER))
    work = book.claim(NOW, limit=10)
    book.write_cohorts([(work.cohorts[old_id], {"moodle_id": 7, "state": "owned"})], NOW)
    book.release()
    settle_all(ledger)

    renamed = replace(POLICY, aliases={ETAPE: "XINFO1-101"})
    assert apply(ledger, renamed) == 0
    assert rows(ledger) == [(old_id, "XINFO1-101", "XINFO1-101", 7, None)]
    assert status.observed(ledger, "ecampus") == {"XINFO1-101": frozenset({STUDENT, OTHER})}
    assert settle_all(ledger, now=NOW + 1e6) == []

    record(ledger, described("Licence 1", etape="XINFO1-101", component="U99"), policy=renamed)
    record(ledger, told(enrolment_id="3", student_id="3", etape="XINFO1-101"), policy=renamed)
    assert names(ledger) == {"XINFO1-101": f"{UFR}: Licence 1"}
    assert desired(ledger) == {"XINFO1-101": frozenset({STUDENT, OTHER, "3"})}


def test_an_alias_to_a_code_that_has_a_cohort_moves_the_students_there(ledger: Ledger) -> None:
    record(ledger, told(), told(enrolment_id="2", student_id=OTHER, etape="NEW"))
    apply(ledger, replace(POLICY, aliases={ETAPE: "NEW"}))
    assert desired(ledger) == {"NEW": frozenset({STUDENT, OTHER})}


def test_two_old_codes_may_have_one_new_code(ledger: Ledger) -> None:
    record(ledger, told(), told(enrolment_id="2", student_id=OTHER, etape="XINFO2"))
    apply(ledger, replace(POLICY, aliases={ETAPE: "NEW", "XINFO2": "NEW"}))
    assert desired(ledger) == {"NEW": frozenset({STUDENT, OTHER})}


def rows(ledger: Ledger) -> list[tuple[int, str, str, int | None, str | None]]:
    columns = cohort.c.id, cohort.c.idnumber, cohort.c.etape, cohort.c.moodle_id, cohort.c.wanted_name
    with ledger.read() as connection:
        return [tuple(row) for row in connection.execute(sa.select(*columns).order_by(cohort.c.id))]


# Positions


def test_positions_are_written_with_the_facts_and_never_move_back(ledger: Ledger) -> None:
    ids = {"enrolments": "topic-one"}

    def advance(*offsets: int) -> None:
        positions = {("enrolments", partition): offset for partition, offset in enumerate(offsets)}
        recorder(ledger).record([], now=NOW, positions=positions, topic_ids=ids)

    advance(10, 20)
    advance(5)
    assert status.positions(ledger, ids) == {("enrolments", 0): 10, ("enrolments", 1): 20}
    advance(11, 19)
    assert status.positions(ledger, ids) == {("enrolments", 0): 11, ("enrolments", 1): 20}
    assert status.recreated(ledger, ids) == set()


@pytest.mark.parametrize("former", ["topic-one", None])
def test_a_topic_that_was_created_anew_is_read_from_its_beginning(ledger: Ledger, former: str | None) -> None:
    both = {("enrolments", 0): 10, ("enrolments", 1): 20, ("others", 0): 5}
    recorder(ledger).record([], now=NOW, positions=both, topic_ids={"enrolments": former, "others": "the-other"})
    ids = {"enrolments": "topic-two", "others": "the-other"}
    assert status.positions(ledger, ids) == {("others", 0): 5}
    assert status.recreated(ledger, ids) == {"enrolments"}
    recorder(ledger).record([], now=NOW, positions={("enrolments", 0): 1}, topic_ids=ids)
    assert status.positions(ledger, ids) == {("enrolments", 0): 1, ("others", 0): 5}
    assert status.recreated(ledger, ids) == set()


def test_positions_can_be_forgotten(ledger: Ledger) -> None:
    ids = {"enrolments": "topic-one"}
    recorder(ledger).record([], now=NOW, positions={("enrolments", 0): 10}, topic_ids=ids)
    assert status.forget_positions(ledger, "enrolments") == 1
    assert status.positions(ledger, ids) == {}


@pytest.mark.parametrize("table", ["enrolment", "student", "cohort", "membership", "etape", "position"])
def test_an_error_in_the_middle_leaves_nothing_half_written(ledger: Ledger, table: str) -> None:
    record(ledger, told())
    before = content(ledger)

    def fail(_c: object, _cursor: object, statement: str, *_: object) -> None:
        if statement.startswith((f"INSERT INTO {table} ", f"UPDATE {table} ")):
            raise InterruptedError

    sa.event.listen(ledger.engine, "after_cursor_execute", fail)
    batch = received(
        told(enrolment_id="2", etape="XDROI1", login="exemple", etape_label="Droit"), merged(STUDENT, OTHER)
    )
    with pytest.raises(InterruptedError):
        recorder(ledger).record(batch, now=NOW, positions={("enrolments", 0): 3}, topic_ids={"enrolments": "t"})
    sa.event.remove(ledger.engine, "after_cursor_execute", fail)
    assert content(ledger) == before
    recorder(ledger).record(batch, now=NOW)
    assert desired(ledger) == {ETAPE: frozenset({OTHER}), "XDROI1": frozenset({OTHER})}


# Reading


def test_a_reading_is_of_one_instant(ledger: Ledger) -> None:
    count = sa.select(sa.func.count()).select_from(enrolment)
    with ledger.read() as connection:
        assert connection.scalar(count) == 0
        record(ledger, told())
        assert connection.scalar(count) == 0
    with ledger.read() as connection:
        assert connection.scalar(count) == 1


def test_an_error_of_the_database_does_not_hold_what_was_to_be_written(ledger: Ledger) -> None:
    asked = sa.text("SELECT :who FROM nowhere").bindparams(who=STUDENT)
    with pytest.raises(sa.exc.DBAPIError, match="nowhere") as error, ledger.read() as connection:
        connection.execute(asked)
    assert STUDENT not in str(error.value)
