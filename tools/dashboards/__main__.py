"""Writes the dashboards of Grafana: `make dashboards` makes the JSON files of deploy/grafana from these modules.

A test fails when they disagree, and has a real Prometheus answer every query.
"""

import json
import sys
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from tools.dashboards import flow, night, platforms, promise

HERE = Path(__file__).parents[2] / "deploy" / "grafana"
DASHBOARDS = {
    "promise.json": promise.page,
    "flow.json": flow.page,
    "night.json": night.page,
    "platforms.json": platforms.page,
}
"""What each file is made by."""


def text(name: str) -> str:
    """Return what a file must contain."""
    page = DASHBOARDS[name]().build()
    for number, panel in enumerate(page.panels or (), start=1):
        panel.id_val = number
    return json.dumps(page, cls=JSONEncoder, indent=2, ensure_ascii=False, sort_keys=True) + "\n"


if __name__ == "__main__":
    for name in DASHBOARDS:
        (HERE / name).write_text(text(name), encoding="utf-8")
        sys.stdout.write(f"{HERE / name} written\n")
