"""Faults are tried in a university that lives on; what came of each is a line of a table."""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from tools.chaos.world import RECOVERY, World

Strike = Callable[[World], AbstractContextManager[None]]
"""Lets something go wrong while the context lasts, in which messages are published; it ends when that is over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Something that goes wrong."""

    name: str
    strike: Strike
    postgres: bool = False
    """Whether it needs a ledger in PostgreSQL."""
    last: bool = False
    """Whether its university can't live on: after a snapshot of this instant, what is told of days before is too late;
    the next snapshot says again of all who were put back that they have left, which the guard holds; and in a cohort
    that most have left it holds whoever leaves next; and a worker whose delays aren't cut short is none for the
    others."""
    once: bool = False
    """Whether one round is enough, since it lasts."""
    recovery: float = RECOVERY
    """Seconds from its end within which everything must be in step."""
    brief: bool = False
    """Whether the tests try it, too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What came of it."""

    lost: list[str]
    wrong: list[str]
    seconds: float
    """From the end of the fault until everything was in step."""
    ends: int
    """How often the worker ended."""
    peak: int
    """The most memory that a worker had, in kB."""
    problem: str = ""
    """What was not in step in the end."""


def tried(world: World, faults: Sequence[Fault]) -> Trial:
    """Let faults happen one after the other while the university lives a day, and judge once the last is over.

    Raises AssertionError when one of them had no effect.
    """
    ends, world.peak = world.ends, 0
    parts = world.day(1 + len(faults))
    world.publish(next(parts))
    for fault, part in zip(faults, parts, strict=True):
        world.eventually(lambda: world.worker.said("started"))
        with fault.strike(world):
            world.publish(part)
    over, problem = time.monotonic(), ""
    try:
        world.eventually(world.in_step, within=max(fault.recovery for fault in faults))
    except AssertionError as error:
        problem = str(error)
    seconds = time.monotonic() - over
    verdict = world.verdict()
    return Trial(
        lost=verdict.lost,
        wrong=verdict.wrong,
        seconds=seconds,
        ends=world.ends - ends,
        peak=world.peak,
        problem=problem,
    )
