"""The Moodle client against the wire: the recorded replies, and a sandbox that is held to them, over real HTTP."""

import gzip
import json
import logging
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import prometheus_client
import pytest
import stamina
from structlog.testing import capture_logs

from tests.support.paths import TRANSCRIPTS
from tests.support.requirements import needed
from tests.support.servers.expired import expired
from worker import __version__
from worker.domain.errors import MoodleDenied, MoodleError, MoodleReadOnly, MoodleRejected, MoodleUnavailable
from worker.domain.rules import AccountField, Mode
from worker.moodle import BatchSize, CallLimits, MoodleReader, MoodleWriter, Outcome, Transport
from worker.moodle.writer import UNKNOWN_COHORT, UNKNOWN_USER
from worker.sandbox.moodle.server import Cost, Fault, SandboxMoodle

TOKEN = "0123456789abcdef0123456789abcdef"
INSTANCE = "4f2a9c71d0be"
CASES: list[dict[str, Any]] = json.loads(TRANSCRIPTS.read_text())["cases"]
FAST = CallLimits(calls_per_second=10_000.0, timeout_seconds=5.0)
Connect = Callable[..., Transport]


@pytest.fixture(autouse=True)
def retries_without_waiting() -> Iterator[None]:
    with stamina.set_testing(testing=True, attempts=3):
        yield


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Connect to an address; closed at the end."""
    wires = []

    def to(url: str, limits: CallLimits = FAST, **options: Any) -> Transport:  # noqa: ANN401 # those of Wire
        wires.append(Transport("ecampus", url, TOKEN, limits, **options))
        return wires[-1]

    yield to
    for wire in wires:
        wire.close()


@pytest.fixture
def moodle() -> Iterator[SandboxMoodle]:
    """A Moodle with ten students, ids 4 to 13, and the cohorts 1, L1DROI, and 2, L2DROI."""
    moodle = SandboxMoodle(token=TOKEN)
    moodle.add_users((f"e{number:08}", f"22{number:06}") for number in range(1, 11))
    for idnumber in ("L1DROI", "L2DROI"):
        moodle.create_cohort(name=f"UFR Droit: {idnumber}", idnumber=idnumber)
    with moodle.serving():
        yield moodle


@pytest.fixture
def wire(moodle: SandboxMoodle, connect: Connect) -> Transport:
    return connect(moodle.url)


@pytest.fixture
def writer(wire: Transport) -> MoodleWriter:
    return MoodleWriter(wire, Mode.AUTOMATIC, instance=INSTANCE)


def writing(wire: Transport) -> MoodleWriter:
    return MoodleWriter(wire, Mode.AUTOMATIC, instance=INSTANCE)


@dataclass
class Replies:
    """A web server that gives one prepared reply to whatever is asked, and keeps what was asked."""

    status: int = 200
    body: bytes = b"null"
    headers: dict[str, str] = field(default_factory=lambda: {"content-type": "application/json"})
    url: str = ""
    asked: list[bytes] = field(default_factory=list)
    askers: list[str | None] = field(default_factory=list)

    def say(self, status: int, body: str | bytes, **headers: str) -> None:
        self.status, self.body = status, body.encode() if isinstance(body, str) else body
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}

    @contextmanager
    def serving(self) -> Iterator[None]:
        replies = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                replies.asked.append(self.rfile.read(int(self.headers["content-length"])))
                replies.askers.append(self.headers["user-agent"])
                self.send_response(replies.status)
                for name, value in replies.headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(replies.body)))
                self.end_headers()
                self.wfile.write(replies.body)

            def log_message(self, *_: object) -> None:
                pass

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            self.url = f"http://127.0.0.1:{server.server_port}"
            thread = threading.Thread(target=server.serve_forever, args=(0.01,))
            thread.start()
            try:
                yield
            finally:
                server.shutdown()
                thread.join()


@pytest.fixture
def replies() -> Iterator[Replies]:
    replies = Replies()
    with replies.serving():
        yield replies


def failing(call: Callable[[], object]) -> MoodleError:
    with pytest.raises(MoodleError) as caught:
        call()
    return caught.value


def test_a_moodles_access_log_says_who_calls(replies: Replies, connect: Connect) -> None:
    replies.say(200, "[]", content_type="application/json")
    connect(replies.url).read("core_cohort_get_cohorts", cohortids=[1])
    assert replies.askers == [f"etape-cohorts/{__version__}"]


# --- The recorded replies ---

CLASSES: dict[str, type[MoodleError]] = {
    "invalidparameter": MoodleRejected,
    "invaliduser": MoodleRejected,
    "invalidrecord": MoodleRejected,
    "dmlwriteexception": MoodleRejected,
    "invalidtoken": MoodleDenied,
    "accessexception": MoodleDenied,
    "sitemaintenance": MoodleUnavailable,
    "dbconnectionfailed": MoodleUnavailable,
}
NOT_A_BODY = {  # recorded as a sentence
    "members_after_1249",
    "members_after_remove_over",
    "token_first_silent_truncation",
    "client_timeout_is_not_failure",
}
RECORDED = [
    (f"{case['case']}-{index}" if isinstance(body, str) and index else case["case"], case, body)
    for case in CASES
    if case["case"] not in NOT_A_BODY
    for index, body in enumerate(
        map(json.loads, case["response"])
        if case["case"] == "two_calls_add_the_same_members_at_once"
        else [case["response"]]
    )
]


@pytest.mark.parametrize(("case", "body"), [entry[1:] for entry in RECORDED], ids=[e[0] for e in RECORDED])
def test_every_recorded_reply_is_understood(
    replies: Replies, connect: Connect, case: dict[str, Any], body: object
) -> None:
    text = str(body) if case["content_type"] != "application/json" else json.dumps(body)
    replies.say(case["status"], text, content_type=case["content_type"], **case.get("headers", {}))
    large = re.fullmatch(r"\(large: (\d+) form fields\)", str(case["params"]))
    arguments = {"values": list(range(int(large[1])))} if large else {}
    wire = connect(replies.url)

    def ask() -> object:
        return wire.read(case["function"], **arguments)

    if isinstance(body, dict) and "exception" in body:
        error = failing(ask)
        assert type(error) is CLASSES[body["errorcode"]]
        assert error.code == body["errorcode"]
    elif isinstance(body, str):
        error = failing(ask)
        unavailable = MoodleDenied if case["status"] == 403 else MoodleUnavailable
        assert type(error) is (MoodleRejected if text.startswith("<?xml") else unavailable)
        assert error.code == ("too-many-fields" if large else f"http-{case['status']}")
    else:
        assert ask() == body


# --- What each failure means ---


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (Fault.MAINTENANCE_CLI, "http-503"),
        (Fault.MAINTENANCE_SETTING, "sitemaintenance"),
        (Fault.DATABASE_DOWN, "dbconnectionfailed"),
        (Fault.PHP_DOWN, "http-502"),
        (Fault.TOO_MANY_CALLS, "http-429"),
        (Fault.LOGIN_PAGE, "not-json"),
    ],
)
def test_a_site_that_is_down_is_unavailable_until_it_is_back(
    moodle: SandboxMoodle, writer: MoodleWriter, fault: Fault, code: str
) -> None:
    moodle.fault = fault
    for call in (writer.site_info, lambda: writer.add([(1, 4)])):
        error = failing(call)
        assert isinstance(error, MoodleUnavailable)
        assert error.code == code
    assert moodle.members(1) == set()
    moodle.fault = None
    assert writer.site_info().name == "Ecampus"
    writer.add([(1, 4)])
    assert moodle.members(1) == {4}


@pytest.mark.parametrize(("fault", "seconds"), [(Fault.MAINTENANCE_CLI, 300), (Fault.TOO_MANY_CALLS, 60)])
def test_a_site_that_says_when_to_come_back_is_not_asked_again_before(
    moodle: SandboxMoodle, wire: Transport, fault: Fault, seconds: float
) -> None:
    moodle.fault = fault
    error = failing(MoodleReader(wire).site_info)
    assert isinstance(error, MoodleUnavailable)
    assert error.retry_after == seconds
    assert len(moodle.calls) == 1


def test_nothing_follows_a_redirection_to_another_host(
    moodle: SandboxMoodle, writer: MoodleWriter, replies: Replies
) -> None:
    moodle.fault, moodle.elsewhere = Fault.REDIRECTED, replies.url
    for call in (writer.site_info, lambda: writer.add([(1, 4)])):
        assert isinstance(failing(call), MoodleDenied)
    assert replies.asked == []


def test_a_reading_is_repeated_a_few_times_at_once(moodle: SandboxMoodle, wire: Transport) -> None:
    moodle.fault = Fault.APPLIED_THEN_CLOSED
    failing(MoodleReader(wire).site_info)
    assert len(moodle.calls) == 3


@pytest.mark.parametrize(
    ("fault", "code"), [(Fault.INVALID_TOKEN, "invalidtoken"), (Fault.NOT_GRANTED, "accessexception")]
)
def test_a_refused_token_or_function_is_denied_and_not_repeated(
    moodle: SandboxMoodle, wire: Transport, fault: Fault, code: str
) -> None:
    moodle.fault = fault
    error = failing(MoodleReader(wire).site_info)
    assert isinstance(error, MoodleDenied)
    assert error.code == code
    assert len(moodle.calls) == 1


def test_a_missing_capability_is_denied(moodle: SandboxMoodle, writer: MoodleWriter) -> None:
    moodle.capabilities.remove("moodle/cohort:manage")
    for call in (writer.cohorts, lambda: writer.add([(1, 4)]), lambda: writer.remove([(1, 4)])):
        error = failing(call)
        assert isinstance(error, MoodleDenied)
        assert error.code == "nopermissions"


@pytest.mark.parametrize("status", [301, 302, 308, 404, 410])
def test_a_wrong_address_is_denied(replies: Replies, connect: Connect, status: int) -> None:
    replies.say(status, "<html></html>", location="https://example.org/")
    error = failing(MoodleReader(connect(replies.url)).site_info)
    assert isinstance(error, MoodleDenied)
    assert "wwwroot" in str(error)


def test_a_site_whose_certificate_has_expired_is_told_nothing(
    connect: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with needed(), expired(tmp_path) as site:
        monkeypatch.setenv("SSL_CERT_FILE", str(site.certificate))
        error = failing(lambda: connect(site.url).write("core_cohort_add_cohort_members", {}))
    assert isinstance(error, MoodleUnavailable)
    assert (error.code, error.unknown) == ("transport", False)
    assert "certificate isn't accepted: certificate has expired" in str(error)
    assert site.received == []


def test_a_site_that_does_not_listen_is_unavailable_and_nothing_was_applied(connect: Connect) -> None:
    error = failing(lambda: connect("http://127.0.0.1:1").write("core_cohort_add_cohort_members", {}))
    assert isinstance(error, MoodleUnavailable)
    assert (error.code, error.unknown) == ("transport", False)


@pytest.mark.parametrize(
    "fault",
    [Fault.APPLIED_THEN_502, Fault.APPLIED_THEN_CLOSED, Fault.APPLIED_THEN_EMPTY, Fault.APPLIED_THEN_STRANGE],
)
def test_the_outcome_of_a_lost_answer_is_unknown_and_the_call_is_not_repeated(
    moodle: SandboxMoodle, writer: MoodleWriter, fault: Fault
) -> None:
    moodle.fault = fault
    error = failing(lambda: writer.add([(1, 4)]))
    assert isinstance(error, MoodleUnavailable)
    assert error.unknown
    assert moodle.members(1) == {4}
    assert len(moodle.calls) == 1


@pytest.mark.parametrize("status", [500, 502, 504])
def test_a_gateway_that_gives_up_leaves_a_write_unknown(replies: Replies, connect: Connect, status: int) -> None:
    replies.say(status, "<html></html>", content_type="text/html")
    error = failing(lambda: connect(replies.url).write("core_cohort_add_cohort_members", {}))
    assert isinstance(error, MoodleUnavailable)
    assert error.unknown
    assert len(replies.asked) == 1


def test_a_garbled_answer_is_unavailable(replies: Replies, connect: Connect) -> None:
    replies.say(200, gzip.compress(b"[]")[:-9] + b"garbage!!", content_encoding="gzip")
    error = failing(lambda: connect(replies.url).read("core_cohort_get_cohorts"))
    assert isinstance(error, MoodleUnavailable)
    assert error.unknown


def test_an_xml_answer_to_a_small_call_is_not_taken_for_too_many_fields(replies: Replies, connect: Connect) -> None:
    replies.say(200, '<?xml version="1.0" encoding="UTF-8" ?>\n<RESPONSE>\n</RESPONSE>\n')
    error = failing(lambda: connect(replies.url).read("core_cohort_get_cohorts"))
    assert isinstance(error, MoodleUnavailable)
    assert error.code == "xml"


def test_a_time_out_is_unknown_and_halves_the_batch_size(moodle: SandboxMoodle, connect: Connect) -> None:
    writer = writing(connect(moodle.url, CallLimits(calls_per_second=10_000.0, timeout_seconds=0.1)))
    before = writer.additions.size
    with moodle.paused():
        error = failing(lambda: writer.add([(1, 4)]))
    assert isinstance(error, MoodleUnavailable)
    assert (error.code, error.unknown) == ("timeout", True)
    assert writer.additions.size == before // 2
    moodle.wait_in_flight(0)
    assert moodle.members(1) == {4}  # a time-out is not a failure


def test_an_answer_that_drips_is_late_however_short_the_silences(moodle: SandboxMoodle, connect: Connect) -> None:
    writer = writing(connect(moodle.url, CallLimits(calls_per_second=10_000.0, timeout_seconds=0.2)))
    moodle.fault, moodle.drip = Fault.APPLIED_THEN_DRIPPED, 0.05
    error = failing(lambda: writer.add([(1, 4)]))
    assert isinstance(error, MoodleUnavailable)
    assert (error.code, error.unknown) == ("timeout", True)
    assert moodle.members(1) == {4}


# --- What must not be told ---


def test_the_token_is_sent_last_in_the_body_and_nowhere_else(replies: Replies, connect: Connect) -> None:
    replies.say(200, "[]")
    MoodleReader(connect(replies.url)).transport.read("core_cohort_get_cohorts", cohortids=[1, 2])
    (body,) = replies.asked
    names = [name for name, _ in parse_qsl(body.decode())]
    assert names[-1] == "wstoken"
    assert names[:2] == ["cohortids[0]", "cohortids[1]"]
    assert body.count(TOKEN.encode()) == 1


def test_no_log_no_error_and_no_metric_holds_the_token_or_a_sentence_of_moodle(
    replies: Replies, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    sentence = "Jeanne Dupont n'a pas ce droit"
    told = []
    with capture_logs() as logs:
        for code in ("invalidtoken", "invalidparameter", "dbconnectionfailed"):
            said = {
                "exception": "moodle_exception",
                "errorcode": code,
                "message": sentence,
                "debuginfo": sentence,
            }
            replies.say(200, json.dumps(said))
            told.append(failing(lambda: connect(replies.url).read("core_webservice_get_site_info")))
        for status, body in ((200, sentence), (503, sentence), (404, sentence), (200, f"<?xml {sentence}")):
            replies.say(status, body)
            told.append(failing(lambda: connect(replies.url).read("core_webservice_get_site_info")))
    text = "".join(
        [repr(error) + str(error) + repr(error.__cause__) for error in told]
        + [repr(logs), caplog.text, prometheus_client.generate_latest().decode()]
    )
    assert TOKEN not in text
    assert "Dupont" not in text


# --- Many fields, many items ---


def test_a_request_that_php_cuts_is_halved_until_it_passes(moodle: SandboxMoodle, connect: Connect) -> None:
    moodle.max_input_vars = 250
    users = [moodle.add_user(username=f"m{number}") for number in range(200)]
    outcome = writing(connect(moodle.url)).add([(1, user) for user in users])
    assert outcome == Outcome(done=frozenset((1, user) for user in users))
    assert moodle.members(1) == set(users)


def test_a_platform_that_takes_few_fields_is_read_whole(moodle: SandboxMoodle, connect: Connect) -> None:
    limits = CallLimits(calls_per_second=10_000.0, fields=20)
    moodle.max_input_vars = 20
    reader = MoodleReader(connect(moodle.url, limits))
    ids = [1, 2, *(moodle.create_cohort(name="N", idnumber=f"N{number}") for number in range(60))]
    moodle.add_member(ids[-1], 4)
    assert {cohort.id for cohort in reader.cohorts(ids)} == set(ids)
    assert reader.members(ids) == {key: set() for key in ids} | {ids[-1]: {4}}
    keys = [f"e{number:08}" for number in range(1, 61)]
    found = reader.users(AccountField.USERNAME, keys).ids
    assert found == {f"e{number:08}": [number + 3] for number in range(1, 11)}
    created, refused = writing(connect(moodle.url, limits)).create([(f"C{n}", "N") for n in range(12)])
    assert (len(created), refused) == (12, {})


def test_nothing_to_do_asks_nothing(moodle: SandboxMoodle, writer: MoodleWriter) -> None:
    assert writer.add([]) == writer.remove([]) == Outcome()
    assert writer.create([]) == ({}, {})
    assert writer.members([]) == {}
    assert writer.users(AccountField.USERNAME, []).ids == {}
    assert writer.cohorts([]) == []
    assert moodle.calls == []


# --- Members ---


def test_members_are_added_and_one_who_is_there_already_is_a_success(
    moodle: SandboxMoodle, writer: MoodleWriter
) -> None:
    moodle.add_member(1, 4)
    assert writer.add([(1, 4), (1, 5), (2, 4)]) == Outcome(done=frozenset({(1, 4), (1, 5), (2, 4)}))
    assert (moodle.members(1), moodle.members(2)) == ({4, 5}, {4})


def test_warnings_are_resolved_by_reading_back(moodle: SandboxMoodle, writer: MoodleWriter) -> None:
    moodle.delete_user(5)
    outcome = writer.add([(1, 4), (1, 5), (1, 99), (77, 4), (2, 6)])
    assert outcome.done == {(1, 4), (2, 6)}
    assert outcome.refused == {(1, 5): UNKNOWN_USER, (1, 99): UNKNOWN_USER, (77, 4): UNKNOWN_COHORT}
    assert (moodle.members(1), moodle.members(2)) == ({4}, {6})


def test_a_suspended_account_can_be_added(moodle: SandboxMoodle, writer: MoodleWriter) -> None:
    moodle.suspend_user(4)
    assert writer.add([(1, 4)]).done == {(1, 4)}


def test_a_deleted_account_alone_fails_in_a_removal(moodle: SandboxMoodle, writer: MoodleWriter) -> None:
    for user in range(4, 14):
        moodle.add_member(1, user)
    moodle.delete_user(9)
    outcome = writer.remove([(1, user) for user in range(4, 13)])
    assert outcome.refused == {(1, 9): UNKNOWN_USER}
    assert outcome.done == {(1, user) for user in range(4, 13)} - {(1, 9)}
    assert moodle.members(1) == {13}


def test_a_deleted_cohort_alone_fails_in_a_removal(moodle: SandboxMoodle, writer: MoodleWriter) -> None:
    moodle.add_member(1, 4)
    moodle.add_member(2, 5)
    outcome = writer.remove([(1, 4), (77, 4), (2, 5)])
    assert outcome == Outcome(done=frozenset({(1, 4), (2, 5)}), refused={(77, 4): UNKNOWN_COHORT})
    assert moodle.members(1) == set()


def test_removing_many_deleted_accounts_takes_few_calls(moodle: SandboxMoodle, writer: MoodleWriter) -> None:
    users = [moodle.add_user(username=f"m{number}") for number in range(200)]
    for user in users:
        moodle.add_member(1, user)
    for user in users[:150]:
        moodle.delete_user(user)
    outcome = writer.remove([(1, user) for user in users])
    assert outcome.done == {(1, user) for user in users[150:]}
    assert set(outcome.refused.values()) == {UNKNOWN_USER}
    assert len(moodle.calls) < 10


# --- Accounts ---


def test_an_unclean_username_fails_only_itself(writer: MoodleWriter) -> None:
    keys = ["e00000001", "E00000002", "e00000003", "e0000 0004", "nobody"]
    found = writer.users(AccountField.USERNAME, keys).ids
    assert found == {"e00000001": [4], "e00000003": [6]}


def test_two_accounts_with_one_idnumber_are_both_told(moodle: SandboxMoodle, writer: MoodleWriter) -> None:
    twin = moodle.add_user(username="twin", idnumber="22000001")
    assert writer.users(AccountField.IDNUMBER, ["22000001", "22000002", "1"]).ids == {
        "22000001": [4, twin],
        "22000002": [5],
    }


@pytest.mark.parametrize("right", ["moodle/user:viewdetails", "moodle/user:viewalldetails"])
def test_without_a_right_nobody_is_found(moodle: SandboxMoodle, writer: MoodleWriter, right: str) -> None:
    moodle.capabilities.remove(right)
    assert writer.users(AccountField.USERNAME, ["e00000001"]).ids == {}


def test_missing_rights_and_missing_people_are_told_apart(moodle: SandboxMoodle, wire: Transport) -> None:
    reader = MoodleReader(wire)
    assert reader.sees_people() is None
    moodle.add_member(2, 4)
    assert reader.sees_people() is True
    moodle.capabilities.remove("moodle/user:viewalldetails")
    assert reader.sees_people() is False
    moodle.capabilities.remove("moodle/user:viewdetails")
    assert reader.sees_people() is False


# --- Cohorts ---


def test_a_duplicate_idnumber_fails_only_itself_in_a_creation(moodle: SandboxMoodle, writer: MoodleWriter) -> None:
    created, refused = writer.create([("M1DROI", "Master 1"), ("L1DROI", "x"), ("M2DROI", "n" * 255)])
    assert refused == {"L1DROI": "invalidparameter", "M2DROI": "dmlwriteexception"}
    (made,) = writer.cohorts(created.values())
    assert (made.idnumber, made.name, writer.is_ours(made)) == ("M1DROI", "Master 1", True)
    assert [c.idnumber for c in moodle.cohorts()] == ["L1DROI", "L2DROI", "M1DROI"]


def test_only_a_cohort_of_this_ledger_is_ours(writer: MoodleWriter, wire: Transport) -> None:
    writer.create([("M1DROI", "Master 1")])
    other = MoodleWriter(wire, Mode.AUTOMATIC, instance="another ledger")
    assert [c.idnumber for c in writer.cohorts() if writer.is_ours(c)] == ["M1DROI"]
    assert not any(map(other.is_ours, writer.cohorts()))


def test_cohorts_of_categories_are_not_among_those_of_the_system(moodle: SandboxMoodle, writer: MoodleWriter) -> None:
    moodle.create_cohort(name="S", idnumber="SANTE", category="UFR-SANTE")
    for number in range(30):  # more than a page
        moodle.create_cohort(name="N", idnumber=f"N{number}")
    assert {cohort.id for cohort in writer.cohorts()} == set(range(1, 34))
    assert writer.system_cohort_ids() == set(range(1, 34)) - {3}


def test_an_update_changes_name_and_idnumber_alone(moodle: SandboxMoodle, writer: MoodleWriter) -> None:
    moodle.edit_cohort(1, description="Tenue à la main")
    (before,) = writer.cohorts([1])
    writer.update(before, name="Licence 1 Droit", idnumber="L1DRO2")
    (after,) = writer.cohorts([1])
    assert (after.name, after.idnumber, after.description) == ("Licence 1 Droit", "L1DRO2", "Tenue à la main")


def test_an_update_sends_the_format_of_the_description_back(replies: Replies, connect: Connect) -> None:
    cohort = {"id": 7, "name": "N", "idnumber": "I", "description": "*d*", "descriptionformat": 4}
    replies.say(200, json.dumps([cohort]))
    writer = writing(connect(replies.url))
    (read,) = writer.cohorts([7])
    replies.say(200, "null")
    writer.update(read, name="M", idnumber="I")
    sent = dict(parse_qsl(replies.asked[-1].decode()))
    assert sent["cohorts[0][descriptionformat]"] == "4"
    assert "cohorts[0][description]" not in sent


def test_names_come_back_as_they_were_written(moodle: SandboxMoodle, writer: MoodleWriter) -> None:
    moodle.escapes_names = True
    created, _ = writer.create([("GEA", 'Gestion & <b>co</b> "q"')])
    (read,) = writer.cohorts(created.values())
    assert read.name == 'Gestion & <b>co</b> "q"'


@pytest.mark.parametrize("mode", [Mode.MANUAL, Mode.OBSERVE])
def test_no_writer_can_be_built_for_a_platform_that_may_not_be_written(wire: Transport, mode: Mode) -> None:
    with pytest.raises(MoodleReadOnly):
        MoodleWriter(wire, mode, instance=INSTANCE)


def test_the_site_says_who_the_token_is_and_what_it_may_call(moodle: SandboxMoodle, wire: Transport) -> None:
    info = MoodleReader(wire).site_info()
    assert (info.user_id, info.release) == (moodle.service_user, moodle.release)
    assert info.functions == moodle.granted


# --- How hard a platform is used ---


def test_batches_follow_the_time_that_calls_take(moodle: SandboxMoodle, connect: Connect) -> None:
    writer = writing(connect(moodle.url, CallLimits(calls_per_second=10_000.0, batch_seconds=0.05)))
    users = [moodle.add_user(username=f"m{number}") for number in range(300)]

    def add(cohort: int) -> None:
        writer.add([(cohort, user) for user in users[: writer.additions.size]])

    add(1)
    assert writer.additions.size > BatchSize.FIRST  # a plain cohort costs nothing here
    moodle.cost = Cost(course_added=0.0005)
    moodle.synchronise(2, courses=10)
    add(2)
    assert writer.additions.size <= 10  # 5 ms a member
    moodle.cost = Cost()
    for _ in range(4):
        add(1)
    assert writer.additions.size > BatchSize.FIRST


def test_waiting_for_a_turn_is_not_taken_for_slowness(moodle: SandboxMoodle, connect: Connect) -> None:
    limits = CallLimits(calls_per_second=0.5, batch_seconds=5.0)  # two seconds would be slow, and one is not
    writer = writing(connect(moodle.url, limits))
    for _ in range(2):
        writer.add([(1, user) for user in range(4, 14)])
    assert writer.additions.size == BatchSize.FIRST


@pytest.mark.parametrize(
    ("size_before", "items", "seconds", "size_after"),
    [
        (50, 50, 0.5, 100),  # fast: at most twofold
        (50, 50, 5.0, 50),
        (50, 50, 10.0, 25),
        (50, 10, 0.001, 50),  # a small call says little about a large one
        (50, 10, 10.0, 5),  # unless it was slow
        (50, 1, 60.0, 1),  # never nothing
        (200, 200, 0.001, 224),  # never more than the fields allow
    ],
)
def test_the_size_of_a_batch_aims_at_calls_of_five_seconds(
    size_before: int, items: int, seconds: float, size_after: int
) -> None:
    pace = BatchSize(seconds=5.0, most=lambda: 224)
    pace._size = size_before
    pace.took(items, seconds)
    assert pace.size == size_after


def test_a_batch_size_never_falls_below_one() -> None:
    pace = BatchSize(seconds=5.0, most=lambda: 224)
    for _ in range(10):
        pace.gave_up()
    assert pace.size == 1


def test_calls_keep_to_their_rate(moodle: SandboxMoodle, connect: Connect) -> None:
    waits: list[float] = []
    reader = MoodleReader(connect(moodle.url, CallLimits(calls_per_second=0.01), sleep=waits.append))
    for _ in range(4):
        reader.site_info()
    assert waits == pytest.approx([100, 200, 300], abs=50)


def test_no_more_calls_are_in_flight_than_connections(moodle: SandboxMoodle, connect: Connect) -> None:
    moodle.cost = Cost(call=0.01)
    moodle.php_workers = 8
    with moodle.serving():
        reader = MoodleReader(connect(moodle.url, CallLimits(calls_per_second=10_000.0, connections=2)))
        with ThreadPoolExecutor(8) as pool:
            for future in [pool.submit(reader.site_info) for _ in range(16)]:
                future.result()
    at_once = [sum(other.started <= call.started < other.ended for other in moodle.calls) for call in moodle.calls]
    assert len(at_once) == 16
    assert max(at_once) == 2
