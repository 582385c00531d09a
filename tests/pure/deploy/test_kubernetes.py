"""The manifests, built by kustomize and held to Kubernetes' own schemas."""
# ruff: noqa: S603 -- the programs and their arguments are our own

import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate  # type: ignore[import-untyped] # it has no types
import pytest
import typer
import yaml

from tests.support.paths import ROOT
from tests.support.requirements import needed
from tests.support.servers import MissingServerError
from tools import prometheus_rule
from worker.cli.main import cli
from worker.settings.root import load

KUBERNETES = ROOT / "deploy" / "kubernetes"
OVERLAYS = ("single", "scaled", "keda")
OLDEST, NEWEST = "1.31", kubernetes_validate.latest_version()  # since 1.31, a job's podFailurePolicy is settled
Resource = dict[str, Any]

# The kinds of operators have no schema in any package; these say what we use of them, as their CRDs define it:
# monitoring.coreos.com/v1 of prometheus-operator, keda.sh/v1alpha1 of KEDA.
TEXT, TEXTS = {"type": "string"}, {"type": "object", "additionalProperties": {"type": "string"}}
DURATION = {"type": "string", "pattern": r"^(0|([0-9]+[ywdhms]|[0-9]+ms)+)$"}


def _object(required: dict[str, Any], **more: Any) -> dict[str, Any]:  # noqa: ANN401 - schemas
    properties = required | more
    return {"type": "object", "properties": properties, "required": [*required], "additionalProperties": False}


RULE = _object(
    {"expr": TEXT}, alert=TEXT, record=TEXT, labels=TEXTS, annotations=TEXTS, keep_firing_for=DURATION,
    **{"for": DURATION},
)  # fmt: skip
GROUP = _object(
    {"name": TEXT, "rules": {"type": "array", "items": RULE}}, interval=DURATION, labels=TEXTS, query_offset=DURATION
)
ENDPOINT = _object({"port": TEXT}, path=TEXT, interval=DURATION)
TRIGGER = _object({"type": TEXT, "metadata": TEXTS})
COUNT = {"type": "integer", "minimum": 0}
CUSTOM = {
    "PrometheusRule": _object({"groups": {"type": "array", "items": GROUP}}),
    "PodMonitor": _object(
        {"selector": _object({"matchLabels": TEXTS}), "podMetricsEndpoints": {"type": "array", "items": ENDPOINT}}
    ),
    "ScaledObject": _object(
        {"scaleTargetRef": _object({"name": TEXT}), "triggers": {"type": "array", "items": TRIGGER, "minItems": 1}},
        minReplicaCount=COUNT, maxReplicaCount=COUNT, cooldownPeriod=COUNT,
    ),
}  # fmt: skip


@cache
def _kustomize() -> tuple[str, ...]:
    if found := shutil.which("kustomize"):
        return found, "build"
    if found := shutil.which("kubectl"):
        return found, "kustomize"
    raise MissingServerError("no kustomize and no kubectl: install one of them (kustomize 5 or later)")


@pytest.fixture(scope="module", params=OVERLAYS)
def overlay(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "watching"])
def watching(request: pytest.FixtureRequest) -> bool:
    """Whether the overlay's option is taken."""
    return bool(request.param)


@pytest.fixture(scope="module")
def resources(overlay: str, watching: bool, tmp_path_factory: pytest.TempPathFactory) -> list[Resource]:  # noqa: FBT001 - pytest gives it
    """Build an overlay, with its option or without."""
    with needed():
        command = _kustomize()
    deploy = shutil.copytree(ROOT / "deploy", tmp_path_factory.mktemp("kustomize") / "deploy")
    if watching:
        files = (deploy / "kubernetes").glob("*/kustomization.yaml")
        texts = {file: file.read_text(encoding="utf-8") for file in files}
        for file, text in texts.items():
            file.write_text(text.replace("# - ../watch", "- ../watch"), encoding="utf-8")
    done = subprocess.run([*command, deploy / "kubernetes" / overlay], capture_output=True, check=False, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return list(yaml.safe_load_all(done.stdout))


def of_kind(resources: list[Resource], kind: str) -> Resource:
    """Return the only resource of a kind; of Deployments, the worker's."""
    found = [resource for resource in resources if resource["kind"] == kind]
    [one] = [each for each in found if len(found) == 1 or each["metadata"]["name"] == "cohorts-worker"]
    return one


def pods(resources: list[Resource]) -> Iterator[Resource]:
    """Yield the template of every pod."""
    yield from (each["spec"]["template"] for each in resources if each["kind"] == "Deployment")
    yield of_kind(resources, "CronJob")["spec"]["jobTemplate"]["spec"]["template"]


def containers(resources: list[Resource]) -> list[Resource]:
    specs = [pod["spec"] for pod in pods(resources)]
    return [each for spec in specs for each in [*spec.get("initContainers", []), *spec["containers"]]]


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_every_resource_is_valid_for_kubernetes(resources: list[Resource], version: str) -> None:
    for resource in resources:
        if resource["kind"] in CUSTOM:
            jsonschema.validate(resource["spec"], CUSTOM[resource["kind"]])
        else:
            kubernetes_validate.validate(resource, version, strict=True)


def test_the_schemas_refuse_a_misspelt_field(resources: list[Resource]) -> None:
    deployment = of_kind(resources, "Deployment")
    wrong = deployment | {"spec": deployment["spec"] | {"replica": 3}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, NEWEST, strict=True)


def test_the_commands_of_the_containers_are_ours(resources: list[Resource]) -> None:
    for container in containers(resources):
        command: Any = typer.main.get_command(cli)
        words = container["args"]
        while hasattr(command, "commands"):
            command, words = command.commands[words[0]], words[1:]
        command.make_context(container["name"], [*words])  # raises for what it doesn't know


def test_no_container_is_privileged_or_can_write_to_its_image(resources: list[Resource]) -> None:
    for pod in pods(resources):
        assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
        assert pod["spec"]["automountServiceAccountToken"] is False
    for container in containers(resources):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["limits"].keys() == {"memory"}  # a limit of CPU would only slow it


def test_what_is_mounted_is_a_volume_and_secrets_come_by_reference(resources: list[Resource]) -> None:
    assert "Secret" not in {resource["kind"] for resource in resources}
    for pod in pods(resources):
        volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
        for container in [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]:
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes.keys()
        assert volumes["credentials"]["secret"]["secretName"] == "cohorts-credentials"
        assert volumes["settings"]["configMap"]["name"] == "cohorts-settings"


def test_what_selects_the_worker_finds_it(resources: list[Resource]) -> None:
    labels = of_kind(resources, "Deployment")["spec"]["template"]["metadata"]["labels"]
    for kind in ("Deployment", "PodDisruptionBudget", "PodMonitor"):
        assert of_kind(resources, kind)["spec"]["selector"]["matchLabels"].items() <= labels.items()
    policy = of_kind(resources, "NetworkPolicy")["spec"]
    night = of_kind(resources, "CronJob")["spec"]["jobTemplate"]["spec"]["template"]["metadata"]["labels"]
    assert policy["podSelector"]["matchLabels"].items() <= labels.items() & night.items()
    assert all(
        policy["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items() for pod in pods(resources)
    )


def test_a_directory_is_watched_once_where_that_is_chosen(
    resources: list[Resource],
    overlay: str,
    watching: bool,  # noqa: FBT001 - pytest gives it
) -> None:
    alone = "cohorts-watch" in {each["metadata"]["name"] for each in resources if each["kind"] == "Deployment"}
    asked = [container for container in containers(resources) if container["args"][0] == "watch"]
    assert alone == (watching and overlay != "single")
    assert len(asked) == watching
    for container in asked:
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        assert ("state" in mounted) == (overlay == "single")  # where the ledger is


def test_prometheus_is_let_in_to_every_port_that_is_scraped(resources: list[Resource]) -> None:
    scraped = {endpoint["port"] for endpoint in of_kind(resources, "PodMonitor")["spec"]["podMetricsEndpoints"]}
    [let_in] = of_kind(resources, "NetworkPolicy")["spec"]["ingress"]
    assert {port["port"] for port in let_in["ports"]} == scraped
    assert {port["name"] for each in containers(resources) for port in each.get("ports", ())} <= scraped


def test_every_container_has_the_image_that_the_overlay_names(resources: list[Resource]) -> None:
    assert {container["image"] for container in containers(resources)} == {"etape-cohorts:0.1.0"}


def test_grafana_finds_every_dashboard(resources: list[Resource]) -> None:
    maps = [each for each in resources if each["kind"] == "ConfigMap"]
    assert all(each["metadata"]["labels"]["grafana_dashboard"] == "1" for each in maps)
    shown = {name: text for each in maps for name, text in each["data"].items()}
    files = (ROOT / "deploy" / "grafana").glob("*.json")
    assert shown == {file.name: file.read_text(encoding="utf-8") for file in files}


def test_each_overlay_has_its_workers_and_its_ledger(resources: list[Resource], overlay: str) -> None:
    worker = of_kind(resources, "Deployment")["spec"]
    state = next(volume for volume in worker["template"]["spec"]["volumes"] if volume["name"] == "state")
    kinds = {resource["kind"] for resource in resources}
    assert worker.get("replicas") == {"single": 1, "scaled": 2, "keda": None}[overlay]  # None: KEDA's to decide
    assert ("persistentVolumeClaim" in state) == (overlay == "single") == ("PersistentVolumeClaim" in kinds)
    assert ("ScaledObject" in kinds) == (overlay == "keda")
    migrating = [container["args"] for container in worker["template"]["spec"]["initContainers"]]
    assert migrating == [["migrate"]]


def test_one_snapshot_a_night_is_published_and_reconciled(resources: list[Resource], overlay: str) -> None:
    asked = [" ".join(container["args"]) for container in containers(resources)]
    assert sum(words.startswith("snapshot publish") for words in asked) == 1
    assert sum(words == "reconcile" or "--reconcile-at" in words for words in asked) == 1
    assert ("reconcile" in asked) == (overlay != "single")


def test_a_job_never_overlaps_another_and_begins_by_the_clock_of_paris(resources: list[Resource]) -> None:
    night = of_kind(resources, "CronJob")["spec"]
    assert (night["concurrencyPolicy"], night["timeZone"]) == ("Forbid", "Europe/Paris")
    assert night["startingDeadlineSeconds"] >= 3600


def test_the_night_begins_at_the_same_time_whatever_starts_it() -> None:
    cronjob = (KUBERNETES / "base" / "cronjob.yaml").read_text(encoding="utf-8")
    timer = (ROOT / "deploy" / "systemd" / "cohorts-night.timer").read_text(encoding="utf-8")
    [(minute, hour)] = re.findall(r'schedule: "(\d+) (\d+) \* \* \*"', cronjob)
    assert re.findall(r"OnCalendar=\*-\*-\* (\d+):(\d+):00", timer) == [(hour.zfill(2), minute.zfill(2))]


def test_kubernetes_has_the_rules_of_prometheus() -> None:
    written = yaml.safe_load(prometheus_rule.TARGET.read_text(encoding="utf-8"))
    assert written == prometheus_rule.resource(), "run `make reference`"


def test_secrets_are_read_as_kubernetes_mounts_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = tmp_path / "credentials" / "..2026_11_25_03_30_00.1"
    written.mkdir(parents=True)
    for name, value in (("COHORTS_PLATFORMS__ECAMPUS__TOKEN", "a-token"), ("COHORTS_KAFKA__PASSWORD", "a-password\n")):
        (written / name).write_text(value, encoding="utf-8")
        (tmp_path / "credentials" / name).symlink_to(f"..data/{name}")
    (tmp_path / "credentials" / "..data").symlink_to(written.name)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path / "credentials"))
    file = tmp_path / "cohorts.toml"
    platform = '[platforms.ecampus]\nmode = "observe"\nurl = "https://ecampus.example.fr"\n'
    file.write_text(f'uais = ["0141408E"]\nactive_years = [2026]\n{platform}', encoding="utf-8")
    settings = load(file)
    token = settings.platforms["ecampus"].token
    assert token is not None
    assert token.get_secret_value() == "a-token"
    assert settings.kafka.properties()["sasl.password"] == "a-password"
