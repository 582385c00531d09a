import os
import subprocess
import sys

import pytest

from tests.support.installation import environment
from tools.bench.__main__ import PARTS


@pytest.mark.parametrize("part", PARTS)
def test_a_short_form_of_each_part_of_the_bench_runs_to_its_end(part: str) -> None:
    done = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-m", "tools.bench", part],
        capture_output=True,
        check=False,
        encoding="utf-8",
        env=environment() | {"BENCH_SHARE": "0.005"},
    )
    assert done.returncode == 0, done.stderr
    assert PARTS[part].TITLE in done.stdout
    assert "not measured" not in done.stdout or "CI" not in os.environ
