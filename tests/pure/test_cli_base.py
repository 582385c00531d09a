import os
import pwd

import pytest

from worker.cli_base import person


@pytest.fixture(autouse=True)
def nobody_logged_in(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)


def test_a_decision_is_journalled_under_the_name_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    assert person() == pwd.getpwuid(os.getuid()).pw_name
    monkeypatch.setenv("LOGNAME", "eve")
    assert person() == "eve"


def test_a_user_without_a_name_as_in_a_container_is_told_by_number(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(_uid: int) -> pwd.struct_passwd:
        raise KeyError("uid not found")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    assert person() == f"user {os.getuid()}"
