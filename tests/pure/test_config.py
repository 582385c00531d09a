from pathlib import Path

import pytest

from worker import config
from worker.config import load
from worker.errors import SettingsError
from worker.model import Payment, Status
from worker.rules import Mode

EXAMPLE = Path(config.__file__).parents[1] / "deploy" / "cohorts.toml"
SECRET = "hunter2-0123456789abcdef"
LEAST = """
uais = ["0141408E"]
active_years = [2026]

[platforms.ecampus]
mode = "automatic"
url = "https://ecampus.example.org"
"""
TOKEN = f'token = "{SECRET}"\n'
TOKEN_NAME = "COHORTS_PLATFORMS__ECAMPUS__TOKEN"


@pytest.fixture(autouse=True)
def no_settings_around(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(config.SECRETS_VARIABLE, raising=False)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "cohorts.toml"


def written(file: Path, text: str) -> Path:
    file.write_text(text, encoding="utf-8")
    return file


def refusal(file: Path, text: str) -> str:
    """What is said about a file, which is named at the start of each line, and never with the secret."""
    with pytest.raises(SettingsError) as caught:
        load(written(file, text))
    lines = str(caught.value).splitlines()
    assert all(line.startswith(f"{file}: ") for line in lines)
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    return "\n".join(line.removeprefix(f"{file}: ") for line in lines)


# What is in force


def test_the_example_loads_once_it_has_its_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COHORTS_PLATFORMS__ECAMPUS__TOKEN", "1")
    monkeypatch.setenv("COHORTS_PLATFORMS__COLLEGIUM__TOKEN", "2")
    settings = load(EXAMPLE)
    assert {name: platform.mode for name, platform in settings.platforms.items()} == {
        "ecampus": Mode.OBSERVE,
        "collegium": Mode.OBSERVE,
        "prelude": Mode.MANUAL,
    }


def test_the_shortest_file_has_careful_defaults(file: Path) -> None:
    settings = load(written(file, LEAST + TOKEN))
    policy = settings.policy()
    assert policy.statuses == {Status.ACTIVE}
    assert policy.payments == {Payment.PAID, Payment.UNKNOWN}
    [ecampus] = policy.platforms
    assert [template.idnumber for template in ecampus.templates] == ["{etape}"]
    assert ecampus.routes[0].admits("XINFO1", None)
    assert settings.converge.removal_delay_seconds > settings.converge.coalesce_seconds
    assert settings.web.host == "127.0.0.1"


def test_the_policy_does_not_depend_on_the_order_of_the_file(file: Path) -> None:
    prelude = '[platforms.prelude]\nmode = "manual"\n'
    top, ecampus = (LEAST + TOKEN).split("[platforms.ecampus]")
    one = load(written(file, f"{top}{prelude}[platforms.ecampus]{ecampus}")).policy()
    other = load(written(file, f"{top}[platforms.ecampus]{ecampus}{prelude}")).policy()
    assert one == other
    assert one.fingerprint() == other.fingerprint()


def test_what_a_platform_says_reaches_the_rules(file: Path) -> None:
    more = """
account = { field = "idnumber", template = "e{login}" }
[[platforms.ecampus.routes]]
components = ["MED"]
exclude_etapes = ["X*"]
[[platforms.ecampus.cohorts]]
idnumber = "{year}-{component}"
name = "Tous: {component_label}"
"""
    [ecampus] = load(written(file, LEAST + TOKEN + more)).policy().platforms
    assert (ecampus.account_field, ecampus.account_template) == ("idnumber", "e{login}")
    assert ecampus.routes[0].components == ("MED",)
    assert ecampus.routes[0].exclude_etapes == ("X*",)
    assert [(t.idnumber, t.name) for t in ecampus.templates] == [("{year}-{component}", "Tous: {component_label}")]


# Secrets


def test_a_token_comes_from_the_environment(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN_NAME, SECRET)
    token = load(written(file, LEAST)).platforms["ecampus"].token
    assert token is not None
    assert token.get_secret_value() == SECRET


def test_a_mounted_secret_comes_before_the_environment_and_the_file(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounted = tmp_path / "credentials"
    mounted.mkdir()
    (mounted / TOKEN_NAME).write_text("from-the-mount\n")
    (mounted / "another-service").write_text("not for us")
    monkeypatch.setenv(config.SECRETS_VARIABLE, str(mounted))
    monkeypatch.setenv(TOKEN_NAME, "from-the-environment")
    token = load(written(file, LEAST + TOKEN)).platforms["ecampus"].token
    assert token is not None
    assert token.get_secret_value() == "from-the-mount"


def test_the_environment_comes_before_the_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COHORTS_LEDGER__URL", "postgresql+psycopg://u@db/cohorts")
    monkeypatch.setenv("COHORTS_KAFKA__PASSWORD", SECRET)
    settings = load(written(file, LEAST + TOKEN + '[ledger]\nurl = "sqlite:///a.db"\n'))
    assert settings.ledger.url.get_secret_value() == "postgresql+psycopg://u@db/cohorts"
    assert settings.kafka.properties()["sasl.password"] == SECRET


def test_secrets_are_not_shown(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COHORTS_KAFKA__PASSWORD", SECRET)
    more = f"""
[kafka.client]
"ssl.key.password" = "{SECRET}"
[ledger]
url = "postgresql+psycopg://cohorts:{SECRET}@db/cohorts"
"""
    settings = load(written(file, LEAST + TOKEN + more))
    assert settings.kafka.properties()["ssl.key.password"] == SECRET
    for shown in (repr(settings), str(settings), str(settings.model_dump()), settings.model_dump_json()):
        assert SECRET not in shown


@pytest.mark.parametrize(
    "wrong",
    [
        f'[kafka]\npassword = ["{SECRET}"]',
        f'[kafka]\nclient = "{SECRET}"',
        f'[kafka]\npasword = "{SECRET}"',
        f'[kafka.client]\n"sasl.password" = ["{SECRET}"]',
        f'[ledger]\nurl = {{ password = "{SECRET}" }}',
    ],
)
def test_a_secret_in_the_wrong_place_is_not_shown_either(file: Path, wrong: str) -> None:
    assert refusal(file, LEAST + TOKEN + wrong)


# What is refused


def test_a_file_that_is_missing_or_unreadable_is_said_by_its_path(file: Path) -> None:
    with pytest.raises(SettingsError, match=r"cohorts\.toml: no such file; write one"):
        load(file)
    assert "line 2" in refusal(file, "\nuais = [}")
    file.write_bytes(b'uais = "\xff"')
    with pytest.raises(SettingsError, match=r"cohorts\.toml: .*utf-8"):
        load(file)


def test_an_unknown_key_is_refused_by_its_dotted_path_with_what_is_near(file: Path) -> None:
    said = refusal(file, LEAST + TOKEN + "limits = { conections = 3 }\n[kafka]\nzzzzzz = 1")
    assert said.splitlines() == [
        "platforms.ecampus.limits.conections: no such setting; did you mean connections?",
        "kafka.zzzzzz: no such setting",
    ]


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ('"0141408E"', '"141408E"', "uais.0: String should match pattern"),
        ('["0141408E"]', "[]", "uais: Frozenset should have at least 1 item"),
        ("[2026]", '["2026-2027"]', "active_years.0: Input should be a valid integer"),
        ("[2026]", "[26]", "active_years.0: Input should be greater than or equal to 2000"),
        ('"automatic"', '"auto"', "platforms.ecampus.mode: Input should be 'automatic', 'observe' or 'manual'"),
        ('"https:', '"ecampus:', "platforms.ecampus.url: String should match pattern"),
        ("uais =", "uaiz =", "uaiz: no such setting; did you mean uais?"),
    ],
)
def test_a_wrong_value_is_refused_with_what_would_be_right(file: Path, before: str, after: str, said: str) -> None:
    assert before in LEAST
    assert said in refusal(file, LEAST.replace(before, after) + TOKEN)


def test_everything_wrong_is_said_at_once(file: Path) -> None:
    said = refusal(file, LEAST.replace("2026", "26").replace("automatic", "auto") + TOKEN)
    assert len(said.splitlines()) == 2


@pytest.mark.parametrize(
    ("where", "template", "said"),
    [
        ("idnumber", "{etape}{label}", "unknown placeholder label; there are etape, version, component, year"),
        ("idnumber", "COHORT", "needs a placeholder, one of etape, version, component, year"),
        ("idnumber", "{etape", "not a template"),
        ("name", "{year} {etape_label}", "unknown placeholder year; there are idnumber, etape"),
    ],
)
def test_a_template_that_cannot_be_filled_is_refused(file: Path, where: str, template: str, said: str) -> None:
    more = f'[[platforms.ecampus.cohorts]]\n{where} = "{template}"\n'
    assert f"platforms.ecampus.cohorts.0.{where}: {said}" in refusal(file, LEAST + TOKEN + more)


def test_an_account_template_that_cannot_be_filled_is_refused(file: Path) -> None:
    said = refusal(file, LEAST + TOKEN + 'account = { template = "{ine}" }')
    assert said == "platforms.ecampus.account.template: unknown placeholder ine; there are student_id, login"


@pytest.mark.parametrize(
    ("idnumber", "name", "said"),
    [
        ("{component}", "{etape_label}", "name speaks of the étape, but idnumber gathers several"),
        ("{component}", "{component}: {etape}", "name speaks of the étape, but idnumber gathers several"),
        ("{year}", "{component_label}", "name speaks of the component, but idnumber gathers several"),
    ],
)
def test_a_name_that_follows_the_last_etape_to_speak_is_refused(
    file: Path, idnumber: str, name: str, said: str
) -> None:
    more = f'[[platforms.ecampus.cohorts]]\nidnumber = "{idnumber}"\nname = "{name}"\n'
    assert said in refusal(file, LEAST + TOKEN + more)


@pytest.mark.parametrize("mode", ["automatic", "observe"])
def test_a_platform_that_is_read_needs_url_and_token(file: Path, mode: str) -> None:
    said = f"platforms.ecampus: mode {mode} needs url and token; only a manual platform does without"
    assert refusal(file, LEAST.replace("automatic", mode)) == said
    without_url = "\n".join(line for line in LEAST.splitlines() if not line.startswith("url"))
    assert refusal(file, f"{without_url}\n{TOKEN}".replace("automatic", mode)) == said


def test_a_manual_platform_needs_neither(file: Path) -> None:
    settings = load(written(file, LEAST.replace("automatic", "manual")))
    assert settings.platforms["ecampus"].mode is Mode.MANUAL
