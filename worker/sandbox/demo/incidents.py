"""What no message announces: departures, cohorts edited by hand, and a snapshot that isn't whole."""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from schemas import EnrolmentRow
from worker.domain.states import Drift
from worker.sandbox.demo.platform import Platform
from worker.sandbox.demo.show import Show
from worker.sandbox.demo.stage import Stage

DEPARTING = 0.01
"""Share of the students who leave without a message."""

Pairs = set[tuple[str, str]]
"""(étape, student)."""


@dataclass(frozen=True, kw_only=True)
class Incidents:
    """What happened, as the night must find it."""

    lost: str
    """The étape that is missing from the snapshot."""
    members: frozenset[str]
    """The members of its cohort."""
    leaving: Mapping[str, Pairs]
    """By platform, the memberships that the night must remove."""
    drift: Mapping[str, Counter[str]]
    """By platform, the drift that the night must find."""


def cause(stage: Stage, show: Show) -> Incidents:
    """Let students leave, people edit cohorts, and the source publish a snapshot that has lost an étape."""
    university, ecampus, collegium = stage.university, stage.platforms["ecampus"], stage.platforms["collegium"]
    on_ecampus, on_collegium = ecampus.memberships(), collegium.memberships()
    departed = university.depart(DEPARTING)
    show.say(f"   {departed} students left; the source knows, but no message says so")
    true = {(code, student) for code, students in university.truth().items() for student in students}
    lost = largest(on_ecampus, except_for={code for code, _ in on_collegium})
    edited, drift = _edit_ecampus(stage, show, ecampus, lost)
    vanished = _delete_cohort(show, collegium)
    publish_without(lost, stage, show)
    return Incidents(
        lost=lost,
        members=frozenset(student for code, student in on_ecampus if code == lost),
        leaving={
            "ecampus": _outside(lost, on_ecampus - true) | edited,
            "collegium": _outside(vanished, on_collegium - true),
        },
        drift={"ecampus": drift, "collegium": Counter([Drift.VANISHED])},
    )


def publish_without(etape: str, stage: Stage, show: Show) -> None:
    """Let the source publish a snapshot that lacks one étape of this year."""
    university = stage.university
    rows = stage.publish_snapshot(row for row in university.snapshot_rows() if not _is_of(row, etape, university.year))
    show.say(f"   a snapshot is published: {rows} enrolments, none of them in {etape}, as if {etape} had closed")


def _outside(etape: str, memberships: Pairs) -> Pairs:
    return {(code, student) for code, student in memberships if code != etape}


def largest(memberships: Pairs, *, except_for: Collection[str]) -> str:
    """Return the étape with most members, other than these."""
    sizes = Counter(code for code, _ in memberships)
    return max(sizes.keys() - except_for, key=lambda code: (sizes[code], code))


def _edit_ecampus(stage: Stage, show: Show, ecampus: Platform, lost: str) -> tuple[Pairs, Counter[str]]:
    """Let people edit accounts, and cohorts other than the lost one.

    Returns the memberships that must end because of that, and the drift that they caused.
    """
    truth, cohorts, accounts = stage.university.truth(), ecampus.etapes(), ecampus.accounts()
    members = {code: sorted(truth.get(code, frozenset()) & accounts.keys()) for code in cohorts}
    by_size = sorted(cohorts.keys() - {lost}, key=lambda code: (-len(members[code]), code))
    short, crowded, visited, renamed, *others = by_size
    missing = members[short][0]
    extra = next(student for student in members[short][1:] if student not in truth[crowded])
    ecampus.moodle.remove_member(cohorts[short], accounts[missing])
    ecampus.moodle.add_member(cohorts[crowded], accounts[extra])
    ecampus.add_unmatched("a.teacher", visited)
    ecampus.moodle.edit_cohort(cohorts[renamed], idnumber=f"{renamed}-OLD")
    show.say(
        f"   ecampus, by hand: a member taken out of {short}, a student added to {crowded}, a teacher added to "
        f"{visited}; {renamed} given another idnumber"
    )
    candidates = [student for code in others for student in members[code] if student not in {missing, extra}]
    deleted, unclean, one, *_, other = _with_one_membership(truth, candidates, ecampus)
    ecampus.delete_account(deleted)
    ecampus.make_unclean(unclean)
    ecampus.exchange_accounts(one, other)
    show.say(
        "   ecampus, by hand: the account of a member is deleted, two exchange their usernames, and one has a profile "
        "that Moodle doesn't return"
    )
    # Each account leaves the cohort of the student whose it was.
    exchanged = {(code, whose) for was, whose in ((one, other), (other, one)) for code in truth if was in truth[code]}
    ends = {(crowded, extra)} | exchanged
    stage.expected_removals |= ends
    found = [Drift.MISSING, Drift.EXTRA, Drift.RENAMED, Drift.GONE_ACCOUNT, *[Drift.CHANGED_HANDS] * len(exchanged)]
    return ends, Counter(found)


def _with_one_membership(truth: Mapping[str, frozenset[str]], students: list[str], ecampus: Platform) -> list[str]:
    """Return those of the students who are in one étape only and in no cohort made by hand."""
    etapes = Counter(student for members in truth.values() for student in members)
    by_hand = {student for _, members in ecampus.by_hand.values() for student in members}
    return [student for student in students if etapes[student] == 1 and student not in by_hand]


def _delete_cohort(show: Show, collegium: Platform) -> str:
    """Let a person delete the cohort of a middling étape; returns its code."""
    sizes = Counter(code for code, _ in collegium.memberships())
    code, size = sizes.most_common()[len(sizes) // 2]
    collegium.moodle.delete_cohort(collegium.etapes()[code])
    show.say(f"   collegium, by hand: the cohort {code} is deleted, with its {size} members")
    return code


def _is_of(row: bytes, etape: str, year: int) -> bool:
    enrolment = EnrolmentRow.model_validate_json(row)
    return enrolment.academic_year == year and enrolment.etape.code == etape
