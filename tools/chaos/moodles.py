"""Moodle fails in every known way."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from tests.support.servers.expired import expired
from tools.chaos.campaign import Fault
from tools.chaos.world import PLATFORM, RECOVERY, World
from worker.sandbox.moodle.server import Chaos, SandboxMoodle
from worker.sandbox.moodle.server import Fault as Failure
from worker.sync.outage import UNAVAILABLE

OUTAGE = 10.0
"""Seconds that stand for an outage of ten minutes: the workers of the campaign wait for seconds, not minutes."""
TEN_MINUTES = 600.0
BURST = 150
"""Changes that are published at once."""
CHAOS = 0.5
BRIEF = {Failure.LOGIN_PAGE, Failure.APPLIED_THEN_CLOSED}


@contextmanager
def failing(world: World, failure: Failure) -> Iterator[None]:
    """Let every call fail in this way until a few have."""
    world.moodle.fault = failure
    yield
    world.wait_for_failures()
    world.moodle.fault = None


@contextmanager
def failing_at_random(world: World) -> Iterator[None]:
    """Let half of the calls fail, in any way."""
    world.moodle.chaos = Chaos(rate=CHAOS, seed=world.random.randrange(1_000), kinds=tuple(Failure))
    yield
    world.wait_for_failures(6)
    world.moodle.chaos = None


@contextmanager
def outage(world: World) -> Iterator[None]:
    """Stop PHP for so long that the worker retries less and less often."""
    end = time.monotonic() + OUTAGE
    world.moodle.fault = Failure.PHP_DOWN
    yield
    world.eventually(lambda: time.monotonic() > end)
    world.moodle.fault = None


@contextmanager
def full_outage(world: World) -> Iterator[None]:
    """Stop PHP for ten minutes, during a burst of changes, under a worker with delays of full length."""
    world.restart(full_delays=True)
    end = time.monotonic() + TEN_MINUTES
    world.moodle.fault = Failure.PHP_DOWN
    yield
    world.publish(world.live_a_day(BURST))
    world.wait_for_failures()
    world.eventually(lambda: time.monotonic() > end, within=TEN_MINUTES)
    world.moodle.fault = None


@contextmanager
def redirected(world: World) -> Iterator[None]:
    """Redirect every call to another Moodle, which must not be called."""
    other = SandboxMoodle(name="Elsewhere", token=world.moodle.token)
    with other.serving():
        world.moodle.elsewhere = f"{other.url}/webservice/rest/server.php"
        with failing(world, Failure.REDIRECTED):
            yield
    assert not other.calls, "the token was sent to another host"


@contextmanager
def certificate_expired(world: World) -> Iterator[None]:
    """Replace Moodle by a site with an expired certificate, until the worker reports it as unavailable."""
    settings = world.installation.settings["platforms"][PLATFORM]
    directory = world.installation.directory / "expired"
    directory.mkdir(exist_ok=True)
    with expired(directory) as site:
        settings["url"] = site.url
        world.installation.write_settings()
        world.restart(trusts=str(site.certificate))
        yield
        world.eventually(lambda: world.state() == "unavailable")
    settings["url"] = world.moodle.url
    world.installation.write_settings()
    world.restart()
    assert not site.received, "the token was sent"


@contextmanager
def without_right(world: World, right: str) -> Iterator[None]:
    """Withdraw a right from the service account until the worker reports that it is missing."""
    world.moodle.capabilities.remove(right)
    yield
    world.eventually(lambda: world.state() == "denied")
    world.moodle.capabilities.add(right)


@contextmanager
def cut_forms(world: World) -> Iterator[None]:
    """Let PHP drop most fields of each form until a call has failed because of it."""
    before, world.moodle.max_input_vars = world.moodle.max_input_vars, 8
    yield
    world.wait_for_failures()
    world.moodle.max_input_vars = before


@contextmanager
def unclean(world: World) -> Iterator[None]:
    """Write what Moodle can't return into the profiles of some members, until an administrator mends them."""
    members = sorted({student for _, student in world.members()})
    accounts = [world.account_of(student) for student in world.random.sample(members, 5)]
    for account in accounts:
        world.moodle.change_user(account, city="<Caen>")
    yield
    world.eventually(world.has_read)
    for account in accounts:
        world.moodle.change_user(account, city="")


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
        name="Moodle: an outage of ten real minutes in a burst",
        strike=full_outage,
        last=True,
        once=True,
        recovery=UNAVAILABLE.most + RECOVERY,
    ),
    Fault(name="Moodle: may not manage cohorts", strike=partial(without_right, right="moodle/cohort:manage")),
    Fault(name="Moodle: may not see people", strike=partial(without_right, right="moodle/user:viewalldetails")),
    Fault(name="Moodle: PHP cuts the forms", strike=cut_forms),
    Fault(name="Moodle: some accounts are unclean", strike=unclean, brief=True),
)
