"""The demo's last look, without waiting: every cohort of every Moodle against what the generator says is true."""

from collections import Counter
from http.client import HTTPConnection

from rich.table import Table

from worker.domain.states import Action
from worker.ledger import status
from worker.sandbox.demo.platform import Comparison
from worker.sandbox.demo.show import Show
from worker.sandbox.demo.stage import DEAD_LETTERS, KEPT, Stage
from worker.sync.dead_letters import dead_letters


def judge(stage: Stage, show: Show) -> None:
    """Check everything once more."""
    show.step("Verdict: every cohort of every Moodle, against what the generator says is true.")
    compared = {name: stage.compare(name) for name in stage.platforms}
    show.console.print(_table(stage, compared))
    for name in KEPT:
        found = compared[name]
        show.check(f"{name}: every cohort has the right name and members", found.differences)
        show.check(
            f"{name}: {found.accountless} without an account are parked, {found.foreign} wait for an adoption",
            stage.miscounted(name, found),
        )
        removals = status.applied(stage.ledger, name, Action.REMOVE)
        unasked = sorted({*removals} - stage.university.removals_asked() - stage.unasked)
        show.check(f"{name}: {len(removals)} removals, all of them asked for", map(str, unasked))
    _judge_hands(stage, show, compared["prelude"])
    _judge_letters(stage, show)
    show.check("the worker runs, and says that it is alive and ready", _unwell(stage))


def _judge_hands(stage: Stage, show: Show, prelude: Comparison) -> None:
    for name in ("ecampus", "prelude"):
        platform = stage.platforms[name]
        show.check(f"{name}: the {len(platform.by_hand)} cohorts made by hand are untouched", platform.touched())
    calls = stage.platforms["prelude"].moodle.calls
    show.check(
        f"prelude: not one of the {len(calls)} calls that it got wrote, and no cohort was added",
        [*(call.function for call in calls if call.writes), *prelude.differences],
    )
    collisions = [
        f"{name}: {one.function} and {other.function}"
        for name in KEPT
        for one, other in stage.platforms[name].moodle.collisions
    ]
    show.check("no two writing calls for one cohort were ever in flight at once", collisions)


def _judge_letters(stage: Stage, show: Show) -> None:
    letters = [*dead_letters(stage.settings.kafka.properties(), DEAD_LETTERS)]
    unlike = Counter((letter.record.key, letter.record.value) for letter in letters)
    unlike.subtract(Counter(stage.poison))
    show.check(
        f"{len(letters)} dead letters: exactly the {len(stage.poison)} poisoned messages",
        [f"{number:+} of {message!r}" for message, number in unlike.items() if number],
    )
    for letter in letters[:1]:
        show.say(f"   one of them, from {letter.origin}, says in its headers: {letter.problem}")


def _unwell(stage: Stage) -> list[str]:
    if stage.worker_ended():
        return ["the worker has ended; why is said below"]
    web = stage.settings.web
    answers = {}
    for path in ("/livez", "/readyz", "/metrics"):
        connection = HTTPConnection(web.host, web.port, timeout=10)
        connection.request("GET", path)
        answers[path] = connection.getresponse().status
        connection.close()
    return [f"{path} answers {status}" for path, status in answers.items() if status != 200]  # noqa: PLR2004 - HTTP


def _table(stage: Stage, compared: dict[str, Comparison]) -> Table:
    table = Table("platform", "cohorts", "by hand", "members", "on Moodle", "parked", "differ")
    for name, found in compared.items():
        numbers = (found.wanted, found.right, found.accountless, len(found.differences))
        table.add_row(name, str(found.cohorts), str(len(stage.platforms[name].by_hand)), *map(str, numbers))
    return table
