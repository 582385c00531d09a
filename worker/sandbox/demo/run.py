"""The whole job in about a minute on embedded servers, judged at the end by a generator that knows the truth."""

import signal
import time
from collections.abc import Callable
from contextlib import suppress

from worker.sandbox.demo.day import Day, publish_evenly
from worker.sandbox.demo.night import Night
from worker.sandbox.demo.show import Show
from worker.sandbox.demo.stage import Stage, open_stage
from worker.sandbox.demo.verdict import judge

STUDENTS = 3_000
TRICKLE_CHANGES, TRICKLE_SECONDS = 30, 30.0


def run(
    *,
    serve: bool = False,
    students: int = STUDENTS,
    seed: int = 1,
    meddle: Callable[[Stage], None] | None = None,
    meddle_at_night: Callable[[Stage], None] | None = None,
) -> bool:
    """Play the demo; returns whether every check held.

    To spoil it, `meddle` is called before the verdict, and `meddle_at_night` while a reconciliation runs.
    """
    with open_stage(students=students, seed=seed) as stage:
        show = Show(stage)
        day, night = Day(stage, show), Night(stage, show, meddle_at_night)
        _introduce(stage, show)
        steps = (day.load, day.change, day.recover, day.complete)
        for step in (*steps, night.upset, night.reconcile, night.approve, night.undo, night.mend):
            if not show.failures:
                step()
        if meddle:
            meddle(stage)
        judge(stage, show)
        day.measure()
        _conclude(show)
        if serve:
            night.leave_held()
            _run_on(stage, show)
    return not show.failures


def _introduce(stage: Stage, show: Show) -> None:
    """Print what there is, and where to look meanwhile."""
    truth = stage.university.truth()
    show.console.rule("étape cohorts: a demo on an invented university")
    show.say(
        f"{stage.university.students} students with {sum(map(len, truth.values()))} memberships of "
        f"{len(truth)} étapes; a broker, a SQLite ledger and three Moodles, as slow as real ones:"
    )
    show.say("  ecampus    automatic: every étape; the account of a student is e<student id>")
    show.say("  collegium  automatic: health étapes only; accounts by idnumber")
    show.say("  prelude    manual: people manage its cohorts, the worker never writes there")
    show.say_where_to_look()


def _conclude(show: Show) -> None:
    """Print the outcome in one line."""
    outcome = f"[red]{show.failures} checks FAILED[/]" if show.failures else "[green]every check held[/]"
    show.console.rule(f"{outcome} ({show.seconds:.0f} s)")


def _run_on(stage: Stage, show: Show) -> None:
    """Let more days pass until Ctrl-C."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    show.step(f"Running on: {TRICKLE_CHANGES} changes every {TRICKLE_SECONDS:.0f} s, until Ctrl-C.")
    show.say_where_to_look()
    stage.university.go_on(since=time.time(), day=TRICKLE_SECONDS)  # days of days would soon be dated far ahead
    with suppress(KeyboardInterrupt):
        while not stage.worker_ended():
            day = stage.university.september_day(TRICKLE_CHANGES)
            publish_evenly(stage, show, [(m.key.encode(), m.payload()) for m in day], seconds=TRICKLE_SECONDS)
            stage.create_late_accounts()
