"""A procedure of the runbook, tried as it is written: its commands, in their order, and no other."""
# ruff: noqa: S603 -- the programs are those that it names

import io
import re
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout

from tests.support.installation import Installation
from tests.support.paths import ROOT
from worker.cli import base
from worker.cli.main import cli

PAGE = ROOT / "docs" / "operate" / "procedures.md"


def commands(title: str) -> list[str]:
    """Give the commands of a procedure, as the runbook has them."""
    text = PAGE.read_text(encoding="utf-8")
    [section] = re.findall(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    blocks = re.findall(r"^ *```sh\n(.*?)^ *```$", section, re.MULTILINE | re.DOTALL)
    return [line.strip() for block in blocks for line in block.splitlines()]


class Procedure:
    """The commands of one procedure that are still to be tried."""

    def __init__(self, here: Installation, title: str) -> None:
        self._here = here
        self.left = commands(title)

    def run(self, command: str, code: int = 0, /, **stands_for: str) -> str:
        """Run the next command of the runbook, which must be this one, with what its words in capitals stand for.

        Gives all that it printed; it must end with this code.
        """
        assert command == self.left.pop(0)
        program, *words = [stands_for.get(word, word) for word in shlex.split(command)]
        if program == "cohorts":
            return said_in_process(*words, "--config", str(self._here.file), code=code)
        assert program in {"pg_dump", "pg_restore"}
        done = subprocess.run([program, *words], capture_output=True, check=False, text=True)
        assert done.returncode == code, done.stderr
        return done.stdout


def said_in_process(*arguments: str, code: int = 0) -> str:
    """Run a command in this process, which saves a second each; gives all that it printed."""
    said = io.StringIO()
    base.out.width = 200
    with redirect_stdout(said), redirect_stderr(said):
        ended = cli(list(arguments), standalone_mode=False)
    assert (ended or 0) == code, said.getvalue()
    return said.getvalue()


@contextmanager
def procedure(here: Installation, title: str) -> Iterator[Procedure]:
    """Try a procedure to its end."""
    trying = Procedure(here, title)
    yield trying
    assert trying.left == []
