from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from worker.domain.errors import SettingsError
from worker.settings.root import load
from worker.settings.sources import LdapSourceSettings

WHERE = {"kind": "ldap", "uri": "ldaps://ldap.example.fr", "base": "ou=people,dc=example,dc=fr"}
FILE = """
uais = ["0141408E"]
active_years = [2026]
[platforms.prelude]
mode = "manual"
[sources.directory]
kind = "ldap"
uri = "ldaps://ldap.example.fr"
base = "ou=people,dc=example,dc=fr"
bind_dn = "cn=cohorts,dc=example,dc=fr"
"""


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"uri": "ldapi:///"}, "String should match"),
        ({"uri": "http://ldap.example.fr"}, "String should match"),
        ({"bind_dn": "cn=cohorts"}, "bind_dn and password go together"),
        ({"password": "invented"}, "bind_dn and password go together"),
        ({"bind_dn": "cn=cohorts", "password": "invented", "sasl": "GSSAPI"}, "exclude each other"),
        ({"sasl": "EXTERNAL"}, "needs certificate_file and key_file"),
        ({"certificate_file": "cohorts.pem"}, "certificate_file and key_file go together"),
        ({"start_tls": False}, "Extra inputs are not permitted"),
    ],
)
def test_settings_that_cannot_work_are_refused(wrong: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        LdapSourceSettings(**(WHERE | wrong))


def test_the_password_comes_from_a_file_among_the_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, secrets = tmp_path / "cohorts.toml", tmp_path / "secrets"
    file.write_text(FILE, encoding="utf-8")
    secrets.mkdir()
    (secrets / "COHORTS_SOURCES__DIRECTORY__PASSWORD").write_text("invented\n", encoding="utf-8")
    with pytest.raises(SettingsError, match="bind_dn and password go together"):
        load(file)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(secrets))
    directory = load(file).sources["directory"]
    assert isinstance(directory, LdapSourceSettings)
    assert directory.password is not None
    assert directory.password.get_secret_value() == "invented"
