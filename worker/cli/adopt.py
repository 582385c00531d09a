"""The command that adopts existing cohorts: adopt."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from worker.cli.base import DEFAULT_CONFIG, ConfigOption, out, person, prepare, say
from worker.domain.departure import Departure
from worker.domain.errors import SettingsError
from worker.domain.rules import Mapper, Mode
from worker.domain.sanitize import printable
from worker.domain.words import counted
from worker.moodle import MoodleReader
from worker.runtime.ledger import opened
from worker.runtime.platforms import transport
from worker.settings.platforms import GUARD_OFF, PlatformSettings, Strangers
from worker.sync import adoption
from worker.sync.adoption import AdoptionCandidate, NotAdopted, Obstacle

family = typer.Typer()
NAMED = 20
"""Cohorts that are named for one reason; of more, only their number is told."""
DEPARTURES = {
    Departure.ENDED: "enrolment ended",
    Departure.YEAR_CLOSED: "year closed",
    Departure.NOT_COUNTED: "enrolment doesn't count",
    Departure.ELSEWHERE: "enrolled elsewhere",
    Departure.NOT_ENROLLED: "not enrolled",
}
OBSTACLES = {
    Obstacle.OWNED: "ours already",
    Obstacle.ABSENT: "not on Moodle, created once a student belongs to them",
    Obstacle.COLLIDING: "not on Moodle, and its database takes the idnumber for another one's of ours: see "
    "`cohorts status`",
    Obstacle.SEVERAL: "several cohorts on Moodle have this idnumber: give all but one another",
    Obstacle.ANOTHERS: "on Moodle this is another cohort of ours: the next night puts its idnumber back",
    Obstacle.NO_RULE: "on Moodle, but no étape of any message or snapshot leads to it",
    Obstacle.NO_MATCH: "matches no cohort",
    Obstacle.VANISHED: "deleted or renamed on Moodle meanwhile: look again",
}


@family.command()
def adopt(
    platform: Annotated[str, typer.Argument(help="The platform's name in the settings.")],
    globs: Annotated[list[str] | None, typer.Argument(help="Cohort idnumbers (globs) [default: all].")] = None,
    path: ConfigOption = DEFAULT_CONFIG,
    apply: Annotated[bool, typer.Option("--apply", help="Adopt them; without it, only list them.")] = False,
) -> None:
    """List the existing cohorts whose idnumber is one of ours, and whom they would lose; with --apply, adopt them."""
    settings = prepare(path)
    if settings.platform(platform).mode is Mode.MANUAL:
        raise SettingsError(f"{platform} is managed by hand: its cohorts stay its people's")
    policy = settings.policy()
    [chosen] = [each for each in policy.platforms if each.name == platform]
    connection = transport(platform, settings.platforms[platform])
    with opened(settings) as ledger, out.status(f"Reading {platform}"):
        reader = MoodleReader(connection)
        survey = adoption.survey(ledger, Mapper(policy), chosen, reader, globs or [adoption.EVERYTHING])
        missed = adoption.adopt(ledger, chosen, reader, survey, by=person()) if apply else []
    connection.close()
    out.print(_table(survey.candidates))
    for sentence in sentences(survey.candidates, settings.platforms[platform]):
        say(f"{platform}: {sentence}")
    for sentence in not_adopted([*survey.others, *missed]):
        say(f"{platform}: {sentence}")
    found = len(survey.candidates)
    if apply:
        say(f"{found - len(missed)} of {counted(found, 'cohort')} adopted on {platform}")
    else:
        say(f"{counted(found, 'cohort')} could be adopted on {platform}; --apply adopts them")
        if found:
            say("if a plugin of Moodle keeps them (tool_cohortdatabase, local_ldap), switch it off first")


def _table(candidates: Iterable[AdoptionCandidate]) -> Table:
    table = Table("idnumber", "name", "members", "stay", "to leave", "unknown", "to be added")
    for candidate in candidates:
        table.add_row(
            escape(printable(candidate.moodle_idnumber)),
            escape(printable(candidate.name)),
            str(candidate.members),
            str(candidate.staying),
            _departures(candidate),
            str(candidate.unmatched + candidate.unclean),
            str(candidate.joining),
        )
    return table


def _departures(candidate: AdoptionCandidate) -> str:
    number = sum(candidate.leaving.values())
    why = ", ".join(f"{count} {DEPARTURES[each]}" for each, count in sorted(candidate.leaving.items()))
    return f"{number}: {why}" if number else "0"


def sentences(candidates: Iterable[AdoptionCandidate], settings: PlatformSettings) -> Iterator[str]:
    """Yield what happens to the members who don't stay, and what will be called otherwise."""
    leaving = unmatched = unclean = 0
    for candidate in candidates:
        leaving += sum(candidate.leaving.values())
        unmatched += candidate.unmatched
        unclean += candidate.unclean
    decided = "the first reading holds their removal until a person decides (`cohorts held`)"
    if not settings.guard.enabled:
        decided = f"they are removed after the first reading, unasked: {GUARD_OFF}"
    if leaving:
        yield f"known students who have no place there: {counted(leaving, 'member')}; {decided}"
    if unmatched:
        removed = settings.strangers is Strangers.REMOVE
        yield f"unknown, matching no student: {counted(unmatched, 'member')}; {decided if removed else 'they stay'}"
    if unclean:
        yield (
            f"accounts that Moodle doesn't return (unclean accounts): {counted(unclean, 'member')}; they stay, and "
            "an administrator of Moodle must mend them"
        )
    for candidate in candidates:
        yield from _renames(candidate)


def _renames(candidate: AdoptionCandidate) -> Iterator[str]:
    """Yield what a cohort will be called, where that is something else."""
    idnumber, name = printable(candidate.moodle_idnumber), printable(candidate.name)
    if candidate.new_name is not None:
        yield f"{idnumber} will be renamed from “{name}” to “{printable(candidate.new_name)}”"
    if candidate.idnumber == candidate.moodle_idnumber:
        return
    if candidate.is_movable:
        yield f"{idnumber} will get the idnumber {candidate.idnumber}"
    else:
        yield f"{idnumber} can't get the idnumber {candidate.idnumber}: it is in a category; change it on Moodle"


def not_adopted(others: Iterable[NotAdopted]) -> Iterator[str]:
    """Yield which of the chosen cohorts aren't adopted, by why."""
    by_reason: defaultdict[Obstacle, list[str]] = defaultdict(list)
    for other in others:
        several = other.why is Obstacle.SEVERAL and other.moodle_ids
        ids = f" (ids {', '.join(map(str, other.moodle_ids))})" if several else ""
        by_reason[other.why].append(printable(other.what) + ids)
    for why, names in sorted(by_reason.items()):
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        yield f"not adopted, {OBSTACLES[why]}: {', '.join(names[:NAMED])}{more}"
