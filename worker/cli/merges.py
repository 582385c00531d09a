"""The commands about merged student numbers: merges, merges approve, merges end."""

import time
from dataclasses import asdict
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from worker.cli.base import DEFAULT_CONFIG, ConfigOption, JsonOption, out, person, prepare, say, say_json, when
from worker.domain.rules import Mapper
from worker.domain.states import HELD_MERGES, Action, MergeState
from worker.domain.words import counted
from worker.ledger import merge_decisions, merges
from worker.ledger.merge_decisions import MergeEffect
from worker.runtime.ledger import opened, recorder
from worker.settings.root import Settings

STATES = {
    MergeState.APPLIED: "in force",
    MergeState.SET_ASIDE: "a newer merge of the number rules",
    MergeState.CLAIMED: "HELD: several persons have had the numbers",
    MergeState.TOLD_AGAIN: "HELD: said again of a number in use",
    MergeState.CONTRADICTED: "ended: a newer snapshot has the number",
    MergeState.REJECTED: "ended by a person",
}

family = typer.Typer()
commands = typer.Typer(
    help="List student numbers that became others, and decide about merges that are held or wrong.\n\n"
    "Without a further command they are listed, the newest first: what said so and when, and whether it is in force."
)
family.add_typer(commands, name="merges")
NumberArgument = Annotated[str, typer.Argument(help="The former student number, with its leading zeros.")]
IntoOption = Annotated[str | None, typer.Option(help="Only its merge into this number.")]
ApplyOption = Annotated[bool, typer.Option("--apply", help="Do it; without it, only show what would change.")]


@commands.callback(invoke_without_command=True)
def list_merges(
    context: typer.Context,
    *,
    path: ConfigOption = DEFAULT_CONFIG,
    held: Annotated[bool, typer.Option("--held", help="Only those that wait for a person.")] = False,
    as_json: JsonOption = False,
) -> None:
    """List them."""
    if context.invoked_subcommand is not None:
        return
    settings = prepare(path)
    with opened(settings) as ledger:
        found = [each for each in merges.read(ledger) if not held or each.state in HELD_MERGES]
    if as_json:
        say_json([asdict(each) for each in found])
        return
    table = Table("number", "became", "on", "said by", "state", "decided")
    for each in found:
        decision = ""
        if each.verdict is not None and each.decided_at is not None:
            decision = f"{each.verdict}, {each.decided_by}, {when(each.decided_at, settings)}"
        table.add_row(
            escape(each.student_id), escape(each.merged_into), when(each.merged_at, settings), escape(each.origin),
            STATES[each.state], escape(decision),
        )  # fmt: skip
    out.print(table)
    waiting = sum(each.state in HELD_MERGES for each in found)
    say(f"{counted(len(found), 'merge')}, {waiting} held")
    if waiting:
        say("`cohorts merges approve NUMBER` takes both for one student, `cohorts merges end NUMBER` keeps them apart")


@commands.command()
def approve(
    number: NumberArgument, *, path: ConfigOption = DEFAULT_CONFIG, into: IntoOption = None, apply: ApplyOption = False
) -> None:
    """Take both numbers for one student: the newest merge of this number that isn't in force."""
    _decide(prepare(path), number, into, Action.APPROVE, apply=apply)


@commands.command()
def end(
    number: NumberArgument, *, path: ConfigOption = DEFAULT_CONFIG, into: IntoOption = None, apply: ApplyOption = False
) -> None:
    """Take the number for a student by itself again: end its merges, or reject those that are held.

    Messages and change capture can't merge it again, until a person approves that.
    """
    _decide(prepare(path), number, into, Action.REJECT, apply=apply)


def _decide(settings: Settings, number: str, into: str | None, action: Action, *, apply: bool) -> None:
    now, number = time.time(), number.strip()
    with opened(settings) as ledger:
        if apply:
            changed = recorder(settings, ledger).decide_merge(number, into, action, by=person(), now=now)
            say(f"decided; desired otherwise: {counted(changed, 'membership')}; see `cohorts plan`")
            return
        effects = merge_decisions.preview(ledger, Mapper(settings.policy()), number, into, action, now=now)
    _print(effects)
    say("nothing was changed; add --apply to decide so")


def _print(effects: list[MergeEffect]) -> None:
    table = Table("platform", "cohort", "number", "would")
    for each in effects:
        table.add_row(
            escape(each.platform), escape(each.cohort), escape(each.student_id), "join" if each.joins else "leave"
        )
    out.print(table)
    say(f"would be desired otherwise: {counted(len(effects), 'membership')}")
