"""The cohorts that would be created or renamed, printed."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from worker.cli.base import out, say
from worker.domain.hashes import short
from worker.domain.sanitize import printable
from worker.domain.states import CohortChange
from worker.domain.words import counted
from worker.ledger.cohort_proposals import CohortCause, PlannedChange
from worker.sync.review import ChangeGroup

SHOWN = 100
"""Cohorts of a group that are listed one by one; a group of more is mostly of one kind."""
ORIGINS_SHOWN = 5
WORDS = {CohortChange.CREATION: ("new cohort", "created"), CohortChange.RENAME: ("rename", "renamed")}
_CAUSES = {
    CohortCause.ENROLLED: "students enrolled",
    CohortCause.RULE_CHANGED: "rule changed",
    CohortCause.DELETED: "deleted on Moodle",
    CohortCause.ETAPE_LABEL: "label of the étape",
    CohortCause.COMPONENT_LABEL: "label of the component",
    CohortCause.NAME_RULE: "name rule changed",
    CohortCause.CODE: "another code, or changed on Moodle",
}


def print_changes(groups: Sequence[ChangeGroup], *, decidable: bool = True) -> None:
    """Print each cohort with its label before and after, then each group with what it follows from."""
    if not groups:
        return
    table = Table("hash", "platform", "change", "cohort", "étape", "name now", "name then", "students", "why", "")
    for change in (change for group in groups for change in group.changes[:SHOWN]):
        table.add_row(
            short(change.hash) if decidable else "", change.platform, WORDS[change.change][0],
            _before_and_after(change), escape(change.etape or ""), escape(printable(change.name_before or "")),
            escape(printable(change.name)), str(change.students or ""), _why(change), _standing(change),
        )  # fmt: skip
    out.print(table)
    for group in groups:
        for sentence in _sentences(group, decidable=decidable):
            say(sentence)


def _before_and_after(change: PlannedChange) -> str:
    if change.idnumber_before in {None, change.idnumber}:
        return escape(change.idnumber)
    return f"{escape(printable(change.idnumber_before or ''))} → {escape(change.idnumber)}"


def _why(change: PlannedChange) -> str:
    origin = "" if change.origin is None else f" ({escape(change.origin)})"
    return f"{_CAUSES[change.cause]}{origin}"


def _standing(change: PlannedChange) -> str:
    if change.rejected is not None:
        return f"rejected: {short(change.rejected)}"
    if change.approved is not None:
        return f"approved: {short(change.approved)}"
    return "" if change.held is None else f"held: {change.held} limit"


def _sentences(group: ChangeGroup, *, decidable: bool) -> Iterator[str]:
    number, undecided = len(group.changes), len(group.open)
    if undecided:
        together = f"; all of them together: {short(group.hash)}" if decidable else ""
        yield f"{group.platform}: {counted(undecided, 'cohort')} would be {WORDS[group.change][1]}{together}"
    if undecided < number:
        yield f"{group.platform}: {counted(number - undecided, WORDS[group.change][0])} decided about already"
    if number > SHOWN:
        yield f"  only {SHOWN} are listed; `--json` lists all"
    origins = Counter((change.cause, change.origin) for change in group.changes)
    for (cause, origin), cohorts in origins.most_common(ORIGINS_SHOWN):
        if cohorts > 1:
            yield f"  {cohorts} because of: {_CAUSES[cause]}{f' ({origin})' if origin else ''}"


def changes_json(groups: Sequence[ChangeGroup]) -> list[dict[str, Any]]:
    """Return the groups as JSON, each with its hash and its cohorts."""
    return [
        {
            "platform": group.platform,
            "change": group.change,
            "hash": group.hash if group.open else None,
            "cohorts": [_change_json(change) for change in group.changes],
        }
        for group in groups
    ]


def _change_json(change: PlannedChange) -> dict[str, Any]:
    return {
        "cohort": change.idnumber,
        "etape": change.etape,
        "name": change.name,
        "cohort_before": change.idnumber_before,
        "name_before": change.name_before,
        "students": change.students,
        "cause": change.cause,
        "origin": change.origin,
        "held": change.held,
        "approved": change.approved,
        "rejected": change.rejected,
        "hash": change.hash,
    }
