from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from tests.support.paths import DEPLOY
from worker.domain.errors import SettingsError
from worker.domain.guard import Guard, GuardLimits
from worker.domain.rules import Mode
from worker.domain.states import Payment, Status
from worker.formats import Debezium
from worker.formats.cloudevents import Native
from worker.runtime import messages
from worker.runtime.platforms import require_tokens
from worker.settings.effective import effective
from worker.settings.platforms import Strangers, site_key
from worker.settings.root import SECRETS_VARIABLE, load

EXAMPLE = DEPLOY / "cohorts.toml"
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
    monkeypatch.delenv(SECRETS_VARIABLE, raising=False)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "cohorts.toml"


def written(file: Path, text: str) -> Path:
    file.parent.mkdir(exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return file


def refusal(file: Path, text: str) -> str:
    """Return what is wrong with a file, which is named at the start of each line, and never with the secret."""
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
    monkeypatch.setenv(SECRETS_VARIABLE, str(mounted))
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
def test_a_secret_in_the_wrong_place_is_not_shown(file: Path, wrong: str) -> None:
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
    sentence = refusal(file, LEAST + TOKEN + "limits = { conections = 3 }\n[kafka]\nzzzzzz = 1")
    assert sentence.splitlines() == [
        "platforms.ecampus.limits.conections: no such setting; did you mean connections?",
        "kafka.zzzzzz: no such setting",
    ]


@pytest.mark.parametrize(
    ("before", "after", "sentence"),
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
def test_a_wrong_value_is_refused_with_what_would_be_right(file: Path, before: str, after: str, sentence: str) -> None:
    assert before in LEAST
    assert sentence in refusal(file, LEAST.replace(before, after) + TOKEN)


def test_everything_wrong_is_said_at_once(file: Path) -> None:
    sentence = refusal(file, LEAST.replace("2026", "26").replace("automatic", "auto") + TOKEN)
    assert len(sentence.splitlines()) == 2


@pytest.mark.parametrize(
    ("where", "template", "sentence"),
    [
        ("idnumber", "{etape}{label}", "unknown placeholder label; there are etape, version, component, year"),
        ("idnumber", "COHORT", "needs a placeholder, one of etape, version, component, year"),
        ("idnumber", "{etape", "not a template"),
        ("name", "{year} {etape_label}", "unknown placeholder year; there are idnumber, etape"),
    ],
)
def test_a_template_that_cannot_be_filled_is_refused(file: Path, where: str, template: str, sentence: str) -> None:
    more = f'[[platforms.ecampus.cohorts]]\n{where} = "{template}"\n'
    assert f"platforms.ecampus.cohorts.0.{where}: {sentence}" in refusal(file, LEAST + TOKEN + more)


def test_an_account_template_that_cannot_be_filled_is_refused(file: Path) -> None:
    sentence = refusal(file, LEAST + TOKEN + 'account = { template = "{ine}" }')
    assert sentence == "platforms.ecampus.account.template: unknown placeholder ine; there are student_id, login"


@pytest.mark.parametrize(
    ("idnumber", "name", "sentence"),
    [
        ("{component}", "{etape_label}", "name uses the étape, but idnumber groups several"),
        ("{component}", "{component}: {etape}", "name uses the étape, but idnumber groups several"),
        ("{year}", "{component_label}", "name uses the component, but idnumber groups several"),
    ],
)
def test_a_name_that_follows_the_last_etape_to_speak_is_refused(
    file: Path, idnumber: str, name: str, sentence: str
) -> None:
    more = f'[[platforms.ecampus.cohorts]]\nidnumber = "{idnumber}"\nname = "{name}"\n'
    assert sentence in refusal(file, LEAST + TOKEN + more)


@pytest.mark.parametrize("mode", ["automatic", "observe"])
def test_a_platform_that_is_read_needs_a_url(file: Path, mode: str) -> None:
    without_url = "\n".join(line for line in LEAST.splitlines() if not line.startswith("url"))
    said = refusal(file, f"{without_url}\n{TOKEN}".replace("automatic", mode))
    assert said == f"platforms.ecampus: mode {mode} needs a url; only a manual platform works without"


def test_whoever_calls_no_moodle_needs_no_token_and_the_others_name_each_that_is_missing(file: Path) -> None:
    other = '[platforms.sante]\nmode = "observe"\nurl = "https://sante.test"\n[platforms.prelude]\nmode = "manual"\n'
    settings = load(written(file, LEAST + other))
    with pytest.raises(SettingsError) as refused:
        require_tokens(settings)
    ecampus, sante = str(refused.value).splitlines()
    assert ecampus.startswith("platforms.ecampus: it has no token: set COHORTS_PLATFORMS__ECAMPUS__TOKEN in the env")
    assert sante.startswith("platforms.sante: it has no token: set COHORTS_PLATFORMS__SANTE__TOKEN in the environment")


@pytest.mark.parametrize(
    ("variable", "sentence"),
    [
        ("COHORTS_PLATFORM__ECAMPUS__TOKEN", "no such setting; did you mean COHORTS_PLATFORMS__ECAMPUS__TOKEN?"),
        ("COHORTS_LEGDER__URL", "no such setting; did you mean COHORTS_LEDGER__URL?"),
        ("COHORTS_KAFKA__PASWORD", "kafka.pasword: no such setting; did you mean password?"),
        ("COHORTS_PLATFORMS__ECAMPSU__TOKEN", "platforms.ecampsu.mode: Field required"),
        ("COHORTS_WEB__PORT", "web.port: Input should be a valid integer, unable to parse string as an integer"),
    ],
)
def test_a_variable_that_is_wrong_is_named_and_not_the_file(
    file: Path, monkeypatch: pytest.MonkeyPatch, variable: str, sentence: str
) -> None:
    written(file, LEAST + TOKEN)
    monkeypatch.setenv(variable, "secret")
    with pytest.raises(SettingsError) as refused:
        load(file)
    assert str(refused.value) == f"{variable} in the environment: {sentence}"
    monkeypatch.delenv(variable)
    written(file.parent / "secrets" / variable, "secret")
    monkeypatch.setenv(SECRETS_VARIABLE, str(file.parent / "secrets"))
    with pytest.raises(SettingsError) as refused:
        load(file)
    assert str(refused.value) == f"{variable} among the secrets: {sentence}"


def test_a_manual_platform_needs_neither_url_nor_token(file: Path) -> None:
    settings = load(written(file, LEAST.replace("automatic", "manual")))
    assert settings.platforms["ecampus"].mode is Mode.MANUAL


# The guard and its seasons

SEASON = '[[platforms.ecampus.guard.seasons]]\nfirst = "07-01"\nlast = "10-31"\n'


def guarded(file: Path, more: str = "", *, top: str = "") -> Guard:
    return load(written(file, top + LEAST + TOKEN + more)).guard("ecampus")


def test_removals_are_guarded_unless_somebody_says_otherwise(file: Path) -> None:
    assert guarded(file) == Guard(
        enabled=True,
        limits=GuardLimits(cohort_percent=20, platform_percent=5, floor=10),
        seasons=(),
        zone=ZoneInfo("Europe/Paris"),
    )
    assert not guarded(file, "guard = { enabled = false }").enabled


def test_each_platform_has_limits_of_its_own(file: Path) -> None:
    more = """
guard = { cohort_percent = 12.5, platform_percent = 1, floor = 0 }
[platforms.sante]
mode = "manual"
"""
    settings = load(written(file, LEAST + TOKEN + more))
    assert settings.guard("ecampus").limits == GuardLimits(cohort_percent=12.5, platform_percent=1, floor=0)
    assert settings.guard("sante").limits == GuardLimits()


def test_what_a_season_does_not_say_is_as_at_other_times(file: Path) -> None:
    more = f"[platforms.ecampus.guard]\ncohort_percent = 30\nfloor = 3\n{SEASON}platform_percent = 40\n"
    [season] = guarded(file, more).seasons
    assert (season.first, season.last) == ((7, 1), (10, 31))
    assert season.limits == GuardLimits(cohort_percent=30, platform_percent=40, floor=3)


def test_a_limit_of_nothing_is_a_limit(file: Path) -> None:
    [season] = guarded(file, f"{SEASON}cohort_percent = 0\nfloor = 0\n").seasons
    assert season.limits == GuardLimits(cohort_percent=0, platform_percent=5, floor=0)


def test_seasons_keep_their_order_and_one_may_last_over_new_year(file: Path) -> None:
    holidays = SEASON.replace("07-01", "12-20").replace("10-31", "01-05")
    seasons = guarded(file, holidays + SEASON).seasons
    assert [(season.first, season.last) for season in seasons] == [((12, 20), (1, 5)), ((7, 1), (10, 31))]


def test_a_season_may_end_on_a_leap_day(file: Path) -> None:
    [season] = guarded(file, SEASON.replace("10-31", "02-29")).seasons
    assert season.last == (2, 29)


@pytest.mark.parametrize(
    "wrong", ["02-30", "04-31", "00-10", "13-01", "7-1", "07-1", "01-07-2026", "2026-07-01", "July 1", ""]
)
@pytest.mark.parametrize("which", ["first", "last"])
def test_a_day_that_is_in_no_calendar_is_refused_with_how_to_write_one(file: Path, which: str, wrong: str) -> None:
    right = {"first": "07-01", "last": "10-31"}[which]
    sentence = refusal(file, LEAST + TOKEN + SEASON.replace(right, wrong))
    assert sentence == (
        f"platforms.ecampus.guard.seasons.0.{which}: no such day of the year; write it as month-day, e.g. 07-01"
    )


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ("cohort_percent = 101", "cohort_percent: Input should be less than or equal to 100"),
        ("platform_percent = -1", "platform_percent: Input should be greater than or equal to 0"),
        ("platform_percent = nan", "platform_percent: Input should be a finite number"),
        ("floor = -1", "floor: Input should be greater than or equal to 0"),
        ("floor = 1.5", "floor: Input should be a valid integer"),
        ("percent = 20", "percent: no such setting"),
        ("enabled = 3", "enabled: Input should be a valid boolean"),
    ],
)
def test_an_impossible_limit_is_refused(file: Path, wrong: str, sentence: str) -> None:
    assert f"platforms.ecampus.guard.{sentence}" in refusal(file, f"{LEAST}{TOKEN}guard = {{ {wrong} }}")


def test_a_season_needs_both_its_days_and_no_limit_beyond_all(file: Path) -> None:
    sentence = refusal(
        file, f'{LEAST}{TOKEN}[[platforms.ecampus.guard.seasons]]\nfirst = "07-01"\ncohort_percent = 200\n'
    )
    assert sentence.splitlines() == [
        "platforms.ecampus.guard.seasons.0.last: Field required",
        "platforms.ecampus.guard.seasons.0.cohort_percent: Input should be less than or equal to 100",
    ]


# The time zone


def test_the_seasons_begin_and_end_where_the_university_is(file: Path) -> None:
    assert guarded(file, top='timezone = "Indian/Reunion"\n').zone == ZoneInfo("Indian/Reunion")


@pytest.mark.parametrize("wrong", ["Europe/Pariss", "Mars/Phobos", "Europe", "", "/etc/localtime", "../UTC", "a" * 300])
def test_an_unknown_time_zone_is_refused_with_how_to_write_one(file: Path, wrong: str) -> None:
    sentence = refusal(file, f'timezone = "{wrong}"\n{LEAST}{TOKEN}')
    assert sentence == "timezone: no such time zone; write it as Europe/Paris, or Indian/Reunion"


# The night, strangers, years that close


def test_members_who_are_no_students_are_kept_unless_somebody_says_otherwise(file: Path) -> None:
    assert load(written(file, LEAST + TOKEN)).platforms["ecampus"].strangers is Strangers.KEEP
    given = load(written(file, f'{LEAST}{TOKEN}strangers = "remove"\n'))
    assert given.platforms["ecampus"].strangers is Strangers.REMOVE
    sentence = refusal(file, f'{LEAST}{TOKEN}strangers = "delete"\n')
    assert sentence == "platforms.ecampus.strangers: Input should be 'keep' or 'remove'"


def test_the_memberships_of_a_closed_year_end_at_once_unless_there_is_a_time_of_grace(file: Path) -> None:
    assert load(written(file, LEAST + TOKEN)).eligibility.grace_days == 0
    assert load(written(file, f"{LEAST}{TOKEN}[eligibility]\ngrace_days = 30.5")).eligibility.grace_days == 30.5


@pytest.mark.parametrize("wrong", ["-1", "367", "inf", "nan"])
def test_a_grace_that_never_ends_is_refused(file: Path, wrong: str) -> None:
    assert refusal(file, f"{LEAST}{TOKEN}[eligibility]\ngrace_days = {wrong}").startswith("eligibility.grace_days: ")


def test_a_reconciliation_waits_an_hour_for_the_gaps_to_close(file: Path) -> None:
    assert load(written(file, LEAST + TOKEN)).reconcile.wait_minutes == 60
    assert load(written(file, f"{LEAST}{TOKEN}[reconcile]\nwait_minutes = 0")).reconcile.wait_minutes == 0


@pytest.mark.parametrize("wrong", ["-1", "inf", "nan", '"long"'])
def test_a_wait_without_an_end_is_refused(file: Path, wrong: str) -> None:
    sentence = refusal(file, f"{LEAST}{TOKEN}[reconcile]\nwait_minutes = {wrong}")
    assert sentence.startswith("reconcile.wait_minutes: Input should be ")


# What `cohorts config` shows


def test_what_is_in_force_is_shown_by_dotted_paths_with_what_it_is(file: Path) -> None:
    more = f"""
strangers = "remove"
[platforms.ecampus.guard]
cohort_percent = 12.5
{SEASON}floor = 50
[eligibility]
grace_days = 30
"""
    shown = {setting.path: setting for setting in effective(load(written(file, LEAST + TOKEN + more)))}
    values = {path: setting.value for path, setting in shown.items()}
    expected = {
        "timezone": '"Europe/Paris"',
        "eligibility.grace_days": "30.0",
        "platforms.ecampus.strangers": '"remove"',
        "platforms.ecampus.guard.enabled": "true",
        "platforms.ecampus.guard.cohort_percent": "12.5",
        "platforms.ecampus.guard.platform_percent": "5.0",
        "platforms.ecampus.guard.floor": "10",
        "platforms.ecampus.guard.seasons.0.first": '"07-01"',
        "platforms.ecampus.guard.seasons.0.last": '"10-31"',
        "platforms.ecampus.guard.seasons.0.cohort_percent": "null",
        "platforms.ecampus.guard.seasons.0.floor": "50",
        "snapshot.max_age_hours": "20.0",
        "reconcile.wait_minutes": "60.0",
        "kafka.snapshots": '"enrolments.snapshots"',
    }
    assert values | expected == values
    assert all(setting.description for setting in shown.values())
    assert shown["platforms.ecampus.guard.floor"].description.startswith("Removals that always pass")
    assert SECRET not in str(shown)


def test_a_platform_without_seasons_shows_that_there_are_none(file: Path) -> None:
    shown = {setting.path: setting.value for setting in effective(load(written(file, LEAST + TOKEN)))}
    assert shown["platforms.ecampus.guard.seasons"] == "[]"


# Change capture


def test_topics_are_native_unless_they_are_said_to_be_of_change_capture(file: Path) -> None:
    kafka = '[kafka]\ntopics = ["enrolments", "apogee"]\nformats = { apogee = "debezium" }\n'
    formats = messages.formats(load(written(file, LEAST + TOKEN + kafka)))
    assert {topic: type(format_) for topic, format_ in formats.items()} == {"enrolments": Native, "apogee": Debezium}


@pytest.mark.parametrize(
    ("kafka", "sentence"),
    [
        ('formats = { enrolment = "debezium" }', "kafka: formats names enrolment, which topics doesn't"),
        ('formats = { enrolments = "avro" }', "kafka.formats.enrolments: Input should be 'native' or 'debezium'"),
        ('capture_uai = "0751717J"', "kafka.capture_uai is 0751717J, which is not in uais"),
    ],
)
def test_a_format_of_nothing_or_unknown_or_elsewhere_is_refused(file: Path, kafka: str, sentence: str) -> None:
    assert sentence in refusal(file, LEAST + TOKEN + "[kafka]\n" + kafka)


def test_with_several_establishments_the_captured_one_has_to_be_said(file: Path) -> None:
    two = (
        LEAST.replace('"0141408E"', '"0141408E", "0142059M"') + TOKEN + '[kafka]\nformats = { enrolments = "debezium" }'
    )
    assert "kafka.capture_uai must name the establishment of the captured APOGÉE" in refusal(file, two)
    assert load(written(file, two + '\ncapture_uai = "0142059M"')).capture_uai == "0142059M"
    assert load(written(file, LEAST + TOKEN)).capture_uai == "0141408E"


def test_a_secret_property_of_kafka_joins_those_of_the_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COHORTS_KAFKA__CLIENT", '{"sasl.oauthbearer.client.secret": "hidden"}')
    client = '[kafka.client]\n"sasl.mechanism" = "OAUTHBEARER"\n'
    settings = load(written(file, LEAST + TOKEN + client))
    assert settings.kafka.properties() == {
        "bootstrap.servers": "localhost:9092",
        "sasl.mechanism": "OAUTHBEARER",
        "sasl.oauthbearer.client.secret": "hidden",
    }
    assert "hidden" not in str([*effective(settings)])


# Two platforms, one site


@pytest.mark.parametrize(
    "other",
    [
        "https://ecampus.example.org",
        "https://ecampus.example.org/",
        "https://ECAMPUS.Example.org",
        "https://ecampus.example.org:443/",
        "http://ecampus.example.org",
        "http://ecampus.example.org:80//",
        "https://ecampus.example.org./",
    ],
)
@pytest.mark.parametrize("mode", ["observe", "manual"])
def test_two_platforms_with_one_url_are_refused_however_it_is_written(file: Path, other: str, mode: str) -> None:
    second = f'[platforms.sante]\nmode = "{mode}"\nurl = "{other}"\n{TOKEN}'
    assert "platforms ecampus and sante have one url" in refusal(file, f"{LEAST}{TOKEN}{second}")


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("https://moodle.example.org/sante", "https://moodle.example.org/droit"),
        ("https://moodle.example.org:8443", "https://moodle.example.org"),
        ("https://a.example.org", "https://b.example.org"),
        ("https://moodle.example.org/A", "https://moodle.example.org/a"),
    ],
)
def test_platforms_with_urls_of_their_own_are_accepted(file: Path, one: str, two: str) -> None:
    first = LEAST.replace("https://ecampus.example.org", one) + TOKEN
    second = f'[platforms.sante]\nmode = "observe"\nurl = "{two}"\n{TOKEN}'
    assert set(load(written(file, first + second)).platforms) == {"ecampus", "sante"}


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("https://université.example.org", "https://XN--universit-j4a.example.org/"),
        ("https://h/moodle/", "https://H/x/../moodle"),
        ("https://h/a%20b", "https://h:443/a b"),
    ],
)
def test_addresses_of_one_site_have_one_key(one: str, two: str) -> None:
    assert site_key(one) == site_key(two)
