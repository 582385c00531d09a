"""The demo's verdict, without waiting: every cohort of every Moodle against what the generator says is true."""

from collections import Counter
from http.client import HTTPConnection

from rich.table import Table

from worker.domain.states import Action
from worker.ledger import status
from worker.sandbox.demo.platform import Comparison
from worker.sandbox.demo.show import Show
from worker.sandbox.demo.stage import AUTOMATIC, DEAD_LETTERS, Stage
from worker.sync.dead_letters import dead_letters


def judge(stage: Stage, show: Show) -> None:
    """Check everything once more."""
    show.step("Verdict: every cohort of every Moodle against what the generator says is true.")
    comparisons = {name: stage.compare(name) for name in stage.platforms}
    show.console.print(_table(stage, comparisons))
    for name in AUTOMATIC:
        comparison = comparisons[name]
        show.check(f"{name}: every cohort has the right name and members", comparison.differences)
        show.check(
            f"{name}: {comparison.accountless} memberships without an account are parked, {comparison.foreign} wait "
            "for an adoption",
            stage.wrong_gaps(name, comparison),
        )
        removals = status.applied(stage.ledger, name, Action.REMOVE)
        unrequested = sorted({*removals} - stage.university.removals_asked() - stage.expected_removals)
        show.check(f"{name}: {len(removals)} removals, all of them requested", map(str, unrequested))
    _judge_cohorts_made_by_hand(stage, show, comparisons["prelude"])
    _judge_collisions(stage, show)
    _judge_dead_letters(stage, show)
    show.check("the worker runs, and reports that it is alive and ready", _unhealthy(stage))


def _judge_cohorts_made_by_hand(stage: Stage, show: Show, prelude: Comparison) -> None:
    for name in ("ecampus", "prelude"):
        platform = stage.platforms[name]
        show.check(f"{name}: the {len(platform.by_hand)} cohorts made by hand are untouched", platform.touched())
    calls = stage.platforms["prelude"].moodle.calls
    show.check(
        f"prelude: none of the {len(calls)} calls to it wrote, and no cohort was added",
        [*(call.function for call in calls if call.writes), *prelude.differences],
    )


def _judge_collisions(stage: Stage, show: Show) -> None:
    collisions = [
        f"{name}: {one.function} and {other.function}"
        for name in AUTOMATIC
        for one, other in stage.platforms[name].moodle.collisions
    ]
    show.check("no two write calls for one cohort were ever in flight at once", collisions)


def _judge_dead_letters(stage: Stage, show: Show) -> None:
    letters = [*dead_letters(stage.settings.kafka.properties(), DEAD_LETTERS)]
    surplus = Counter((letter.record.key, letter.record.value) for letter in letters)
    surplus.subtract(Counter(stage.poison))
    show.check(
        f"{len(letters)} dead letters: exactly the {len(stage.poison)} unreadable messages",
        [f"{number:+} of {message!r}" for message, number in surplus.items() if number],
    )
    for letter in letters[:1]:
        show.say(f"   the headers of the first, from {letter.origin}, give the reason: {letter.problem}")


def _unhealthy(stage: Stage) -> list[str]:
    if stage.worker_ended():
        return ["the worker has ended; its error follows"]
    web = stage.settings.web
    statuses = {}
    for path in ("/livez", "/readyz", "/metrics"):
        connection = HTTPConnection(web.host, web.port, timeout=10)
        connection.request("GET", path)
        statuses[path] = connection.getresponse().status
        connection.close()
    return [f"{path} answers {status}" for path, status in statuses.items() if status != 200]  # noqa: PLR2004 - HTTP


def _table(stage: Stage, comparisons: dict[str, Comparison]) -> Table:
    table = Table("platform", "cohorts", "by hand", "members", "on Moodle", "parked", "differ")
    for name, comparison in comparisons.items():
        table.add_row(
            name,
            str(comparison.cohorts),
            str(len(stage.platforms[name].by_hand)),
            str(comparison.wanted),
            str(comparison.right),
            str(comparison.accountless),
            str(len(comparison.differences)),
        )
    return table
