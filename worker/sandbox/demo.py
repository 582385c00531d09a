"""The main job in about a minute, on sandboxes, judged at the end by a generator that knows the truth."""

import math
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from http.client import HTTPConnection
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from worker import telemetry
from worker.deadletters import dead_letters
from worker.ledger import reading
from worker.model import Action, PlatformState
from worker.sandbox.demo_stage import DEAD_LETTERS, REMOVAL_DELAY_SECONDS, Comparison, Stage, staged
from worker.sandbox.moodle import Fault

STUDENTS = 3_000
STUDENTS_PER_CHANGE = 6
DAY_SECONDS = 10.0
"""What a day of changes takes here: far less between two swapped messages than a removal waits."""
PATIENCE_SECONDS = 90.0
LOOK_SECONDS = 0.25
TRICKLE_CHANGES, TRICKLE_SECONDS = 30, 30.0
SHOWN = 10
"""Differences printed of those that a failed check has found."""
KEPT = ("ecampus", "collegium")
"""The platforms that the worker keeps."""
MOSTLY = 0.95


def run(
    *, serve: bool = False, students: int = STUDENTS, seed: int = 1, meddle: Callable[[Stage], None] | None = None
) -> bool:
    """Play the demo; tells whether every check held. `meddle` is called before the last look, to spoil it."""
    with staged(students=students, seed=seed) as stage:
        demo = Demo(stage)
        demo.introduce()
        for step in (demo.load, demo.change, demo.recover, demo.complete):
            if not demo.failures:
                step()
        if meddle:
            meddle(stage)
        demo.judge()
        demo.measure()
        demo.conclude()
        if serve:
            demo.live_on()
    return not demo.failures


class Demo:
    """The steps, each of which says what happens and what was checked."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._console = Console(highlight=False)
        self._started = time.monotonic()
        self._steps = 0
        self._before_changes: Counter[tuple[str, str, float]] = Counter()
        self._after_changes: Counter[tuple[str, str, float]] = Counter()
        self.failures = 0

    def introduce(self) -> None:
        """Say what there is, and where to look meanwhile."""
        stage = self._stage
        truth = stage.university.truth()
        self._console.rule("étape cohorts: a demo on an invented university")
        self._say(
            f"{stage.university.students} students with {sum(map(len, truth.values()))} memberships of "
            f"{len(truth)} étapes; a broker, a SQLite ledger and three Moodles that answer as slowly as real ones:"
        )
        self._say("  ecampus    automatic: every étape; a student's account is e<student id>")
        self._say("  collegium  automatic: health étapes only; accounts by idnumber")
        self._say("  prelude    manual: kept by hand, never written")
        self._point()

    def load(self) -> None:
        """Publish all enrolments; every cohort is to be created and filled."""
        stage = self._stage
        self._step("Initial load: all enrolments are published at once, cohorts are created and filled.")
        stage.publish((message.key.encode(), message.payload()) for message in stage.university.initial())
        self._await(*KEPT, what=f"{stage.published} messages became the cohorts of the generator")
        parked = sum(stage.compare(name).accountless for name in KEPT)
        self._say(f"   {parked} memberships are parked: their students have no account yet. Nobody waits for them.")

    def change(self) -> None:
        """Live a day of changes, with poison among them, while Collegium is down."""
        stage = self._stage
        changes = stage.university.students // STUDENTS_PER_CHANGE
        stage.platforms["collegium"].moodle.fault = Fault.PHP_DOWN
        self._step(f"A September day: {changes} changes, told out of order and twice; and Collegium is down (502).")
        self._before_changes = _applied()
        messages = [(m.key.encode(), m.payload()) for m in stage.university.september_day(changes)]
        stage.poison = [(key.encode(), value) for key, value in stage.university.poison()]
        self._publish(_strewn(messages, stage.poison), seconds=DAY_SECONDS)
        self._say("   " + ", ".join(f"{n} {kind}" for kind, n in stage.university.changes.most_common()))
        self._await("ecampus", what=f"ecampus was not held up (removals wait {REMOVAL_DELAY_SECONDS} s on purpose)")
        self._after_changes = _applied()
        self._check(
            "what Collegium must become is already in the ledger",
            ()
            if self._desired("collegium") == self._true("collegium")
            else ["the ledger's desired memberships differ from the truth"],
        )
        behind, status = len(stage.compare("collegium").differences), stage.status("collegium")
        if behind:
            self._check(
                f"its outage is known: {behind} cohorts are behind ({status.sentence})",
                ["collegium is said to be up"] if status.state is PlatformState.UP else (),
            )

    def recover(self) -> None:
        """Let Collegium answer again."""
        collegium = self._stage.platforms["collegium"].moodle
        self._step("Collegium answers again: its gaps close by themselves, at the next attempt.")
        refused = sum(call.error == Fault.PHP_DOWN for call in collegium.calls)
        collegium.fault = None
        self._await("collegium", what=f"collegium has caught up ({refused} calls were refused)")

    def complete(self) -> None:
        """Create the accounts that were missing."""
        stage = self._stage
        before = sum(stage.compare(name).accountless for name in KEPT)
        self._step("Accounts appear late, as those of new arrivals do: parked memberships are tried again.")
        stage.create_late_accounts()
        after = sum(stage.compare(name).accountless for name in KEPT)
        self._await(*KEPT, what=f"{before - after} of {before} parked memberships were applied")

    def judge(self) -> None:
        """Look at everything once more, without waiting."""
        stage = self._stage
        self._step("Verdict: every cohort of every Moodle, against what the generator says is true.")
        compared = {name: stage.compare(name) for name in stage.platforms}
        self._console.print(_table(stage, compared))
        for name in KEPT:
            found = compared[name]
            self._check(f"{name}: every cohort has the right name and members", found.differences)
            self._check(
                f"{name}: {found.accountless} without an account are parked, {found.foreign} wait for an adoption",
                self._miscounted(name, found),
            )
            removed = set(reading.applied(stage.ledger, name, Action.REMOVE))
            unasked = sorted(removed - stage.university.removals_asked())
            self._check(f"{name}: {len(removed)} were removed, all of them asked for", map(str, unasked))
        self._judge_hands(compared["prelude"])
        self._judge_letters()
        self._check("the worker runs, and says that it is alive and ready", self._unwell())

    def measure(self) -> None:
        """Say how much it was and how long it took."""
        stage = self._stage
        self._step(f"Measured, {time.monotonic() - self._started:.0f} s after the start")
        self._say(f"   {stage.published} messages published, {len(stage.poison)} of them poison")
        changes = self._after_changes - self._before_changes
        for name in KEPT:
            calls = stage.platforms[name].moodle.calls
            refused = sum(call.error is not None for call in calls)
            applied = {
                action: len(reading.applied(stage.ledger, name, action)) for action in (Action.ADD, Action.REMOVE)
            }
            self._say(
                f"   {name}: {applied[Action.ADD]} additions and {applied[Action.REMOVE]} removals in "
                f"{sum(call.writes for call in calls)} writing calls of {len(calls)} ({refused} refused)"
            )
        waits = f", {REMOVAL_DELAY_SECONDS} s of which they wait on purpose"
        for action, words, note in ((Action.ADD, "additions", ""), (Action.REMOVE, "removals", waits)):
            if found := _within(changes, "ecampus", action):
                self._say(
                    f"   ecampus on the day of changes: {found[0]} {words}, {MOSTLY:.0%} of them on Moodle within "
                    f"{found[1]:g} s of their message{note}"
                )

    def live_on(self) -> None:
        """Stay up and live further days, until Ctrl-C."""
        stage = self._stage
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        self._step(f"Living on: {TRICKLE_CHANGES} changes every {TRICKLE_SECONDS:.0f} s. Ctrl-C ends it.")
        self._point()
        with suppress(KeyboardInterrupt):
            while not stage.worker_ended():
                day = stage.university.september_day(TRICKLE_CHANGES)
                self._publish([(m.key.encode(), m.payload()) for m in day], seconds=TRICKLE_SECONDS)
                stage.create_late_accounts()

    def conclude(self) -> None:
        """Say the outcome in one line."""
        outcome = f"[red]{self.failures} checks FAILED[/]" if self.failures else "[green]every check held[/]"
        self._console.rule(f"{outcome} ({time.monotonic() - self._started:.0f} s)")

    # Parts of the verdict

    def _judge_hands(self, prelude: Comparison) -> None:
        stage = self._stage
        for name in ("ecampus", "prelude"):
            platform = stage.platforms[name]
            self._check(f"{name}: the {len(platform.by_hand)} cohorts made by hand are untouched", platform.touched())
        calls = stage.platforms["prelude"].moodle.calls
        self._check(
            f"prelude: not one of the {len(calls)} calls that it got wrote, and no cohort was added",
            [*(call.function for call in calls if call.writes), *prelude.differences],
        )
        collisions = [
            f"{name}: {one.function} and {other.function}"
            for name in KEPT
            for one, other in stage.platforms[name].moodle.collisions
        ]
        self._check("no two writing calls for one cohort were ever in flight at once", collisions)

    def _judge_letters(self) -> None:
        stage = self._stage
        letters = [*dead_letters(stage.settings.kafka.properties(), DEAD_LETTERS)]
        unlike = Counter((letter.record.key, letter.record.value) for letter in letters)
        unlike.subtract(Counter(stage.poison))
        self._check(
            f"{len(letters)} dead letters: exactly the {len(stage.poison)} poisoned messages",
            [f"{number:+} of {message!r}" for message, number in unlike.items() if number],
        )
        for letter in letters[:1]:
            self._say(f"   one of them, from {letter.origin}, says in its headers: {letter.problem}")

    def _miscounted(self, name: str, found: Comparison) -> list[str]:
        status = self._stage.status(name)
        expected = {**dict.fromkeys(status.gaps, 0), "parked": found.accountless, "foreign": found.foreign}
        return [
            f"{name}: the ledger counts {number} gaps that are {state}, and there are {expected[state]}"
            for state, number in status.gaps.items()
            if number != expected[state]
        ]

    def _unwell(self) -> list[str]:
        if self._stage.worker_ended():
            return ["the worker has ended; why is said below"]
        web = self._stage.settings.web
        answers = {}
        for path in ("/livez", "/readyz", "/metrics"):
            connection = HTTPConnection(web.host, web.port, timeout=10)
            connection.request("GET", path)
            answers[path] = connection.getresponse().status
            connection.close()
        return [f"{path} answers {status}" for path, status in answers.items() if status != 200]  # noqa: PLR2004 - HTTP

    def _desired(self, name: str) -> dict[str, frozenset[str]]:
        return {code: who for code, who in reading.desired(self._stage.ledger, name).items() if who}

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
        with self._progress() as progress:
            for start in progress.track(range(0, len(messages), most), description="publishing"):
                self._stage.publish(messages[start : start + most])
                time.sleep(LOOK_SECONDS)

    def _await(self, *names: str, what: str) -> None:
        """Wait until these platforms are as they must be, and nothing is left to do but what is parked."""
        started = time.monotonic()
        with self._progress() as progress:
            bars = {name: progress.add_task(name, total=None) for name in names}
            while True:
                found = {name: self._stage.compare(name) for name in names}
                for name, bar in bars.items():
                    progress.update(bar, completed=found[name].right, total=found[name].wanted)
                left = [
                    *(difference for name in names for difference in found[name].differences),
                    *(line for name in names for line in self._miscounted(name, found[name])),
                ]
                seconds = time.monotonic() - started
                if not left or seconds > PATIENCE_SECONDS or self._stage.worker_ended():
                    break
                time.sleep(LOOK_SECONDS)
        self._check(f"{what}, after {seconds:.1f} s", left)

    def _progress(self) -> Progress:
        return Progress(
            TextColumn("   {task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            console=self._console, transient=True, disable=not self._console.is_terminal,
        )  # fmt: skip

    def _step(self, sentence: str) -> None:
        self._steps += 1
        self._console.print(f"\n[bold]{self._steps}. {escape(sentence)}[/]", soft_wrap=True)

    def _say(self, sentence: str) -> None:
        self._console.print(sentence, soft_wrap=True, markup=False)

    def _check(self, sentence: str, wrong: Iterable[str]) -> None:
        """Print a check, and what is wrong when it failed."""
        wrong = [*wrong]
        mark = "[red]FAILED[/]" if wrong else "[green]ok[/]"
        self._console.print(f"   {mark} {escape(sentence)}", soft_wrap=True)
        for line in wrong[:SHOWN]:
            self._say(f"          {line}")
        if len(wrong) > SHOWN:
            self._say(f"          and {len(wrong) - SHOWN} more")
        self.failures += bool(wrong)

    def _point(self) -> None:
        """Say where a person can look for as long as the demo runs."""
        web = self._stage.settings.web
        command = sys.argv[0] if Path(sys.argv[0]).name == "cohorts" else "cohorts"
        self._say("Look for yourself while it runs (it goes on with --serve):")
        self._say(f"  http://{web.host}:{web.port}/metrics, /livez and /readyz")
        for words in ("status", "dead-letters list", "adopt ecampus"):
            self._say(f"  {command} {words} --config {self._stage.settings_file}")


def _strewn(messages: list[tuple[bytes, bytes]], poison: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Strew the poison evenly among the messages."""
    every = max(1, len(messages) // max(1, len(poison)))
    strewn = [*messages]
    for rank, dose in reversed([*enumerate(poison)]):
        strewn.insert(rank * every, dose)
    return strewn


def _applied() -> Counter[tuple[str, str, float]]:
    """How many changes were on Moodle within so many seconds, by (platform, action, seconds): the metric."""
    return Counter(
        {
            (sample.labels["platform"], sample.labels["action"], float(sample.labels["le"])): int(sample.value)
            for metric in telemetry.APPLIED_SECONDS.collect()
            for sample in metric.samples
            if sample.name.endswith("_bucket")
        }
    )


def _within(applied: Counter[tuple[str, str, float]], platform: str, action: str) -> tuple[int, float] | None:
    """How many changes there were, and the metric's bound within which most of them were applied."""
    counts = {bound: n for (where, what, bound), n in sorted(applied.items()) if (where, what) == (platform, action)}
    most = counts.get(math.inf, 0)
    return (most, next(bound for bound, n in counts.items() if n >= MOSTLY * most)) if most else None


def _table(stage: Stage, compared: dict[str, Comparison]) -> Table:
    table = Table("platform", "cohorts", "by hand", "members", "on Moodle", "parked", "differ")
    for name, found in compared.items():
        numbers = (found.wanted, found.right, found.accountless, len(found.differences))
        table.add_row(name, str(found.cohorts), str(len(stage.platforms[name].by_hand)), *map(str, numbers))
    return table
