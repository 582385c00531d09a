"""What a Moodle refuses, or says wrongly: nobody is parked, removed or asked for in vain."""

import pytest
from structlog.testing import capture_logs

from tests.support.world import (
    ADD,
    COALESCE,
    CREATE,
    HOUR,
    REMOVAL_DELAY,
    REMOVE,
    TIMEOUT,
    UPDATE,
    Build,
    World,
    platform,
)
from tests.wire.sync.test_reconcile import image, night
from tests.wire.sync.test_refused_batches import refusing
from worker.domain.rules import AccountField
from worker.domain.states import PlatformState, Reason, RunState
from worker.ledger.availability import Availability
from worker.moodle import CallLimits, MoodleReader, Transport
from worker.sandbox.moodle.server import Fault
from worker.settings.platforms import Strangers
from worker.sync.outage import DENIED_RETRY_SECONDS

HANDFUL = 12
LOOK_UP = "core_user_get_users_by_field"
MANY = [f"s{number:03}" for number in range(200)]


@pytest.fixture
def crowded(world: World) -> World:
    """Enrol 200 students who have accounts, of whom half are members already."""
    world.accounts(*MANY)
    for student in MANY[:100]:
        world.enrol(student, "L1DROI")
    world.a_minute_later()
    for student in MANY[100:]:
        world.enrol(student, "L1DROI")
    world.moodle.calls.clear()
    return world


@pytest.mark.parametrize(
    "fault",
    [
        Fault.ACCOUNT_SUSPENDED,
        Fault.INVALID_TOKEN,
        Fault.NOT_GRANTED,
        Fault.WEBSERVICES_DISABLED,
        Fault.FIREWALL,
    ],
)
def test_what_a_person_must_act_on_stops_the_platform_and_asks_for_nobody_twice(crowded: World, fault: Fault) -> None:
    crowded.moodle.fault = fault
    crowded.wait(COALESCE)
    assert crowded.status().state is PlatformState.DENIED
    assert len(crowded.moodle.calls) <= 4
    crowded.moodle.fault = None
    crowded.wait(DENIED_RETRY_SECONDS)
    assert crowded.status().state is PlatformState.UP
    assert crowded.members() == crowded.truth()


@pytest.mark.parametrize(
    "fault", [Fault.READ_REFUSED, Fault.WRITE_REFUSED, Fault.RATE_LIMITED, Fault.APPLIED_THEN_PRINTED, Fault.LOGIN_PAGE]
)
def test_a_platform_that_answers_nothing_of_use_parks_nobody_and_counts_no_attempt(
    crowded: World, fault: Fault
) -> None:
    crowded.moodle.fault = fault
    crowded.wait(COALESCE)
    assert crowded.status().state is PlatformState.UNAVAILABLE
    assert len(crowded.moodle.calls) <= HANDFUL
    assert crowded.status().reasons == {}
    crowded.moodle.fault = None
    crowded.wait(COALESCE)
    assert crowded.status().state is PlatformState.UP
    assert crowded.members() == crowded.truth()


@pytest.mark.parametrize("function", [ADD, LOOK_UP])
def test_a_database_that_fails_during_one_function_parks_nobody(crowded: World, function: str) -> None:
    fault = Fault.WRITE_REFUSED if function == ADD else Fault.READ_REFUSED
    with crowded.faults(function, fault):
        for _ in range(10):
            crowded.wait(HOUR)
    assert crowded.status().state is PlatformState.UNAVAILABLE
    assert len(crowded.moodle.calls) <= 10 * HANDFUL
    assert "no_account" not in crowded.status().reasons
    crowded.wait(HOUR)
    assert crowded.members() == crowded.truth()


def test_two_calls_that_met_in_the_database_are_healed_by_one_halving(crowded: World) -> None:
    faults = [Fault.WRITE_REFUSED]

    with crowded.faults(ADD, Fault.WRITE_REFUSED):
        transport = crowded.transports["ecampus"]
        transport.sending = lambda _function: setattr(crowded.moodle, "fault", faults.pop() if faults else None)
        crowded.wait(COALESCE)
        del transport.sending
    assert crowded.status().state is PlatformState.UP
    assert crowded.members() == crowded.truth()


def test_what_a_plugin_prints_is_named_as_such(crowded: World) -> None:
    crowded.moodle.fault = Fault.APPLIED_THEN_PRINTED
    crowded.wait(COALESCE)
    status = crowded.status()
    assert status.code == "output-before-json"
    assert "switch debugdisplay off" in (status.sentence or "")


def test_a_byte_order_mark_is_passed_over(crowded: World) -> None:
    crowded.moodle.fault = Fault.APPLIED_THEN_MARKED
    crowded.wait(COALESCE)
    assert crowded.members() == crowded.truth()


def test_a_removal_that_is_answered_with_an_error_object_is_not_done(crowded: World) -> None:
    crowded.wait(COALESCE)
    crowded.resign("s000", "L1DROI")
    with crowded.faults(REMOVE, Fault.RATE_LIMITED):
        crowded.wait(REMOVAL_DELAY)
    assert crowded.applied("remove") == []
    assert "s000" in crowded.members()["L1DROI"]
    crowded.wait(HOUR)
    assert crowded.applied("remove") == [("L1DROI", "s000")]
    assert crowded.members() == crowded.truth()


def test_a_night_on_a_platform_that_prints_into_its_answers_heals_with_it(crowded: World) -> None:
    crowded.moodle.fault = Fault.APPLIED_THEN_PRINTED
    report = night(crowded, image(crowded))
    assert report.state is RunState.PARTIAL
    assert "debugdisplay" in (report.platforms[0].error or "")
    crowded.moodle.fault = None
    crowded.wait(HOUR)
    report = night(crowded, image(crowded))
    assert report.state is RunState.DONE
    assert crowded.members() == crowded.truth()


def test_a_night_on_a_platform_that_cannot_be_written_is_partial_and_says_since_when(crowded: World) -> None:
    crowded.wait(COALESCE)
    crowded.resign("s000", "L1DROI")
    with crowded.faults(REMOVE, Fault.ACCOUNT_SUSPENDED):
        crowded.wait(REMOVAL_DELAY)
        since = crowded.now
        crowded.now += HOUR
        report = night(crowded, image(crowded))  # it can be read, which is no end of it
    assert report.state is RunState.PARTIAL
    stopped = report.platforms[0].stopped
    assert stopped is not None
    assert (stopped.state, stopped.since) == (PlatformState.DENIED, since)
    assert "suspended" in stopped.sentence
    assert report.platforms[0].left == 1
    report = night(crowded)
    assert (report.state, report.platforms[0].stopped) == (RunState.DONE, None)
    assert crowded.members() == crowded.truth()


def test_a_night_does_not_say_done_while_gaps_are_left_that_it_did_not_make(crowded: World) -> None:
    with crowded.faults(ADD, Fault.WRITE_REFUSED):
        crowded.wait(COALESCE)
        crowded.wait(HOUR)
        report = night(crowded)
    assert report.state is RunState.PARTIAL
    assert report.platforms[0].waiting == 100
    report = night(crowded)
    assert report.state is RunState.DONE
    assert crowded.members() == crowded.truth()


def test_a_night_that_reads_a_platform_ends_its_pause(crowded: World) -> None:
    crowded.moodle.fault = Fault.ACCOUNT_SUSPENDED
    crowded.wait(COALESCE)
    crowded.moodle.fault = None
    assert night(crowded, meanwhile=crowded.turns).state is RunState.DONE
    assert crowded.members() == crowded.truth()


@pytest.mark.parametrize("fault", [Fault.INVALID_TOKEN, Fault.WRITE_REFUSED, Fault.DATABASE_DOWN])
def test_a_person_ends_a_pause_at_once(crowded: World, fault: Fault) -> None:
    with crowded.faults(ADD, fault):
        crowded.wait(COALESCE)
        for _ in range(10):
            crowded.wait(HOUR)
    crowded.turns()
    assert crowded.members() != crowded.truth()
    Availability(crowded.ledger, "ecampus").end_pause(crowded.now)
    crowded.turns()
    assert crowded.members() == crowded.truth()


def test_a_person_ends_the_pause_of_cohorts_that_were_refused(crowded: World) -> None:
    crowded.wait(COALESCE)
    crowded.accounts("new")
    crowded.enrol("new", "L9DROI")
    with crowded.faults(CREATE, Fault.WRITE_REFUSED):
        for _ in range(10):
            crowded.wait(HOUR)
    Availability(crowded.ledger, "ecampus").end_pause(crowded.now)
    crowded.turns()
    assert crowded.members() == crowded.truth()


def test_a_person_does_not_end_the_wait_for_a_call_that_may_still_be_running(crowded: World) -> None:
    crowded.shorten_the_timeout()
    with crowded.faults(ADD, Fault.APPLIED_THEN_LATE):
        crowded.wait(COALESCE)
    assert crowded.status().reasons == {Reason.TIMEOUT: 100}
    calls = len(crowded.moodle.calls)
    Availability(crowded.ledger, "ecampus").end_pause(crowded.now)
    crowded.turns()
    assert len(crowded.moodle.calls) == calls
    crowded.wait(TIMEOUT)
    assert crowded.members() == crowded.truth()


# --- A platform that nothing is left to be written to ---


def test_a_platform_that_answers_again_is_up_although_nothing_is_left_to_be_written(crowded: World) -> None:
    crowded.wait(COALESCE)
    crowded.enrol("s000", "L2DROI")
    with crowded.faults(CREATE, Fault.INVALID_TOKEN):
        crowded.wait(COALESCE)
    crowded.resign("s000", "L2DROI")
    assert crowded.gaps() == {}
    crowded.moodle.fault = Fault.INVALID_TOKEN
    crowded.wait(DENIED_RETRY_SECONDS)
    since = crowded.status().since
    crowded.wait(DENIED_RETRY_SECONDS)
    assert (crowded.status().state, crowded.status().since) == (PlatformState.DENIED, since)
    crowded.moodle.fault = None
    crowded.wait(DENIED_RETRY_SECONDS)
    assert crowded.status().state is PlatformState.UP


def test_a_label_that_is_refused_again_and_again_is_asked_for_less_and_less_often(crowded: World) -> None:
    crowded.wait(COALESCE)
    crowded.describe("L1DROI", "Licence")
    crowded.moodle.calls.clear()
    with refusing(crowded, UPDATE, "dmlwriteexception"):
        for _ in range(360):
            crowded.wait(10.0)
    assert crowded.status().state is PlatformState.UNAVAILABLE
    assert len(crowded.moodle.calls) < 100
    crowded.wait(HOUR)
    assert crowded.cohort_name("L1DROI") == "UFR Droit: Licence"
    assert crowded.status().state is PlatformState.UP


def test_a_night_that_cannot_read_a_platform_says_since_when_and_stops_it(crowded: World) -> None:
    crowded.wait(COALESCE)
    read_at = crowded.now
    assert night(crowded).state is RunState.DONE
    crowded.now += 24 * HOUR
    failed_at = crowded.now
    crowded.moodle.fault = Fault.ACCOUNT_SUSPENDED
    report = night(crowded)
    found = report.platforms[0]
    assert (report.state, found.read, found.last_read) == (RunState.PARTIAL, False, read_at)
    assert crowded.status().state is PlatformState.DENIED
    crowded.now += 24 * HOUR
    stopped = night(crowded).platforms[0].stopped
    assert stopped is not None
    assert (stopped.state, stopped.since) == (PlatformState.DENIED, failed_at)
    crowded.moodle.fault = None
    found = night(crowded).platforms[0]
    assert (found.error, found.stopped, found.last_read) == (None, None, crowded.now)
    assert crowded.status().state is PlatformState.UP


def test_a_night_counts_what_is_left_on_a_platform_that_it_cannot_read(crowded: World) -> None:
    crowded.moodle.fault = Fault.MAINTENANCE_CLI
    crowded.wait(COALESCE)
    crowded.now += HOUR
    report = night(crowded)
    assert (report.state, report.platforms[0].left) == (RunState.PARTIAL, 100)


def test_a_night_does_not_wait_for_what_is_tried_again_long_after(crowded: World) -> None:
    crowded.wait(COALESCE)
    crowded.accounts("new")
    crowded.enrol("new", "L9DROI")
    with refusing(crowded, CREATE, "invalidparameter"):
        for _ in range(10):
            crowded.wait(6 * HOUR)
        began = crowded.now
        report = night(crowded)
    assert (report.state, report.platforms[0].left) == (RunState.PARTIAL, 1)
    assert crowded.now < began + HOUR


# --- A limit of fields that PHP doesn't grant ---


def test_a_limit_of_fields_that_php_does_not_grant_is_told_once_with_the_one_that_it_does(crowded: World) -> None:
    crowded.moodle.max_input_vars = 333
    with capture_logs() as logs:
        crowded.wait(COALESCE)
        for student in MANY:
            crowded.resign(student, "L1DROI")
        crowded.wait(HOUR)
    told = [entry for entry in logs if entry["event"].startswith("PHP cuts forms")]
    assert [(entry["fields"], entry["fitting"]) for entry in told] == [(900, 334)]  # PHP accepts one too many
    assert crowded.members() == {"L1DROI": set()}


@pytest.mark.parametrize(("granted", "fitting"), [(5000, 900), (899, 900), (898, 899), (500, 501), (101, 102)])
def test_the_fields_that_fit_are_found_by_reading(world: World, granted: int, fitting: int) -> None:
    world.moodle.max_input_vars = granted
    wire = world.transports["ecampus"]
    assert MoodleReader(wire).fitting_fields() == fitting
    assert world.written() == set()


def test_a_token_that_is_refused_is_not_taken_for_a_form_that_was_cut(world: World) -> None:
    transport = Transport("ecampus", world.moodle.url, "0" * 32, CallLimits(calls_per_second=10_000.0))
    keys = [f"s{number}" for number in range(200)]
    with pytest.raises(Exception, match="invalidtoken: Moodle doesn't know it"):
        MoodleReader(transport).users(AccountField.USERNAME, keys)
    transport.close()
    assert len(world.moodle.calls) <= 2


# --- Unclean accounts ---

UNCLEAN = [{"auth": "gone"}, {"username": "É.Dupont"}, {"city": "Caen <14>"}, {"lastname": "<"}]


@pytest.mark.parametrize("values", UNCLEAN)
def test_an_unclean_account_fails_nobody_but_itself(build: Build, values: dict[str, str]) -> None:
    world = build(platform(account_field=AccountField.IDNUMBER))
    users = world.moodle.add_users((f"u{student}", student) for student in MANY)
    world.moodle.change_user(users[77], **values)
    for student in MANY:
        world.enrol(student, "L1DROI")
    world.wait(COALESCE)
    assert world.moodle.members(1) == set(users) - {users[77]}
    assert world.status().reasons == {"unclean_account": 1}
    world.moodle.change_user(users[77], auth="manual", username="e.dupont", city="Caen", lastname="Dupont")
    world.days_later(1)
    assert world.moodle.members(1) == set(users)


@pytest.mark.parametrize("place", [0, 5, -1])
def test_an_unclean_member_fails_neither_a_night_nor_the_check_of_our_sight(crowded: World, place: int) -> None:
    crowded.wait(COALESCE)
    crowded.moodle.change_user(sorted(crowded.moodle.members(1))[place], auth="gone")
    crowded.restart()
    report = night(crowded, image(crowded))
    assert report.state is RunState.DONE
    assert len(crowded.moodle.members(1)) == len(MANY)
    crowded.now += HOUR
    crowded.enrol("nobody", "L1DROI")
    crowded.wait(COALESCE)
    assert crowded.status().reasons == {"no_account": 1}


def test_an_unclean_member_whom_nobody_can_name_stays_and_is_counted(world: World) -> None:
    world.enrol("s1", "L1DROI")
    world.accounts("stranger", "unclean")
    world.a_minute_later()
    for name in ("stranger", "unclean"):
        world.moodle.add_member(1, world.moodle.user_ids[name])
    world.moodle.change_user(world.moodle.user_ids["unclean"], auth="gone")
    report = night(world, image(world), strangers=Strangers.REMOVE)
    world.wait(HOUR)
    assert world.members()["L1DROI"] == {"s1", "unclean"}
    assert (report.platforms[0].strangers, report.platforms[0].unclean) == (1, 1)


def test_when_all_accounts_are_unclean_a_plugin_is_missing_and_a_handful_of_calls_tell(crowded: World) -> None:
    crowded.moodle.auth_plugins.remove("cas")
    crowded.wait(COALESCE)
    status = crowded.status()
    assert (status.state, status.code) == (PlatformState.DENIED, "unclean_accounts")
    assert "auth_cas left Moodle" in (status.sentence or "")
    assert len(crowded.moodle.calls) <= HANDFUL
    assert crowded.status().reasons == {}
    crowded.moodle.auth_plugins.add("cas")
    crowded.wait(DENIED_RETRY_SECONDS)
    assert crowded.members() == crowded.truth()
