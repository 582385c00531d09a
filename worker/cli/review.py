"""The commands of a person who watches over what can't be taken back: plan, held, approve, reject, undo."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from worker.cli.base import (
    DEFAULT_CONFIG,
    ConfigOption,
    JsonOption,
    out,
    person,
    prepare,
    say,
    say_json,
    when,
)
from worker.cli.cohort_changes import changes_json, print_changes
from worker.cli.deleted import deleted_sentences
from worker.cli.run_report import guard_sentences
from worker.domain.cohorts import blocked_sentences
from worker.domain.hashes import short
from worker.domain.states import Limit
from worker.domain.words import counted
from worker.ledger.decisions import Decision
from worker.ledger.proposals import ChangeReason, PlannedCohort, PlannedPlatform, guard_report
from worker.runtime.ledger import opened, recorder, review_of
from worker.settings.root import Settings
from worker.sync.review import ChangeGroup, Held, groups, is_match, matching

REASONS = {
    ChangeReason.ENROLLED: "enrolled",
    ChangeReason.DEPARTED: "departed",
    ChangeReason.CHANGED_ETAPE: "changed étape",
    ChangeReason.MERGED: "numbers merged",
    ChangeReason.YEAR_CLOSED: "year closed",
    ChangeReason.RULE_CHANGED: "rule changed",
    ChangeReason.DRIFT: "drift",
    ChangeReason.ADOPTED: "there before the adoption",
    ChangeReason.PERSON: "a person's decision",
}

_LIMITS = {
    Limit.COHORT: "cohort limit",
    Limit.COHORT_MONTH: "cohort limit of 30 days",
    Limit.SMALL_COHORTS: "limit of small cohorts",
    Limit.PLATFORM: "platform limit",
    Limit.PLATFORM_MONTH: "platform limit of 30 days",
    Limit.ADOPTED: "adopted cohort",
}

family = typer.Typer()
PlatformOption = Annotated[str | None, typer.Option(help="Only this platform.")]
CohortOption = Annotated[str | None, typer.Option(help="Only these cohorts (a glob on the idnumber).")]
People = Mapping[ChangeReason, Sequence[str]]


@family.command()
def plan(
    *,
    path: ConfigOption = DEFAULT_CONFIG,
    platform: PlatformOption = None,
    cohort: CohortOption = None,
    as_json: JsonOption = False,
    students: Annotated[bool, typer.Option("--students", help="Name the students, by their numbers.")] = False,
    active_years: Annotated[
        list[int] | None,
        typer.Option(help="What would be done if these years were active (once for each). Nothing is kept of it."),
    ] = None,
) -> None:
    """Show what would be done now, and why, with hashes to approve or reject it by.

    Each cohort's removals have one, and each cohort that would be created or renamed.
    """
    settings = prepare(path)
    if active_years:
        settings = settings.model_copy(update={"active_years": frozenset(active_years)})
    with opened(settings) as ledger:
        review = review_of(settings, ledger, platform)
        # Without the time of grace, to show what the guard would hold at its end.
        rehearsal = partial(recorder, settings, grace_days=0)
        platforms = review.rehearse(rehearsal) if active_years else review.plan(cohort)
    if as_json:
        say_json([_plan_json(each, cohort, students=students) for each in platforms])
        return
    if cohort is not None and not any(matching(each, cohort) or _changes(each, cohort) for each in platforms):
        say(f"no cohort matches {cohort}, or none that does would change")
    for each in platforms:
        _print_plan(each, matching(each, cohort), settings, decidable=not active_years)
        if students:
            _print_students(each.name, matching(each, cohort))
        print_changes(_changes(each, cohort), decidable=not active_years)
        _print_guard(each, decidable=not active_years)
    if active_years and settings.eligibility.grace_days:
        say(f"memberships of a closed year would stay for {settings.eligibility.grace_days:g} days of grace first")


@family.command()
def held(
    path: ConfigOption = DEFAULT_CONFIG,
    platform: PlatformOption = None,
    as_json: JsonOption = False,
    students: Annotated[bool, typer.Option("--students", help="Name the students, by their numbers.")] = False,
) -> None:
    """List what waits for a person, with the hashes to approve or reject it by: removals, new cohorts, renames."""
    settings = prepare(path)
    with opened(settings) as ledger:
        waiting = review_of(settings, ledger, platform).held()
    if as_json:
        lines = [_cohort_json(cohort, students=students) for cohort in waiting.cohorts]
        say_json({"hash": waiting.hash, "cohorts": lines, "changes": changes_json(waiting.groups)})
        return
    _print_held(waiting, students=students)


@family.command()
def approve(
    name: Annotated[
        str,
        typer.Argument(
            metavar="HASH",
            help="As `cohorts held` or `cohorts plan` shows it; its beginning is enough, if no other begins so.",
        ),
    ],
    path: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Let exactly what was shown under this hash be done: removals, or cohorts created or renamed.

    The approval expires after a day.
    """
    settings = prepare(path)
    with opened(settings) as ledger:
        decision = review_of(settings, ledger).approve(name, by=person())
    _print_decision(decision, "approved: they will be removed", "approved: they will be {done}", settings)


@family.command()
def reject(
    name: Annotated[
        str,
        typer.Argument(
            metavar="HASH",
            help="As `cohorts held` or `cohorts plan` shows it; its beginning is enough, if no other begins so.",
        ),
    ],
    path: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Keep what was shown under this hash as it is.

    Members stay until their enrolments change again. A cohort isn't created until this is undone, and keeps its label
    until it is to get another one.
    """
    settings = prepare(path)
    with opened(settings) as ledger:
        decision = review_of(settings, ledger).reject(name, by=person())
    stay = "rejected: they stay until their enrolments change again"
    _print_decision(decision, stay, "rejected: they won't be {done}", settings)


@family.command()
def undo(
    name: Annotated[str, typer.Argument(metavar="RUN|HASH", help="The number of a run, or the hash of a decision.")],
    path: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Put back whom a run, or an approval, has removed; a newer message or snapshot may end their membership again.

    With the hash of a decision about cohorts: withdraw it, as far as it wasn't carried out.
    """
    settings = prepare(path)
    with opened(settings) as ledger:
        decision = review_of(settings, ledger).undo(name, by=person())
    back = "undone: they are put back, and stay until their sources say otherwise anew"
    _print_decision(decision, back, "undone: to be {done} only once somebody approves it", settings)


# What is printed


def _reasons(people: People) -> str:
    return ", ".join(f"{len(students)} {REASONS[why]}" for why, students in sorted(people.items()) if students)


def _print_plan(
    platform: PlannedPlatform, cohorts: Iterable[PlannedCohort], settings: Settings, *, decidable: bool
) -> None:
    for sentence in deleted_sentences(platform.name, platform.deleted, settings):
        say(sentence)
    table = Table("cohort", "members", "join", "parked", "leave", "", "hash", title=platform.name)
    for cohort in cohorts:
        table.add_row(
            escape(cohort.idnumber), str(cohort.members), _reasons(cohort.additions), str(cohort.parked or ""),
            _reasons(cohort.removals), _limit(cohort, settings), short(cohort.hash) if decidable else "",
        )  # fmt: skip
    out.print(table)
    for sentence in blocked_sentences(platform.blocked):
        say(f"{platform.name}: {sentence}")


def _limit(cohort: PlannedCohort, settings: Settings) -> str:
    """Say what holds a cohort's removals, or else when they are due."""
    if cohort.held is not None:
        return f"held: {_LIMITS[cohort.held]}"
    return "" if cohort.due_at is None else f"from {when(cohort.due_at, settings)}"


def _print_students(platform: str, cohorts: Iterable[PlannedCohort]) -> None:
    for cohort in cohorts:
        for word, people in (("join", cohort.additions), ("leave", cohort.removals)):
            for why, numbers in people.items():
                say(f"{platform}/{cohort.idnumber}: {word}, {REASONS[why]}: {', '.join(numbers)}")


def _changes(platform: PlannedPlatform, glob: str | None) -> tuple[ChangeGroup, ...]:
    """Return the cohorts that would be created or renamed, as far as they match."""
    return groups([platform], lambda change: is_match(change.idnumber, glob))


def _print_guard(platform: PlannedPlatform, *, decidable: bool) -> None:
    for sentence in guard_sentences(guard_report(platform)):
        say(f"{platform.name}: {sentence}")
    if decidable and platform.hash is not None:
        say(f"{platform.name}: all its removals together: {short(platform.hash)}")


def _print_held(held: Held, *, students: bool) -> None:
    table = Table("hash", "platform", "cohort", "members", "would leave", "held by", "why")
    for cohort in held.cohorts:
        table.add_row(
            short(cohort.hash), cohort.platform, escape(cohort.idnumber), str(cohort.members), str(len(cohort.pairs)),
            _LIMITS[cohort.held] if cohort.held else "", _reasons(cohort.removals),
        )  # fmt: skip
    out.print(table)
    if students:
        for cohort in held.cohorts:
            say(f"{cohort.platform}/{cohort.idnumber}: {', '.join(student for _, student in cohort.pairs)}")
    together = f"; all of them: {short(held.hash)}" if held.hash else ""
    say(f"held: {counted(len(held.pairs), 'removal')} of {counted(len(held.cohorts), 'cohort')}{together}")
    print_changes(held.groups)
    if held.hash or held.groups:
        say("`cohorts approve HASH` lets it be done, `cohorts reject HASH` keeps members and cohorts as they are")


def _plan_json(platform: PlannedPlatform, glob: str | None, *, students: bool) -> dict[str, Any]:
    judgement = platform.judgement
    return {
        "platform": platform.name,
        "hash": platform.hash,
        "guard": {
            "enabled": judgement.enabled,
            "memberships": judgement.members,
            "removed": judgement.removed,
            "pending": judgement.pending,
            "allowed": judgement.allowed,
            "cohorts": [asdict(figures) for figures in guard_report(platform).cohorts],
        },
        "cohorts": [_cohort_json(cohort, students=students) for cohort in matching(platform, glob)],
        "changes": changes_json(_changes(platform, glob)),
        "blocked": [asdict(cohort) for cohort in platform.blocked],
        "deleted": [asdict(cohort) for cohort in platform.deleted],
    }


def _cohort_json(cohort: PlannedCohort, *, students: bool) -> dict[str, Any]:
    return {
        "platform": cohort.platform,
        "cohort": cohort.idnumber,
        "state": cohort.state,
        "members": cohort.members,
        "additions": _people_json(cohort.additions, students=students),
        "parked": cohort.parked,
        "removals": _people_json(cohort.removals, students=students),
        "approved": cohort.approved,
        "held": cohort.held,
        "due_at": cohort.due_at,
        "hash": cohort.hash,
    }


def _people_json(people: People, *, students: bool) -> dict[str, Any]:
    return {why.value: sorted(numbers) if students else len(numbers) for why, numbers in people.items()}


def _print_decision(decision: Decision, of_members: str, of_cohorts: str, settings: Settings) -> None:
    if decision.memberships:
        cohorts = counted(len(decision.cohorts), "cohort")
        say(f"{counted(decision.memberships, 'membership')} of {cohorts} {of_members}")
    for number, done in ((decision.created, "created"), (decision.renamed, "renamed")):
        if number:
            say(f"{counted(number, 'cohort')} {of_cohorts.format(done=done)}")
    for cohort in decision.cohorts:
        say(f"  {cohort}")
    if decision.until is not None:
        say(f"the approval expires at {when(decision.until, settings)}")
