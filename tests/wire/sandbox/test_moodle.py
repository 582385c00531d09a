"""The sandbox Moodle answers like the recorded Moodle 4.3: every case, status, content type and body.

The cases are one history: they are replayed in the order of the file, with, between them, what people must have done
for the recorded ids. Two things are not compared, because a sandbox can't know them: the host and revision in the
addresses of profile images, and the maintenance page's markup besides its title.
"""

import json
import math
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from tests.support.paths import TRANSCRIPTS
from worker.sandbox.moodle.server import MEASURED, Call, Chaos, Cost, Fault, SandboxMoodle

TOKEN = "0123456789abcdef"
CASES: list[dict[str, Any]] = json.loads(TRANSCRIPTS.read_text())["cases"]
NAMES = [case["case"] for case in CASES]
ADD, REMOVE, MEMBERS = (
    f"core_cohort_{name}" for name in ("add_cohort_members", "delete_cohort_members", "get_cohort_members")
)
Fields = dict[str, str]
History = dict[str, httpx.Response | list[httpx.Response]]


def fields(value: object, name: str = "") -> Fields:
    """Encode like PHP's http_build_query: nested names."""
    if not isinstance(value, dict | list):
        return {name: str(value)}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return {
        key: text
        for part, item in items
        for key, text in fields(item, f"{name}[{part}]" if name else str(part)).items()
    }


def php_json(value: object) -> str:
    return json.dumps(value, separators=(",", ":")).replace("/", "\\/")


def addition(cohort: str, username: str) -> dict[str, dict[str, str]]:
    return {
        "cohorttype": {"type": "idnumber", "value": cohort},
        "usertype": {"type": "username", "value": username},
    }


def students(numbers: range) -> list[str]:
    return [f"e{number:08}" for number in numbers]


@dataclass
class Caller:
    """A client of the sandbox that sends the token last by default."""

    moodle: SandboxMoodle
    http: httpx.Client
    token: str = TOKEN

    def send(self, function: str, params: object, *, token_first: bool = False, timeout: float = 30) -> httpx.Response:
        ours = {"wstoken": self.token, "wsfunction": function, "moodlewsrestformat": "json"}
        body = ours | fields(params) if token_first else fields(params) | ours
        return self.http.post("/webservice/rest/server.php", data=body, timeout=timeout)

    def call(self, function: str, params: object) -> Any:  # noqa: ANN401 # whatever JSON holds
        return self.send(function, params).json()


@pytest.fixture
def caller() -> Iterator[Caller]:
    """A Moodle with ten students, ids 4 to 13, and the cohorts 1, L1DROI, and 2, L2DROI."""
    moodle = SandboxMoodle(token=TOKEN)
    moodle.add_users((name, f"22{name[3:]}") for name in students(range(1, 11)))
    for idnumber in ("L1DROI", "L2DROI"):
        moodle.create_cohort(name=f"UFR Droit: {idnumber}", idnumber=idnumber)
    with moodle.serving() as url, httpx.Client(base_url=url) as http:
        yield Caller(moodle, http)


# --- The recorded history ---


def the_site_as_it_was(moodle: SandboxMoodle) -> None:
    moodle.add_users((name, f"22{name[3:]}") for name in students(range(1, 20_001)))
    known = {
        1: ("CEMU: DU Capacité de Gestion des Entreprises - FOAD", "DUCGE1", "x"),
        3: ("C B10_1795446377", "B10_1795446377", ""),
        7: ("C B1000_1795446395", "B1000_1795446395", ""),
    }
    for number in range(1, 11):
        name, idnumber, description = known.get(number, (f"Cohorte {number}", f"COHORTE{number}", ""))
        assert moodle.create_cohort(name=name, idnumber=idnumber, description=description) == number


def a_member_joined_and_another_account_was_deleted(moodle: SandboxMoodle) -> None:
    moodle.add_member(11, 13)
    moodle.add_member(11, 20002)
    moodle.delete_user(20002, at=1795446549)


def other_cohorts_came_and_then_the_pages(moodle: SandboxMoodle) -> None:
    for number in range(16, 30):
        assert moodle.create_cohort(name=f"Cohorte {number}", idnumber=f"COHORTE{number}") == number
    for number in range(7):
        moodle.create_cohort(name=f"Page {number}", idnumber=f"PAGE{number}")


BEFORE: dict[str, Callable[[SandboxMoodle], object]] = {
    "create_two": the_site_as_it_was,
    "members_after_user_deleted": a_member_joined_and_another_account_was_deleted,
    "add_suspended_user": lambda moodle: moodle.suspend_user(20001),
    "add_component_cohort": lambda moodle: moodle.edit_cohort(12, component="local_autre"),
    "search_limitfrom_is_a_page_number": other_cohorts_came_and_then_the_pages,
}

LARGE: dict[str, Callable[[int], object]] = {  # by function, from the number of form fields
    ADD: lambda count: {"members": [addition("L2DROI", name) for name in students(range(1, count // 4 + 1))]},
    REMOVE: lambda count: {"members": [{"cohortid": 12, "userid": user} for user in range(4, 4 + count // 2)]},
    MEMBERS: lambda count: {"cohortids": [11] * count},
}


def send_as_recorded(caller: Caller, case: dict[str, Any]) -> httpx.Response:
    params = case["params"]
    if large := re.fullmatch(r"\(large: (\d+) form fields\)", str(params)):
        params = LARGE[case["function"]](int(large[1]))
        assert len(fields(params)) == int(large[1])
    return caller.send(case["function"], params)


def send_with_another_token(caller: Caller, case: dict[str, Any]) -> httpx.Response:
    return Caller(caller.moodle, caller.http, token="another").send(case["function"], case["params"])


def send_during_a_fault(caller: Caller, case: dict[str, Any]) -> httpx.Response:
    caller.moodle.fault = Fault(case["case"])
    try:
        return caller.send(case["function"], case["params"])
    finally:
        caller.moodle.fault = None


def send_the_token_first(caller: Caller, case: dict[str, Any]) -> httpx.Response:
    return caller.send(case["function"], LARGE[MEMBERS](5200), token_first=True)


def give_up_before_the_answer(caller: Caller, case: dict[str, Any]) -> httpx.Response:
    moodle = caller.moodle
    cohort = moodle.create_cohort(name="T", idnumber="TIMEOUT")
    params = {"members": [addition("TIMEOUT", name) for name in students(range(1, 401))]}
    with moodle.paused(), ThreadPoolExecutor() as pool:
        given_up = pool.submit(caller.send, case["function"], params, timeout=0.3)
        moodle.wait_in_flight(1)
        assert isinstance(given_up.exception(), httpx.ReadTimeout)
        assert moodle.members(cohort) == set()
    moodle.wait_in_flight(0)
    return caller.send(MEMBERS, {"cohortids": [cohort]})


def send_twice_at_once(caller: Caller, case: dict[str, Any]) -> list[httpx.Response]:
    caller.moodle.create_cohort(name="T", idnumber="TWICE")
    params = {"members": [addition("TWICE", name) for name in students(range(1, 151))]}
    with ThreadPoolExecutor() as pool, caller.moodle.paused():
        both = [pool.submit(caller.send, case["function"], params) for _ in range(2)]
        caller.moodle.wait_in_flight(2)
    return sorted((call.result() for call in both), key=lambda reply: reply.text)


SEND: dict[str, Callable[[Caller, dict[str, Any]], httpx.Response | list[httpx.Response]]] = {
    "invalid_token": send_with_another_token,
    "maintenance_cli": send_during_a_fault,
    "maintenance_setting": send_during_a_fault,
    "webservices_disabled": send_during_a_fault,
    "database_down": send_during_a_fault,
    "php_down": send_during_a_fault,
    "token_first_silent_truncation": send_the_token_first,
    "client_timeout_is_not_failure": give_up_before_the_answer,
    "two_calls_add_the_same_members_at_once": send_twice_at_once,
}


def members_in(reply: httpx.Response) -> int:
    (entry,) = reply.json()
    return len(entry["userids"])


def cut(reply: httpx.Response) -> str:
    entries = len(reply.json())
    return f"a list of {entries} entries: the last {5200 - entries} ids were dropped silently"


def maintenance_page(reply: httpx.Response) -> str:
    title = re.search("<title>(.*)</title>", reply.text)
    assert title
    start = '<!DOCTYPE html> <html lang="en">'
    assert reply.text.startswith(start)
    return f'{start} … an HTML page titled "{title[1]}" …'


DESCRIBE: dict[str, Callable[[httpx.Response], str]] = {  # bodies that were recorded as a sentence
    "members_after_1249": lambda reply: f"one entry of {members_in(reply)} userids",
    "members_after_remove_over": lambda reply: f"one entry of {members_in(reply)} userids",
    "token_first_silent_truncation": cut,
    "client_timeout_is_not_failure": lambda reply: f"{members_in(reply)} members present 4 s later",
    "maintenance_cli": maintenance_page,
}


def without_images(body: str) -> str:
    return re.sub(r"http:\\/\\/[^\"]*\\/boost\\/core\\/\d+\\/", "", body)


@pytest.fixture(scope="module")
def history() -> History:
    """Every case of the file, sent in its order: case -> reply, or replies."""
    moodle = SandboxMoodle(token=TOKEN)
    replies: History = {}
    with moodle.serving() as url, httpx.Client(base_url=url) as http:
        for case in CASES:
            name = case["case"]
            if arrange := BEFORE.get(name):
                arrange(moodle)
            replies[name] = SEND.get(name, send_as_recorded)(Caller(moodle, http), case)
    return replies


def test_no_recorded_case_is_left_out(history: History) -> None:
    assert list(history) == NAMES
    assert len(set(NAMES)) == len(NAMES)
    assert (BEFORE.keys() | SEND.keys() | DESCRIBE.keys()) <= set(NAMES)


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_the_sandbox_answers_as_recorded(history: History, case: dict[str, Any]) -> None:
    name, expected, got = case["case"], case["response"], history[case["case"]]
    replies = got if isinstance(got, list) else [got]
    if case["status"] is not None:  # none: the client had given up
        assert {reply.status_code for reply in replies} == {case["status"]}
        assert {reply.headers["content-type"] for reply in replies} == {case["content_type"]}
    for header, value in case.get("headers", {}).items():
        assert [reply.headers[header] for reply in replies] == [value]
    if isinstance(got, list):
        assert [reply.text for reply in got] == expected
    elif name in DESCRIBE:
        assert DESCRIBE[name](got) == expected
    elif case["content_type"] == "application/json":
        assert without_images(got.text) == without_images(php_json(expected))
    else:
        assert got.text == expected


# --- What the transcripts don't show ---


def test_the_query_string_has_a_limit_of_its_own(caller: Caller) -> None:
    caller.moodle.max_input_vars = 5
    query = fields({"cohortids": [1, 1]}) | {
        "wstoken": TOKEN,
        "wsfunction": MEMBERS,
        "moodlewsrestformat": "json",
    }
    assert len(caller.http.get("/webservice/rest/server.php", params=query).json()) == 2
    caller.moodle.max_input_vars = 4
    assert caller.http.get("/webservice/rest/server.php", params=query).text.startswith("<?xml")


def test_an_answer_is_xml_unless_json_is_asked_for(caller: Caller) -> None:
    body = {"wstoken": TOKEN, "wsfunction": MEMBERS, "cohortids[]": "1"}
    caller.moodle.add_member(1, 4)
    assert caller.http.post("/webservice/rest/server.php", data=body).text == (
        '<?xml version="1.0" encoding="UTF-8" ?>\n<RESPONSE>\n<MULTIPLE>\n<SINGLE>\n'
        '<KEY name="cohortid"><VALUE>1</VALUE>\n</KEY>\n'
        '<KEY name="userids"><MULTIPLE>\n<VALUE>4</VALUE>\n</MULTIPLE>\n</KEY>\n'
        "</SINGLE>\n</MULTIPLE>\n</RESPONSE>\n"
    )


def test_site_info_says_who_calls_and_what_may_be_called(caller: Caller) -> None:
    caller.moodle.granted.remove(ADD)
    info = caller.call("core_webservice_get_site_info", {})
    assert (info["sitename"], info["siteurl"]) == ("Ecampus", caller.moodle.url)
    assert (info["userid"], info["release"]) == (3, "4.3 (Build: 20231009)")
    names = [function["name"] for function in info["functions"]]
    assert REMOVE in names
    assert ADD not in names
    assert caller.call(ADD, {"members": [addition("L1DROI", "e00000001")]})["errorcode"] == "accessexception"


def test_without_viewdetails_nobody_is_found(caller: Caller) -> None:
    caller.moodle.capabilities.remove("moodle/user:viewdetails")
    assert caller.call("core_user_get_users_by_field", {"field": "id", "values": [4]}) == []


def test_without_viewalldetails_an_account_is_found_by_id_only_and_has_no_username(
    caller: Caller,
) -> None:
    caller.moodle.capabilities.remove("moodle/user:viewalldetails")
    by_name = caller.call("core_user_get_users_by_field", {"field": "username", "values": ["e00000001"]})
    (by_id,) = caller.call("core_user_get_users_by_field", {"field": "id", "values": [4]})
    assert by_name == []
    assert by_id["id"] == 4
    assert by_id.keys().isdisjoint({"username", "idnumber"})


@pytest.mark.parametrize(
    ("function", "params"),
    [
        (ADD, {"members": [addition("L1DROI", "e00000001")]}),
        (REMOVE, {"members": [{"cohortid": 1, "userid": 4}]}),
        (MEMBERS, {"cohortids": [1]}),
        ("core_cohort_get_cohorts", {}),
        ("core_cohort_search_cohorts", {"query": "", "context": {"contextid": 1}}),
    ],
)
def test_without_the_capability_on_cohorts_a_call_is_refused(caller: Caller, function: str, params: object) -> None:
    caller.moodle.capabilities.remove("moodle/cohort:manage")
    answer = caller.call(function, params)
    assert (answer["exception"], answer["errorcode"]) == (
        "required_capability_exception",
        "nopermissions",
    )


def test_a_second_cohort_without_idnumber_is_refused(caller: Caller) -> None:
    cohort = {"categorytype": {"type": "system", "value": ""}, "name": "N", "idnumber": ""}
    assert caller.call("core_cohort_create_cohorts", {"cohorts": [cohort]})[0]["id"] == 3
    refused = caller.call("core_cohort_create_cohorts", {"cohorts": [cohort]})
    assert refused["errorcode"] == "invalidparameter"


def test_a_cohort_moves_to_the_category_that_an_update_names(caller: Caller) -> None:
    caller.moodle.create_cohort(name="S", idnumber="SANTE", category="UFR-SANTE")
    update = {"id": 3, "name": "S", "idnumber": "SANTE", "categorytype": {"type": "system", "value": ""}}
    assert caller.call("core_cohort_update_cohorts", {"cohorts": [update]}) is None
    assert [cohort.category for cohort in caller.moodle.cohorts()] == [None] * 3
    update["categorytype"] = {"type": "id", "value": "1"}
    assert caller.call("core_cohort_update_cohorts", {"cohorts": [update]}) is None
    assert caller.moodle.cohorts()[2].category == "UFR-SANTE"


def test_searching_a_context_leaves_out_the_cohorts_of_others(caller: Caller) -> None:
    caller.moodle.create_cohort(name="S", idnumber="SANTE", category="UFR-SANTE")

    def found(includes: str) -> set[str]:
        params = {"query": "", "context": {"contextid": 1}, "includes": includes}
        cohorts = caller.call("core_cohort_search_cohorts", params)["cohorts"]
        return {cohort["idnumber"] for cohort in cohorts}

    assert found("self") == {"L1DROI", "L2DROI"}
    assert found("all") == {"L1DROI", "L2DROI", "SANTE"}


def test_moodle_5_escapes_names_unless_the_raw_text_is_asked_for(caller: Caller) -> None:
    caller.moodle.escapes_names = True
    caller.moodle.rename_cohort(1, "Droit & Gestion")
    ask = {"cohortids": [1]}
    assert caller.call("core_cohort_get_cohorts", ask)[0]["name"] == "Droit &amp; Gestion"
    raw = caller.call("core_cohort_get_cohorts", ask | {"moodlewssettingraw": 1})
    assert raw[0]["name"] == "Droit & Gestion"


def test_an_unexpected_parameter_is_refused(caller: Caller) -> None:
    answer = caller.call("core_cohort_get_cohorts", {"cohortids": [1], "since": 0})
    assert answer["errorcode"] == "invalidparameter"


def at_once(caller: Caller, *calls: tuple[str, object]) -> list[Any]:
    with ThreadPoolExecutor() as pool, caller.moodle.paused():
        replies = [pool.submit(caller.call, *call) for call in calls]
        caller.moodle.wait_in_flight(len(calls))
    return [reply.result() for reply in replies]


def test_two_writers_on_one_cohort_are_a_collision(caller: Caller) -> None:
    add = (ADD, {"members": [addition("L1DROI", "e00000001")]})
    remove = (REMOVE, {"members": [{"cohortid": 1, "userid": 5}]})
    at_once(caller, add, remove)
    ((first, second),) = caller.moodle.collisions
    assert {first.function, second.function} == {ADD, REMOVE}
    assert first.cohorts == second.cohorts == {1}
    assert caller.moodle.memberships()["L1DROI"] == {"e00000001"}


def test_writers_on_distinct_cohorts_and_readers_do_not_collide(caller: Caller) -> None:
    add = (ADD, {"members": [addition("L1DROI", "e00000001")]})
    remove = (REMOVE, {"members": [{"cohortid": 2, "userid": 4}]})
    at_once(caller, add, remove)
    at_once(caller, add, (MEMBERS, {"cohortids": [1]}))
    assert caller.moodle.collisions == []


def test_two_creations_at_once_leave_two_cohorts_with_one_idnumber(caller: Caller) -> None:
    cohort = {"categorytype": {"type": "system", "value": ""}, "name": "N", "idnumber": "NEW"}
    create = ("core_cohort_create_cohorts", {"cohorts": [cohort]})
    at_once(caller, create, create)
    assert [cohort.idnumber for cohort in caller.moodle.cohorts()].count("NEW") == 2
    assert len(caller.moodle.collisions) == 1


def test_calls_are_recorded_with_what_they_did(caller: Caller) -> None:
    caller.call(ADD, {"members": [addition("L1DROI", name) for name in students(range(1, 4))]})
    caller.call(REMOVE, {"members": [{"cohortid": 99, "userid": 4}]})
    added, refused = caller.moodle.calls
    assert isinstance(added, Call)
    assert (added.function, added.items, added.cohorts, added.error) == (ADD, 3, frozenset({1}), None)
    assert added.started <= added.ended <= refused.started
    assert refused.error == "invalidrecord"


SILENT = {Fault.WEBSERVICES_DISABLED, Fault.TOO_MANY_CALLS, Fault.REDIRECTED, Fault.APPLIED_THEN_EMPTY}


@pytest.mark.parametrize(
    ("fault", "status", "error", "applied"),
    [
        (Fault.MAINTENANCE_CLI, 503, None, False),
        (Fault.MAINTENANCE_SETTING, 200, "sitemaintenance", False),
        (Fault.WEBSERVICES_DISABLED, 403, None, False),
        (Fault.DATABASE_DOWN, 200, "dbconnectionfailed", False),
        (Fault.PHP_DOWN, 502, None, False),
        (Fault.TOO_MANY_CALLS, 429, None, False),
        (Fault.LOGIN_PAGE, 200, None, False),
        (Fault.REDIRECTED, 307, None, False),
        (Fault.INVALID_TOKEN, 200, "invalidtoken", False),
        (Fault.NOT_GRANTED, 200, "accessexception", False),
        (Fault.ACCOUNT_SUSPENDED, 200, "wsaccessusersuspended", False),
        (Fault.READ_REFUSED, 200, "dmlreadexception", False),
        (Fault.WRITE_REFUSED, 200, "dmlwriteexception", False),
        (Fault.RATE_LIMITED, 200, "ratelimit", False),
        (Fault.FIREWALL, 403, None, False),
        (Fault.APPLIED_THEN_502, 502, None, True),
        (Fault.APPLIED_THEN_CLOSED, None, None, True),
        (Fault.APPLIED_THEN_LATE, 200, None, True),
        (Fault.APPLIED_THEN_EMPTY, 200, None, True),
        (Fault.APPLIED_THEN_STRANGE, 200, None, True),
        (Fault.APPLIED_THEN_PRINTED, 200, None, True),
        (Fault.APPLIED_THEN_MARKED, 200, None, True),
        (Fault.APPLIED_THEN_DRIPPED, 200, None, True),
    ],
)
def test_a_fault_says_by_its_name_whether_the_call_was_applied(
    caller: Caller, fault: Fault, status: int | None, error: str | None, *, applied: bool
) -> None:
    caller.moodle.fault = fault
    caller.moodle.late = caller.moodle.drip = 0.01
    params = {"members": [addition("L1DROI", "e00000001")]}
    if status is None:
        with pytest.raises(httpx.RemoteProtocolError):
            caller.send(ADD, params)
    else:
        reply = caller.send(ADD, params)
        assert reply.status_code == status
        assert not error or reply.json()["errorcode"] == error
        assert (reply.text == "") == (fault in SILENT)
    assert caller.moodle.members(1) == ({4} if applied else set())
    assert applied == fault.startswith("applied")
    caller.moodle.fault = None
    assert caller.call(MEMBERS, {"cohortids": [1]}) == [{"cohortid": 1, "userids": [4] if applied else []}]


def test_a_call_records_the_memberships_that_it_removes(caller: Caller) -> None:
    caller.call(ADD, {"members": [addition("L1DROI", name) for name in students(range(1, 3))]})
    caller.call(REMOVE, {"members": [{"cohortid": 1, "userid": 4}]})
    added, removed = caller.moodle.calls
    assert not added.removed
    assert removed.removed == {(1, 4)}


def test_a_late_answer_outlasts_the_client(caller: Caller) -> None:
    caller.moodle.fault = Fault.APPLIED_THEN_LATE
    with pytest.raises(httpx.ReadTimeout):
        caller.send(ADD, {"members": [addition("L1DROI", "e00000001")]}, timeout=0.5)
    assert caller.moodle.members(1) == {4}


def test_the_same_seed_gives_the_same_chaos(caller: Caller) -> None:
    def faults() -> list[str | None]:
        caller.moodle.calls.clear()
        caller.moodle.chaos = Chaos(rate=0.5, seed=7, kinds=(Fault.PHP_DOWN, Fault.APPLIED_THEN_502))
        for _ in range(40):
            caller.send(MEMBERS, {"cohortids": [1]})
        return [call.error for call in caller.moodle.calls]

    once = faults()
    assert set(once) == {None, "php_down", "applied_then_502"}
    assert once == faults()


def test_a_call_takes_what_it_costs(caller: Caller) -> None:
    caller.moodle.cost = Cost(call=0.02, added=0.01)
    caller.moodle.synchronise(1, courses=10)
    caller.call(ADD, {"members": [addition("L1DROI", name) for name in students(range(1, 4))]})
    (call,) = caller.moodle.calls
    assert call.ended - call.started >= 0.05


@pytest.mark.parametrize(
    ("spent", "seconds"),
    [
        ({"call": 1, "added": 1}, 0.029),
        ({"call": 1, "added": 10}, 0.046),
        ({"call": 1, "added": 50}, 0.148),
        ({"call": 1, "added": 200}, 200 / 350),
        ({"call": 1, "removed": 200}, 0.2),
        ({"call": 1, "added": 200, "course_added": 200}, 200 / 134),
        ({"call": 1, "added": 200, "course_added": 2000}, 7.7),
        ({"call": 1, "removed": 200, "course_removed": 2000}, 16),
        ({"call": 1, "cohort_read": 1237}, 0.13),
        ({"call": 1, "cohort_read": 1200, "member_read": 40_002}, 1.0),
        ({"call": 1, "looked_up": 500}, 1.9),
        ({"call": 1, "created": 100}, 0.12),
    ],
)
def test_the_measured_costs_are_those_of_the_measurements(spent: dict[str, int], seconds: float) -> None:
    assert math.isclose(MEASURED.seconds(spent), seconds, rel_tol=0.2)


def test_a_sandbox_can_be_served_again_with_its_state() -> None:
    moodle = SandboxMoodle(token=TOKEN, name="Prelude")
    moodle.create_cohort(name="N", idnumber="N")
    for _ in range(2):
        with moodle.serving() as url, httpx.Client(base_url=url) as http:
            assert Caller(moodle, http).call(MEMBERS, {"cohortids": [1]}) == [{"cohortid": 1, "userids": []}]
            assert http.get("/").status_code == 404
