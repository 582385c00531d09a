"""What each refusal of Moodle means, and what a person is told to do."""

import pytest

from worker.domain.errors import MoodleDenied, MoodleRejected, MoodleUnavailable
from worker.moodle.refusals import refusal
from worker.moodle.responses import FORMS
from worker.runtime.check import READING, WRITING

ADD, REMOVE, CREATE = (
    "core_cohort_add_cohort_members",
    "core_cohort_delete_cohort_members",
    "core_cohort_create_cohorts",
)
LOOK_UP, COHORTS = "core_user_get_users_by_field", "core_cohort_get_cohorts"


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        ("invalidtoken", "check the token"),
        ("accessexception", "check the token"),
        ("nopermissions", "moodle/cohort:manage"),
        ("restrictedcontextexception", "another context"),
        ("servicenotavailable", "external service"),
        ("servicerequireslogin", "permanent"),
        ("requireloginerror", "service account"),
        ("enablewsdescription", "web services"),
        ("wsaccessusersuspended", "suspended"),
        ("wsaccessuserunconfirmed", "confirm"),
        ("wsaccessusernologin", "nologin"),
        ("wsaccessuserdeleted", "deleted"),
        ("wsaccessuserexpired", "password"),
        ("wsaccessuserinventedlater", "service account"),
        ("usernotconfirmed", "confirm"),
        ("authpluginnotfound", "manual"),
        ("sitepolicynotagreed", "site policy"),
        ("forcepasswordchangenotice", "password"),
        ("nopasswordchangeforced", "password"),
        ("usernotfullysetup", "profile"),
    ],
)
@pytest.mark.parametrize("function", [ADD, LOOK_UP, COHORTS])
def test_a_stopped_service_account_is_for_a_person_who_is_told_what_to_do(
    function: str, code: str, advice: str
) -> None:
    error = refusal(f"ecampus: {function}", function, code)
    assert isinstance(error, MoodleDenied)
    assert error.code == code
    assert advice in str(error)
    assert str(error).count("ecampus") == 1


@pytest.mark.parametrize(
    ("function", "code"),
    [
        *((function, code) for function in (ADD, REMOVE, CREATE) for code in ("invalidparameter", "dmlwriteexception")),
        (REMOVE, "invaliduser"),
        (REMOVE, "invalidrecord"),
        (REMOVE, "invalidrecordunknown"),
        (LOOK_UP, "invalidparameter"),
        (LOOK_UP, "invalidresponse"),
    ],
)
def test_few_codes_are_about_an_item(function: str, code: str) -> None:
    assert isinstance(refusal("w", function, code), MoodleRejected)


@pytest.mark.parametrize(
    ("function", "code"),
    [
        (LOOK_UP, "dmlreadexception"),
        (LOOK_UP, "dmlwriteexception"),
        (COHORTS, "dmlwriteexception"),
        (ADD, "dmlreadexception"),
        (ADD, "dmltransactionexception"),
        (ADD, "sitemaintenance"),
        (ADD, "codingerror"),
        (ADD, "no-errorcode"),
        (ADD, "aplugininventedthis"),
    ],
)
def test_any_other_code_is_the_platforms(function: str, code: str) -> None:
    error = refusal("w", function, code)
    assert isinstance(error, MoodleUnavailable)
    assert not error.unknown


def test_an_answer_that_moodle_refuses_to_show_may_stand_for_what_was_done() -> None:
    error = refusal("w", CREATE, "invalidresponse")
    assert isinstance(error, MoodleUnavailable)
    assert error.unknown


def test_the_answer_of_every_function_that_is_called_has_a_form() -> None:
    assert {*READING, *WRITING} == FORMS.keys()
