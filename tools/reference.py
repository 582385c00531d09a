"""Writes the reference, docs/reference, from the code: `make reference`. A test fails when it is out of date."""

import re
import sys
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any, get_args, get_origin

import typer
import yaml
from prometheus_client import Info
from prometheus_client.metrics import MetricWrapperBase
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from worker import telemetry
from worker.cli.main import EXIT_CODES, cli
from worker.domain.states import Reason
from worker.ledger import status
from worker.moodle.refusals import REMEDIES
from worker.settings.root import Settings

ROOT = Path(__file__).parent.parent
FOLDER, ALERTS = ROOT / "docs" / "reference", ROOT / "deploy" / "prometheus" / "alerts.yml"


def pages() -> dict[Path, str]:
    """Return the text of each page, by its file."""
    writers = {
        "commands": _commands, "settings": _settings, "metrics": _metrics, "alerts": _alerts, "states": _states,
        "refusals": _refusals,
    }  # fmt: skip
    return {FOLDER / f"{name}.md": "\n".join(lines()) + "\n" for name, lines in writers.items()}


def _commands() -> Iterator[str]:
    yield from ("# Commands", "", "`--help` shows the options of each command in full.", "")
    yield from ("| command | what it does |", "| --- | --- |")
    yield "| `cohorts --version` | Print the version, and end. |"
    yield from _group("cohorts", typer.main.get_command(cli))
    yield from ("", "## Exit codes", "", "| code | meaning |", "| --- | --- |")
    for code, meaning in EXIT_CODES.items():
        yield f"| {code} | {meaning} |"


def _group(prefix: str, command: Any) -> Iterator[str]:
    for name, child in sorted(command.commands.items()):
        if hasattr(child, "commands"):
            yield from _group(f"{prefix} {name}", child)
        else:
            options = " ".join(
                f"`{max(parameter.opts, key=len)}`" for parameter in child.params if parameter.opts[0].startswith("-")
            )
            arguments = "".join(
                f" {parameter.name.upper()}" for parameter in child.params if not parameter.opts[0].startswith("-")
            )
            yield f"| `{prefix} {name}{arguments}` {options} | {' '.join((child.help or '').split())} |"


def _settings() -> Iterator[str]:
    yield from ("# Settings", "")
    yield "One TOML file: `cohorts.toml`, or the one that `--config` or `COHORTS_CONFIG` names. Each setting can come"
    yield "from the environment instead, as `COHORTS_` and its path in capitals with `__` for a dot"
    yield "(`COHORTS_PLATFORMS__ECAMPUS__TOKEN`), or from a file of that name in the directory that"
    yield "`CREDENTIALS_DIRECTORY` names; the file comes first."
    yield from ("", "## General", "", *_HEAD)
    for name, info in Settings.model_fields.items():
        if not list(_models(info.annotation)):
            yield _setting(name, info)
    for name, info in Settings.model_fields.items():
        if list(_models(info.annotation)):
            yield from ("", f"## {name}", "", *_HEAD, *_nested(name, info))


_HEAD = ("| setting | default | what it is |", "| --- | --- | --- |")


def _section(prefix: str, section: type[BaseModel]) -> Iterator[str]:
    for name, info in section.model_fields.items():
        if list(_models(info.annotation)):
            yield from _nested(prefix + name, info)
        else:
            yield _setting(prefix + name, info)


def _setting(name: str, info: FieldInfo) -> str:
    return f"| `{name}` | {_default(info.default, info.default_factory)} | {info.description} |"


def _nested(name: str, info: FieldInfo) -> Iterator[str]:
    """Describe a section, or a table or list of sections."""
    if info.description:
        yield f"| `{name}` | | {info.description} |"
    origin = get_origin(info.annotation)
    many = "*NAME*." if origin is dict else "*n*." if origin is tuple else ""
    models = list(_models(info.annotation))
    for model in models:  # of several, `kind` says which
        kind = f" of kind {_kind(model)}" if len(models) > 1 else ""
        yield from (line.replace("` |", f"`{kind} |", 1) for line in _section(f"{name}.{many}", model))


def _kind(model: type[BaseModel]) -> str:
    return str(get_args(model.model_fields["kind"].annotation)[0])


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models(argument)


def _default(default: Any, factory: Any) -> str:
    if factory is not None:
        default = factory()
    if default is PydanticUndefined:
        return "required"
    if isinstance(default, SecretStr):
        default = default.get_secret_value()
    if isinstance(default, frozenset | tuple):
        return "`[" + ", ".join(f'"{_plain(item)}"' for item in sorted(default)) + "]`"
    return "none" if default is None or default == {} else f"`{_plain(default)}`"


def _plain(value: Any) -> str:
    return str(value.value if isinstance(value, Enum) else value)


def _refusals() -> Iterator[str]:
    yield from ("# Refusals of a Moodle", "", "What `cohorts check` and `cohorts status` name by these codes is for a")
    yield from ("person: the worker stops writing to that platform, and tries again every 5 minutes.", "")
    yield from ("| code | what to do |", "| --- | --- |")
    for code, remedy in sorted(REMEDIES.items()):
        yield f"| `{code}` | {remedy} |"
    yield from (
        "",
        "Any other code that isn't about a single member or cohort, known or not, is an outage: the worker waits",
    )
    yield "and tries again by itself."


def _metrics() -> Iterator[str]:
    yield from ("# Metrics", "", "Every worker serves them on `/metrics`.", "")
    yield from ("| metric | labels | what it is |", "| --- | --- | --- |")
    for metric in metrics():
        (family,) = metric.describe()
        name = family.name + {"counter": "_total", "info": "_info"}.get(family.type, "")
        names = metric._value if isinstance(metric, Info) else metric._labelnames
        labels = ", ".join(f"`{label}`" for label in names)
        yield f"| `{name}` | {labels} | {family.documentation} |"


def _alerts() -> Iterator[str]:
    yield from ("# Alerts", "")
    yield "`page`: act now. `warning`: act today. *n* is the figure in the alert. Each links to what to do about it."
    yield ""
    yield from ("| alert | severity | after | what it says |", "| --- | --- | --- | --- |")
    for alert in alerts():
        said = alert["annotations"]["summary"]
        for template, words in _TEMPLATES.items():
            said = re.sub(template, words, said)
        link = f"[{alert['alert']}](../operate/alerts.md#{alert['alert'].lower()})"
        yield f"| {link} | {alert['labels']['severity']} | {alert.get('for', 'at once')} | {said} |"


_TEMPLATES = {
    r"\{\{ \$labels\.(\w+) \}\}": r"*\1*",
    r"\{\{ humanizeDuration \$labels\.le \}\}": "5 minutes, or 24 hours",
    r"\{\{ \$value[^}]*\}\}": "*n*",
}
"""What stands for what Prometheus fills in."""


def alerts() -> list[dict[str, Any]]:
    """Every alert of Prometheus' rules, in order."""
    groups = yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def metrics() -> list[MetricWrapperBase]:
    """Every metric that the worker declares."""
    return [value for value in vars(telemetry).values() if isinstance(value, MetricWrapperBase)]


def _states() -> Iterator[str]:
    yield from ("# States and reasons", "", "## States of a gap", "", "| state | waits for |", "| --- | --- |")
    for state, meaning in status.GAP_STATES.items():
        yield f"| `{state}` | {meaning} |"
    yield from ("", "## Reasons", "", "Why a membership waits. Besides these, the error code that Moodle gave.", "")
    for reason in Reason:
        yield f"- `{reason}`"


if __name__ == "__main__":
    for file, text in pages().items():
        file.write_text(text, encoding="utf-8")
        sys.stdout.write(f"{file} written\n")
