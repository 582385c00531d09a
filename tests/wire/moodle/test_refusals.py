"""Answers that are none, and refusals by what stands before Moodle, as they come over the wire."""

import json
from collections.abc import Callable, Iterator

import pytest
import stamina

from tools.fuzz.moodle import TOKEN, AnyAnswer
from worker.domain.errors import MoodleDenied, MoodleError, MoodleRefusesAll, MoodleUnavailable
from worker.domain.rules import AccountField, Mode
from worker.moodle import CallLimits, MoodleReader, MoodleWriter, Outcome, RemoteCohort, Transport
from worker.sandbox.moodle.server import Fault, SandboxMoodle

FAST = CallLimits(calls_per_second=10_000.0, timeout_seconds=5.0)
COHORT = RemoteCohort(id=1, name="Licence 1", idnumber="L1DROI", description="", description_format=1)
NOTICE = "<br />\n<b>Notice</b>:  Undefined index: x in <b>/srv/moodle/local/y/lib.php</b> on line <b>3</b><br />\n"
DEBUGGING = '<div class="notifytiny debuggingmessage" data-rel="debugging">Whatever</div>'
BYTE_ORDER_MARK = "\ufeff"
Writing = Callable[..., MoodleWriter]
NOTHING_ADDED = '{"warnings":[]}'
CALLS: dict[str, Callable[[MoodleWriter], object]] = {
    "site": MoodleReader.site_info,
    "cohorts": MoodleReader.cohorts,
    "members": lambda moodle: moodle.members([1]),
    "users": lambda moodle: moodle.users(AccountField.USERNAME, ["e1"]),
    "create": lambda moodle: moodle.create([("L1DROI", "Licence 1")]),
    "update": lambda moodle: moodle.update(COHORT, name="Licence 1", idnumber="L1DROI"),
    "add": lambda moodle: moodle.add([(1, 4)]),
    "remove": lambda moodle: moodle.remove([(1, 4)]),
}


@pytest.fixture(autouse=True)
def retries_without_waiting() -> Iterator[None]:
    with stamina.set_testing(testing=True, attempts=3):
        yield


@pytest.fixture
def site() -> AnyAnswer:
    return AnyAnswer()


@pytest.fixture
def writer(site: AnyAnswer) -> Iterator[MoodleWriter]:
    wire = Transport("ecampus", site.url, TOKEN, FAST)
    yield MoodleWriter(wire, Mode.AUTOMATIC, instance="4f2a9c71d0be")
    wire.close()


@pytest.fixture
def moodle() -> Iterator[SandboxMoodle]:
    moodle = SandboxMoodle(token=TOKEN)
    moodle.add_users((f"e{number:08}", f"22{number:06}") for number in range(1, 401))
    moodle.create_cohort(name="L1DROI", idnumber="L1DROI")
    with moodle.serving():
        yield moodle


def reply(body: str, status: str = "200 OK") -> list[bytes]:
    encoded = body.encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(encoded)}\r\n"
    return [head.encode() + b"Connection: close\r\n\r\n" + encoded]


def failing(call: Callable[[], object]) -> MoodleError:
    with pytest.raises(MoodleError) as caught:
        call()
    return caught.value


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("status", ["401 Unauthorized", "403 Forbidden"])
def test_a_web_server_that_forbids_is_for_a_person(
    site: AnyAnswer, writer: MoodleWriter, call: str, status: str
) -> None:
    site.answer = reply("<html>Blocked by the firewall, ray 1f</html>", status)
    error = failing(lambda: CALLS[call](writer))
    assert isinstance(error, MoodleDenied)
    assert error.code == f"http-{status[:3]}"
    assert "pass" in str(error)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    "printed",
    [
        NOTICE + "{}",
        NOTICE + NOTICE + "null",
        "<b>Warning</b>: Undefined array key 1 in x on line 1\nnull",
        "\nDeprecated: Creation of dynamic property in /srv/x.php on line 1\n[]",
        "PHP Warning:  x in y on line 1\n{}",
        "Fatal error: Allowed memory size exhausted",
        "<b>Fatal error</b>:  Uncaught Error",
        DEBUGGING + "[]",
        "here!" + NOTHING_ADDED,
        NOTHING_ADDED + NOTICE,
    ],
)
def test_what_php_or_a_plugin_prints_is_named_with_what_to_do(
    site: AnyAnswer, writer: MoodleWriter, call: str, printed: str
) -> None:
    site.answer = reply(printed)
    error = failing(lambda: CALLS[call](writer))
    assert isinstance(error, MoodleUnavailable)
    assert (error.code, error.unknown) == ("output-before-json", True)
    assert "switch debugdisplay off" in str(error)


@pytest.mark.parametrize("page", ["<!DOCTYPE html><html><body>Sign in</body></html>", "  <html></html>"])
def test_a_page_is_named_as_one(site: AnyAnswer, writer: MoodleWriter, page: str) -> None:
    site.answer = reply(page)
    error = failing(writer.cohorts)
    assert isinstance(error, MoodleUnavailable)
    assert error.code == "not-json"
    assert "a page of" in str(error)


def test_a_byte_order_mark_is_passed_over(site: AnyAnswer, writer: MoodleWriter) -> None:
    site.answer = reply(BYTE_ORDER_MARK + NOTHING_ADDED)
    assert writer.add([(1, 4)]) == Outcome(done=frozenset({(1, 4)}))
    site.answer = reply(BYTE_ORDER_MARK + "null")
    assert writer.remove([(1, 4)]) == Outcome(done=frozenset({(1, 4)}))
    site.answer = reply(BYTE_ORDER_MARK + '{"exception":"moodle_exception","errorcode":"invalidtoken","message":""}')
    assert failing(writer.cohorts).code == "invalidtoken"


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    "body",
    ['{"error":"Too many requests","errorcode":"toomany"}', '{"error":"Nope"}', '{"errorcode":"x"}', '{"error":null}'],
)
def test_an_error_that_is_not_in_moodles_form_is_no_success(
    site: AnyAnswer, writer: MoodleWriter, call: str, body: str
) -> None:
    site.answer = reply(body)
    error = failing(lambda: CALLS[call](writer))
    assert isinstance(error, MoodleUnavailable)
    assert error.unknown
    assert error.code in {"toomany", "x", "no-errorcode"}


@pytest.mark.parametrize("code", ["invalidparameter", "dmlwriteexception"])
def test_an_item_is_never_refused_by_who_is_not_moodle(site: AnyAnswer, writer: MoodleWriter, code: str) -> None:
    site.answer = reply(json.dumps({"error": "x", "errorcode": code}))
    assert isinstance(failing(lambda: writer.add([(1, 4)])), MoodleUnavailable)


def test_a_token_that_is_refused_before_the_web_service_is_for_a_person(site: AnyAnswer, writer: MoodleWriter) -> None:
    site.answer = reply('{"error":"Invalid token","errorcode":"invalidtoken"}')
    assert isinstance(failing(writer.cohorts), MoodleDenied)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("body", ['{"status":"success"}', "true", "1", '"ok"', '[{"a":1}]', '{"warnings":7}', "{}"])
def test_an_answer_of_an_unknown_form_is_no_success(
    site: AnyAnswer, writer: MoodleWriter, call: str, body: str
) -> None:
    site.answer = reply(body)
    error = failing(lambda: CALLS[call](writer))
    assert isinstance(error, MoodleUnavailable)
    assert (error.code, error.unknown) == ("not-moodle", True)


@pytest.mark.parametrize(("call", "body"), [("add", "null"), ("create", "null"), ("remove", "[]"), ("update", "[]")])
def test_null_stands_for_success_only_where_moodle_says_so(
    site: AnyAnswer, writer: MoodleWriter, call: str, body: str
) -> None:
    site.answer = reply(body)
    assert failing(lambda: CALLS[call](writer)).code == "not-moodle"


def test_a_warning_that_is_not_known_is_not_taken_for_a_missing_account(site: AnyAnswer, writer: MoodleWriter) -> None:
    answers = {
        "add_cohort_members": '{"warnings":[{"warningcode":"9","message":"m"}]}',
        "get_cohorts": '[{"id":1,"name":"n","idnumber":"i","description":""}]',
        "get_cohort_members": '[{"cohortid":1,"userids":[]}]',
    }

    class ByFunction:
        def __iter__(self) -> Iterator[bytes]:
            asked = site.asked[1].decode()
            (found,) = [body for name, body in answers.items() if f"core_cohort_{name}&" in asked]
            yield from reply(found)

    site.answer = ByFunction()
    assert writer.add([(1, 4)]) == Outcome(refused={(1, 4): "warning-9"})


# --- A sandbox Moodle that refuses ---


@pytest.fixture
def writing(moodle: SandboxMoodle) -> Iterator[Writing]:
    """Connect to the sandbox's Moodle; closed at the end."""
    wires = []

    def to(limits: CallLimits = FAST, token: str = TOKEN) -> MoodleWriter:
        wires.append(Transport("ecampus", moodle.url, token, limits))
        return MoodleWriter(wires[-1], Mode.AUTOMATIC, instance="4f2a9c71d0be")

    yield to
    for wire in wires:
        wire.close()


@pytest.mark.parametrize("fault", [Fault.POLICY_NOT_AGREED, Fault.PASSWORD_TO_CHANGE])
def test_adding_hides_why_the_site_refuses_and_a_reading_names_it(
    moodle: SandboxMoodle, writing: Writing, fault: Fault
) -> None:
    moodle.fault = fault
    writer = writing()
    assert writer.site_info().name == "Ecampus"
    error = failing(lambda: writer.add([(1, 4)]))
    assert isinstance(error, MoodleDenied)
    assert error.code in {"sitepolicynotagreed", "forcepasswordchangenotice"}


@pytest.mark.parametrize("size", [1, 2, 200])
def test_a_database_that_cannot_be_written_refuses_in_a_handful_of_calls(
    moodle: SandboxMoodle, writing: Writing, size: int
) -> None:
    writer, pairs = writing(), [(1, user) for user in range(4, 4 + size)]
    moodle.fault = Fault.WRITE_REFUSED
    error = failing(lambda: writer.add(pairs))
    assert isinstance(error, MoodleRefusesAll)
    assert len(moodle.calls) <= 7
    assert moodle.members(1) == set()


def test_a_database_that_cannot_be_read_hides_no_account(moodle: SandboxMoodle, writing: Writing) -> None:
    moodle.fault = Fault.READ_REFUSED
    error = failing(lambda: writing().users(AccountField.USERNAME, ["e00000001", "e00000002"]))
    assert isinstance(error, MoodleUnavailable)
    assert error.code == "dmlreadexception"


# --- Too many fields ---


def test_a_form_with_one_field_too_many_loses_only_its_token_which_is_not_called_wrong(
    moodle: SandboxMoodle, writing: Writing
) -> None:
    pairs = [(1, user) for user in range(4, 104)]
    moodle.max_input_vars = 4 * len(pairs) + 4 - 2  # PHP takes one more in a body
    assert writing().add(pairs).done == set(pairs)


def test_a_token_that_is_wrong_is_called_so_however_large_the_call(moodle: SandboxMoodle, writing: Writing) -> None:
    error = failing(lambda: writing(token="another").add([(1, user) for user in range(4, 204)]))
    assert isinstance(error, MoodleDenied)
    assert error.code == "invalidtoken"
    assert len(moodle.calls) <= 16
