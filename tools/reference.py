"""Writes deploy/reference.md from the code: `make reference`. A test fails when it is out of date."""

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
from pydantic_core import PydanticUndefined

from worker import telemetry
from worker.cli.main import EXIT_CODES, cli
from worker.domain.states import Reason
from worker.ledger import status
from worker.settings.root import Settings

DEPLOY = Path(__file__).parent.parent / "deploy"
PAGE, ALERTS = DEPLOY / "reference.md", DEPLOY / "prometheus" / "alerts.yml"


def page() -> str:
    """The whole page."""
    return "\n".join([*_head(), *_commands(), *_settings(), *_metrics(), *_alerts(), *_words()]) + "\n"


def _head() -> Iterator[str]:
    yield "# Reference"
    yield ""
    yield "Written from the code by `make reference`: every command, setting, metric, alert and reason."


def _commands() -> Iterator[str]:
    yield from ("", "## Commands", "", "| command | what it does |", "| --- | --- |")
    yield "| `cohorts --version` | Print the version, and end. |"
    yield from _group("cohorts", typer.main.get_command(cli))
    yield from ("", "| exit code | meaning |", "| --- | --- |")
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
    yield from ("", "## Settings", "")
    yield "One TOML file (`cohorts.toml`, or `--config`, or `COHORTS_CONFIG`). Each of them can come from the"
    yield "environment instead, as `COHORTS_` and its path in capitals with `__` for a dot"
    yield "(`COHORTS_PLATFORMS__ECAMPUS__TOKEN`), or from a file of that name in the directory that"
    yield "`CREDENTIALS_DIRECTORY` names, which comes first."
    yield from ("", "| setting | default | what it is |", "| --- | --- | --- |")
    yield from _section("", Settings)


def _section(prefix: str, section: type[BaseModel]) -> Iterator[str]:
    for name, info in section.model_fields.items():
        models = list(_models(info.annotation))
        if models:
            origin = get_origin(info.annotation)
            many = "*NAME*." if origin is dict else "*n*." if origin is tuple else ""
            if info.description:
                yield f"| `{prefix}{name}` | | {info.description} |"
            for model in models:  # of several, `kind` says which
                kind = f" of kind {_kind(model)}" if len(models) > 1 else ""
                yield from (line.replace("` |", f"`{kind} |", 1) for line in _section(f"{prefix}{name}.{many}", model))
        else:
            yield f"| `{prefix}{name}` | {_default(info.default, info.default_factory)} | {info.description} |"


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


def _metrics() -> Iterator[str]:
    yield from ("", "## Metrics", "", "| metric | labels | what it is |", "| --- | --- | --- |")
    for metric in metrics():
        (family,) = metric.describe()
        name = family.name + {"counter": "_total", "info": "_info"}.get(family.type, "")
        names = metric._value if isinstance(metric, Info) else metric._labelnames
        labels = ", ".join(f"`{label}`" for label in names)
        yield f"| `{name}` | {labels} | {family.documentation} |"


def _alerts() -> Iterator[str]:
    yield from (
        "",
        "## Alerts",
        "",
        "`page`: act now. `warning`: act today. *n* is the figure that the alert tells.",
        "",
    )
    yield from ("| alert | severity | after | what it says |", "| --- | --- | --- | --- |")
    for alert in alerts():
        said = alert["annotations"]["summary"]
        for template, words in _TEMPLATES.items():
            said = re.sub(template, words, said)
        link = f"[{alert['alert']}](runbook.md#{alert['alert'].lower()})"
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


def _words() -> Iterator[str]:
    yield from ("", "## States of a gap", "", "| state | waits for |", "| --- | --- |")
    for state, meaning in status.GAP_STATES.items():
        yield f"| `{state}` | {meaning} |"
    yield from ("", "## Reasons", "", "Why a membership waits. Besides these, the errorcode that Moodle gave.", "")
    for reason in Reason:
        yield f"- `{reason}`"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    sys.stdout.write(f"{PAGE} written\n")
