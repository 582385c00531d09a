"""The demo's nights: a reconciliation, what the guard holds, and what a person decides about it."""

import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from threading import Event

from worker.console.report_page import render
from worker.domain.hashes import short
from worker.domain.report import PlatformReport, Report
from worker.domain.states import Action, Language, RunState
from worker.ledger import decisions, runs, status
from worker.ledger.proposals import PlannedCohort, planned
from worker.runtime import build
from worker.runtime.accounts import account_sentences
from worker.sandbox.demo.incidents import Incidents, Pairs, cause, largest, publish_without
from worker.sandbox.demo.show import Show
from worker.sandbox.demo.stage import AUTOMATIC, Stage
from worker.sync.reconcile import Progress

PERSON = "demo"


class Night:
    """Its steps, in this order: `upset`, `reconcile`, `approve`, `undo`, `mend`; and `leave_held` for who stays.

    `meddle` is called once while the first reconciliation runs, after it has read every Moodle.
    """

    def __init__(self, stage: Stage, show: Show, meddle: Callable[[Stage], None] | None = None) -> None:
        self._stage = stage
        self._show = show
        self._meddle = meddle
        self._incidents: Incidents
        self._hash = ""

    def upset(self) -> None:
        """Let happen what no message announces."""
        self._show.step(
            "A night: students leave without a message, people edit cohorts, and the snapshot has lost an étape."
        )
        self._incidents = cause(self._stage, self._show)

    def reconcile(self) -> None:
        """Find and close every difference; the removals from the lost étape are held."""
        stage, show, incidents = self._stage, self._show, self._incidents
        lost, members = incidents.lost, incidents.members
        show.step("Reconciliation: the snapshot is recorded, every Moodle is read, and the worker closes the gaps.")
        stage.overrides[lost], stage.held["ecampus"] = members, len(members)
        report, removed = self._run(self._meddle)
        self._check_outcome(report)
        self._check_drift(report, incidents.drift["ecampus"], incidents.drift["collegium"])
        for name in AUTOMATIC:
            leaving = incidents.leaving[name]
            show.check(
                f"{name}: {len(leaving)} memberships removed: of who left, was added by hand, or has another account",
                map(str, sorted(removed[name] ^ leaving)),
            )
        show.wait_until_right(*AUTOMATIC, what=f"every cohort is right, and {lost} kept its {len(members)} members")
        self._check_unclean()
        self._show_guard(report)
        self._check_held()
        self._check_foreign(report)
        self._check_report(report)

    def approve(self) -> None:
        """Let a person approve what is held."""
        stage, lost, members = self._stage, self._incidents.lost, self._incidents.members
        self._show.step(f"A person in a hurry runs `cohorts approve {short(self._hash)}`.")
        earlier = self._removals()
        decision = decisions.approve(stage.ledger, self._hash, by=PERSON, now=time.time())
        stage.overrides[lost], stage.held["ecampus"] = frozenset(), 0
        approved = {(lost, student) for student in members}
        stage.expected_removals |= approved
        self._show.wait_until_right(
            *AUTOMATIC, what=f"{decision.memberships} members of {lost} were removed; its cohort is empty"
        )
        removed = self._removed_since(earlier)
        self._show.check(
            "the approval removed nobody else",
            map(str, sorted(removed["ecampus"] ^ approved) + sorted(removed["collegium"])),
        )

    def undo(self) -> None:
        """Let a person undo the approval."""
        stage, lost = self._stage, self._incidents.lost
        self._show.step(f"But {lost} has not closed: `cohorts undo {short(self._hash)}` puts its members back.")
        decision = decisions.undo(stage.ledger, self._hash, by=PERSON, now=time.time())
        stage.overrides[lost] = self._incidents.members
        self._show.wait_until_right(*AUTOMATIC, what=f"{decision.memberships} members are back in {lost}")

    def mend(self) -> None:
        """Reconcile with a whole snapshot, which decides about those who were put back."""
        stage, show, lost, members = self._stage, self._show, self._incidents.lost, self._incidents.members
        show.step("The next night: the snapshot is whole again, and says which of them stay and which had left.")
        rows = stage.publish_snapshot(stage.university.snapshot_rows())
        show.say(f"   a snapshot is published: {rows} enrolments")
        del stage.overrides[lost]
        gone = members - stage.university.truth().get(lost, frozenset())
        report, removed = self._run()
        self._check_outcome(report)
        self._check_drift(report, Counter(), Counter())
        show.check(
            f"{len(gone)} of the {len(members)} who were put back had left: they are removed, and nobody else",
            map(str, sorted(removed["ecampus"] ^ {(lost, student) for student in gone}) + sorted(removed["collegium"])),
        )
        show.wait_until_right(*AUTOMATIC, what="every cohort matches the generator; nothing is held, no gap is left")
        self._check_foreign(report)

    def leave_held(self) -> None:
        """Lose another étape, and leave the decision to the spectator."""
        stage, show = self._stage, self._show
        on_ecampus, on_collegium = (stage.platforms[name].memberships() for name in AUTOMATIC)
        lost = largest(on_ecampus, except_for={self._incidents.lost} | {code for code, _ in on_collegium})
        members = frozenset(student for code, student in on_ecampus if code == lost)
        self._incidents = replace(self._incidents, lost=lost, members=members)
        show.step("One more night: the snapshot has lost another étape. This time the decision is yours.")
        publish_without(lost, stage, show)
        report, _ = self._run()
        self._check_outcome(report)
        self._check_held()
        show.say("   Look at it, and decide:")
        approval, rejection = f"approve {short(self._hash)}", f"reject {short(self._hash)}"
        for words in (f"explain {min(members)}", "held", approval, rejection, f"runs show {report.run}"):
            show.say(f"   {show.command(words)}")

    def _run(self, meddle: Callable[[Stage], None] | None = None) -> tuple[Report, dict[str, Pairs]]:
        """Reconcile in this process; returns the report and what was removed meanwhile."""
        stage, stop, earlier = self._stage, Event(), self._removals()
        spoilers = [meddle] if meddle else []
        with self._show.progress() as bars, ExitStack() as stack:
            task = bars.add_task("", total=None)

            def progress(step: Progress) -> None:
                bars.update(task, description=step.step, completed=step.done, total=step.of)
                if step.step == "gaps" and spoilers:
                    spoilers.pop()(stage)
                if stage.worker_ended():
                    stop.set()

            report = build.reconciliation(stage.settings, stage.ledger, stack, stop=stop, progress=progress).run()
        if report is None:
            raise AssertionError("another process runs this reconciliation")
        return report, self._removed_since(earlier)

    def _removals(self) -> dict[str, int]:
        return {name: len(status.applied(self._stage.ledger, name, Action.REMOVE)) for name in AUTOMATIC}

    def _removed_since(self, earlier: dict[str, int]) -> dict[str, Pairs]:
        return {name: {*status.applied(self._stage.ledger, name, Action.REMOVE)[earlier[name] :]} for name in AUTOMATIC}

    # What is checked

    def _check_outcome(self, report: Report) -> None:
        snapshot, ended = report.snapshot, report.ended_at or time.time()
        counts = f": {snapshot.applied} enrolments updated, {snapshot.ended} ended by absence" if snapshot else ""
        errors = [
            report.error or "gaps are left",
            *map(str, report.refusals),
            *(platform.error for platform in report.platforms if platform.error),
        ]
        self._show.check(
            f"run {report.run} ended as {report.state} after {ended - report.started_at:.1f} s{counts}",
            [] if report.state is RunState.DONE else errors,
        )

    def _check_drift(self, report: Report, ecampus: Counter[str], collegium: Counter[str]) -> None:
        """Check that exactly this drift was found, and the unmatched members."""
        found = {platform.name: _drift(platform) for platform in report.platforms}
        caused = {}
        for name, drift in (("ecampus", ecampus), ("collegium", collegium)):
            unmatched = len(self._stage.platforms[name].unmatched)
            caused[name] = drift + Counter({"unmatched kept": unmatched})
        self._show.check(
            f"drift found: {'; '.join(f'{name} {_listed(found[name])}' for name in caused)}",
            [f"{name}: {_listed(drift)} expected" for name, drift in caused.items() if found[name] != drift],
        )

    def _check_unclean(self) -> None:
        """Check that `cohorts check` names the account that Moodle no longer returns, and what to do about it."""
        ecampus, said = self._stage.platforms["ecampus"], [*account_sentences(self._stage.ledger, "ecampus")]
        accounts = ", ".join(str(ecampus.accounts()[student]) for student in ecampus.unclean)
        show = self._show
        show.check(
            "`cohorts check` names the account that Moodle no longer returns; its member stays",
            [] if any(f"ids {accounts})" in each for each in said) else said or ["it names none"],
        )
        for sentence in said:
            show.say(f"   {sentence}")

    def _show_guard(self, report: Report) -> None:
        for platform in report.platforms:
            if (guard := platform.guard) is not None:
                self._show.say(
                    f"   the guard on {platform.name}: {guard.memberships} memberships, {guard.removed} of at most "
                    f"{guard.platform_limit} removals in 24 h, {guard.held} held; worst cohort {guard.worst_cohort} "
                    f"({guard.worst_percent:.0f} %)"
                )

    def _check_held(self) -> None:
        """Check that the members of the lost étape are held, and nobody else; note the hash of the plan."""
        held = [cohort for name in AUTOMATIC for cohort in self._held(name)]
        shown = {(cohort.platform, cohort.idnumber): {student for _, student in cohort.pairs} for cohort in held}
        is_right = shown == {("ecampus", self._incidents.lost): self._incidents.members}
        for cohort in held:
            self._hash = cohort.hash or ""
            self._show.check(
                f"`cohorts held`: {short(self._hash)} {cohort.platform} {cohort.idnumber}, {len(cohort.pairs)} of "
                f"its {cohort.members} members would leave ({cohort.held} limit)",
                [] if is_right else [f"held are {shown}"],
            )
        if not held:
            self._show.check("removals are held", ["none are"])

    def _held(self, name: str) -> list[PlannedCohort]:
        """Return what `cohorts held` shows of a platform, and record it as shown: nothing else can be approved."""
        stage, now = self._stage, time.time()
        with stage.ledger.write() as connection:
            plan = planned(connection, name, stage.settings.guard(name), now)
            held = [cohort for cohort in plan.cohorts if cohort.held is not None]
            for cohort in held:
                decisions.show(connection, name, cohort.pairs, now)
        return held

    def _check_foreign(self, report: Report) -> None:
        """Check that the run saw every cohort made by hand, and that none changed."""
        foreign = {platform.name: platform.foreign for platform in report.platforms}
        expected = {name: len(platform.by_hand) for name, platform in self._stage.platforms.items()}
        changes = [
            f"{platform.name}: {change.idnumber or change.moodle_id}: {change.what} ({change.journalled} "
            "entries in our journal)"
            for platform in report.platforms
            for change in platform.foreign_changes
        ]
        self._show.check(
            "foreign cohorts are untouched, as fingerprints before and after show: "
            + ", ".join(f"{number} of {name}" for name, number in foreign.items()),
            changes if foreign == expected else [f"expected {expected}", *changes],
        )

    def _check_report(self, report: Report) -> None:
        """Check that the report is stored, and print where to find it."""
        stored = runs.report(self._stage.ledger, report.run)
        pages = [render(report, language, self._stage.settings.zone) for language in Language]
        is_right = stored == report and all(self._incidents.lost in page for page in pages)
        self._show.check(
            "the report is stored, and its page names the held cohort in French and in English",
            [] if is_right else ["it differs, or does not"],
        )
        student = min(self._incidents.members)
        for words in (f"runs show {report.run} --html night.html", "held", f"explain {student}"):
            self._show.say(f"   {self._show.command(words)}")


def _drift(platform: PlatformReport) -> Counter[str]:
    """Return what was found by kind, unmatched members included."""
    return Counter(platform.drift) + Counter({"unmatched kept": platform.strangers})


def _listed(drift: Counter[str]) -> str:
    return ", ".join(f"{number} {kind}".replace("_", " ") for kind, number in sorted(drift.items())) or "none"
