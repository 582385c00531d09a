"""Accounts of a real Moodle that change hands, or become unclean, behind our back.

`pytest tests/live` with MOODLE_CHANGE too: our service account can't change accounts, and that is a command which does,
with an administrator's powers. `$MOODLE_CHANGE set USERNAME FIELD VALUE` writes a field of the user table, unchecked.
Each test puts back what it changed.
"""

import os
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.live.test_real_moodle import PLATFORM, Bench, reconcile, wire
from worker.domain.report import PlatformReport
from worker.domain.rules import AccountField, CohortTemplate, Mode, PlatformPolicy
from worker.domain.states import Drift
from worker.ledger.status import read_status
from worker.moodle import MoodleReader

BY_NUMBER = PlatformPolicy(
    name="live", mode=Mode.AUTOMATIC, account_field=AccountField.IDNUMBER, templates=(CohortTemplate(),)
)
GONE = "nowhere"
"""An authentication plugin that no site has."""
FIRST, LAST = 3, 300
"""Ids among which accounts are looked for."""


@pytest.fixture(scope="module", autouse=True)
def _powers() -> None:
    if not {"MOODLE_URL", "MOODLE_TOKEN", "MOODLE_CHANGE"} <= os.environ.keys():
        pytest.skip("set MOODLE_URL and MOODLE_TOKEN to a Moodle that isn't in use, and MOODLE_CHANGE: see this file")


@dataclass(slots=True)
class Account:
    """An account of the site."""

    id: int
    username: str
    idnumber: str


@dataclass(slots=True)
class Site:
    """The accounts of the site, and what was changed of them."""

    accounts: list[Account]
    undo: ExitStack = field(default_factory=ExitStack)

    def change(self, account: Account, name: str, value: str, before: str) -> None:
        """Change a field of an account, until the test ends."""
        _set(account.username, name, value)
        self.undo.callback(_set, account.username, name, before)


def _set(username: str, name: str, value: str) -> None:
    command = shlex.split(os.environ["MOODLE_CHANGE"])
    subprocess.run([*command, "set", username, name, value], check=True)  # noqa: S603 - the developer's own command


@pytest.fixture
def site() -> Iterator[Site]:
    """Some accounts of the site that have a number."""
    connection = wire()
    shown = connection.read("core_user_get_users_by_field", field="id", values=list(range(FIRST, LAST)))
    connection.close()
    accounts = [
        Account(id=user["id"], username=user["username"], idnumber=user["idnumber"])
        for user in shown
        if user.get("idnumber") and user["auth"] == "manual"
    ]
    site = Site(accounts[:12])
    with site.undo:
        yield site


@pytest.fixture
def numbered(tmp_path: Path) -> Iterator[Bench]:
    """A platform whose accounts are called by number."""
    yield from _bench(tmp_path, BY_NUMBER)


@pytest.fixture
def named(tmp_path: Path) -> Iterator[Bench]:
    """A platform whose accounts are called by login."""
    yield from _bench(tmp_path, PLATFORM)


def _bench(folder: Path, platform: PlatformPolicy) -> Iterator[Bench]:
    bench = Bench(folder, platform)
    yield bench
    bench.wire.close()
    bench.ledger.close()


def members(bench: Bench, etape: str) -> set[int]:
    (cohort,) = [cohort for cohort in bench.reader.cohorts() if cohort.idnumber == etape]
    return bench.reader.members([cohort.id])[cohort.id]


def drift(report: PlatformReport) -> dict[Drift, int]:
    return {kind: number for kind, number in report.drift.items() if number}


def test_students_whose_numbers_were_swapped_are_each_where_they_belong_after_a_night(
    numbered: Bench, site: Site
) -> None:
    one, two, three, *_ = site.accounts
    other = f"{numbered.etape}-B"
    numbered.say(one.idnumber, three.idnumber)
    numbered.say(two.idnumber, etape=other)
    numbered.converge()
    site.change(one, "idnumber", two.idnumber, one.idnumber)
    site.change(two, "idnumber", one.idnumber, two.idnumber)
    assert drift(reconcile(numbered)) == {Drift.CHANGED_HANDS: 2}
    numbered.converge()
    assert (members(numbered, numbered.etape), members(numbered, other)) == ({two.id, three.id}, {one.id})
    assert drift(reconcile(numbered)) == {}


def test_a_number_that_was_given_to_another_account_takes_its_place_along(numbered: Bench, site: Site) -> None:
    one, two, three, *_ = site.accounts
    numbered.say(one.idnumber, three.idnumber)
    numbered.converge()
    site.change(one, "idnumber", "", one.idnumber)
    stays = reconcile(numbered)
    assert (drift(stays), stays.unconfirmed) == ({}, 1)
    assert numbered.members() == {one.id, three.id}
    site.change(two, "idnumber", one.idnumber, two.idnumber)
    assert drift(reconcile(numbered)) == {Drift.CHANGED_HANDS: 1}
    numbered.converge()
    assert numbered.members() == {two.id, three.id}


def test_a_login_that_changes_takes_the_place_along_at_once(named: Bench, site: Site) -> None:
    one, two, *_ = site.accounts
    named.say(one.username)
    named.converge()
    assert named.members() == {one.id}
    named.say(one.username, login=two.username, version=2)
    named.converge()
    assert named.members() == {two.id}


@pytest.mark.parametrize("place", ["first", "last"])
@pytest.mark.parametrize("change", [("auth", GONE, "manual"), ("city", "Caen <14>", "")], ids=["auth", "city"])
def test_an_unclean_member_fails_neither_a_night_nor_the_check_of_our_sight(
    numbered: Bench, site: Site, place: str, change: tuple[str, str, str]
) -> None:
    *some, newcomer = sorted(site.accounts, key=lambda account: account.id)
    numbered.say(*(account.idnumber for account in some))
    numbered.converge()
    site.change(some[0 if place == "first" else -1], *change)
    assert MoodleReader(numbered.wire).sees_people() is not False
    assert drift(reconcile(numbered)) == {}
    numbered.say(newcomer.idnumber, "nobody has this number")
    numbered.converge()
    assert numbered.members() == {account.id for account in site.accounts}
    (platform,) = read_status(numbered.ledger, ["live"], 0.0).platforms
    assert platform.reasons == {"no_account": 1}


def test_new_students_with_unclean_accounts_are_named_and_keep_nobody_waiting(numbered: Bench, site: Site) -> None:
    *unclean, clean = site.accounts[:9]
    for account in unclean:
        site.change(account, "auth", GONE, "manual")
    numbered.say(*(account.idnumber for account in site.accounts[:9]))
    numbered.converge()
    assert numbered.members() == {clean.id}
    (platform,) = read_status(numbered.ledger, ["live"], 0.0).platforms
    assert platform.reasons == {"unclean_account": 8}


@pytest.mark.parametrize("stored", ["{0} ", "E{0}"])
def test_an_account_of_almost_that_number_is_named_where_the_database_finds_it(
    numbered: Bench, site: Site, stored: str
) -> None:
    one, two, *_ = site.accounts
    number = f"e{one.idnumber}" if stored.startswith("E") else one.idnumber
    site.change(one, "idnumber", stored.format(one.idnumber), one.idnumber)
    found = numbered.reader.users(AccountField.IDNUMBER, [number]).near
    numbered.say(number, two.idnumber)
    numbered.converge()
    assert numbered.members() == {two.id}
    assert found in ({}, {number: [one.id]})  # PostgreSQL, or MariaDB
    (platform,) = read_status(numbered.ledger, ["live"], 0.0).platforms
    assert platform.reasons == {"near_match" if found else "no_account": 1}
