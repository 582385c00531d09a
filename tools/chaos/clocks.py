"""The clock of the worker's machine is wrong, and is then corrected."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from tools.chaos.campaign import Fault
from tools.chaos.world import World

HOURS = 3600.0


@contextmanager
def moved(world: World, seconds: float) -> Iterator[None]:
    """Move the clock under a running worker, and back."""
    clock = world.installation.directory / "clock"
    clock.write_text("0")
    world.restart(clock=str(clock))
    world.worker.started()
    clock.write_text(str(seconds))
    yield
    world.eventually(world.has_read)
    clock.write_text("0")


@contextmanager
def moved_between(world: World, seconds: float) -> Iterator[None]:
    """Give one run of the worker a wrong clock, and the next one the right clock."""
    clock = world.installation.directory / "clock"
    clock.write_text(str(seconds))
    world.restart(clock=str(clock))
    yield
    world.eventually(world.has_read)
    world.restart()


FAULTS = tuple(
    Fault(
        name=f"clock {hours} hours {direction}, {when}",
        strike=partial(strike, seconds=sign * hours * HOURS),
        brief=hours == 5 and (strike is moved) is (sign > 0),
    )
    for when, strike in (("while the worker runs", moved), ("during one run", moved_between))
    for sign, direction in ((1, "ahead"), (-1, "behind"))
    for hours in (5, 1_000)
)
