"""The main job in about a minute, on sandboxes, judged at the end by a generator that knows the truth."""

import math
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

from worker import telemetry
from worker.domain.states import Action, PlatformState
from worker.ledger import status
from worker.sandbox.demo.night import Night
from worker.sandbox.demo.show import LOOK_SECONDS, Show
from worker.sandbox.demo.stage import KEPT, REMOVAL_DELAY_SECONDS, Stage, staged
from worker.sandbox.demo.verdict import judge
from worker.sandbox.moodle.server import Fault

STUDENTS = 3_000
STUDENTS_PER_CHANGE = 6
DAY_SECONDS = 7.0
"""What a day of changes takes here: far less between two swapped messages than a removal waits."""
TRICKLE_CHANGES, TRICKLE_SECONDS = 30, 30.0
MOSTLY = 0.95


def run(
    *,
    serve: bool = False,
    students: int = STUDENTS,
    seed: int = 1,
    meddle: Callable[[Stage], None] | None = None,
    meddle_at_night: Callable[[Stage], None] | None = None,
) -> bool:
    """Play the demo; tells whether every check held.

    To spoil it, `meddle` is called before the last look, and `meddle_at_night` while a reconciliation runs.
    """
    with staged(students=students, seed=seed) as stage:
        show = Show(stage)
        demo, night = Demo(stage, show), Night(stage, show, meddle_at_night)
        demo.introduce()
        day = (demo.load, demo.change, demo.recover, demo.complete)
        for step in (*day, night.befall, night.reconcile, night.approve, night.undo, night.mend):
            if not show.failures:
                step()
        if meddle:
            meddle(stage)
        judge(stage, show)
        demo.measure()
        demo.conclude()
        if serve:
            demo.live_on()
    return not show.failures


class Demo:
    """The steps of the day, each of which says what happens and what was checked."""

    def __init__(self, stage: Stage, show: Show) -> None:
        self._stage = stage
        self._show = show
        self._before_changes: Counter[tuple[str, str, float]] = Counter()
        self._after_changes: Counter[tuple[str, str, float]] = Counter()

    def introduce(self) -> None:
        """Say what there is, and where to look meanwhile."""
        stage = self._stage
        truth = stage.university.truth()
        self._show.console.rule("étape cohorts: a demo on an invented university")
        self._show.say(
            f"{stage.university.students} students with {sum(map(len, truth.values()))} memberships of "
            f"{len(truth)} étapes; a broker, a SQLite ledger and three Moodles that answer as slowly as real ones:"
        )
        self._show.say("  ecampus    automatic: every étape; a student's account is e<student id>")
        self._show.say("  collegium  automatic: health étapes only; accounts by idnumber")
        self._show.say("  prelude    manual: kept by hand, never written")
        self._show.point()

    def load(self) -> None:
        """Publish all enrolments; every cohort is to be created and filled."""
        stage = self._stage
        self._show.step("Initial load: all enrolments are published at once, cohorts are created and filled.")
        stage.publish((message.key.encode(), message.payload()) for message in stage.university.initial())
        self._show.until_right(*KEPT, what=f"{stage.published} messages became the cohorts of the generator")
        parked = sum(stage.compare(name).accountless for name in KEPT)
        self._show.say(
            f"   {parked} memberships are parked: their students have no account yet. Nobody waits for them."
        )

    def change(self) -> None:
        """Live a day of changes, with poison among them, while Collegium is down."""
        stage = self._stage
        changes = stage.university.students // STUDENTS_PER_CHANGE
        stage.platforms["collegium"].moodle.fault = Fault.PHP_DOWN
        self._show.step(
            f"A September day: {changes} changes, told out of order and twice; and Collegium is down (502)."
        )
        self._before_changes = _applied()
        messages = [(m.key.encode(), m.payload()) for m in stage.university.september_day(changes)]
        stage.poison = [(key.encode(), value) for key, value in stage.university.poison()]
        self._publish(_strewn(messages, stage.poison), seconds=DAY_SECONDS)
        self._show.say("   " + ", ".join(f"{n} {kind}" for kind, n in stage.university.changes.most_common()))
        self._show.until_right(
            "ecampus", what=f"ecampus was not held up (removals wait {REMOVAL_DELAY_SECONDS} s on purpose)"
        )
        self._after_changes = _applied()
        self._show.check(
            "what Collegium must become is already in the ledger",
            ()
            if self._desired("collegium") == self._true("collegium")
            else ["the ledger's desired memberships differ from the truth"],
        )
        behind, platform = len(stage.compare("collegium").differences), stage.status("collegium")
        if behind:
            self._show.check(
                f"its outage is known: {behind} cohorts are behind ({platform.sentence})",
                ["collegium is said to be up"] if platform.state is PlatformState.UP else (),
            )

    def recover(self) -> None:
        """Let Collegium answer again."""
        collegium = self._stage.platforms["collegium"].moodle
        self._show.step("Collegium answers again: its gaps close by themselves, at the next attempt.")
        refused = sum(call.error == Fault.PHP_DOWN for call in collegium.calls)
        collegium.fault = None
        self._show.until_right("collegium", what=f"collegium has caught up ({refused} calls were refused)")

    def complete(self) -> None:
        """Create the accounts that were missing."""
        stage = self._stage
        before = sum(stage.compare(name).accountless for name in KEPT)
        self._show.step("Accounts appear late, as those of new arrivals do: parked memberships are tried again.")
        stage.create_late_accounts()
        after = sum(stage.compare(name).accountless for name in KEPT)
        self._show.until_right(*KEPT, what=f"{before - after} of {before} parked memberships were applied")

    def measure(self) -> None:
        """Say how much it was and how long it took."""
        stage = self._stage
        self._show.step(f"Measured, {self._show.seconds:.0f} s after the start")
        self._show.say(f"   {stage.published} messages published, {len(stage.poison)} of them poison")
        changes = self._after_changes - self._before_changes
        for name in KEPT:
            calls = stage.platforms[name].moodle.calls
            refused = sum(call.error is not None for call in calls)
            applied = {
                action: len(status.applied(stage.ledger, name, action)) for action in (Action.ADD, Action.REMOVE)
            }
            self._show.say(
                f"   {name}: {applied[Action.ADD]} additions and {applied[Action.REMOVE]} removals in "
                f"{sum(call.writes for call in calls)} writing calls of {len(calls)} ({refused} refused)"
            )
        waits = f", {REMOVAL_DELAY_SECONDS} s of which they wait on purpose"
        for action, words, note in ((Action.ADD, "additions", ""), (Action.REMOVE, "removals", waits)):
            if found := _within(changes, "ecampus", action):
                self._show.say(
                    f"   ecampus on the day of changes: {found[0]} {words}, {MOSTLY:.0%} of them on Moodle within "
                    f"{found[1]:g} s of their message{note}"
                )

    def live_on(self) -> None:
        """Stay up and live further days, until Ctrl-C."""
        stage = self._stage
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        self._show.step(f"Living on: {TRICKLE_CHANGES} changes every {TRICKLE_SECONDS:.0f} s. Ctrl-C ends it.")
        self._show.point()
        with suppress(KeyboardInterrupt):
            while not stage.worker_ended():
                day = stage.university.september_day(TRICKLE_CHANGES)
                self._publish([(m.key.encode(), m.payload()) for m in day], seconds=TRICKLE_SECONDS)
                stage.create_late_accounts()

    def conclude(self) -> None:
        """Say the outcome in one line."""
        outcome = (
            f"[red]{self._show.failures} checks FAILED[/]" if self._show.failures else "[green]every check held[/]"
        )
        self._show.console.rule(f"{outcome} ({self._show.seconds:.0f} s)")

    def _desired(self, name: str) -> dict[str, frozenset[str]]:
        return {code: who for code, who in status.desired(self._stage.ledger, name).items() if who}

    def _true(self, name: str) -> dict[str, frozenset[str]]:
        labels, components = self._stage.university.labels(), self._stage.platforms[name].components
        return {
            code: who
            for code, who in self._stage.university.truth().items()
            if components is None or labels[code][1] in components
        }

    # Publishing, waiting and talking

    def _publish(self, messages: list[tuple[bytes, bytes]], *, seconds: float) -> None:
        """Publish in this order, evenly over so many seconds."""
        most = math.ceil(len(messages) * LOOK_SECONDS / seconds)
        with self._show.progress() as progress:
            for start in progress.track(range(0, len(messages), most), description="publishing"):
                self._stage.publish(messages[start : start + most])
                time.sleep(LOOK_SECONDS)


def _strewn(messages: list[tuple[bytes, bytes]], poison: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Strew the poison evenly among the messages."""
    every = max(1, len(messages) // max(1, len(poison)))
    strewn = [*messages]
    for rank, dose in reversed([*enumerate(poison)]):
        strewn.insert(rank * every, dose)
    return strewn


def _applied() -> Counter[tuple[str, str, float]]:
    """How many changes were on Moodle within so many seconds, by (platform, action, seconds): the metric."""
    applied: Counter[tuple[str, str, float]] = Counter()
    for metric in telemetry.APPLIED_SECONDS.collect():
        for sample in metric.samples:
            if sample.name.endswith("_bucket"):
                labels = sample.labels
                applied[labels["platform"], labels["action"], float(labels["le"])] += int(sample.value)
    return applied


def _within(applied: Counter[tuple[str, str, float]], platform: str, action: str) -> tuple[int, float] | None:
    """How many changes there were, and the metric's bound within which most of them were applied."""
    counts = {bound: n for (where, what, bound), n in sorted(applied.items()) if (where, what) == (platform, action)}
    most = counts.get(math.inf, 0)
    return (most, next(bound for bound, n in counts.items() if n >= MOSTLY * most)) if most else None
