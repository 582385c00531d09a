"""The commands of a person who watches over removals: plan, held, approve, reject, undo."""

import time
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
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
from worker.cli.run_report import guard_sentence
from worker.domain.errors import SettingsError
from worker.domain.rules import Mode
from worker.ledger import decisions, proposals
from worker.ledger.proposals import ChangeReason, PlannedCohort, PlannedPlatform, planned
from worker.runtime.ledger import opened, recorder
from worker.settings.root import Settings

REASONS = {
    ChangeReason.ENROLLED: "enrolled",
    ChangeReason.DEPARTED: "departed",
    ChangeReason.CHANGED_ETAPE: "changed étape",
    ChangeReason.MERGED: "numbers merged",
    ChangeReason.YEAR_CLOSED: "year closed",
    ChangeReason.RULE_CHANGED: "rule changed",
    ChangeReason.DRIFT: "drift",
    ChangeReason.PERSON: "a person's decision",
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
    """Show what would be done now, and why; each cohort's removals have a hash to approve or reject them by."""
    settings = prepare(path)
    if active_years:
        settings = settings.model_copy(update={"active_years": frozenset(active_years)})
    with opened(settings) as ledger:
        now = time.time()
        if active_years:
            # Without the time of grace, so that it is seen what the guard would hold at its end.
            with recorder(settings, ledger, grace_days=0).rehearsed(now=now) as connection:
                found = [planned(connection, name, settings.guard(name), now) for name in _names(settings, platform)]
        else:
            with ledger.write() as connection:
                found = [planned(connection, name, settings.guard(name), now) for name in _names(settings, platform)]
                for each in found:
                    _note(connection, each, now)
    chosen = [(each, [c for c in each.cohorts if cohort is None or fnmatchcase(c.idnumber, cohort)]) for each in found]
    if as_json:
        say_json([_plan_json(each, cohorts, students=students) for each, cohorts in chosen])
        return
    for each, cohorts in chosen:
        _print_plan(each, cohorts, settings, students=students, decidable=not active_years)
    if active_years and settings.eligibility.grace_days:
        say(f"memberships of a closed year would stay for {settings.eligibility.grace_days:g} days of grace first")


@family.command()
def held(
    path: ConfigOption = DEFAULT_CONFIG,
    platform: PlatformOption = None,
    as_json: JsonOption = False,
    students: Annotated[bool, typer.Option("--students", help="Name the students, by their numbers.")] = False,
) -> None:
    """List the removals that wait for a person, with the hashes to approve or reject them by."""
    settings = prepare(path)
    with opened(settings) as ledger, ledger.write() as connection:
        now = time.time()
        found = [planned(connection, name, settings.guard(name), now) for name in _names(settings, platform)]
        waiting = [cohort for each in found for cohort in each.cohorts if cohort.held is not None]
        for cohort in waiting:
            decisions.show(connection, cohort.platform, cohort.pairs, now)
        together = decisions.show(connection, "*", [pair for cohort in waiting for pair in cohort.pairs], now)
    if as_json:
        lines = [_cohort_json(cohort, students=students) for cohort in waiting]
        say_json({"hash": together, "cohorts": lines})
        return
    table = Table("hash", "platform", "cohort", "members", "would leave", "limit", "why")
    for cohort in waiting:
        table.add_row(
            cohort.hash, cohort.platform, escape(cohort.idnumber), str(cohort.members), str(len(cohort.pairs)),
            cohort.held, _reasons(cohort.removals),
        )  # fmt: skip
    out.print(table)
    if students:
        for cohort in waiting:
            say(f"{cohort.platform}/{cohort.idnumber}: {', '.join(student for _, student in cohort.pairs)}")
    number = sum(len(cohort.pairs) for cohort in waiting)
    say(f"{number} removals of {len(waiting)} cohorts are held" + (f"; all of them: {together}" if together else ""))
    if together:
        say("`cohorts approve HASH` lets them be made, `cohorts reject HASH` keeps the members")


@family.command()
def approve(
    name: Annotated[str, typer.Argument(metavar="HASH", help="As `cohorts held` or `cohorts plan` shows it.")],
    path: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Let exactly the removals that were shown under this hash be made; the approval expires after a day."""
    settings = prepare(path)
    with opened(settings) as ledger:
        decision = decisions.approve(ledger, name, by=person(), now=time.time())
    _print_decision(decision, "approved: they will be removed", settings)


@family.command()
def reject(
    name: Annotated[str, typer.Argument(metavar="HASH", help="As `cohorts held` or `cohorts plan` shows it.")],
    path: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Keep the members whose removals were shown under this hash, until their enrolments change again."""
    settings = prepare(path)
    with opened(settings) as ledger:
        decision = decisions.reject(ledger, name, by=person(), now=time.time())
    _print_decision(decision, "rejected: they stay until their enrolments change again", settings)


@family.command()
def undo(
    name: Annotated[str, typer.Argument(metavar="RUN|HASH", help="The number of a run, or the hash of an approval.")],
    path: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Put back whom a run, or an approval, has removed; a newer message or snapshot may end their membership again."""
    settings = prepare(path)
    with opened(settings) as ledger:
        decision = decisions.undo(ledger, name, by=person(), now=time.time())
    _print_decision(decision, "undone: they are put back, and stay until their sources say otherwise anew", settings)


# What is printed


def _names(settings: Settings, platform: str | None) -> list[str]:
    """Give the platforms that are kept, or the one asked for."""
    kept = [name for name, each in sorted(settings.platforms.items()) if each.mode is not Mode.MANUAL]
    if platform is None:
        return kept
    if platform not in kept:
        raise SettingsError(f"{platform} is not a platform that is kept automatically; there are {', '.join(kept)}")
    return [platform]


def _note(connection: Any, found: PlannedPlatform, now: float) -> None:  # noqa: ANN401 - the ledger's
    for cohort in found.cohorts:
        decisions.show(connection, found.name, cohort.pairs, now)
    decisions.show(connection, found.name, [pair for cohort in found.cohorts for pair in cohort.pairs], now)


def _reasons(people: People) -> str:
    return ", ".join(f"{len(students)} {REASONS[why]}" for why, students in sorted(people.items()) if students)


def _print_plan(
    found: PlannedPlatform, cohorts: Iterable[PlannedCohort], settings: Settings, *, students: bool, decidable: bool
) -> None:
    table = Table("cohort", "members", "join", "parked", "leave", "", "hash", title=found.name)
    for cohort in cohorts:
        limit = "" if cohort.held is None else f"held: {cohort.held} limit"
        if cohort.held is None and cohort.due_at is not None:
            limit = f"from {when(cohort.due_at, settings)}"
        table.add_row(
            escape(cohort.idnumber), str(cohort.members), _reasons(cohort.additions), str(cohort.parked or ""),
            _reasons(cohort.removals), limit, (cohort.hash or "") if decidable else "",
        )  # fmt: skip
    out.print(table)
    if students:
        for cohort in cohorts:
            for word, people in (("join", cohort.additions), ("leave", cohort.removals)):
                for why, numbers in people.items():
                    say(f"{found.name}/{cohort.idnumber}: {word}, {REASONS[why]}: {', '.join(numbers)}")
    say(f"{found.name}: {guard_sentence(proposals.guard_report(found))}")
    if decidable and found.hash is not None:
        say(f"{found.name}: all its removals together: {found.hash}")


def _plan_json(found: PlannedPlatform, cohorts: Iterable[PlannedCohort], *, students: bool) -> dict[str, Any]:
    judgement = found.judgement
    return {
        "platform": found.name,
        "hash": found.hash,
        "guard": {
            "enabled": judgement.enabled,
            "memberships": judgement.members,
            "removed": judgement.removed,
            "pending": judgement.pending,
            "allowed": judgement.allowed,
        },
        "cohorts": [_cohort_json(cohort, students=students) for cohort in cohorts],
    }


def _cohort_json(cohort: PlannedCohort, *, students: bool) -> dict[str, Any]:
    def people(of: People) -> dict[str, Any]:
        return {why.value: sorted(numbers) if students else len(numbers) for why, numbers in of.items()}

    return {
        "platform": cohort.platform,
        "cohort": cohort.idnumber,
        "members": cohort.members,
        "additions": people(cohort.additions),
        "parked": cohort.parked,
        "removals": people(cohort.removals),
        "approved": cohort.approved,
        "held": cohort.held,
        "due_at": cohort.due_at,
        "hash": cohort.hash,
    }


def _print_decision(decision: decisions.Decision, what: str, settings: Settings) -> None:
    say(f"{decision.memberships} memberships of {len(decision.cohorts)} cohorts {what}")
    for cohort in decision.cohorts:
        say(f"  {cohort}")
    if decision.until is not None:
        say(f"the approval expires at {when(decision.until, settings)}")
