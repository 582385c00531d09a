"""Batches that a Moodle refuses whole: nobody is blamed for what is the platform's, and it costs a handful of calls."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import stamina

from tests.support.world import ADD, COALESCE, CREATE, REMOVAL_DELAY, REMOVE, UPDATE, World
from tests.wire.sync.test_reconcile import image, night
from worker.domain.errors import MoodleRejected
from worker.domain.states import PlatformState
from worker.ledger import status
from worker.ledger.schema import membership
from worker.sandbox.moodle.server import Fault
from worker.sync.converge.lane import STEP_BACK_SECONDS
from worker.sync.outage import DENIED_RETRY_SECONDS, UNAVAILABLE

CLASS = [f"c{number}" for number in range(100)]
HANDFUL = 12
LOOK_UP = "core_user_get_users_by_field"


@pytest.fixture(autouse=True)
def retries_without_waiting() -> Iterator[None]:
    with stamina.set_testing(testing=True, attempts=3):
        yield


@pytest.fixture
def school(world: World) -> World:
    """A world whose cohort L1DROI has a member, and a hundred students who are known and may enrol."""
    world.accounts(*CLASS)
    world.enrol(CLASS[0], "L1DROI")
    world.a_minute_later()
    for student in CLASS:  # once, so that their accounts are remembered
        world.enrol(student, "L2DROI")
    world.a_minute_later()
    assert world.gaps() == {}
    return world


def attempts(world: World) -> set[int]:
    with world.ledger.read() as connection:
        return set(connection.scalars(membership.select().with_only_columns(membership.c.attempts)))


@contextmanager
def few_calls(world: World, most: int = HANDFUL) -> Iterator[None]:
    before = len(world.moodle.calls)
    yield
    assert len(world.moodle.calls) - before <= most


@contextmanager
def refusing(world: World, function: str, code: str, *, cohorts: Collection[int] = ()) -> Iterator[None]:
    """Refuse each call of a function with a code; with `cohorts`, those that name one of them."""
    transport = world.transports["ecampus"]
    write = transport.write

    def refused(called: str, arguments: dict[str, Any], **more: Any) -> Any:  # noqa: ANN401 # those of `write`
        named = {member["cohorttype"]["value"] for member in arguments.get("members", ()) if "cohorttype" in member}
        if called == function and (not cohorts or named & set(cohorts)):
            raise MoodleRejected(code, f"ecampus: {called}: {code}")
        return write(called, arguments, **more)

    transport.write = refused  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        transport.write = write  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("fault", "code", "advice"),
    [
        (Fault.ACCOUNT_SUSPENDED, "wsaccessusersuspended", "activate it"),
        (Fault.POLICY_NOT_AGREED, "sitepolicynotagreed", "agree"),
        (Fault.PASSWORD_TO_CHANGE, "forcepasswordchangenotice", "sign in as it"),
        (Fault.FIREWALL, "http-403", "firewall"),
        (Fault.WEBSERVICES_DISABLED, "http-403", "switched off"),
        (Fault.SIGN_IN, "http-401", "password"),
    ],
)
def test_a_stopped_service_account_denies_the_platform_in_a_few_calls(
    school: World, fault: Fault, code: str, advice: str
) -> None:
    for student in CLASS:
        school.enrol(student, "L1DROI")
    school.moodle.fault = fault
    with few_calls(school, 5):
        school.wait(COALESCE)
    found = school.status()
    assert (found.state, found.code) == (PlatformState.DENIED, code)
    assert advice in (found.sentence or "")
    assert "ecampus" not in (found.sentence or "")  # whoever shows it names the platform
    assert found.reasons == {}
    assert attempts(school) == {0}
    school.moodle.fault = None
    school.wait(DENIED_RETRY_SECONDS)
    assert school.members() == school.truth()


@pytest.mark.parametrize("fault", [Fault.READ_REFUSED, Fault.WRITE_REFUSED, Fault.UNKNOWN_CODE, Fault.RATE_LIMITED])
def test_a_platform_that_refuses_look_ups_leaves_nobody_without_an_account(world: World, fault: Fault) -> None:
    world.accounts(*CLASS)
    world.enrol(CLASS[0], "L1DROI")
    world.a_minute_later()
    for student in CLASS:
        world.enrol(student, "L1DROI")
    with world.faults(LOOK_UP, fault), few_calls(world):
        world.wait(COALESCE)
    assert world.status().state is PlatformState.UNAVAILABLE
    assert world.status().reasons == {}
    world.wait(UNAVAILABLE.first)
    assert world.members() == world.truth()


@pytest.mark.parametrize("function", [ADD, REMOVE])
@pytest.mark.parametrize("students", [1, 2, 5, 100])
def test_a_database_that_cannot_be_written_pauses_the_platform_and_blames_no_member(
    school: World, function: str, students: int
) -> None:
    for student in CLASS[:students]:
        if function == ADD:
            school.enrol(student, "L1ADPU" if student == CLASS[0] else "L1DROI")
        else:
            school.resign(student, "L2DROI")
    school.turns()
    with school.faults(function, Fault.WRITE_REFUSED):
        with few_calls(school, HANDFUL + 4):
            school.wait(REMOVAL_DELAY if function == REMOVE else COALESCE)
        found = school.status()
        assert (found.state, found.code) == (PlatformState.UNAVAILABLE, "dmlwriteexception")
        assert "can't write to its database" in (found.sentence or "")
        assert found.reasons == {}
        with few_calls(school, 20 * HANDFUL):
            for _ in range(60):
                school.a_minute_later()
        assert attempts(school) == {0}
    school.wait(UNAVAILABLE.most + STEP_BACK_SECONDS)
    assert school.members() == school.truth()
    assert school.status().state is PlatformState.UP


def test_a_database_that_cannot_be_written_at_all_is_waited_for(school: World) -> None:
    for student in CLASS:
        school.enrol(student, "L1DROI")
        school.enrol(student, "L1ADPU")
    school.moodle.fault = Fault.WRITE_REFUSED
    with few_calls(school, 20 * HANDFUL):
        for _ in range(60):
            school.a_minute_later()
    assert attempts(school) == {0}
    assert school.status().reasons == {}
    school.moodle.fault = None
    school.wait(UNAVAILABLE.most + STEP_BACK_SECONDS)
    assert school.members() == school.truth()


@pytest.mark.parametrize("members", [1, 2, 100])
def test_a_cohort_whose_members_are_always_refused_stops_no_other(school: World, members: int) -> None:
    school.enrol(CLASS[0], "L1ADPU")
    school.a_minute_later()
    broken = school.cohort_id("L1ADPU")
    for student in CLASS[1 : members + 1]:
        school.enrol(student, "L1ADPU")
    with refusing(school, ADD, "dmlwriteexception", cohorts=[broken]):
        for _ in range(5):
            school.a_minute_later()
        for student in CLASS:
            school.enrol(student, "L1DROI")
        for _ in range(300):
            school.wait(2.0)
        assert school.members()["L1DROI"] == set(CLASS)
        for _ in range(30):
            school.a_minute_later()
        assert school.status().state is PlatformState.UP
        assert school.gaps() == {"retrying": len(CLASS[1 : members + 1])}
    school.days_later(2)
    assert school.members() == school.truth()


@pytest.mark.parametrize("function", [CREATE, UPDATE])
def test_one_cohort_that_cannot_be_written_is_the_platforms_fault_until_it_accepts_others(
    school: World, function: str
) -> None:
    def something_to_do() -> None:
        if function == CREATE:
            school.enrol(CLASS[1], "L1ADPU")
        else:
            school.describe("L1DROI", "Licence 1 Droit")

    def is_done() -> bool:
        return "L1ADPU" in school.members() if function == CREATE else "Licence" in school.cohort_name("L1DROI")

    something_to_do()
    with school.faults(function, Fault.WRITE_REFUSED):
        for _ in range(30):
            school.a_minute_later()
        assert school.status().state is PlatformState.UNAVAILABLE
        assert school.status().code == "dmlwriteexception"
    school.wait(UNAVAILABLE.most + STEP_BACK_SECONDS)
    assert is_done()
    assert school.status().state is PlatformState.UP


@pytest.mark.parametrize("function", [CREATE, UPDATE])
def test_a_cohort_that_can_never_be_written_stops_no_other(school: World, function: str) -> None:
    school.enrol(CLASS[1], "L1ADPU")
    if function == UPDATE:
        school.describe("L1DROI", "Licence 1 Droit")
    with refusing(school, function, "dmlwriteexception"):
        for _ in range(5):
            school.a_minute_later()
        for student in CLASS:
            school.enrol(student, "L2DROI" if student == CLASS[0] else "L1DROI")
        for _ in range(300):
            school.wait(2.0)
        assert school.members()["L1DROI"] == set(CLASS)
        for _ in range(30):
            school.a_minute_later()
        assert school.status().state is PlatformState.UP
    school.days_later(2)
    assert school.members() == school.truth()
    assert function == CREATE or "Licence" in school.cohort_name("L1DROI")


def test_several_cohorts_whose_idnumber_is_taken_stop_no_other(school: World) -> None:
    names = [f"X{number}" for number in range(40)]
    for name in names:
        school.enrol(CLASS[0], name)
    with refusing(school, CREATE, "invalidparameter"):
        school.a_minute_later()
        school.enrol(CLASS[1], "L1DROI")
        school.a_minute_later()
        assert CLASS[1] in school.members()["L1DROI"]
        assert school.status().state is PlatformState.UP
    school.days_later(1)
    assert school.members() == school.truth()


def test_the_accounts_of_a_site_that_refuses_every_name_are_not_called_absent(world: World) -> None:
    world.accounts(*CLASS)
    world.enrol(CLASS[0], "L1DROI")
    world.a_minute_later()
    for student in CLASS:
        world.enrol(student, "L1DROI")
    transport = world.transports["ecampus"]
    read = transport.read

    def refused(called: str, **arguments: Any) -> Any:  # noqa: ANN401 # those of `read`
        if called == LOOK_UP:
            raise MoodleRejected("invalidparameter", f"ecampus: {called}: invalidparameter")
        return read(called, **arguments)

    transport.read = refused  # type: ignore[method-assign, assignment]
    world.wait(COALESCE)
    assert world.status().state is PlatformState.UNAVAILABLE
    assert world.status().reasons == {}
    del transport.read
    world.wait(UNAVAILABLE.first)
    assert world.members() == world.truth()
    assert status.applied(world.ledger, "ecampus", "remove") == []


def test_a_night_wakes_what_was_refused_and_ends_a_pause(school: World) -> None:
    school.enrol(CLASS[1], "L1DROI")
    school.enrol(CLASS[2], "L1ADPU")
    with refusing(school, ADD, "invalidparameter"), refusing(school, CREATE, "invalidparameter"):
        school.days_later(2)  # tried less and less often
    school.moodle.fault = Fault.ACCOUNT_SUSPENDED
    school.enrol(CLASS[3], "L1DROI")
    school.wait(COALESCE)
    assert school.status().state is PlatformState.DENIED
    school.moodle.fault = None
    assert school.members() != school.truth()
    night(school, image(school))
    school.turns()
    assert school.members() == school.truth()
    assert school.status().state is PlatformState.UP
