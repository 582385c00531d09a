"""Moodle fails in every way that is known of it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from tests.support.servers.expired import expired
from tools.chaos.campaign import Fault
from tools.chaos.world import PLATFORM, RECOVERY, World
from worker.sandbox.moodle.server import Chaos, SandboxMoodle
from worker.sandbox.moodle.server import Fault as Failure
from worker.sync.converge.lane import UNAVAILABLE

OUTAGE = 10.0
"""Seconds of an outage of ten minutes: delays that are minutes, up to five, are seconds for the campaign's workers."""
TEN_MINUTES = 600.0
BURST = 150
"""Changes that are told at once."""
CHAOS = 0.5
BRIEF = {Failure.LOGIN_PAGE, Failure.APPLIED_THEN_CLOSED}


@contextmanager
def failing(world: World, failure: Failure) -> Iterator[None]:
    """Let every call fail so, until a few have."""
    world.moodle.fault = failure
    yield
    world.fails()
    world.moodle.fault = None


@contextmanager
def failing_at_random(world: World) -> Iterator[None]:
    """Let half of the calls fail, each in another way."""
    world.moodle.chaos = Chaos(rate=CHAOS, seed=world.random.randrange(1_000), kinds=tuple(Failure))
    yield
    world.fails(6)
    world.moodle.chaos = None


@contextmanager
def outage(world: World) -> Iterator[None]:
    """Let PHP be down for long enough that the worker asks ever less often."""
    over = time.monotonic() + OUTAGE
    world.moodle.fault = Failure.PHP_DOWN
    yield
    world.eventually(lambda: time.monotonic() > over)
    world.moodle.fault = None


@contextmanager
def whole_outage(world: World) -> Iterator[None]:
    """Let PHP be down for ten minutes, in which a burst of changes arrives, under a worker as it is anywhere."""
    world.restart(uncut=True)
    over = time.monotonic() + TEN_MINUTES
    world.moodle.fault = Failure.PHP_DOWN
    yield
    world.publish(world.live(BURST))
    world.fails()
    world.eventually(lambda: time.monotonic() > over, within=TEN_MINUTES)
    world.moodle.fault = None


@contextmanager
def redirected(world: World) -> Iterator[None]:
    """Send everybody to another Moodle, which nobody may ask for anything."""
    other = SandboxMoodle(name="Elsewhere", token=world.moodle.token)
    with other.serving():
        world.moodle.elsewhere = f"{other.url}/webservice/rest/server.php"
        with failing(world, Failure.REDIRECTED):
            yield
    assert not other.calls, "the token went elsewhere"


@contextmanager
def certificate_expired(world: World) -> Iterator[None]:
    """Have a site in Moodle's place whose certificate has expired, until the worker has given it up."""
    settings = world.here.settings["platforms"][PLATFORM]
    directory = world.here.directory / "expired"
    directory.mkdir(exist_ok=True)
    with expired(directory) as site:
        settings["url"] = site.url
        world.here.write_settings()
        world.restart(trusts=str(site.certificate))
        yield
        world.eventually(lambda: world.state() == "unavailable")
    settings["url"] = world.moodle.url
    world.here.write_settings()
    world.restart()
    assert not site.told, "the token was sent"


@contextmanager
def without_right(world: World, right: str) -> Iterator[None]:
    """Take a right from the service account, until the worker says that it is missing."""
    world.moodle.capabilities.remove(right)
    yield
    world.eventually(lambda: world.state() == "denied")
    world.moodle.capabilities.add(right)


@contextmanager
def cut_forms(world: World) -> Iterator[None]:
    """Let PHP drop most of each form, until a call has failed for it."""
    before, world.moodle.max_input_vars = world.moodle.max_input_vars, 8
    yield
    world.fails()
    world.moodle.max_input_vars = before


FAULTS = (
    *(
        Fault(
            name=f"Moodle: {failure.replace('_', ' ')}",
            strike=partial(failing, failure=failure),
            brief=failure in BRIEF,
        )
        for failure in Failure
        if failure is not Failure.REDIRECTED
    ),
    Fault(name="Moodle: redirected to another host", strike=redirected),
    Fault(name="Moodle: TLS certificate expired", strike=certificate_expired),
    Fault(name="Moodle: half of the calls fail, in any way", strike=failing_at_random, brief=True),
    Fault(name="Moodle: an outage of ten minutes", strike=outage),
    Fault(
        name="Moodle: an outage of ten whole minutes in a burst",
        strike=whole_outage,
        last=True,
        once=True,
        recovery=UNAVAILABLE.most + RECOVERY,
    ),
    Fault(name="Moodle: may not manage cohorts", strike=partial(without_right, right="moodle/cohort:manage")),
    Fault(name="Moodle: may not see people", strike=partial(without_right, right="moodle/user:viewalldetails")),
    Fault(name="Moodle: PHP cuts the forms", strike=cut_forms),
)
