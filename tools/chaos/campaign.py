"""Tries faults in a university that goes on meanwhile; each trial is a line of a table."""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from tools.chaos.world import RECOVERY, World

Strike = Callable[[World], AbstractContextManager[None]]
"""A context in which something goes wrong, while messages are published; at its end, the fault is over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Something that goes wrong."""

    name: str
    strike: Strike
    postgres: bool = False
    """Whether it needs a ledger in PostgreSQL."""
    last: bool = False
    """Whether its university can't be used afterwards. A snapshot taken now overrules messages that are dated earlier;
    after an undo, the next snapshot ends the same memberships again, and the guard holds them; in a cohort that most
    have left, it holds whoever leaves next; and a worker with delays of full length is too slow for other faults."""
    once: bool = False
    """Whether it is tried in one round only, because it takes long."""
    recovery: float = RECOVERY
    """Seconds from its end within which everything must be in step."""
    brief: bool = False
    """Whether the tests try it, too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """The outcome of a fault."""

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


def try_faults(world: World, faults: Sequence[Fault]) -> Trial:
    """Cause the faults one after the other while a day passes, and judge once the last is over.

    Raises AssertionError when one of them had no effect.
    """
    ends, world.peak = world.ends, 0
    parts = world.day_in_parts(1 + len(faults))
    world.publish(next(parts))
    for fault, part in zip(faults, parts, strict=True):
        world.eventually(lambda: world.worker.events("started"))
        with fault.strike(world):
            world.publish(part)
    ended_at, problem = time.monotonic(), ""
    try:
        world.eventually(world.in_step, within=max(fault.recovery for fault in faults))
    except AssertionError as error:
        problem = str(error)
    seconds = time.monotonic() - ended_at
    verdict = world.verdict()
    return Trial(
        lost=verdict.lost,
        wrong=verdict.wrong,
        seconds=seconds,
        ends=world.ends - ends,
        peak=world.peak,
        problem=problem,
    )
