"""A report as a page for the digital-learning team: one HTML file that needs nothing else, in two languages.

The sentences are in `templates/fr.jinja` and `templates/en.jinja`, the layout in `report.html` and `platform.html`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum
from functools import cache
from zoneinfo import ZoneInfo

from jinja2 import Environment, PackageLoader, StrictUndefined

from worker.domain.instants import Instant
from worker.domain.report import PlatformReport, Report
from worker.domain.sanitize import printable
from worker.domain.states import Drift, Language, RunState

_NBSP, _NARROW_NBSP = "\N{NO-BREAK SPACE}", "\N{NARROW NO-BREAK SPACE}"


class Tone(StrEnum):
    """How the page looks at a glance."""

    GOOD = "good"
    ATTENTION = "attention"
    """A person has to decide or fix something; nothing is in danger."""
    BAD = "bad"
    """Nothing was done, or memberships are less protected than they must be."""
    RUNNING = "running"


class Task(StrEnum):
    """What waits for a person, the most urgent first."""

    DELETED = "deleted"
    """Cohorts of ours were deleted on Moodle: their courses have lost everybody, and only people can mend that."""
    OURS = "ours"
    """Our journal has entries about a cohort that isn't ours: this must never happen."""
    GUARD_OFF = "guard_off"
    REFUSED = "refused"
    FAILED = "failed"
    ABANDONED = "abandoned"
    UNREAD = "unread"
    """A platform could not be read, or not at the end."""
    STOPPED = "stopped"
    """Nothing can be written to a platform: it denies, or doesn't answer."""
    LEFT = "left"
    """Changes that could have been made on a platform, and weren't."""
    BLOCKED = "blocked"
    """Cohorts can't be created, aren't ours, or can't get their idnumber: students are missing in them."""
    HELD_COHORTS = "held_cohorts"
    """New cohorts, or renames, are held: students are missing in the former."""
    HELD = "held"
    """Removals are held."""


_LOUD = frozenset({Task.DELETED, Task.OURS, Task.GUARD_OFF, Task.REFUSED, Task.FAILED, Task.ABANDONED})
_OF_STATES = {RunState.REFUSED: Task.REFUSED, RunState.FAILED: Task.FAILED, RunState.ABANDONED: Task.ABANDONED}
_ENDED = frozenset({RunState.DONE, RunState.PARTIAL})


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A task, and the platform where it waits unless it concerns the whole run."""

    task: Task
    platform: PlatformReport | None = None

    @property
    def loud(self) -> bool:
        """Whether it is shown in red."""
        return self.task in _LOUD


def waiting(report: Report) -> list[Waiting]:
    """Return what waits for a person, the most urgent first."""
    order = list(Task)
    return sorted(_waiting(report), key=lambda item: order.index(item.task))


def _waiting(report: Report) -> Iterator[Waiting]:
    if report.state in _OF_STATES:
        yield Waiting(task=_OF_STATES[report.state])
    for platform in report.platforms:
        for task, waits in _of_platform(platform).items():
            if waits:
                yield Waiting(task=task, platform=platform)


def _of_platform(platform: PlatformReport) -> dict[Task, bool]:
    """Return whether each of the tasks waits on a platform."""
    is_stopped = platform.stopped is not None
    return {
        Task.DELETED: bool(platform.deleted),
        Task.OURS: any(change.journalled for change in platform.foreign_changes),
        Task.GUARD_OFF: platform.guard is not None and not platform.guard.enabled,
        Task.UNREAD: platform.error is not None,
        Task.STOPPED: platform.error is None and is_stopped,
        Task.LEFT: platform.left > 0 and not is_stopped,
        Task.BLOCKED: bool(platform.blocked),
        Task.HELD_COHORTS: platform.held_cohorts > 0,
        Task.HELD: platform.held > 0,
    }


def tone(report: Report) -> Tone:
    """Return how the night went, at a glance."""
    tasks = waiting(report)
    if any(item.loud for item in tasks):
        return Tone.BAD
    if report.state is RunState.RUNNING:
        return Tone.RUNNING
    return Tone.ATTENTION if tasks or report.state is RunState.PARTIAL else Tone.GOOD


def proven(report: Report, platform: PlatformReport) -> bool:
    """Whether the cohorts that aren't ours were compared before and after the run."""
    return report.state in _ENDED and platform.read and platform.error is None


def render(report: Report, language: Language, zone: ZoneInfo) -> str:
    """Return the page as HTML. It shows instants in local time of `zone`, and loads nothing from anywhere."""

    def local(instant: Instant) -> datetime:
        return datetime.fromtimestamp(instant, zone)

    return (
        _environment(language)
        .get_template("report.html")
        .render(
            report=report,
            language=language,
            zone=zone.key,
            night=None if report.night is None else date.fromisoformat(report.night),
            tasks=waiting(report),
            tone=tone(report),
            drifts=list(Drift),
            local=local,
            proven=proven,
        )
    )


@cache
def _environment(language: Language) -> Environment:
    environment = Environment(
        loader=PackageLoader("worker.console"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
        finalize=lambda value: printable(value) if type(value) is str else value,  # markup of ours is no mere text
    )
    french = language is Language.FR

    def number(value: float) -> str:
        text = f"{value:,.1f}".removesuffix(".0")
        return text.replace(",", _NARROW_NBSP).replace(".", ",") if french else text

    def percent(value: float) -> str:
        return f"{number(value)}{_NBSP if french else ''}%"

    def count(value: int, one: str, many: str) -> str:
        singular = value < 2 if french else value == 1  # noqa: PLR2004 - French counts 0 and 1 in the singular
        return f"{number(value)}{_NBSP}{one if singular else many}"

    environment.filters.update(number=number, percent=percent, count=count, duration=_duration)
    return environment


def _duration(seconds: float) -> str:
    """Write a length of time with two units, the same in both languages: `42 s`, `11 min 04 s`, `4 h 12 min`."""
    whole = round(seconds)
    minutes, hours = whole // 60, whole // 3600
    if hours:
        shown = f"{hours} h {minutes % 60:02d} min"
    elif minutes:
        shown = f"{minutes} min {whole % 60:02d} s"
    else:
        shown = f"{whole} s"
    return shown.replace(" ", _NBSP)
