"""Why is (isn't) this student in that cohort: prepared situations, and the expected answers."""

import json
import re
from dataclasses import asdict, dataclass, field
from random import Random
from zoneinfo import ZoneInfo

import pytest

from tests.support.builders import ETAPE, FOREIGN_UAI, NOW, POLICY, STUDENT, recorder
from tests.support.scenes import (
    FORMER,
    OTHER,
    Scene,
    Setup,
    a_class_leaves,
    a_cohort_made_by_hand,
    a_cohort_of_a_component,
    a_cohort_that_the_database_takes_for_another_etapes,
    a_cohort_that_the_database_takes_for_somebody_elses,
    a_member,
    a_member_whose_account_lost_its_name,
    a_member_whose_login_changed,
    a_new_cohort_that_was_rejected,
    a_route_that_was_closed,
    a_setting_that_was_not_applied_yet,
    a_year_that_was_closed,
    absent_from_the_snapshot,
    an_adopted_cohort,
    another_source_names_another_student,
    another_source_says_otherwise,
    another_student_only,
    approved,
    approved_and_removed,
    approved_too_long_ago,
    beyond_a_limit_of_the_month,
    beyond_the_limit_of_small_cohorts,
    beyond_the_platforms_limit,
    by_hand_from_now_on,
    by_hand_only,
    creation_refused,
    deleted_and_made_again,
    deleted_at_the_source,
    deleted_made_again_and_seen_to,
    drifted,
    ended,
    enrolled_and_due,
    enrolled_elsewhere,
    enrolled_two_days_ago,
    excluded,
    held_by_the_snapshot,
    in_a_call_now,
    inherited_with_an_adopted_cohort,
    just_enrolled,
    left_in_peace_after_a_time_out,
    login_under_the_former_number,
    looked_up_and_found_under_almost_that_name,
    looked_up_and_not_found,
    merge_ended_by_a_person,
    merged_after_having_joined,
    merged_again_though_in_use,
    merged_and_reversed,
    merged_and_still_in_use,
    never_told_but_a_snapshot_was_taken,
    nothing,
    number_of_two_persons,
    of_another_component,
    of_no_known_component,
    one_of_many_new_cohorts,
    only_observed,
    parked_on,
    platform_answers,
    rejected,
    rejected_and_enrolled_again,
    removal_timed_out,
    resigned_and_removed,
    the_enrolment_was_given_another_number,
    told_so,
    under_a_code_that_was_replaced_later,
    under_the_former_code,
    undone,
    without_a_version,
)
from worker.domain.changes import EnrolmentChange, Received
from worker.domain.guard import GuardLimits
from worker.domain.rules import AccountField
from worker.domain.states import Action, Cause, Language, Payment, PlatformState, Reason, Status
from worker.explain import Why, explain, render
from worker.explain.phrases import words
from worker.formats import cloudevents
from worker.ledger import Ledger, status, student_view
from worker.sandbox.university.generator import University

ZONE = ZoneInfo("Europe/Paris")


@dataclass(frozen=True, kw_only=True)
class Situation:
    """What happened, what is asked, and the expected answer.

    `answer` is every code about the cohort, in order; `also` are codes about the student or their enrolments.
    """

    name: str
    setup: Setup
    french: str
    english: str
    answer: tuple[Why, ...] = ()
    also: frozenset[Why] = field(default_factory=frozenset)
    student: str = STUDENT
    platform: str | None = "ecampus"
    cohort: str | None = ETAPE


LEADS_THERE = (Why.BECAUSE, Why.DESIRED_SINCE)
ADDED = (Why.COHORT_CREATED, Why.ADDED, Why.SEEN)
LEFT = (Why.WOULD_LEAD, Why.ENDED_SINCE)
PARKED = (Why.NEXT_ATTEMPT, Why.DUE_BY)

SITUATIONS = [
    # Nothing, or nothing of that name, is known.
    Situation(
        name="a number that nobody has ever told",
        setup=nothing,
        also=frozenset({Why.STUDENT_UNKNOWN}),
        cohort=None,
        answer=(Why.NOTHING_LEADS,),
        french="Aucune source ne connaît le numéro 29900001. À vérifier : est-ce bien le numéro étudiant",
        english="No source knows the number 29900001. Check that it is the student number",
    ),
    Situation(
        name="a number that the last snapshot doesn't hold either",
        setup=never_told_but_a_snapshot_was_taken,
        also=frozenset({Why.STUDENT_UNKNOWN}),
        answer=(Why.NEVER_MEMBER, Why.NO_LEADING_ENROLMENT, Why.NOTHING_TO_DO),
        french="et l'extraction du 1er septembre 2026 à 08:10 ne le contient pas.",
        english="and the snapshot of 1 September 2026 at 08:10 doesn't contain it.",
    ),
    Situation(
        name="a platform of another name",
        setup=a_member,
        platform="eccampus",
        also=frozenset({Why.PLATFORM_UNKNOWN}),
        french="Aucune plateforme ne s'appelle eccampus. Plateformes connues : ecampus.",
        english="No platform is called eccampus. Known platforms: ecampus.",
    ),
    Situation(
        name="a cohort that nobody has ever been led to",
        setup=a_member,
        cohort="XINF01",
        platform=None,
        answer=(Why.COHORT_UNKNOWN,),
        french="Cohorte inconnue : aucune inscription, de qui que ce soit, n'y a jamais donné droit. Code mal saisi, "
        "étape sans inscrits, ou cohorte créée à la main sur Moodle. Peut-être s'agit-il de : XINFO1.",
        english="Unknown cohort: no enrolment, of anybody, has ever led to it. A mistyped code, an étape without "
        "students, or a cohort made by hand on Moodle. Perhaps: XINFO1.",
    ),
    Situation(
        name="a cohort of another platform",
        setup=another_student_only,
        platform="sante",
        answer=(Why.COHORT_UNKNOWN,),
        french="Elle existe sur : ecampus.",
        english="It exists on: ecampus.",
    ),
    # All is well.
    Situation(
        name="a member as desired",
        setup=a_member,
        also=frozenset({Why.LOGIN, Why.COUNTS, Why.LEADS}),
        answer=(Why.MEMBER, *LEADS_THERE, *ADDED, Why.LOOK_IN_COURSE),
        french="Doit être membre, et l'est.",
        english="Must be a member, and is.",
    ),
    Situation(
        name="a member, asked for by the name of the cohort",
        setup=a_member,
        cohort=f"Cohorte {ETAPE}",
        answer=(Why.MEMBER, *LEADS_THERE, *ADDED, Why.LOOK_IN_COURSE),
        french="ecampus, cohorte XINFO1 « Cohorte XINFO1 »",
        english='ecampus, cohort XINFO1 "Cohorte XINFO1"',
    ),
    Situation(
        name="a member of an adopted cohort, who was there already",
        setup=an_adopted_cohort,
        answer=(Why.MEMBER, *LEADS_THERE, Why.COHORT_ADOPTED, Why.SEEN, Why.LOOK_IN_COURSE),
        french="Cohorte confiée à ce service le 1er septembre 2026 à 08:10 par cemu.",
        english="Cohort adopted by this service on 1 September 2026 at 08:10, as decided by cemu.",
    ),
    Situation(
        name="confirmed by the snapshot",
        setup=held_by_the_snapshot,
        also=frozenset({Why.CONFIRMED}),
        answer=(Why.MEMBER, *LEADS_THERE, *ADDED, Why.LOOK_IN_COURSE),
        french="Confirmée par l'extraction du 1er septembre 2026 à 09:10 (night).",
        english="Confirmed by the snapshot of 1 September 2026 at 09:10 (night).",
    ),
    # On their way in.
    Situation(
        name="enrolled a moment ago",
        setup=just_enrolled,
        answer=(Why.TO_ADD, *LEADS_THERE, Why.COHORT_TO_CREATE, Why.WAITING_ADDITION, *PARKED),
        french="L'ajout attend quelques instants, pour être envoyé avec d'autres.",
        english="The addition waits a moment, to be sent with others.",
    ),
    Situation(
        name="nothing holds it",
        setup=enrolled_and_due,
        answer=(Why.TO_ADD, *LEADS_THERE, Why.COHORT_TO_CREATE, Why.READY, Why.DUE_BY),
        french="Rien ne s'y oppose : ce sera fait au prochain passage de `cohorts run`.",
        english="Nothing prevents it: it will be done in the next round of `cohorts run`.",
    ),
    Situation(
        name="the worker hasn't run for two days",
        setup=enrolled_two_days_ago,
        answer=(Why.TO_ADD, *LEADS_THERE, Why.COHORT_TO_CREATE, Why.READY, Why.OVERDUE),
        french="Aurait dû être fait avant le 2 septembre 2026 à 08:10 : voir `cohorts status`.",
        english="Should have been done by 2 September 2026 at 08:10: see `cohorts status`.",
    ),
    Situation(
        name="in a call to Moodle now",
        setup=in_a_call_now,
        student=OTHER,
        answer=(Why.ADDING_UNCERTAIN, *LEADS_THERE, Why.COHORT_CREATED, Why.COHORT_BUSY, *PARKED),
        french="Un appel à Moodle est en cours pour cette cohorte.",
        english="A call to Moodle is in progress for this cohort.",
    ),
    Situation(
        name="the cohort is left alone after a call without an answer",
        setup=left_in_peace_after_a_time_out,
        student=OTHER,
        answer=(Why.ADDING_UNCERTAIN, *LEADS_THERE, Why.COHORT_CREATED, Why.COHORT_RESTING, *PARKED),
        french="rien n'est envoyé pour cette cohorte jusqu'au 1er septembre 2026 à 08:11.",
        english="nothing is sent for this cohort until 1 September 2026 at 08:11.",
    ),
    # Moodle, or the account.
    Situation(
        name="no account yet",
        setup=looked_up_and_not_found,
        answer=(Why.TO_ADD, *LEADS_THERE, Why.SEEN_ABSENT, Why.NO_ACCOUNT, Why.COHORT_TO_CREATE, *PARKED),
        french="Aucun compte Moodle dont le nom d'utilisateur soit 29900001 (recherche du 1er septembre 2026 à 08:10).",
        english="No Moodle account whose username is 29900001 (searched on 1 September 2026 at 08:10).",
    ),
    Situation(
        name="several accounts",
        setup=parked_on("ecampus", Reason.AMBIGUOUS_ACCOUNT),
        answer=(Why.TO_ADD, *LEADS_THERE, Why.SEEN_ABSENT, Why.AMBIGUOUS_ACCOUNT, Why.COHORT_TO_CREATE, *PARKED),
        french="Sur ecampus, plusieurs comptes Moodle ont le même nom d'utilisateur, 29900001 : l'administrateur",
        english="Several Moodle accounts have the same username, 29900001: the administrator of ecampus must",
    ),
    Situation(
        name="an account that Moodle refuses to return",
        setup=parked_on("ecampus", Reason.UNCLEAN_ACCOUNT),
        answer=(Why.TO_ADD, *LEADS_THERE, Why.SEEN_ABSENT, Why.UNCLEAN_ACCOUNT, Why.COHORT_TO_CREATE, *PARKED),
        french="le compte dont le nom d'utilisateur est 29900001 existe, mais Moodle refuse de le montrer",
        english="The account on ecampus whose username is 29900001 exists, but Moodle refuses to return it",
    ),
    Situation(
        name="an account of almost the same name",
        setup=looked_up_and_found_under_almost_that_name,
        answer=(Why.TO_ADD, *LEADS_THERE, Why.SEEN_ABSENT, Why.NEAR_MATCH, Why.COHORT_TO_CREATE, *PARKED),
        french="Sur ecampus, aucun compte n'a exactement pour nom d'utilisateur 29900001, mais un compte (n° 31)",
        english="No account on ecampus has exactly 29900001 as its username, but one (number 31) has almost the same",
    ),
    Situation(
        name="an account that lost its name",
        setup=a_member_whose_account_lost_its_name,
        also=frozenset({Why.LOGIN}),
        answer=(
            Why.MEMBER_UNCONFIRMED,
            *LEADS_THERE,
            Why.COHORT_CREATED,
            Why.ADDED,
            Why.SEEN,
            Why.NO_ACCOUNT,
            Why.LOOK_IN_COURSE,
        ),
        french="Doit être membre, et l'est par le compte n° 29900001, mais plus rien ne confirme",
        english="Must be a member, and is by account 29900001, but nothing confirms any more",
    ),
    Situation(
        name="a login that changed",
        setup=a_member_whose_login_changed,
        platform="sante",
        also=frozenset({Why.LOGIN}),
        answer=(
            Why.ADDING_UNCERTAIN,
            *LEADS_THERE,
            Why.COHORT_CREATED,
            Why.ADDED,
            Why.UNCONFIRMED,
            Why.DUE_BY,
        ),
        french="Son identifiant de connexion a changé : ce service vérifie si le compte n° 29900001",
        english="Their login has changed: whether account 29900001 is still theirs is being looked up.",
    ),
    Situation(
        name="a name that no account can have",
        setup=parked_on("ecampus", Reason.BAD_ACCOUNT_NAME),
        answer=(Why.TO_ADD, *LEADS_THERE, Why.SEEN_ABSENT, Why.BAD_ACCOUNT_NAME, Why.COHORT_TO_CREATE, *PARKED),
        french="Sur ecampus, aucun compte ne peut s'appeler 29900001",
        english="No account on ecampus can be called 29900001",
    ),
    Situation(
        name="a login that only the former number has",
        setup=login_under_the_former_number,
        platform="sante",
        also=frozenset({Why.LOGIN_UNKNOWN, Why.NUMBER_MERGED}),
        answer=(Why.TO_ADD, *LEADS_THERE, Why.SEEN_ABSENT, Why.NO_LOGIN, Why.COHORT_TO_CREATE, *PARKED),
        french="Sur sante, les comptes portent l'identifiant de connexion, et aucune source ne l'a communiqué.",
        english="; only the former number 19900001 has one.",
    ),
    Situation(
        name="refused by Moodle",
        setup=parked_on("ecampus", "usernotincohort"),
        answer=(Why.TO_ADD, *LEADS_THERE, Why.SEEN_ABSENT, Why.REFUSED, Why.COHORT_TO_CREATE, *PARKED),
        french="Moodle a refusé : usernotincohort (tentatives : 1).",
        english="Moodle refused: usernotincohort (attempts: 1).",
    ),
    Situation(
        name="an addition that timed out",
        setup=parked_on("ecampus", Reason.TIMEOUT, observed=None),
        answer=(Why.ADDING_UNCERTAIN, *LEADS_THERE, Why.TIMEOUT, Why.COHORT_TO_CREATE, *PARKED),
        french="On ne sait pas si la dernière demande à Moodle a abouti, faute de réponse utilisable",
        english="Whether the last request to Moodle succeeded is unknown, for want of a usable answer",
    ),
    Situation(
        name="a removal that timed out",
        setup=removal_timed_out,
        answer=(
            Why.REMOVING_UNCERTAIN, *LEFT, Why.COHORT_CREATED, Why.ADDED, Why.TIMEOUT, *PARKED,
        ),
        french="Prochaine tentative : le 1er septembre 2026 à 09:15.",
        english="Next attempt: 1 September 2026 at 09:15.",
    ),
    Situation(
        name="Moodle doesn't create the cohort",
        setup=creation_refused,
        answer=(Why.TO_ADD, *LEADS_THERE, Why.COHORT_REFUSED, *PARKED),
        french="Moodle a refusé de créer la cohorte (erreur invalidparameter, tentatives : 2).",
        english="Moodle refused to create the cohort (error invalidparameter, attempts: 2).",
    ),
    Situation(
        name="one of more new cohorts than the guard lets pass",
        setup=one_of_many_new_cohorts,
        answer=(Why.TO_ADD, *LEADS_THERE, Why.COHORT_HELD),
        french="La cohorte attend la décision d'une personne : le garde-fou retient les nouvelles cohortes",
        english="The cohort waits for a person's decision: the guard holds the new cohorts",
    ),
    Situation(
        name="a new cohort that a person rejected",
        setup=a_new_cohort_that_was_rejected,
        answer=(Why.TO_ADD, *LEADS_THERE, Why.COHORT_REJECTED),
        french="La création de la cohorte a été refusée le 1er septembre 2026 à 08:10 par cemu",
        english="The creation of the cohort was rejected on 1 September 2026 at 08:10 by cemu",
    ),
    Situation(
        name="the platform is down",
        setup=platform_answers(PlatformState.UNAVAILABLE, "http-502", "HTTP 502 from ecampus"),
        answer=(Why.TO_ADD, *LEADS_THERE, Why.PLATFORM_UNAVAILABLE, Why.COHORT_TO_CREATE, *PARKED),
        french="ecampus ne répond pas depuis le 1er septembre 2026 à 08:10 (http-502). Message : HTTP 502",
        english="ecampus hasn't answered since 1 September 2026 at 08:10 (http-502). Message: HTTP 502",
    ),
    Situation(
        name="the platform denies",
        setup=platform_answers(PlatformState.DENIED, "invalidtoken", "check the token"),
        answer=(Why.TO_ADD, *LEADS_THERE, Why.PLATFORM_DENIED, Why.COHORT_TO_CREATE, *PARKED),
        french="ecampus nous refuse l'accès depuis le 1er septembre 2026 à 08:10 (invalidtoken)",
        english="ecampus has denied us access since 1 September 2026 at 08:10 (invalidtoken)",
    ),
    Situation(
        name="a cohort that isn't ours",
        setup=a_cohort_made_by_hand,
        answer=(Why.TO_ADD, *LEADS_THERE, Why.FOREIGN_COHORT),
        french="tant que personne ne la lui a confiée (`cohorts adopt ecampus XINFO1`).",
        english="until a person hands it over to this service (`cohorts adopt ecampus XINFO1`).",
    ),
    Situation(
        name="a cohort that the database takes for one that isn't ours",
        setup=a_cohort_that_the_database_takes_for_somebody_elses,
        answer=(Why.TO_ADD, *LEADS_THERE, Why.FOREIGN_ALIKE),
        french="confond son identifiant avec celui d'une autre cohorte, xinfo1 (id 7), qui n'est pas gérée par ce",
        english="takes its idnumber for that of another cohort, xinfo1 (id 7), which isn't ours.",
    ),
    Situation(
        name="a cohort that the database takes for another étape's",
        setup=a_cohort_that_the_database_takes_for_another_etapes,
        answer=(Why.TO_ADD, *LEADS_THERE, Why.COLLIDING_COHORT),
        french="confond son identifiant avec celui de xinfo1 (id 7), cohorte d'une autre étape.",
        english="takes its idnumber for that of xinfo1 (id 7), the cohort of another étape.",
    ),
    Situation(
        name="a platform that is only observed",
        setup=only_observed,
        answer=(Why.TO_ADD, *LEADS_THERE, Why.SEEN_ABSENT, Why.OBSERVE, Why.COHORT_TO_CREATE),
        french="ecampus est en observation : voici ce qui serait fait, mais rien n'y est écrit.",
        english="ecampus is in observe mode: this is what would be done; nothing is written there.",
    ),
    # Enrolments that don't count.
    Situation(
        name="pending",
        setup=told_so(status=Status.PENDING),
        also=frozenset({Why.STATUS}),
        answer=(Why.NEVER_MEMBER, Why.WOULD_LEAD, Why.NOTHING_TO_DO),
        french="Non prise en compte : elle est en attente ; il faudrait qu'elle soit active.",
        english="Doesn't count: it is pending; it would have to be active.",
    ),
    Situation(
        name="not paid",
        setup=told_so(payment=Payment.DUE),
        also=frozenset({Why.PAYMENT}),
        answer=(Why.NEVER_MEMBER, Why.WOULD_LEAD, Why.NOTHING_TO_DO),
        french="L'inscription à XINFO1 (2026-2027) y donnerait droit, mais n'est pas prise en compte : droits "
        "(non payés).",
        english="The enrolment in XINFO1 (2026-2027) would lead to it, but doesn't count: fees (unpaid).",
    ),
    Situation(
        name="of last year",
        setup=told_so(academic_year=2025),
        also=frozenset({Why.YEAR_NOT_ACTIVE}),
        answer=(Why.NEVER_MEMBER, Why.WOULD_LEAD, Why.NOTHING_TO_DO),
        french="Non prise en compte : son année, 2025-2026, n'est pas parmi les années ouvertes (2026-2027).",
        english="Doesn't count: its year, 2025-2026, is not active (active: 2026-2027).",
    ),
    Situation(
        name="of last year, and nothing in particular is asked for",
        setup=told_so(academic_year=2025),
        cohort=None,
        answer=(Why.NOTHING_LEADS,),
        french="Aucune inscription n'y donne droit à une cohorte.",
        english="No enrolment leads to a cohort here.",
    ),
    Situation(
        name="at another university",
        setup=told_so(uai=FOREIGN_UAI),
        also=frozenset({Why.FOREIGN_UAI}),
        answer=(Why.NEVER_MEMBER, Why.WOULD_LEAD, Why.NOTHING_TO_DO),
        french="Non prise en compte : elle relève de l'établissement 0751717J, et non de 0141408E.",
        english="Doesn't count: it is at university 0751717J, not at 0141408E.",
    ),
    Situation(
        name="of an étape that the settings exclude",
        setup=excluded,
        also=frozenset({Why.EXCLUDED}),
        answer=(Why.NEVER_MEMBER, Why.WOULD_LEAD, Why.NOTHING_TO_DO),
        french="Non prise en compte : les réglages excluent l'étape XINFO1 ou sa composante U99.",
        english="Doesn't count: the settings exclude étape XINFO1 or its component U99.",
    ),
    Situation(
        name="of no étape",
        setup=told_so(etape=None),
        also=frozenset({Why.NO_ETAPE}),
        answer=(Why.NEVER_MEMBER, Why.NO_LEADING_ENROLMENT, Why.NOTHING_TO_DO),
        french="étape non précisée, version 101, 2026-2027 (apogee) : active, droits payés",
        english="étape not given, version 101, 2026-2027 (apogee): active, fees paid",
    ),
    Situation(
        name="another source said later that it is cancelled",
        setup=another_source_says_otherwise,
        also=frozenset({Why.OVERRULED, Why.STATUS}),
        answer=(Why.NOT_MEMBER, *LEFT, Why.NOTHING_TO_DO),
        french="Remplacée : supann a transmis une information plus récente sur cette inscription (le 1er septembre "
        "2026 à 08:11).",
        english="Superseded: supann has reported on this enrolment since (on 1 September 2026 at 08:11).",
    ),
    Situation(
        name="another source said later that it is another student's",
        setup=another_source_names_another_student,
        also=frozenset({Why.ANOTHERS}),
        answer=(Why.NOT_MEMBER, *LEFT, Why.NOTHING_TO_DO),
        french="selon supann (le 1er septembre 2026 à 08:11), cette inscription est celle du numéro 29900002.",
        english="according to supann (on 1 September 2026 at 08:11), the enrolment belongs to number 29900002.",
    ),
    # On their way out, or out.
    Situation(
        name="resigned, and the removal waits a little",
        setup=ended(Status.RESIGNED, removal_delay=120),
        answer=(Why.TO_REMOVE, *LEFT, *ADDED, Why.WAITING_REMOVAL, *PARKED),
        french="Le retrait est différé un court instant, au cas où l'inscription serait rétablie ; le garde-fou",
        english="The removal waits a short while, in case the enrolment comes back; then the guard checks it.",
    ),
    Situation(
        name="resigned and removed",
        setup=resigned_and_removed,
        answer=(
            Why.NOT_MEMBER, *LEFT, Why.COHORT_CREATED, Why.ADDED, Why.REMOVED, Why.SEEN_ABSENT, Why.NOTHING_TO_DO,
        ),
        french="Retrait effectué sur Moodle le 1er septembre 2026 à 10:10 (compte n° 29900001).",
        english="Removed on Moodle on 1 September 2026 at 10:10 (account 29900001).",
    ),
    Situation(
        name="deleted at the source",
        setup=deleted_at_the_source,
        also=frozenset({Why.STATUS}),
        answer=(
            Why.NOT_MEMBER, Why.NO_LEADING_ENROLMENT, Why.ENDED_SINCE, Why.COHORT_CREATED, Why.ADDED, Why.REMOVED,
            Why.SEEN_ABSENT, Why.NOTHING_TO_DO,
        ),
        french="N'a plus à y figurer depuis le 1er septembre 2026 à 09:10 : inscription supprimée à la source "
        "(enrolments[0]@2).",
        english="No longer desired since 1 September 2026 at 09:10: enrolment deleted at the source "
        "(enrolments[0]@2).",
    ),
    Situation(
        name="absent from the snapshot",
        setup=absent_from_the_snapshot,
        also=frozenset({Why.STATUS}),
        answer=(Why.TO_REMOVE, *LEFT, *ADDED, Why.READY, Why.DUE_BY),
        french="inscription absente de l'extraction (snapshot night), réconciliation n° 7.",
        english="enrolment absent from the snapshot (snapshot night), reconciliation 7.",
    ),
    Situation(
        name="the year was closed",
        setup=a_year_that_was_closed,
        also=frozenset({Why.YEAR_NOT_ACTIVE}),
        answer=(Why.TO_REMOVE, *LEFT, *ADDED, Why.WAITING_GRACE, *PARKED),
        french="Prochaine tentative : le 1er octobre 2026 à 09:10.",
        english="Next attempt: 1 October 2026 at 09:10.",
    ),
    Situation(
        name="the enrolment was given to another number",
        setup=the_enrolment_was_given_another_number,
        also=frozenset({Why.NO_ENROLMENT}),
        answer=(
            Why.NOT_MEMBER, Why.NO_LEADING_ENROLMENT, Why.ENDED_SINCE, Why.COHORT_CREATED, Why.ADDED, Why.REMOVED,
            Why.SEEN_ABSENT, Why.NOTHING_TO_DO,
        ),
        french="Aucune inscription connue sous le numéro 29900001.",
        english="No enrolment is known under the number 29900001.",
    ),
    # Merged numbers.
    Situation(
        name="a number that was merged into another",
        setup=merged_after_having_joined,
        student=FORMER,
        also=frozenset({Why.NUMBER_MERGED}),
        answer=(
            Why.TO_ADD, *LEADS_THERE, Why.FORMER_NUMBER, Why.COHORT_CREATED, Why.ADDED, Why.READY, Why.DUE_BY,
        ),
        french="Le numéro 19900001 est devenu 29900001 (fusion du 1er septembre 2026 à 09:10).",
        english="The number 19900001 was merged into 29900001 (on 1 September 2026 at 09:10).",
    ),
    Situation(
        name="a merge that was reversed",
        setup=merged_and_reversed,
        also=frozenset({Why.MERGE_SET_ASIDE, Why.NUMBER_MERGED}),
        answer=(Why.MEMBER, *LEADS_THERE, *ADDED, Why.LOOK_IN_COURSE),
        french="est contredite par une fusion plus récente : elle est sans effet.",
        english="is contradicted by a later one: it has no effect.",
    ),
    Situation(
        name="a number that another person has had",
        setup=number_of_two_persons,
        also=frozenset({Why.MERGE_CLAIMED}),
        answer=(Why.MEMBER, *LEADS_THERE, *ADDED, Why.LOOK_IN_COURSE),
        french="est retenue : plusieurs personnes ont porté ces numéros.",
        english="is held: several persons have had these numbers.",
    ),
    Situation(
        name="a merge of a number that is still in use",
        setup=merged_and_still_in_use,
        also=frozenset({Why.MERGE_CONTRADICTED, Why.CONFIRMED}),
        answer=(Why.MEMBER, *LEADS_THERE, *ADDED, Why.LOOK_IN_COURSE),
        french="a pris fin : d'après un instantané plus récent, ce numéro sert encore.",
        english="has ended: by a newer snapshot the number is still in use.",
    ),
    Situation(
        name="a merge that is said again of a number in use",
        setup=merged_again_though_in_use,
        also=frozenset({Why.MERGE_TOLD_AGAIN, Why.CONFIRMED}),
        answer=(Why.MEMBER, *LEADS_THERE, *ADDED, Why.LOOK_IN_COURSE),
        french="elle est retenue jusqu'à ce que quelqu'un décide",
        english="it is held until a person decides",
    ),
    Situation(
        name="a merge that a person ended",
        setup=merge_ended_by_a_person,
        also=frozenset({Why.MERGE_REJECTED}),
        answer=(Why.MEMBER, *LEADS_THERE, *ADDED, Why.LOOK_IN_COURSE),
        french="a été refusée par quelqu'un",
        english="A person rejected the merge",
    ),
    # Rules.
    Situation(
        name="no route of the platform takes the étape",
        setup=of_another_component,
        platform="sante",
        cohort=None,
        also=frozenset({Why.NO_ROUTE}),
        answer=(Why.NOTHING_LEADS,),
        french="aucune règle n'y accepte l'étape XINFO1 de la composante U99.",
        english="no route there accepts étape XINFO1 of component U99.",
    ),
    Situation(
        name="the component isn't known",
        setup=of_no_known_component,
        platform="sante",
        cohort=None,
        also=frozenset({Why.COMPONENT_UNKNOWN}),
        answer=(Why.NOTHING_LEADS,),
        french="les règles y dépendent de la composante, et celle de l'étape XINFO1 n'est pas connue.",
        english="the routes there depend on the component, and that of étape XINFO1 is unknown.",
    ),
    Situation(
        name="the version isn't known, and the cohort is named by it",
        setup=without_a_version,
        cohort=None,
        also=frozenset({Why.NO_IDNUMBER}),
        answer=(Why.NOTHING_LEADS,),
        french="l'identifiant {etape}-{version} ne peut pas être formé",
        english="the idnumber {etape}-{version} can't be formed",
    ),
    Situation(
        name="a platform that is kept by hand",
        setup=by_hand_only,
        platform="prelude",
        answer=(Why.PLATFORM_MANUAL,),
        french="prelude est gérée à la main : ce service n'y écrit rien.",
        english="prelude is managed by hand: this service writes nothing there.",
    ),
    Situation(
        name="a platform that is kept by hand from now on",
        setup=by_hand_from_now_on,
        answer=(Why.PLATFORM_MANUAL, *ADDED),
        french="Ajout effectué sur Moodle le 1er septembre 2026 à 08:10 (compte n° 29900001).",
        english="Added on Moodle on 1 September 2026 at 08:10 (account 29900001).",
    ),
    Situation(
        name="enrolled, and asked for, under the code that the étape had before",
        setup=under_the_former_code,
        cohort="OLD",
        also=frozenset({Why.ALIAS}),
        answer=(Why.MEMBER, *LEADS_THERE, *ADDED, Why.LOOK_IN_COURSE),
        french="L'étape OLD est devenue XINFO1.",
        english="Étape OLD has become XINFO1.",
    ),
    Situation(
        name="the étape got another code, whose cohort existed already",
        setup=under_a_code_that_was_replaced_later,
        platform=None,
        cohort="Cohorte XINFO1",
        answer=(
            Why.NOT_MEMBER, Why.NO_RULE, Why.ENDED_SINCE, Why.COHORT_CREATED, Why.ADDED, Why.REMOVED, Why.SEEN_ABSENT,
            Why.NOTHING_TO_DO,
        ),
        french="l'étape XINFO1 ne correspond plus à cette cohorte ; elle est devenue NEW.",
        english="under the current settings, étape XINFO1 doesn't; it has become NEW.",
    ),
    Situation(
        name="a cohort that no rule leads to any more",
        setup=a_route_that_was_closed,
        answer=(
            Why.NOT_MEMBER, Why.NO_RULE, Why.ENDED_SINCE, Why.COHORT_CREATED, Why.ADDED, Why.REMOVED, Why.SEEN_ABSENT,
            Why.NOTHING_TO_DO,
        ),
        french="Plus rien n'y donne droit : avec les réglages actuels, l'étape XINFO1 ne correspond plus à cette "
        "cohorte.",
        english="Nothing leads to it any more: under the current settings, étape XINFO1 doesn't.",
    ),
    Situation(
        name="settings that the worker hasn't started with yet",
        setup=a_setting_that_was_not_applied_yet,
        answer=(Why.MEMBER, *LEFT[:1], Why.DESIRED_SINCE, Why.RULES_DIFFER, *ADDED, Why.LOOK_IN_COURSE),
        french="Les réglages actuels en décideraient autrement : ils seront appliqués au prochain démarrage",
        english="The current settings would decide otherwise: they will be applied when `cohorts run`",
    ),
    Situation(
        name="enrolled in another étape",
        setup=enrolled_elsewhere,
        answer=(Why.NEVER_MEMBER, Why.NO_LEADING_ENROLMENT, Why.NOTHING_TO_DO),
        french="Aucune de ses inscriptions n'y donne droit. Étape attendue : XINFO1, OLD.",
        english="None of their enrolments leads to it. Étape that does: XINFO1, OLD.",
    ),
    Situation(
        name="enrolled in another component, and the cohort gathers one",
        setup=a_cohort_of_a_component,
        cohort="C-U99",
        answer=(Why.NEVER_MEMBER, Why.NO_LEADING_ENROLMENT, Why.NOTHING_TO_DO),
        french="Étape attendue : n'importe laquelle de la composante U99.",
        english="Any étape of component U99 does.",
    ),
    # Persons and the guard.
    Situation(
        name="beyond the cohort's limit",
        setup=a_class_leaves,
        answer=(Why.TO_REMOVE, *LEFT, *ADDED, Why.HELD_COHORT),
        french="Retrait retenu par le garde-fou : trop de retraits à la fois dans cette cohorte.",
        english="Held by the guard: too many removals at once in this cohort.",
    ),
    Situation(
        name="beyond the platform's limit",
        setup=beyond_the_platforms_limit,
        answer=(Why.TO_REMOVE, *LEFT, *ADDED, Why.HELD_PLATFORM),
        french="Retrait retenu par le garde-fou : trop de retraits à la fois sur la plateforme.",
        english="Held by the guard: too many removals at once on the platform.",
    ),
    Situation(
        name="beyond the cohort's limit of a month",
        setup=beyond_a_limit_of_the_month(
            GuardLimits(cohort_percent=40, month_cohort_percent=40, platform_percent=100, floor=0, month_floor=0)
        ),
        answer=(Why.TO_REMOVE, *LEFT, *ADDED, Why.HELD_COHORT_MONTH),
        french="Retrait retenu par le garde-fou : trop de retraits en trente jours dans cette cohorte.",
        english="Held by the guard: too many removals within 30 days in this cohort.",
    ),
    Situation(
        name="beyond the platform's limit of a month",
        setup=beyond_a_limit_of_the_month(
            GuardLimits(cohort_percent=100, platform_percent=45, month_platform_percent=45, floor=0, month_floor=0)
        ),
        answer=(Why.TO_REMOVE, *LEFT, *ADDED, Why.HELD_PLATFORM_MONTH),
        french="Retrait retenu par le garde-fou : trop de retraits en trente jours sur la plateforme.",
        english="Held by the guard: too many removals within 30 days on the platform.",
    ),
    Situation(
        name="beyond the limit of small cohorts",
        setup=beyond_the_limit_of_small_cohorts,
        answer=(Why.TO_REMOVE, *LEFT, *ADDED, Why.HELD_SMALL_COHORTS),
        french="Retrait retenu par le garde-fou : trop de petites cohortes de la plateforme se vident à la fois.",
        english="Held by the guard: too many small cohorts of the platform empty at once.",
    ),
    Situation(
        name="there before the cohort was adopted, and of no right",
        setup=inherited_with_an_adopted_cohort,
        also=frozenset({Why.STATUS}),
        answer=(
            Why.TO_REMOVE, Why.WOULD_LEAD, Why.INHERITED, Why.COHORT_ADOPTED, Why.SEEN, Why.HELD_ADOPTED,
        ),
        french="Était déjà dans cette cohorte quand elle a été confiée à ce service (constaté le 1er septembre 2026",
        english="Held: the cohort was adopted with members who have no place there",
    ),
    Situation(
        name="approved",
        setup=approved,
        answer=(Why.TO_REMOVE, *LEFT, *ADDED, Why.APPROVED, Why.READY, Why.DUE_BY),
        french="), approbation valable jusqu'au 2 septembre 2026 à 09:10.",
        english="Removal approved by cemu (",
    ),
    Situation(
        name="approved too long ago",
        setup=approved_too_long_ago,
        answer=(Why.TO_REMOVE, *LEFT, *ADDED, Why.APPROVAL_EXPIRED, Why.HELD_COHORT),
        french=") a expiré le 2 septembre 2026 à 09:10.",
        english=") expired on 2 September 2026 at 09:10.",
    ),
    Situation(
        name="approved and removed",
        setup=approved_and_removed,
        answer=(
            Why.NOT_MEMBER, *LEFT, Why.COHORT_CREATED, Why.ADDED, Why.REMOVED, Why.SEEN_ABSENT, Why.NOTHING_TO_DO,
        ),
        french=") par cemu.",
        english=") by cemu.",
    ),
    Situation(
        name="rejected: kept by a person",
        setup=rejected,
        answer=(Why.MEMBER, Why.WOULD_LEAD, Why.KEPT_REJECTED, *ADDED, Why.LOOK_IN_COURSE),
        french="Son retrait a été refusé le 1er septembre 2026 à 09:10 par cemu : sa place est conservée",
        english="Their removal was rejected on 1 September 2026 at 09:10 by cemu: the membership is kept",
    ),
    Situation(
        name="rejected, and then enrolled again",
        setup=rejected_and_enrolled_again,
        answer=(
            Why.MEMBER, *LEADS_THERE, Why.COHORT_CREATED, Why.ADDED, Why.DECIDED, Why.SEEN, Why.LOOK_IN_COURSE,
        ),
        french="Décision du 1er septembre 2026 à 09:10, par cemu : retrait refusé (",
        english="Decision of 1 September 2026 at 09:10, by cemu: removal rejected (",
    ),
    Situation(
        name="undone: kept by a person",
        setup=undone,
        answer=(
            Why.TO_ADD, Why.WOULD_LEAD, Why.KEPT_UNDONE, Why.COHORT_CREATED, Why.ADDED, Why.REMOVED, Why.SEEN_ABSENT,
            Why.READY, Why.DUE_BY,
        ),
        french="Son retrait a été annulé le 1er septembre 2026 à 10:10 par scol : sa place est conservée",
        english="Their removal was undone on 1 September 2026 at 10:10 by scol: the membership is kept",
    ),
    # What a reconciliation found on Moodle.
    Situation(
        name="deleted by hand on Moodle, and made again",
        setup=deleted_and_made_again,
        also=frozenset({Why.COHORT_DELETED}),
        answer=(
            Why.MEMBER, Why.BECAUSE, Why.DRIFTED, Why.COHORT_CREATED, Why.ADDED, Why.DELETION_FOUND, Why.COHORT_CREATED,
            Why.ADDED, Why.SEEN, Why.LOOK_IN_COURSE,
        ),
        french="« Cohorte XINFO1 »\n  ATTENTION : quelqu'un a supprimé cette cohorte sur Moodle (constaté le 1er "
        "septembre 2026 à 09:10, 1 membres perdus). Elle a été refaite (id 1)",
        english='"Cohorte XINFO1"\n  WARNING: somebody deleted this cohort on Moodle (noticed on 1 September 2026 at '
        "09:10, 1 members lost). It was made again (id 1), and its members come back, but NO COURSE",
    ),
    Situation(
        name="deleted by hand on Moodle, made again, and its courses seen to",
        setup=deleted_made_again_and_seen_to,
        answer=(
            Why.MEMBER, Why.BECAUSE, Why.DRIFTED, Why.COHORT_CREATED, Why.ADDED, Why.DELETION_FOUND, Why.COHORT_CREATED,
            Why.ADDED, Why.COURSES_SEEN_TO, Why.SEEN, Why.LOOK_IN_COURSE,
        ),
        french="Les cours de la cohorte supprimée ont été repris, selon cemu, le 1er septembre 2026 à 09:10.",
        english="The courses of the deleted cohort were seen to, according to cemu, on 1 September 2026 at 09:10.",
    ),
    Situation(
        name="taken out by hand on Moodle",
        setup=drifted(desired=True),
        answer=(
            Why.TO_ADD, Why.BECAUSE, Why.DRIFTED, Why.COHORT_CREATED, Why.ADDED, Why.SEEN_ABSENT, Why.READY, Why.DUE_BY,
        ),
        french="Écart constaté sur Moodle le 1er septembre 2026 à 09:10, réconciliation n° 7.",
        english="Difference found on Moodle on 1 September 2026 at 09:10, reconciliation 7.",
    ),
    Situation(
        name="put in by hand on Moodle",
        setup=drifted(desired=False),
        answer=(
            Why.TO_REMOVE, Why.WOULD_LEAD, Why.DRIFTED, Why.COHORT_CREATED, Why.ADDED, Why.REMOVED, Why.SEEN, Why.READY,
            Why.DUE_BY,
        ),
        french="Ne doit pas être membre, et l'est encore.",
        english="Must not be a member, and still is.",
    ),
]  # fmt: skip


@pytest.mark.parametrize("situation", SITUATIONS, ids=lambda situation: situation.name)
def test_explain_is_right(ledger: Ledger, situation: Situation) -> None:
    scene = Scene(ledger)
    situation.setup(scene)
    explanation = scene.ask(situation.student, situation.platform, situation.cohort)
    codes = [(answer.state.code, *(finding.code for finding in answer.findings)) for answer in explanation.answers]
    assert codes == ([situation.answer] if situation.answer else [])
    assert situation.also <= explanation.codes()
    assert situation.french in render(explanation, Language.FR, ZONE)
    assert situation.english in render(explanation, Language.EN, ZONE)
    assert json.loads(json.dumps(asdict(explanation)))["student"] == situation.student


def test_every_code_is_shown_by_a_situation() -> None:
    assert {code for situation in SITUATIONS for code in (*situation.answer, *situation.also)} == set(Why)


# The whole text


def text(scene: Scene, setup: Setup, language: Language, platform: str | None = "ecampus") -> str:
    setup(scene)
    return render(scene.ask(STUDENT, platform, None), language, ZONE)


def test_the_answer_about_a_member_in_french(ledger: Ledger) -> None:
    assert (
        text(Scene(ledger), a_member, Language.FR)
        == """\
Numéro étudiant 29900001, situation au 1er septembre 2026 à 08:10
- Identifiant de connexion : exemple (communiqué le 1er septembre 2026 à 08:10).

Ce que disent les sources
  XINFO1 « Licence 1 », version 101, 2026-2027 (apogee) : active, droits payés
  - Source : enrolments[0]@1 ; état au 1er septembre 2026 à 08:10, enregistré le 1er septembre 2026 à 08:10.
  - Prise en compte : elle remplit toutes les conditions.
  - Sur ecampus, donne droit à : XINFO1.

ecampus, cohorte XINFO1 « Cohorte XINFO1 »
  Doit être membre, et l'est.
  - L'inscription à XINFO1 (2026-2027) y donne droit.
  - Doit y figurer depuis le 1er septembre 2026 à 08:10 : inscription active (enrolments[0]@1).
  - Cohorte créée par ce service le 1er septembre 2026 à 08:10.
  - Ajout effectué sur Moodle le 1er septembre 2026 à 08:10 (compte n° 29900001).
  - Présence constatée sur Moodle le 1er septembre 2026 à 08:10.
  - Rien d'autre n'est prévu. Si un cours n'affiche pas cette personne, vérifier sa méthode d'inscription \
« Synchronisation des cohortes ».
"""
    )


def test_the_answer_about_a_held_removal_in_french(ledger: Ledger) -> None:
    assert (
        text(Scene(ledger), a_class_leaves, Language.FR)
        == """\
Numéro étudiant 29900001, situation au 1er septembre 2026 à 09:10

Ce que disent les sources
  XINFO1, version 101, 2026-2027 (apogee) : close par démission, droits payés
  - Source : enrolments[0]@2 ; état au 1er septembre 2026 à 09:10, enregistré le 1er septembre 2026 à 09:10.
  - Non prise en compte : elle est close par démission ; il faudrait qu'elle soit active.

ecampus, cohorte XINFO1 « Cohorte XINFO1 »
  Ne doit pas être membre, et l'est encore.
  - L'inscription à XINFO1 (2026-2027) y donnerait droit, mais n'est pas prise en compte : son état (close par \
démission).
  - N'a plus à y figurer depuis le 1er septembre 2026 à 09:10 : démission (enrolments[0]@2).
  - Cohorte créée par ce service le 1er septembre 2026 à 08:10.
  - Ajout effectué sur Moodle le 1er septembre 2026 à 08:10 (compte n° 29900001).
  - Présence constatée sur Moodle le 1er septembre 2026 à 08:10.
  - Retrait retenu par le garde-fou : trop de retraits à la fois dans cette cohorte. Une personne doit en décider \
(`cohorts held`, puis `cohorts approve` ou `cohorts reject`).
"""
    )


def test_the_answer_about_somebody_without_an_account_in_english(ledger: Ledger) -> None:
    assert (
        text(Scene(ledger), looked_up_and_not_found, Language.EN)
        == """\
Student number 29900001, as of 1 September 2026 at 08:11

What the sources say
  XINFO1, version 101, 2026-2027 (apogee): active, fees paid
  - Source: enrolments[0]@1; as of 1 September 2026 at 08:10, recorded on 1 September 2026 at 08:10.
  - Counts: it meets every condition.
  - On ecampus, leads to: XINFO1.

ecampus, cohort XINFO1
  Must be a member, and isn't yet.
  - The enrolment in XINFO1 (2026-2027) leads to it.
  - Desired since 1 September 2026 at 08:10: active enrolment (enrolments[0]@1).
  - Not in the cohort on Moodle on 1 September 2026 at 08:10.
  - No Moodle account whose username is 29900001 (searched on 1 September 2026 at 08:10). Waiting for the account to \
be created.
  - The cohort doesn't exist on Moodle yet: it will be created first.
  - Next attempt: 1 September 2026 at 08:15.
  - Due by 2 September 2026 at 08:10.
"""
    )


def test_every_platform_is_answered_for_when_none_is_asked_for(ledger: Ledger) -> None:
    scene = Scene(ledger)
    of_another_component(scene)
    answers = scene.ask(STUDENT, None, None).answers
    assert [(answer.platform, answer.cohort, answer.state.code) for answer in answers] == [
        ("ecampus", ETAPE, Why.TO_ADD),
        ("prelude", None, Why.PLATFORM_MANUAL),
        ("sante", None, Why.NOTHING_LEADS),
    ]


# The words


@pytest.mark.parametrize("language", Language)
def test_there_are_words_for_everything_that_can_be_said(language: Language) -> None:
    known = words(language)
    assert list(known.sentences) == [code.value for code in Why]
    kinds = {"status": [*Status], "payment": [*Payment], "cause": [*Cause], "field": [*AccountField]}
    for kind, values in kinds.items():
        assert known.values[kind].keys() == set(values)
    assert known.values["action"].keys() == {Action.APPROVE, Action.REJECT, Action.UNDO}
    verdicts = {code for situation in SITUATIONS for code in situation.also}
    assert known.values["verdict"].keys() <= verdicts
    assert len(known.dates.months) == 12


def test_both_languages_say_the_same_values() -> None:
    french, english = words(Language.FR), words(Language.EN)

    def values(sentence: str) -> list[str]:
        return sorted(re.findall(r"\{(\w+)\}", sentence))

    for ours, theirs in ((french.sentences, english.sentences), (french.headings, english.headings)):
        assert {key: values(sentence) for key, sentence in ours.items()} == {
            key: values(sentence) for key, sentence in theirs.items()
        }
    assert {kind: set(texts) for kind, texts in french.values.items()} == {
        kind: set(texts) for kind, texts in english.values.items()
    }


# All students


def test_explain_agrees_with_the_ledger_about_every_student_of_a_university(ledger: Ledger) -> None:
    university = University(seed=11, students=120, etapes=15)
    messages = [*university.initial(), *university.september_day(150), *university.september_day(60)]
    changes = [cloudevents.parse(value=m.payload(), origin=f"enrolments[0]@{i}") for i, m in enumerate(messages)]
    Random(11).shuffle(changes)
    recorder(ledger).record([Received(change=change, published_at=NOW) for change in changes], now=NOW)
    members = {(cohort, who) for cohort, some in status.desired(ledger, "ecampus").items() for who in some}
    found = set()
    for student in {change.student_id for change in changes if isinstance(change, EnrolmentChange)}:
        explanation = explain(student_view.read(ledger, POLICY, student), POLICY, now=NOW)
        assert Why.RULES_DIFFER not in explanation.codes()
        assert Why.STUDENT_UNKNOWN not in explanation.codes()
        for answer in explanation.answers:
            because = Why.BECAUSE in {finding.code for finding in answer.findings}
            assert because == (answer.state.code in {Why.MEMBER, Why.TO_ADD})
            if because:
                found.add((answer.cohort, explanation.numbers[0]))
        assert render(explanation, Language.FR, ZONE)
    assert found == members
