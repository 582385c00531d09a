"""Writes Kubernetes' copy of the rules of Prometheus: `make reference`. A test fails when it is out of date."""

import sys
from pathlib import Path
from typing import Any

import yaml

DEPLOY = Path(__file__).parent.parent / "deploy"
RULES = [DEPLOY / "prometheus" / "recording.yml", DEPLOY / "prometheus" / "alerts.yml"]
TARGET = DEPLOY / "kubernetes" / "monitoring" / "prometheusrule.yaml"


def resource() -> dict[str, Any]:
    """Return the PrometheusRule with every group of every file."""
    groups = [group for file in RULES for group in yaml.safe_load(file.read_text(encoding="utf-8"))["groups"]]
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "cohorts", "labels": {"app.kubernetes.io/name": "etape-cohorts"}},
        "spec": {"groups": groups},
    }


if __name__ == "__main__":
    text = yaml.safe_dump(resource(), allow_unicode=True, sort_keys=False, width=120)
    sources = ", ".join(f"../../{file.relative_to(DEPLOY)}" for file in RULES)
    TARGET.write_text(f"# Written by `make reference` from {sources}.\n{text}", encoding="utf-8")
    sys.stdout.write(f"{TARGET} written\n")
