"""The demo's nights: what nobody told, a reconciliation, what the guard holds, and what a person decides about it."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from threading import Event

from schemas import EnrolmentRow
from worker.console.report_page import render
from worker.domain.report import PlatformReport, Report
from worker.domain.states import Action, Drift, Language, RunState
from worker.ledger import decisions, runs, status
from worker.ledger.proposals import PlannedCohort, planned
from worker.runtime import build
from worker.sandbox.demo.show import Show
from worker.sandbox.demo.stage import KEPT, Stage
from worker.sync.reconcile import Progress

DEPARTING = 0.01
"""Share of the students who leave without a message."""
PERSON = "demo"

Pairs = set[tuple[str, str]]
"""(étape, student)."""


class Night:
    """Its steps, in this order: `befall`, `reconcile`, `approve`, `undo`, `mend`.

    `meddle` is called once while the first reconciliation runs, after it has read every Moodle.
    """

    def __init__(self, stage: Stage, show: Show, meddle: Callable[[Stage], None] | None = None) -> None:
        self._stage = stage
        self._show = show
        self._meddle = meddle
        self._drift: dict[str, Counter[str]] = {name: Counter() for name in KEPT}
        self._leaving: dict[str, Pairs] = {}
        self._forgotten = ""  # the étape that the extract has lost
        self._members: frozenset[str] = frozenset()  # those of its cohort
        self._hash = ""

    def befall(self) -> None:
        """Let happen what no message tells: departures, people's hands on cohorts, an extract that isn't whole."""
        stage, university = self._stage, self._stage.university
        self._show.step(
            "A night: departures that no message tells, cohorts edited by hand, an extract that lost an étape."
        )
        before = {name: stage.platforms[name].memberships() for name in KEPT}
        left = university.depart(DEPARTING)
        true = {(code, student) for code, who in university.truth().items() for student in who}
        self._leaving = {name: before[name] - true for name in KEPT}
        self._show.say(f"   {left} students left; the source knows it, and did not say it in a message")
        sizes = Counter(code for code, _ in before["ecampus"])
        elsewhere = {code for code, _ in before["collegium"]}
        self._forgotten = max(sizes.keys() - elsewhere, key=lambda code: (sizes[code], code))
        self._members = frozenset(student for code, student in before["ecampus"] if code == self._forgotten)
        for sentence in self._hands():
            self._show.say(f"   {sentence}")
        rows = stage.publish_snapshot(row for row in university.snapshot_rows() if not self._is_forgotten(row))
        self._show.say(
            f"   a snapshot is published: {rows} enrolments, and none of {self._forgotten}, as if it had closed"
        )

    def reconcile(self) -> None:
        """Find and close every difference; what the extract has lost is held."""
        stage, show, code = self._stage, self._show, self._forgotten
        show.step("Reconciliation: the snapshot is taken in, every Moodle read back, and the worker closes the gaps.")
        self._leaving = {name: {pair for pair in leaving if pair[0] != code} for name, leaving in self._leaving.items()}
        stage.apart[code], stage.held["ecampus"] = self._members, len(self._members)
        report, removed = self._run(self._meddle)
        self._judge(report)
        self._judge_drift(report)
        for name in KEPT:
            number = len(self._leaving[name])
            show.check(
                f"{name}: {number} memberships removed, those who left and whom a hand had put there",
                map(str, sorted(removed[name] ^ self._leaving[name])),
            )
        show.until_right(*KEPT, what=f"every cohort is right, and {code} kept its {len(self._members)} members")
        self._judge_guard(report)
        self._judge_untouched(report)
        self._point(report)

    def approve(self) -> None:
        """Let a person approve what is held."""
        stage, code = self._stage, self._forgotten
        self._show.step(f"Somebody in a hurry: `cohorts approve {self._hash}`.")
        earlier = self._removals()
        decision = decisions.approve(stage.ledger, self._hash, by=PERSON, now=time.time())
        stage.apart[code], stage.held["ecampus"] = frozenset(), 0
        approved = {(code, student) for student in self._members}
        stage.unasked |= approved
        self._show.until_right(*KEPT, what=f"{decision.memberships} members of {code} were removed, and it is empty")
        removed = self._removed_since(earlier)
        self._show.check(
            "nobody else was removed on the strength of it",
            map(str, sorted(removed["ecampus"] ^ approved) + sorted(removed["collegium"])),
        )

    def undo(self) -> None:
        """Let a person take it back."""
        stage, code = self._stage, self._forgotten
        self._show.step(f"But {code} has not closed. `cohorts undo {self._hash}` puts them back.")
        decision = decisions.undo(stage.ledger, self._hash, by=PERSON, now=time.time())
        stage.apart[code] = self._members
        self._show.until_right(*KEPT, what=f"{decision.memberships} members are in {code} again")

    def mend(self) -> None:
        """Reconcile with a whole extract: it has the last word about those who were put back."""
        stage, show, code = self._stage, self._show, self._forgotten
        show.step("The next night: the extract is whole, and says knowingly who of them stays and who had left.")
        rows = stage.publish_snapshot(stage.university.snapshot_rows())
        show.say(f"   a snapshot is published: {rows} enrolments")
        del stage.apart[code]
        gone = self._members - stage.university.truth().get(code, frozenset())
        self._drift = {name: Counter() for name in KEPT}
        report, removed = self._run()
        self._judge(report)
        self._judge_drift(report)
        show.check(
            f"of the {len(self._members)} who were put back, {len(gone)} had left: they are removed, and nobody else",
            map(str, sorted(removed["ecampus"] ^ {(code, student) for student in gone}) + sorted(removed["collegium"])),
        )
        show.until_right(*KEPT, what="every cohort is the generator's, nothing is held and nothing is left to do")
        self._judge_untouched(report)

    # What happens

    def _is_forgotten(self, row: bytes) -> bool:
        told = EnrolmentRow.model_validate_json(row)
        return told.academic_year == self._stage.university.year and told.etape.code == self._forgotten

    def _hands(self) -> Iterator[str]:
        """Let people do to our cohorts what they can, and say it; nobody of it is a member of the forgotten étape."""
        stage, ecampus, collegium = self._stage, self._stage.platforms["ecampus"], self._stage.platforms["collegium"]
        truth, cohorts, accounts = stage.university.truth(), ecampus.etapes(), ecampus.accounts()
        members = {code: sorted(truth.get(code, frozenset()) & accounts.keys()) for code in cohorts}
        short, crowded, visited, renamed, *others = sorted(
            cohorts.keys() - {self._forgotten}, key=lambda code: (-len(members[code]), code)
        )
        missing = members[short][0]
        extra = next(student for student in members[short][1:] if student not in truth[crowded])
        moodle = ecampus.moodle
        moodle.remove_member(cohorts[short], accounts[missing])
        moodle.add_member(cohorts[crowded], accounts[extra])
        stage.unasked.add((crowded, extra))
        self._leaving["ecampus"].add((crowded, extra))
        ecampus.add_stranger("a.teacher", visited)
        moodle.edit_cohort(cohorts[renamed], idnumber=f"{renamed}-OLD")
        yield (
            f"ecampus, by hand: a member taken out of {short}, a student put into {crowded}, a teacher into {visited}; "
            f"{renamed} has another idnumber"
        )
        untold = {student for _, who in ecampus.by_hand.values() for student in who} | {missing, extra}
        etapes_of = Counter(student for who in truth.values() for student in who)
        lost = next(s for code in others for s in members[code] if etapes_of[s] == 1 and s not in untold)
        ecampus.delete_account(lost)
        self._drift["ecampus"] += Counter([Drift.MISSING, Drift.EXTRA, Drift.RENAMED, Drift.GONE_ACCOUNT])
        yield "ecampus, by hand: the account of a member is deleted"
        sizes = Counter(code for code, _ in collegium.memberships())
        vanished, size = sizes.most_common()[len(sizes) // 2]
        collegium.moodle.delete_cohort(collegium.etapes()[vanished])
        self._leaving["collegium"] -= {pair for pair in self._leaving["collegium"] if pair[0] == vanished}
        self._drift["collegium"][Drift.VANISHED] += 1
        yield f"collegium, by hand: {vanished} is deleted, with its {size} members"

    def _run(self, meddle: Callable[[Stage], None] | None = None) -> tuple[Report, dict[str, Pairs]]:
        """Reconcile in this process, and give the report and what was removed meanwhile."""
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
            raise AssertionError("only a night's run may be another's")
        return report, self._removed_since(earlier)

    def _removals(self) -> dict[str, int]:
        return {name: len(status.applied(self._stage.ledger, name, Action.REMOVE)) for name in KEPT}

    def _removed_since(self, earlier: dict[str, int]) -> dict[str, Pairs]:
        return {name: {*status.applied(self._stage.ledger, name, Action.REMOVE)[earlier[name] :]} for name in KEPT}

    # What is checked

    def _judge(self, report: Report) -> None:
        image, ended = report.snapshot, report.ended_at or time.time()
        told = f": {image.applied} enrolments told anew, {image.ended} ended by absence" if image else ""
        self._show.check(
            f"run {report.run} ended as {report.state} after {ended - report.started_at:.1f} s{told}",
            ()
            if report.state is RunState.DONE
            else [
                report.error or "gaps are left",
                *map(str, report.refusals),
                *(p.error for p in report.platforms if p.error),
            ],
        )

    def _judge_drift(self, report: Report) -> None:
        found = {platform.name: _drift(platform) for platform in report.platforms if platform.name in KEPT}
        made = {name: drift + self._strangers(name) for name, drift in self._drift.items()}
        said = [f"{name} {_listed(found[name])}" for name in KEPT]
        wrong = [f"{name}: people have made {_listed(made[name])}" for name in KEPT if found[name] != made[name]]
        self._show.check(f"drift found: {'; '.join(said)}", wrong)

    def _strangers(self, name: str) -> Counter[str]:
        return Counter("stranger kept" for _ in self._stage.platforms[name].strangers)

    def _judge_guard(self, report: Report) -> None:
        show = self._show
        for platform in report.platforms:
            if (guard := platform.guard) is not None:
                show.say(
                    f"   the guard on {platform.name}: {guard.memberships} memberships, {guard.removed} of at most "
                    f"{guard.platform_limit} removed in 24 h, {guard.held} held; worst cohort {guard.worst_cohort} "
                    f"({guard.worst_percent:.0f} %)"
                )
        held = [cohort for name in KEPT for cohort in self._held(name)]
        shown = {(cohort.platform, cohort.idnumber): {s for _, s in cohort.pairs} for cohort in held}
        wrong = [] if shown == {("ecampus", self._forgotten): self._members} else [f"held are {shown}"]
        for cohort in held:
            self._hash = cohort.hash or ""
            show.check(
                f"`cohorts held`: {self._hash} {cohort.platform} {cohort.idnumber}, {len(cohort.pairs)} of its "
                f"{cohort.members} members would leave ({cohort.held} limit)",
                wrong,
            )
        if not held:
            show.check("removals are held", ["none is"])

    def _held(self, name: str) -> list[PlannedCohort]:
        """Give what `cohorts held` shows of a platform; only what was shown can be decided on."""
        stage, now = self._stage, time.time()
        with stage.ledger.write() as connection:
            plan = planned(connection, name, stage.settings.guard(name), now)
            held = [cohort for cohort in plan.cohorts if cohort.held is not None]
            for cohort in held:
                decisions.show(connection, name, cohort.pairs, now)
        return held

    def _judge_untouched(self, report: Report) -> None:
        foreign = {platform.name: platform.foreign for platform in report.platforms}
        expected = {name: len(platform.by_hand) for name, platform in self._stage.platforms.items()}
        changes = [
            f"{platform.name}: {change.idnumber or change.moodle_id}: {change.what}, of which our journal has "
            f"{change.journalled} entries"
            for platform in report.platforms
            for change in platform.foreign_changes
        ]
        self._show.check(
            "proof of the untouched, by fingerprints before and after: "
            + ", ".join(f"{number} cohorts of {name}" for name, number in foreign.items()),
            changes if foreign == expected else [f"there are {expected}", *changes],
        )

    def _point(self, report: Report) -> None:
        """Say where the report is, once it is sure that it is there."""
        kept = runs.report(self._stage.ledger, report.run)
        pages = [render(report, language, self._stage.settings.zone) for language in Language]
        self._show.check(
            "the report is kept, and its page tells what is held in French and in English",
            [] if kept == report and all(self._forgotten in page for page in pages) else ["it is another, or doesn't"],
        )
        for words in (f"runs show {report.run} --html night.html", "held", f"explain {min(self._members)}"):
            self._show.say(f"   {self._show.command(words)}")


def _drift(platform: PlatformReport) -> Counter[str]:
    """Give what was found, by kind, strangers included."""
    return Counter(platform.drift) + Counter({"stranger kept": platform.strangers})


def _listed(drift: Counter[str]) -> str:
    return ", ".join(f"{number} {kind}".replace("_", " ") for kind, number in sorted(drift.items())) or "none"
