"""The command that explains why a student is, or isn't, in a cohort: explain."""

import time
from dataclasses import asdict
from typing import Annotated

import typer

from worker import explain as explaining
from worker.cli.base import DEFAULT_CONFIG, ConfigOption, JsonOption, out, prepare, say_json
from worker.domain.states import Language
from worker.ledger import student_view
from worker.runtime.ledger import opened

family = typer.Typer()


@family.command()
def explain(
    student: Annotated[str, typer.Argument(help="The student number (COD_ETU), with its leading zeros.")],
    *,
    path: ConfigOption = DEFAULT_CONFIG,
    platform: Annotated[str | None, typer.Option(help="Only this platform.")] = None,
    cohort: Annotated[str | None, typer.Option(help="Only this cohort, by its idnumber or name.")] = None,
    language: Annotated[Language, typer.Option("--lang", help="The language of the answer.")] = Language.FR,
    as_json: JsonOption = False,
) -> None:
    """Explain why a student is, or isn't, in a cohort: what the sources say, what blocks it, and what happens next.

    Exit code 1: no source knows this number.
    """
    if not student.strip():
        raise typer.BadParameter("give a student number (COD_ETU)", param_hint="STUDENT")
    settings = prepare(path)
    policy = settings.policy()
    with opened(settings) as ledger:
        view = student_view.read(ledger, policy, student.strip(), cohort)
    answer = explaining.explain(view, policy, now=time.time(), platform=platform, cohort=cohort)
    if as_json:
        say_json(asdict(answer))
    else:
        text = explaining.render(answer, language, settings.zone)
        out.print(text, end="", soft_wrap=True, markup=False, highlight=False)
    if explaining.Why.PLATFORM_UNKNOWN in answer.codes():
        raise typer.Exit(2)
    if explaining.Why.STUDENT_UNKNOWN in answer.codes():
        raise typer.Exit(1)
