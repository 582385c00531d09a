"""The demo's day: an initial load, a day of changes during an outage, and accounts that appear late."""

import math
import time
from collections import Counter

from worker import telemetry
from worker.domain.states import Action, PlatformState
from worker.ledger import status
from worker.ledger.availability import Availability
from worker.sandbox.demo.show import POLL_SECONDS, Show
from worker.sandbox.demo.stage import AUTOMATIC, REMOVAL_DELAY_SECONDS, Stage
from worker.sandbox.moodle.server import Fault

STUDENTS_PER_CHANGE = 6
DAY_SECONDS = 7.0
"""How long a day of changes takes here: two swapped messages are much closer than the delay of a removal."""
PERCENTILE = 0.95

Payloads = list[tuple[bytes, bytes]]
"""Key and value of each message."""
AppliedCounts = Counter[tuple[str, str, float]]
"""Changes that were on Moodle within so many seconds, by (platform, action, seconds)."""


class Day:
    """Its steps, in this order: `load`, `change`, `recover`, `complete`; `measure` at the end of the demo."""

    def __init__(self, stage: Stage, show: Show) -> None:
        self._stage = stage
        self._show = show
        self._counts_before: AppliedCounts = Counter()
        self._counts_after: AppliedCounts = Counter()

    def load(self) -> None:
        """Publish all enrolments; every cohort must be created and filled."""
        stage = self._stage
        self._show.step("Initial load: all enrolments are published at once; cohorts are created and filled.")
        stage.publish((message.key.encode(), message.payload()) for message in stage.university.initial())
        self._show.wait_until_right(
            *AUTOMATIC, what=f"{stage.published} messages published; every cohort matches the generator"
        )
        self._show.say(
            f"   {self._parked()} memberships are parked: their students have no account yet. This delays no other."
        )

    def change(self) -> None:
        """Publish a day of changes, with unreadable messages among them, while Collegium is down."""
        stage, show = self._stage, self._show
        changes = stage.university.students // STUDENTS_PER_CHANGE
        stage.platforms["collegium"].moodle.fault = Fault.PHP_DOWN
        show.step(
            f"A September day: {changes} changes, some published out of order or twice, while Collegium is down (502)."
        )
        self._counts_before = _applied_counts()
        messages = [(m.key.encode(), m.payload()) for m in stage.university.september_day(changes)]
        stage.poison = [(key.encode(), value) for key, value in stage.university.poison()]
        publish_evenly(stage, show, _interspersed(messages, stage.poison), seconds=DAY_SECONDS)
        kinds = [f"{number} {kind.replace('_', ' ')}" for kind, number in stage.university.changes.most_common()]
        show.say(f"   {', '.join(kinds)}")
        show.wait_until_right(
            "ecampus", what=f"ecampus was not delayed (removals wait {REMOVAL_DELAY_SECONDS} s on purpose)"
        )
        self._counts_after = _applied_counts()
        self._check_outage()

    def _check_outage(self) -> None:
        """Check that the ledger knows what Collegium must become, and that it is down."""
        stage, show = self._stage, self._show
        desired = {code: members for code, members in status.desired(stage.ledger, "collegium").items() if members}
        true = stage.platforms["collegium"].routed(stage.university.truth(), stage.university.labels())
        show.check(
            "the ledger already holds what Collegium must become",
            [] if desired == true else ["the ledger's desired memberships differ from the truth"],
        )
        behind, platform = len(stage.compare("collegium").differences), stage.status("collegium")
        if behind:
            show.check(
                f"the outage is reported: {behind} cohorts are behind ({platform.name}: {platform.sentence})",
                ["collegium is reported as up"] if platform.state is PlatformState.UP else [],
            )

    def recover(self) -> None:
        """Let Collegium answer again, first with our service account suspended."""
        stage, show, collegium = self._stage, self._show, self._stage.platforms["collegium"].moodle
        show.step("Collegium answers again, but somebody has suspended our service account. A person activates it.")
        failed = sum(call.error == Fault.PHP_DOWN for call in collegium.calls)
        if stage.status("collegium").state is not PlatformState.UP:
            collegium.fault = Fault.ACCOUNT_SUSPENDED
            show.wait_until(self._is_denied, what="the refusal is reported, with its remedy, and calls pause")
            show.say(f"   collegium: {stage.status('collegium').sentence}")
        collegium.fault = None
        Availability(stage.ledger, "collegium").end_pause(time.time())
        show.wait_until_right(
            "collegium", what=f"`cohorts retry collegium`: it has caught up ({failed} calls had failed)"
        )

    def _is_denied(self) -> bool:
        return self._stage.status("collegium").state is PlatformState.DENIED

    def complete(self) -> None:
        """Create the accounts that were missing."""
        self._show.step("Missing accounts appear, as they do for new arrivals: parked memberships are retried.")
        before = self._parked()
        self._stage.create_late_accounts()
        applied = before - self._parked()
        self._show.wait_until_right(*AUTOMATIC, what=f"{applied} of {before} parked memberships were applied")

    def measure(self) -> None:
        """Print how much was done and how long it took."""
        stage, show = self._stage, self._show
        show.step(f"Figures, {show.seconds:.0f} s after the start")
        show.say(f"   {stage.published} messages published, {len(stage.poison)} of them unreadable on purpose")
        for name in AUTOMATIC:
            calls = stage.platforms[name].moodle.calls
            failed = sum(call.error is not None for call in calls)
            additions, removals = (
                len(status.applied(stage.ledger, name, action)) for action in (Action.ADD, Action.REMOVE)
            )
            show.say(
                f"   {name}: {additions} additions and {removals} removals in "
                f"{sum(call.writes for call in calls)} write calls of {len(calls)} calls ({failed} failed)"
            )
        counts = self._counts_after - self._counts_before
        delay = f", including the delay of {REMOVAL_DELAY_SECONDS} s"
        for action, noun, note in ((Action.ADD, "additions", ""), (Action.REMOVE, "removals", delay)):
            if latency := _latency(counts, "ecampus", action):
                number, seconds = latency
                show.say(
                    f"   ecampus on the day of changes: {number} {noun}, {PERCENTILE:.0%} of them on Moodle within "
                    f"{seconds:g} s of their message{note}"
                )

    def _parked(self) -> int:
        return sum(self._stage.compare(name).accountless for name in AUTOMATIC)


def publish_evenly(stage: Stage, show: Show, messages: Payloads, *, seconds: float) -> None:
    """Publish messages in this order, spread evenly over so many seconds."""
    size = math.ceil(len(messages) * POLL_SECONDS / seconds)
    with show.progress() as progress:
        for start in progress.track(range(0, len(messages), size), description="publishing"):
            stage.publish(messages[start : start + size])
            time.sleep(seconds * size / len(messages))


def _interspersed(messages: Payloads, poison: Payloads) -> Payloads:
    """Return the messages with the poison spread evenly among them."""
    every = max(1, len(messages) // max(1, len(poison)))
    mixed = [*messages]
    for rank, dose in reversed([*enumerate(poison)]):
        mixed.insert(rank * every, dose)
    return mixed


def _applied_counts() -> AppliedCounts:
    """Read the metric of applied changes."""
    counts: AppliedCounts = Counter()
    for metric in telemetry.APPLIED_SECONDS.collect():
        for sample in metric.samples:
            if sample.name.endswith("_bucket"):
                labels = sample.labels
                counts[labels["platform"], labels["action"], float(labels["le"])] += int(sample.value)
    return counts


def _latency(counts: AppliedCounts, platform: str, action: str) -> tuple[int, float] | None:
    """Return how many changes there were, and the metric's bound within which most of them were applied."""
    by_bound = {bound: n for (name, kind, bound), n in sorted(counts.items()) if (name, kind) == (platform, action)}
    total = by_bound.get(math.inf, 0)
    if not total:
        return None
    return total, next(bound for bound, n in by_bound.items() if n >= PERCENTILE * total)
