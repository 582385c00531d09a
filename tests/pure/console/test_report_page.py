import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from html.parser import HTMLParser
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2.runtime import Macro

from worker.console import report_page
from worker.console.report_page import Task, render
from worker.domain.cohorts import BlockedCohort, DeletedCohort
from worker.domain.errors import Refusal, SnapshotFault
from worker.domain.report import (
    REPORTS,
    CohortGuardReport,
    CohortReport,
    ForeignChange,
    ForeignEvent,
    GuardReport,
    PlatformReport,
    Report,
    SnapshotReport,
    Stopped,
)
from worker.domain.rules import Mode
from worker.domain.states import Blockage, CohortChange, CohortState, Drift, Language, PlatformState, RunState

PARIS = ZoneInfo("Europe/Paris")
FR, EN = Language.FR, Language.EN
VOID = {"meta", "link", "br"}
DAY = 86_400.0


def instant(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


GUARD = GuardReport(
    enabled=True, memberships=412, removed=3, pending=2, held=0,
    platform_limit=20, worst_cohort="L2DROI", worst_percent=3.0,
)  # fmt: skip
ECAMPUS = PlatformReport(
    name="ecampus", mode="automatic", read=True, cohorts=12, members=412, guard=GUARD, added=7, removed=3, foreign=34
)
SNAPSHOT = SnapshotReport(
    id="apogee-1", taken_at=instant("2026-08-31T22:10:00+02:00"), system="apogee", rows=35_012,
    rows_by_year={2025: 1_234, 2026: 33_778}, unknown=0, applied=1_050, ended=312, memberships=1_402,
)  # fmt: skip
CALM = Report(
    run=41, state=RunState.DONE, night="2026-09-01", snapshot=SNAPSHOT, platforms=(ECAMPUS,),
    started_at=instant("2026-09-01T02:30:00+02:00"), ended_at=instant("2026-09-01T02:41:04+02:00"),
)  # fmt: skip
HELD = replace(
    ECAMPUS,
    held=212,
    guard=replace(GUARD, held=212, worst_cohort="L1DROI", worst_percent=71.44),
    details=(CohortReport(idnumber="L2DROI", added=7), CohortReport(idnumber="L9DROI", held=212)),
)
BLOCKED = replace(
    ECAMPUS,
    blocked=(
        BlockedCohort(idnumber="C2ABC", why=Blockage.COLLIDING, students=12, blocker="C2abc", blocker_id=7, code=None),
        BlockedCohort(idnumber="L1DROI", why=Blockage.FOREIGN, students=1, blocker="L1DROI", blocker_id=8, code=None),
    ),
)
DELETED = replace(
    ECAMPUS,
    deleted=(
        DeletedCohort(
            idnumber="L1STAP", name="L1 STAPS", etape="L1STAP", lost=212,
            deleted_at=instant("2026-08-31T14:05:00+02:00"), state=CohortState.OWNED, moodle_id=57,
        ),
        DeletedCohort(
            idnumber="M1PHY", name=None, etape=None, deleted_at=instant("2026-09-01T02:31:00+02:00"), lost=0,
            state=CohortState.FOREIGN, moodle_id=None,
        ),
    ),
)  # fmt: skip
NEW = CohortGuardReport(change=CohortChange.CREATION, ours=1200, made=4, pending=0, held=300, limit=120)
RENAMED = CohortGuardReport(change=CohortChange.RENAME, ours=1200, made=0, pending=1, held=1, limit=60)
HELD_COHORTS = replace(ECAMPUS, guard=replace(GUARD, cohorts=(NEW, RENAMED)))
UNREAD = PlatformReport(name="collegium", mode="automatic", error="Moodle did not answer within 60 s")
SUSPENDED = Stopped(
    state=PlatformState.DENIED, since=CALM.started_at - DAY, sentence="wsaccessusersuspended: activate it"
)
DENIED = replace(
    ECAMPUS,
    waiting=75,
    left=75,
    stopped=SUSPENDED,
)
PRELUDE = PlatformReport(name="prelude", mode="manual")


def report_of(*platforms: PlatformReport, state: RunState = RunState.DONE) -> Report:
    return replace(CALM, platforms=platforms, state=state)


class _Page(HTMLParser):
    """Collects the tags with their attributes and the text by region, and insists that every tag is closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: dict[str, list[str]] = {}
        self._open: list[str] = []
        self._regions: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self._open:
            for region in ("all", *self._open):
                self.words.setdefault(region, []).append(data)

    def classes(self) -> list[set[str]]:
        return [set((attributes.get("class") or "").split()) for _, attributes in self.tags]


def exact(html: str, region: str = "body") -> str:
    """What is shown, unbreakable spaces included."""
    return re.sub(r"[ \n]+", " ", "".join(_Page(html).words.get(region, []))).strip()


def shown(report: Report, language: Language, region: str = "body", zone: ZoneInfo = PARIS) -> str:
    """What is shown, with every space and apostrophe an ordinary one."""
    return re.sub(r"\s+", " ", exact(render(report, language, zone), region)).replace(
        "\N{RIGHT SINGLE QUOTATION MARK}", "'"
    )


# At a glance


@pytest.mark.parametrize(
    ("language", "headline", "calm"),
    [(FR, "La nuit s'est bien passée.", "Aucune intervention n'est nécessaire."),
     (EN, "The night went well.", "No action is needed.")],
)  # fmt: skip
def test_a_night_that_went_well_says_so_on_top(language: Language, headline: str, calm: str) -> None:
    assert shown(CALM, language, "h1") == headline
    assert f"{headline} {calm}" in shown(CALM, language, "header")
    assert {"hero", "good"} <= set.union(*_Page(render(CALM, language, PARIS)).classes())


def test_a_reconciliation_by_day_is_not_called_a_night() -> None:
    by_day = replace(CALM, night=None)
    assert shown(by_day, FR, "h1") == "La réconciliation s'est bien passée."
    assert shown(by_day, EN, "h1") == "The reconciliation went well."
    assert "nuit" not in shown(by_day, FR)
    assert "night" not in shown(by_day, EN)


@pytest.mark.parametrize("language", Language)
def test_every_state_has_its_headline(language: Language) -> None:
    assert len({shown(report_of(state=state), language, "h1") for state in RunState}) == len(RunState)


@pytest.mark.parametrize(
    ("report", "tone"),
    [
        (CALM, "good"),
        (report_of(ECAMPUS, PRELUDE), "good"),
        (report_of(HELD), "attention"),
        (report_of(BLOCKED), "attention"),
        (report_of(DELETED), "bad"),
        (report_of(HELD_COHORTS), "attention"),
        (report_of(ECAMPUS, UNREAD, state=RunState.PARTIAL), "attention"),
        (report_of(replace(ECAMPUS, waiting=3), state=RunState.PARTIAL), "attention"),
        (report_of(DENIED, state=RunState.PARTIAL), "attention"),
        (report_of(state=RunState.RUNNING), "running"),
        (report_of(state=RunState.REFUSED), "bad"),
        (report_of(state=RunState.FAILED), "bad"),
        (report_of(state=RunState.ABANDONED), "bad"),
        (report_of(replace(ECAMPUS, guard=replace(GUARD, enabled=False))), "bad"),
    ],
)
def test_the_colour_says_how_it_went(report: Report, tone: str) -> None:
    assert report_page.tone(report) == tone
    assert {"hero", tone} in [classes & {"hero", tone} for classes in _Page(render(report, FR, PARIS)).classes()]


def test_only_a_run_that_left_nothing_to_a_person_says_that_nobody_has_anything_to_do() -> None:
    for report in (
        report_of(HELD),
        report_of(BLOCKED),
        report_of(DELETED),
        report_of(HELD_COHORTS),
        report_of(UNREAD, state=RunState.PARTIAL),
        report_of(DENIED, state=RunState.PARTIAL),
        report_of(replace(ECAMPUS, left=1), state=RunState.PARTIAL),
        report_of(state=RunState.REFUSED),
        report_of(state=RunState.RUNNING),
    ):
        assert "Aucune intervention n'est nécessaire" not in shown(report, FR)
        assert "No action is needed" not in shown(report, EN)


def test_what_waits_for_a_person_comes_with_the_most_urgent_first() -> None:
    off = replace(HELD, name="sante", guard=replace(GUARD, enabled=False))
    found = report_page.waiting(report_of(HELD, UNREAD, off, state=RunState.FAILED))
    assert [(item.task, item.platform and item.platform.name) for item in found] == [
        (Task.GUARD_OFF, "sante"),
        (Task.FAILED, None),
        (Task.UNREAD, "collegium"),
        (Task.HELD, "ecampus"),
        (Task.HELD, "sante"),
    ]


def test_new_cohorts_and_renames_that_are_held_are_a_task_and_come_before_removals() -> None:
    report = report_of(replace(HELD_COHORTS, held=2))
    assert [item.task for item in report_page.waiting(report)] == [Task.HELD_COHORTS, Task.HELD]
    french, english = shown(report, FR, "header"), shown(report, EN, "header")
    assert "ecampus : 300 nouvelles cohortes et 1 changement de nom de cohorte attendent votre décision" in french
    assert "ecampus: 300 new cohorts and 1 rename of a cohort wait for your decision" in english
    assert "4 cohortes créées en 24 heures et 0 à venir, pour 120 autorisées." in shown(report, FR)
    assert "0 cohorts renamed in 24 hours and 1 to come, of 60 allowed." in shown(report, EN)
    one = replace(ECAMPUS, guard=replace(GUARD, cohorts=(RENAMED,)))
    assert "1 changement de nom de cohorte attend votre décision" in shown(report_of(one), FR, "header")


def test_the_head_sums_up_all_platforms_that_were_read() -> None:
    report = report_of(ECAMPUS, replace(ECAMPUS, name="sante", parked=4, waiting=1), UNREAD, state=RunState.PARTIAL)
    assert "14 ajouts et 6 retraits effectués ; 824 membres relus dans 24 cohortes, sur 2 plateformes." in shown(
        report, FR, "header"
    )
    assert "14 additions and 6 removals done; 824 members read in 24 cohorts on 2 platforms." in shown(
        report, EN, "header"
    )
    assert "Continues by itself: 1 change to come and 4 additions parked" in shown(report, EN, "header")


def test_a_platform_that_denies_is_the_first_thing_said_with_since_when_and_who_is_to_be_told() -> None:
    report = report_of(DENIED, state=RunState.PARTIAL)
    assert (
        "La nuit est incomplète. ecampus : le service n'arrive pas à y écrire. Depuis le lundi 31 août 2026 à "
        "2 h 30, la plateforme refuse l'accès au service : rien n'y est écrit. Prévenez l'équipe système, qui doit "
        "intervenir sur la plateforme. 75 changements restent à faire : le service s'en chargera dès que la "
        "plateforme répondra."
    ) in shown(report, FR, "header")
    assert "à venir" not in shown(report, FR, "header"), "nothing of it goes on by itself"
    assert "75 changements attendent que la plateforme réponde" in shown(report, FR, "main")
    assert "wsaccessusersuspended: activate it" in shown(report, FR, "main")
    down = replace(DENIED, stopped=replace(SUSPENDED, state=PlatformState.UNAVAILABLE))
    assert "hasn't answered as it should: nothing is written there. Tell the system engineers." in shown(
        report_of(down, state=RunState.PARTIAL), EN, "header"
    )


def test_a_platform_that_could_not_be_read_says_when_it_was_last() -> None:
    never = shown(report_of(UNREAD, state=RunState.PARTIAL), FR, "header")
    assert "collegium n'a pas pu être lue, ou pas jusqu'au bout. Elle n'a encore jamais été lue en entier." in never
    lately = replace(UNREAD, last_read=CALM.started_at - DAY)
    assert "La dernière lecture complète date du lundi 31 août 2026 à 2 h 30." in shown(report_of(lately), FR, "header")


def test_changes_that_could_have_been_made_are_said_although_everything_was_read() -> None:
    report = report_of(replace(ECAMPUS, waiting=3, left=1), state=RunState.PARTIAL)
    assert "ecampus : 1 changement n'a pas pu être fait." in shown(report, FR, "header")
    assert "2 changes to come" in shown(report, EN, "header")


# The snapshot


def test_the_snapshot_that_was_accepted_is_told_with_its_age_and_what_it_changed() -> None:
    french, english = shown(CALM, FR), shown(CALM, EN)
    assert "35 012 inscriptions relevées dans apogee le lundi 31 août 2026 à 22 h 10, soit 4 h 20 min avant" in french
    assert "1 050 inscriptions ; 312 se sont terminées parce qu'elles n'y figurent plus" in french
    assert "2025-2026 : 1 234 inscriptions · 2026-2027 : 33 778 inscriptions" in french
    assert "35,012 enrolments read from apogee on Monday 31 August 2026 at 22:10, 4 h 20 min before" in english
    assert "This changes 1,402 cohort memberships." in english


def refusal(sentence: str) -> Refusal:
    return Refusal(snapshot_id="b", fault=SnapshotFault.INCOMPLETE, sentence=sentence)


@pytest.mark.parametrize("language", Language)
def test_every_fault_of_a_snapshot_is_said_in_the_language_of_the_page(language: Language) -> None:
    every = [Refusal(snapshot_id=fault, fault=fault, sentence="why") for fault in SnapshotFault]
    found = {
        shown(replace(CALM, refusals=(one,)), language).partition(f"snapshot {one.snapshot_id}: why")[0][-40:]
        for one in every
    }
    assert len(found) == len(SnapshotFault)


def test_what_the_source_could_not_tell_is_said_to_stay_as_it_was() -> None:
    report = replace(CALM, snapshot=replace(SNAPSHOT, unknown=13))
    assert "13 étudiants ou inscriptions que la source n'a pas su décrire restent en l'état." in shown(report, FR)
    assert "en l'état" not in shown(CALM, FR)


def test_a_refused_snapshot_says_why_and_how_to_go_on() -> None:
    refused = replace(
        CALM, state=RunState.REFUSED, snapshot=None, platforms=(), refusals=(refusal("partition 2 has no end"),)
    )
    for language, sentence in ((FR, "Aucune extraction n'a pu être acceptée."), (EN, "No snapshot could be accepted.")):
        text = shown(refused, language)
        assert sentence in text
        assert "snapshot b: partition 2 has no end" in text
        assert "cohorts reconcile" in shown(refused, language, "header")


def test_newer_snapshots_that_were_passed_over_are_told_beside_the_accepted_one() -> None:
    report = replace(CALM, refusals=(refusal("3 rows are missing"),))
    sentence = "Elle est incomplète : sa publication a été interrompue. snapshot b: 3 rows are missing"
    assert f"Plus récentes, mais écartées {sentence}" in shown(report, FR)
    assert "Plus récentes" not in shown(CALM, FR)


def test_a_run_that_failed_shows_its_error() -> None:
    assert "the disk is full" in shown(replace(CALM, state=RunState.FAILED, error="the disk is full"), FR, "header")


# A platform


@pytest.mark.parametrize("language", Language)
def test_every_kind_of_drift_has_its_words(language: Language) -> None:
    sentences = set()
    for kind in Drift:
        for number in (1, 3):
            cohort = CohortReport(idnumber="L1DROI", drift={kind: number})
            text = shown(report_of(replace(ECAMPUS, drift={kind: number}, details=(cohort,))), language, "ul")
            assert text.startswith(f"{number} ")
            sentences.add(text.removeprefix(f"{number} "))
            assert not re.search("missing|gone_account|vanished", text), "words, not codes"
    assert len(sentences) == 2 * len(Drift)


def test_a_night_without_drift_says_so() -> None:
    assert "Aucun écart avec ce que le service y avait laissé." in shown(CALM, FR)
    assert "Nothing differed from what this service had left there." in shown(CALM, EN)


def test_a_night_that_leaves_something_to_a_person_is_not_said_to_have_gone_well() -> None:
    for report in (report_of(HELD), report_of(BLOCKED), report_of(DELETED)):
        assert shown(report, FR, "h1") == "La nuit est terminée, mais demande votre attention."
        assert shown(report, EN, "h1") == "The night is done, but needs your attention."


def test_a_deleted_cohort_comes_before_everything_else_with_what_was_lost_and_what_to_do() -> None:
    worst = report_of(replace(DELETED, guard=replace(GUARD, enabled=False), held=3), UNREAD, state=RunState.FAILED)
    assert report_page.waiting(worst)[0].task is Task.DELETED
    head = shown(report_of(DELETED), FR, "header")
    assert "ecampus : 2 cohortes ont été supprimées sur Moodle, et 212 membres perdus. Tous les cours" in head
    page = shown(report_of(DELETED), FR)
    assert (
        "L1STAP « L1 STAPS » (étape L1STAP) : suppression constatée le lundi 31 août 2026 à 14 h 05, 212 membres "
        "perdus ; refaite (id 57), ses membres y reviennent, mais elle n'est synchronisée avec aucun cours."
    ) in page
    assert "M1PHY : suppression constatée le mardi 1er septembre 2026 à 2 h 31, 0 membre perdu ; pas refaite" in page
    assert "cohorts acknowledge ecampus L1STAP" in page
    assert "L1STAP “L1 STAPS” (étape L1STAP): deletion noticed on Monday 31 August 2026 at 14:05" in shown(
        report_of(DELETED), EN
    )


def test_a_deleted_cohort_is_told_of_a_night_that_read_no_platform() -> None:
    bare = PlatformReport(name="ecampus", mode="automatic", deleted=DELETED.deleted)
    page = shown(replace(report_of(bare, state=RunState.REFUSED), snapshot=None), EN)
    assert "L1STAP “L1 STAPS” (étape L1STAP): deletion noticed on Monday 31 August 2026 at 14:05" in page
    assert "Not verified this time" in page
    assert "Not read, and nothing was written there" not in page


def test_of_very_many_deleted_cohorts_the_page_names_the_first() -> None:
    many = tuple(replace(DELETED.deleted[0], idnumber=f"D{number}") for number in range(30))
    page = shown(report_of(replace(ECAMPUS, deleted=many)), FR)
    assert "D19 «" in page
    assert "D20 «" not in page
    assert "et 10 autres cohortes" in page


def test_cohorts_that_cannot_be_created_are_a_task_and_each_says_what_is_in_its_way() -> None:
    head = shown(report_of(BLOCKED), FR, "header")
    assert "ecampus : 2 cohortes attendent votre intervention, pour 13 étudiants : voir plus bas." in head
    page = shown(report_of(BLOCKED), FR)
    assert (
        "C2ABC, 12 étudiants : la cohorte ne peut pas être créée, car la base de données de Moodle confond son "
        "identifiant avec celui de C2abc (id 7), d'une autre étape."
    ) in page
    assert "L1DROI, 1 étudiant : la cohorte de Moodle qui porte cet identifiant (id 8) n'est pas gérée" in page
    assert "cohorts adopt ecampus" in page


@pytest.mark.parametrize("language", Language)
@pytest.mark.parametrize("blocker", [None, "C2abc", "C2ABC"])
def test_every_reason_why_a_cohort_waits_has_its_words(language: Language, blocker: str | None) -> None:
    told = set()
    for why in Blockage:
        cohort = BlockedCohort(
            idnumber="C2ABC",
            why=why,
            students=3,
            blocker=blocker,
            blocker_id=7 if blocker else None,
            code="dmlwriteexception",
        )
        text = shown(report_of(replace(ECAMPUS, blocked=(cohort,))), language)
        (sentence,) = re.findall(r"C2ABC, 3 (?:étudiants :|students:) (.{40})", text)
        told.add(sentence + str(why is Blockage.COLLIDING))
        assert "None" not in text
    assert len(told) == len(Blockage)


def test_of_very_many_cohorts_that_wait_the_page_names_the_first() -> None:
    (cohort, _) = BLOCKED.blocked
    many = tuple(replace(cohort, idnumber=f"C{number}") for number in range(30))
    page = shown(report_of(replace(ECAMPUS, blocked=many)), FR)
    assert "C19, 12" in page
    assert "C20, 12" not in page
    assert "et 10 autres cohortes" in page


@pytest.mark.parametrize(("language", "hash_"), [(FR, "EMPREINTE"), (EN, "HASH")])
def test_held_removals_stand_on_top_with_how_to_go_on(language: Language, hash_: str) -> None:
    assert "212 " in shown(report_of(HELD), language, "header")
    assert "cohorts held" in shown(report_of(HELD), language, "header")
    for command in ("cohorts held", f"cohorts approve {hash_}", f"cohorts reject {hash_}"):
        assert command in shown(report_of(HELD), language, "main")


def test_the_guard_tells_its_figures_even_when_it_passed() -> None:
    assert "aucun retrait retenu 412 membres, la cohorte la plus touchée est L2DROI, 3 %." in shown(CALM, FR)
    assert "3 retraits effectués et 2 à venir, pour 20 autorisés sur la plateforme." in shown(CALM, FR)
    assert "passed 412 memberships, worst cohort L2DROI, 3%." in shown(CALM, EN)
    assert "3 removals done and 2 to come, of 20 allowed on the platform." in shown(CALM, EN)
    assert "retient 212 retraits 412 membres, la cohorte la plus touchée est L1DROI, 71,4 %." in shown(
        report_of(HELD), FR
    )
    nobody = report_of(replace(ECAMPUS, guard=replace(GUARD, worst_cohort=None)))
    assert "412 memberships, no cohort loses a member." in shown(nobody, EN)


def test_a_guard_whose_figures_are_missing_is_not_passed_over_in_silence() -> None:
    assert "Ses chiffres ne figurent pas dans ce rapport." in shown(report_of(replace(ECAMPUS, guard=None)), FR)


@pytest.mark.parametrize(("language", "cry"), [(FR, "LE GARDE-FOU EST DÉSACTIVÉ"), (EN, "THE GUARD IS OFF")])
def test_a_guard_that_is_off_is_said_loudly(language: Language, cry: str) -> None:
    off = report_of(replace(ECAMPUS, guard=replace(GUARD, enabled=False)))
    assert cry in shown(off, language, "header")
    assert cry in shown(off, language, "main")
    assert {"alarm"} in _Page(render(off, language, PARIS)).classes()
    assert cry not in shown(CALM, language)
    assert {"alarm"} not in _Page(render(CALM, language, PARIS)).classes()
    assert shown(off, language, "h1") != shown(CALM, language, "h1")


def test_a_platform_that_could_not_be_read_fails_for_itself_alone() -> None:
    text = shown(report_of(UNREAD, ECAMPUS, state=RunState.PARTIAL), EN, "main")
    collegium, ecampus = text.split("ecampus")
    assert "Moodle did not answer within 60 s" in collegium
    assert "Not verified this time" in collegium
    assert "412 members" in ecampus
    assert "none has changed" in ecampus


def test_a_manual_platform_is_never_written_and_may_be_unread() -> None:
    assert "A manual platform: this service never writes there." in shown(report_of(PRELUDE), EN)
    assert "Not read, and nothing was written there." in shown(report_of(PRELUDE), EN)
    watched = replace(PRELUDE, read=True, foreign=51)
    assert "51 cohorts aren't ours. Their names and members were compared" in shown(report_of(watched), EN)


def test_an_observed_platform_says_what_would_be_done() -> None:
    report = report_of(replace(ECAMPUS, mode="observe", parked=9))
    assert "9 changements seraient faits si la plateforme n'était pas en observation." in shown(report, FR, "main")
    assert "mis de côté" not in shown(report, FR, "main")
    assert "mis de côté" not in shown(report, FR, "header"), "nothing of it goes on by itself"


@pytest.mark.parametrize(
    ("platform", "french", "english"),
    [
        (ECAMPUS, "à jour", "in step"),
        (HELD, "212 retraits retenus", "212 removals held"),
        (replace(ECAMPUS, waiting=1), "pas encore terminé", "not finished yet"),
        (replace(HELD, guard=replace(GUARD, enabled=False)), "sans garde-fou", "unguarded"),
        (UNREAD, "lecture impossible", "unreadable"),
        (PRELUDE, "non lue", "not read"),
    ],
)
def test_a_platform_bears_its_state_beside_its_name(platform: PlatformReport, french: str, english: str) -> None:
    assert shown(report_of(platform), FR, "main").startswith(f"{platform.name} {french} ")
    assert shown(report_of(platform), EN, "main").startswith(f"{platform.name} {english} ")


def test_strangers_are_kept_unless_the_settings_have_them_removed() -> None:
    kept = replace(ECAMPUS, strangers=5)
    assert "5 membres de ces cohortes ne sont rattachés à aucun étudiant connu : conservés." in shown(
        report_of(kept), FR
    )
    assert "to be removed, as the settings say." in shown(report_of(replace(kept, strangers_removed=True)), EN)


def test_gaps_that_are_left_wait_for_nobody() -> None:
    report = report_of(replace(ECAMPUS, waiting=3, parked=1), state=RunState.PARTIAL)
    assert "3 changements sont à venir" in shown(report, FR, "main")
    assert "1 ajout est mis de côté" in shown(report, FR, "main")
    assert report_page.waiting(report) == []


def test_cohorts_are_listed_with_held_ones_first() -> None:
    text = shown(report_of(HELD), FR, "tbody")
    assert text.index("L9DROI") < text.index("L2DROI")
    assert "Cohorte par cohorte" not in shown(CALM, FR)


def test_removals_can_be_undone_and_the_page_says_how() -> None:
    assert "cohorts undo 41" in shown(CALM, FR, "footer")
    assert "cohorts undo" not in shown(report_of(replace(ECAMPUS, removed=0)), FR)


# Proof of the untouched


def test_what_is_not_ours_is_proven_untouched() -> None:
    assert (
        "34 cohortes ne sont pas gérées par le service. Leurs noms et leurs membres ont été comparés avant et après : "
        "aucune n'a changé."
    ) in shown(CALM, FR)
    assert "34 cohorts aren't ours. Their names and members were compared before and after: none has changed." in shown(
        CALM, EN
    )


def test_what_others_changed_is_listed_and_is_not_ours() -> None:
    changes = (
        ForeignChange(moodle_id=812, idnumber="BU", what=ForeignEvent.MEMBERS, journalled=0),
        ForeignChange(moodle_id=955, idnumber="", what=ForeignEvent.DELETED, journalled=0),
        ForeignChange(moodle_id=956, idnumber="CFA", what=ForeignEvent.NAME, journalled=0),
    )
    report = report_of(replace(ECAMPUS, foreign_changes=changes))
    assert report_page.waiting(report) == []
    french = shown(report, FR)
    assert "3 ont changé entre-temps. Le journal ne contient aucune écriture sur ces cohortes" in french
    assert "BU id 812 membres 0" in french
    assert "— id 955 supprimée 0" in french
    assert "CFA id 956 nom 0" in french
    assert "others did it, not this service" in shown(report, EN)
    assert "aucune n'a changé" not in french


def test_an_entry_of_ours_about_a_cohort_that_is_not_ours_is_said_loudly() -> None:
    change = ForeignChange(moodle_id=812, idnumber="BU", what=ForeignEvent.MEMBERS, journalled=2)
    report = report_of(replace(ECAMPUS, foreign_changes=(change,)))
    assert report_page.tone(report) is report_page.Tone.BAD
    assert "OUR JOURNAL HAS 2 ENTRIES" in shown(report, EN, "main")
    assert "others did it" not in shown(report, EN)
    assert "tell the system engineers" in shown(report, EN, "header")


@pytest.mark.parametrize("state", [RunState.RUNNING, RunState.FAILED, RunState.ABANDONED, RunState.REFUSED])
def test_nothing_is_claimed_to_be_untouched_before_it_was_compared(state: RunState) -> None:
    assert "none has changed" not in shown(report_of(ECAMPUS, state=state), EN)
    assert "Not verified this time" in shown(report_of(ECAMPUS, state=state), EN)
    unread_at_the_end = report_of(replace(ECAMPUS, error="503"), state=RunState.PARTIAL)
    assert "none has changed" not in shown(unread_at_the_end, EN)


# The page itself

EVIL = "\"><script>alert(1)</script><img src=x onerror=alert(1)>'&amp;{{ 7 * 7 }}"
EVERYTHING = Report(
    run=41, state=RunState.PARTIAL, night="2026-09-01", snapshot=SNAPSHOT, refusals=(refusal("why"),), error="what",
    started_at=CALM.started_at, ended_at=CALM.ended_at,
    platforms=(
        replace(
            HELD, drift=dict.fromkeys(Drift, 1_204), strangers=5, waiting=2, parked=3,
            foreign_changes=(ForeignChange(moodle_id=1, idnumber="BU", what=ForeignEvent.MEMBERS, journalled=0),),
            details=(CohortReport(idnumber="L2DROI", added=1, drift=dict.fromkeys(Drift, 2)),),
        ),
        UNREAD,
        DENIED,
        PRELUDE,
        replace(ECAMPUS, name="observed", mode="observe", parked=8, guard=replace(GUARD, enabled=False)),
    ),
)  # fmt: skip


@pytest.mark.parametrize("language", Language)
def test_html_in_an_idnumber_stays_text(language: Language) -> None:
    evil = report_of(
        replace(
            HELD,
            name=EVIL,
            mode=EVIL,
            error=EVIL,
            guard=replace(GUARD, worst_cohort=EVIL),
            details=(CohortReport(idnumber=EVIL, held=1),),
            blocked=(
                BlockedCohort(
                    idnumber=EVIL, why=Blockage.FOREIGN, students=1, blocker=f"{EVIL}2", blocker_id=1, code=None
                ),
            ),
            foreign_changes=(ForeignChange(moodle_id=1, idnumber=EVIL, what=ForeignEvent.CREATED, journalled=0),),
            deleted=(replace(DELETED.deleted[0], idnumber=EVIL, name=EVIL, etape=EVIL),),
        )
    )
    evil = replace(evil, error=EVIL, refusals=(refusal(EVIL),), snapshot=replace(SNAPSHOT, id=EVIL, system=EVIL))
    html = render(evil, language, PARIS)
    assert {tag for tag, _ in _Page(html).tags}.isdisjoint({"script", "img"})
    assert exact(html).count(EVIL) == 22, (
        "shown as it is: the platform's name seven times, a deleted idnumber twice, others once"
    )


@pytest.mark.parametrize("language", Language)
def test_the_page_loads_nothing_from_elsewhere(language: Language) -> None:
    html = render(EVERYTHING, language, PARIS)
    assert not re.search(r"://|url\(|@import|<script|<link|<img|<iframe", html)
    assert all({"src", "href", "action"}.isdisjoint(attributes) for _, attributes in _Page(html).tags)
    assert ("html", {"lang": language.value}) in _Page(html).tags


def test_instants_are_shown_by_the_clock_of_the_zone_that_is_asked_for() -> None:
    assert "mardi 1er septembre 2026 à 2 h 30 · durée 11 min 04 s" in shown(CALM, FR)
    assert "Tuesday 1 September 2026 at 02:30 · took 11 min 04 s" in shown(CALM, EN)
    abroad = ZoneInfo("America/Cayenne")
    assert "lundi 31 août 2026 à 21 h 30" in shown(CALM, FR, zone=abroad)
    assert "Heures du fuseau America/Cayenne." in shown(CALM, FR, zone=abroad)
    assert '<time datetime="2026-09-01T02:30:00+02:00">' in render(CALM, FR, PARIS), "the two 2 h 30 of autumn differ"
    assert "durée" not in shown(replace(CALM, ended_at=None), FR)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.4, "59 s"), (60, "1 min 00 s"), (3599.6, "1 h 00 min"), (97_320, "27 h 02 min")],
)
def test_a_length_of_time_has_two_units(seconds: float, text: str) -> None:
    report = replace(CALM, ended_at=CALM.started_at + seconds)
    assert f"durée {text}" in shown(report, FR, "header")


def test_french_numbers_and_marks_are_set_the_french_way() -> None:
    text = exact(render(EVERYTHING, FR, PARIS))
    assert "35\u202f012\u00a0inscriptions" in text
    assert "71,4\u00a0%" in text
    assert "n°\u00a041" in text
    assert not re.search(r" [:;!?%»]|« |\w'\w", text), "an ordinary space or apostrophe where French has its own"
    assert not re.search(r"[^\W\d][;!?»]", text), "no space where French has one"


def test_english_numbers_are_set_the_english_way() -> None:
    text = exact(render(EVERYTHING, EN, PARIS))
    assert "35,012\u00a0enrolments" in text
    assert "71.4%" in text
    assert not re.search(r"\s[:;!?%]", text)


@pytest.mark.parametrize(
    ("language", "removed", "text"),
    [(FR, 0, "0 retrait effectués"), (FR, 1, "1 retrait effectués"), (FR, 2, "2 retraits effectués"),
     (EN, 0, "0 removals done"), (EN, 1, "1 removal done"), (EN, 2, "2 removals done")],
)  # fmt: skip
def test_a_count_of_one_is_in_the_singular(language: Language, removed: int, text: str) -> None:
    assert text in shown(report_of(replace(ECAMPUS, removed=removed)), language, "header")


# Two languages


def _sentences(language: Language) -> dict[str, object]:
    """Names of the sentences; of a macro its arguments, of a table its keys, of a list its length."""
    found: dict[str, object] = {}
    for name, value in vars(report_page._environment(language).get_template(f"{language}.jinja").module).items():
        if isinstance(value, Macro):
            found[name] = value.arguments
        elif isinstance(value, dict):
            found[name] = set(value)
        elif isinstance(value, list):
            found[name] = len(value)
    return found


def test_both_languages_have_the_same_sentences() -> None:
    assert _sentences(FR) == _sentences(EN)
    assert len(_sentences(FR)) > 25


@pytest.mark.parametrize("language", Language)
def test_every_task_and_every_mode_has_its_words(language: Language) -> None:
    sentences = _sentences(language)
    assert {f"task_{task}" for task in Task} <= sentences.keys()
    assert sentences["modes"] == set(Mode)


numbers = st.integers(0, 10**7)
texts = st.text(max_size=12)
when = st.floats(0, 4e9)
drifts = st.dictionaries(st.sampled_from(Drift), numbers)
guards = st.builds(
    GuardReport, enabled=st.booleans(), memberships=numbers, removed=numbers, pending=numbers, held=numbers,
    platform_limit=numbers, worst_cohort=st.none() | texts, worst_percent=st.floats(0, 100),
)  # fmt: skip
cohorts = st.builds(
    CohortReport, idnumber=texts, added=numbers, removed=numbers, waiting=numbers, held=numbers, parked=numbers,
    strangers=numbers, drift=drifts,
)  # fmt: skip
foreign = st.builds(
    ForeignChange, moodle_id=numbers, idnumber=texts, what=st.sampled_from(ForeignEvent), journalled=st.integers(0, 2)
)
blocked = st.builds(
    BlockedCohort, idnumber=texts, why=st.sampled_from(Blockage), students=numbers, blocker=st.none() | texts,
    blocker_id=st.none() | numbers, code=st.none() | texts,
)  # fmt: skip
deleted = st.builds(
    DeletedCohort, idnumber=texts, name=st.none() | texts, etape=st.none() | texts, deleted_at=when, lost=numbers,
    state=st.sampled_from(CohortState), moodle_id=st.none() | numbers,
)  # fmt: skip
outages = st.builds(
    Stopped, state=st.sampled_from([PlatformState.DENIED, PlatformState.UNAVAILABLE]), since=when, sentence=texts
)
platforms = st.builds(
    PlatformReport, name=texts, mode=st.sampled_from([mode.value for mode in Mode]), error=st.none() | texts,
    read=st.booleans(), cohorts=numbers, members=numbers, drift=drifts, strangers=numbers,
    strangers_removed=st.booleans(), guard=st.none() | guards, added=numbers, removed=numbers, waiting=numbers,
    held=numbers, parked=numbers, left=numbers, last_read=st.none() | when, stopped=st.none() | outages,
    foreign=numbers, foreign_changes=st.lists(foreign, max_size=2).map(tuple),
    details=st.lists(cohorts, max_size=2).map(tuple), blocked=st.lists(blocked, max_size=2).map(tuple),
    deleted=st.lists(deleted, max_size=2).map(tuple),
)  # fmt: skip
snapshots = st.builds(
    SnapshotReport, id=texts, taken_at=when, system=texts, rows=numbers,
    rows_by_year=st.dictionaries(st.integers(2000, 2100), numbers, max_size=3), applied=numbers, ended=numbers,
    memberships=numbers, unknown=numbers,
)  # fmt: skip
refusals = st.builds(Refusal, snapshot_id=texts, fault=st.sampled_from(SnapshotFault), sentence=texts)
reports = st.builds(
    Report, run=numbers, state=st.sampled_from(RunState), night=st.none() | st.dates().map(str), started_at=when,
    ended_at=st.none() | when, snapshot=st.none() | snapshots, refusals=st.lists(refusals, max_size=2).map(tuple),
    error=st.none() | texts, platforms=st.lists(platforms, max_size=2).map(tuple),
)  # fmt: skip


def _tags(html: str) -> Iterator[str]:
    return (tag for tag, _ in _Page(html).tags)


@settings(max_examples=60, deadline=None)
@given(reports, st.sampled_from(Language))
def test_any_report_has_a_page_whether_it_comes_from_the_run_or_from_the_ledger(
    report: Report, language: Language
) -> None:
    html = render(report, language, PARIS)
    assert set(_tags(html)) <= set(_tags(render(EVERYTHING, language, PARIS)))
    assert render(REPORTS.validate_json(REPORTS.dump_json(report)), language, PARIS) == html
