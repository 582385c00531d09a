"""The gate of LDAP against a real slapd, and against lines and servers that fail."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.paths import ROOT
from tests.support.servers.ldap_peers import answering, line
from tests.support.servers.slapd import LIMITED, MOST_OF_LIMITED, PASSWORD, SUFFIX, Slapd, certify
from tests.support.supann import entry
from worker.domain.errors import SettingsError, SourceIncomplete
from worker.runtime.sources import directory_options
from worker.sources.directory import Directory

STUDENTS = [f"2260{number:04}" for number in range(60)]
SHORT = 0.3
"""A time-out in seconds, for what never answers."""


@pytest.fixture(scope="module")
def base(slapd: Slapd) -> str:
    """A branch of sixty students."""
    return slapd.branch(entry(number) for number in STUDENTS)


def numbers(slapd: Slapd, base: str, **settings: Any) -> list[str]:  # noqa: ANN401 - as TOML gives them
    with Directory(directory_options(slapd.settings(base, **settings))) as directory:
        return [value for found in directory.read(["supannEtuId"]) for value in found["supannetuid"]]


# Reading


@pytest.mark.parametrize("page_size", [1, 7, 30, 60, 500])
def test_pages_of_any_size_give_every_entry_once(slapd: Slapd, base: str, page_size: int) -> None:
    assert sorted(numbers(slapd, base, page_size=page_size)) == STUDENTS


def test_only_what_is_asked_for_is_read(slapd: Slapd, base: str) -> None:
    with Directory(directory_options(slapd.settings(base))) as directory:
        assert {frozenset(found) for found in directory.read(["supannEtuId", "supannAliasLogin"])} == {
            frozenset({"supannetuid", "supannaliaslogin"})
        }


def test_an_entry_is_recognised_until_it_changes(slapd: Slapd) -> None:
    base = slapd.branch([entry("22600001"), entry("22600002")])
    with Directory(directory_options(slapd.settings(base))) as directory:
        before = dict(directory.versions())
        slapd.change(
            f"dn: uid=e22600002,{base}\nchangetype: modify\nreplace: supannAliasLogin\nsupannAliasLogin: another"
        )
        after = dict(directory.versions())
        assert before.keys() == after.keys()
        [changed] = [uuid for uuid in after if before[uuid] != after[uuid]]
        [found] = directory.by_uuid([changed], ["supannAliasLogin"])
    assert (found.uuid, found.csn) == (changed, after[changed])
    assert found.attributes["supannaliaslogin"] == ("another",)


def test_entries_are_found_by_their_uuid_however_many(slapd: Slapd, base: str) -> None:
    with Directory(directory_options(slapd.settings(base))) as directory:
        uuids = [uuid for uuid, _ in directory.versions()]
        absent = [f"00000000-0000-0000-0000-{number:012}" for number in range(300)]
        found = [one.attributes["supannetuid"] for one in directory.by_uuid([*absent, *uuids], ["supannEtuId"])]
    assert sorted(found) == [(number,) for number in STUDENTS]


def test_who_was_moved_to_another_branch_is_not_there(slapd: Slapd) -> None:
    base, deactivated = slapd.branch([entry("22600001"), entry("22600002")]), slapd.branch()
    move = "changetype: moddn\nnewrdn: uid=e22600001\ndeleteoldrdn: 0"
    slapd.change(f"dn: uid=e22600001,{base}\n{move}\nnewsuperior: {deactivated}")
    assert numbers(slapd, base) == ["22600002"]


# Who we are


def test_a_directory_is_read_over_ldaps_too(slapd: Slapd, base: str) -> None:
    assert len(numbers(slapd, base, uri=f"ldaps://127.0.0.1:{slapd.ports['ldaps']}")) == len(STUDENTS)


def test_our_certificate_is_enough_to_bind(slapd: Slapd, base: str) -> None:
    files = {"certificate_file": slapd.directory / "client.pem", "key_file": slapd.directory / "client.key"}
    assert len(numbers(slapd, base, sasl="EXTERNAL", **files)) == len(STUDENTS)


def test_a_wrong_password_is_said_and_not_shown(slapd: Slapd, base: str) -> None:
    with pytest.raises(SourceIncomplete, match="the bind_dn or its password is wrong") as caught:
        numbers(slapd, base, password="mistaken")
    assert "mistaken" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_kerberos_ticket_that_is_missing_fails_the_reading(slapd: Slapd, base: str) -> None:
    with pytest.raises(SourceIncomplete, match="opening the directory failed"):
        numbers(slapd, base, sasl="GSSAPI")


def test_what_may_not_be_seen_is_not_taken_for_nothing(slapd: Slapd, base: str) -> None:
    with pytest.raises(SourceIncomplete, match="the bind account lacks read permission"):
        numbers(slapd, base, bind_dn=None, password=None)


# Whom we talk to


@pytest.mark.parametrize("scheme", ["ldap", "ldaps"])
def test_a_certificate_of_another_authority_is_refused_whoever_was_trusted_before(
    slapd: Slapd, base: str, tmp_path: Path, scheme: str
) -> None:
    uri = f"{scheme}://127.0.0.1:{slapd.ports[scheme]}"
    certify(tmp_path, "server", "IP:127.0.0.1")
    for _ in range(2):
        assert numbers(slapd, base, uri=uri)
        with pytest.raises(SourceIncomplete, match="certificate"):
            numbers(slapd, base, uri=uri, ca_file=tmp_path / "ca.pem")


def test_a_certificate_of_another_host_is_refused(slapd: Slapd, base: str) -> None:
    certify(slapd.directory, "elsewhere", "DNS:ldap.example.fr,IP:127.0.0.2")
    with (
        answering(0, certificate=slapd.directory / "elsewhere.pem") as port,
        pytest.raises(SourceIncomplete, match="certificate"),
    ):
        numbers(slapd, base, uri=f"ldaps://127.0.0.1:{port}")


@pytest.mark.parametrize(
    "more", [{"ca_file": "absent.pem"}, {"certificate_file": "client.pem", "key_file": "server.key"}]
)
def test_files_that_cannot_be_used_are_said(slapd: Slapd, base: str, more: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match="ca_file, certificate_file or key_file can't be used"):
        numbers(slapd, base, **{name: slapd.directory / file for name, file in more.items()})


def test_the_environment_cannot_turn_the_check_of_certificates_off(slapd: Slapd, base: str, tmp_path: Path) -> None:
    certify(tmp_path, "server", "IP:127.0.0.1")
    program = f"""
from worker.runtime.sources import directory_options
from worker.settings.sources import LdapSourceSettings
from worker.sources.directory import Directory
chosen = LdapSourceSettings(kind="ldap", uri="ldap://127.0.0.1:{slapd.ports["ldap"]}", base="{base}",
                            ca_file="{tmp_path / "ca.pem"}")
Directory(directory_options(chosen)).__enter__()
"""
    environment = os.environ | {"LDAPTLS_REQCERT": "never", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", program]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)  # noqa: S603 - our own program
    assert "SourceIncomplete: opening the directory failed" in ended.stderr


# What isn't whole


def test_a_size_limit_fails_the_reading(slapd: Slapd, base: str) -> None:
    with pytest.raises(SourceIncomplete, match=r"after 20 entries.*ask for a higher limit of paged results"):
        numbers(slapd, base, bind_dn=LIMITED, page_size=MOST_OF_LIMITED // 2)


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        (3, "it takes longer than its own limit"),
        (4, "ask for a higher limit of paged results"),
        (10, "it refers to another server"),
        (11, "ask for a higher one"),
        (12, "doesn't support paged results"),
        (50, "lacks read permission"),
        (51, "it answered BUSY"),
        (52, "it answered UNAVAILABLE"),
        (80, "it answered OTHER"),
    ],
)
def test_every_answer_but_success_fails_the_reading(slapd: Slapd, base: str, code: int, sentence: str) -> None:
    with (
        answering(code, certificate=slapd.directory / "server.pem") as port,
        pytest.raises(SourceIncomplete, match=sentence),
    ):
        numbers(slapd, base, uri=f"ldaps://127.0.0.1:{port}")


def test_success_without_a_word_about_pages_fails_the_reading(slapd: Slapd, base: str) -> None:
    with (
        answering(0, certificate=slapd.directory / "server.pem") as port,
        pytest.raises(SourceIncomplete, match="doesn't support paged results"),
    ):
        numbers(slapd, base, uri=f"ldaps://127.0.0.1:{port}")


def referral(base: str) -> str:
    classes = "objectClass: referral\nobjectClass: extensibleObject"
    return f"dn: ou=elsewhere,{base}\n{classes}\nou: elsewhere\nref: ldap://127.0.0.1:9/{SUFFIX}"


def test_a_part_that_is_on_another_server_fails_the_reading(slapd: Slapd) -> None:
    base = slapd.branch([entry("22600001"), referral("{base}")])
    with pytest.raises(SourceIncomplete, match="refers to another server"):
        numbers(slapd, base)


def test_a_base_that_is_on_another_server_fails_the_reading(slapd: Slapd) -> None:
    base = slapd.branch([referral("{base}")])
    with pytest.raises(SourceIncomplete, match="refers to another server"):
        numbers(slapd, f"ou=elsewhere,{base}")


@pytest.mark.parametrize("most", [0, 20, 500, 2_000, 4_000, 6_000])  # the second and the third within the handshake
@pytest.mark.parametrize("scheme", ["ldap", "ldaps"])
def test_a_line_that_is_cut_at_any_moment_fails_the_reading(slapd: Slapd, base: str, scheme: str, most: int) -> None:
    with (
        line(slapd.ports[scheme], most=most, cut=True) as port,
        pytest.raises(SourceIncomplete, match="connection was lost"),
    ):
        numbers(slapd, base, uri=f"{scheme}://127.0.0.1:{port}", page_size=10)


@pytest.mark.parametrize("most", [0, 20, 500, 2_000, 4_000, 6_000])  # the second and the third within the handshake
@pytest.mark.parametrize("scheme", ["ldap", "ldaps"])
def test_a_line_that_falls_silent_at_any_moment_fails_the_reading_in_time(
    slapd: Slapd, base: str, scheme: str, most: int
) -> None:
    with (
        line(slapd.ports[scheme], most=most, cut=False) as port,
        pytest.raises(SourceIncomplete, match="longer than timeout"),
    ):
        numbers(slapd, base, uri=f"{scheme}://127.0.0.1:{port}", page_size=10, timeout_seconds=SHORT)


def test_a_server_that_cannot_be_reached_fails_the_reading(slapd: Slapd, base: str) -> None:
    with pytest.raises(SourceIncomplete, match="it can't be reached"):
        numbers(slapd, base, uri="ldap://127.0.0.1:9")


def test_a_filter_or_a_base_that_is_none_is_said(slapd: Slapd, base: str) -> None:
    with pytest.raises(SourceIncomplete, match="filter isn't an LDAP filter"):
        numbers(slapd, base, filter="(supannEtuId=*")
    with pytest.raises(SourceIncomplete, match="base or bind_dn isn't a DN"):
        numbers(slapd, "people")


def test_no_error_holds_a_secret_or_a_name(slapd: Slapd, base: str) -> None:
    with pytest.raises(SourceIncomplete) as caught:
        numbers(slapd, f"ou=nowhere,{base}")
    assert not [part for part in (PASSWORD, base, SUFFIX) if part in str(caught.value)]
