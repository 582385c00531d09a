"""An explanation as a person reads it. Pure."""

import re
from collections.abc import Iterator, Mapping
from zoneinfo import ZoneInfo

from worker.domain.hashes import short
from worker.domain.sanitize import printable
from worker.domain.states import Language
from worker.explain.findings import Answer, Explanation, Finding, JudgedEnrolment, Value
from worker.explain.phrases import words

_INSTANTS = {"at", "since", "until", "taken_at", "looked_up_at", "changed_at", "recorded_at"}
_YEARS = {"year", "years"}
_PLURALS = {"statuses": "status", "payments": "payment"}
_OPTIONAL = re.compile(r"\[([^\[\]]*)\]")
_VALUE = re.compile(r"\{(\w+)\}")


def render(explanation: Explanation, language: Language, zone: ZoneInfo) -> str:
    """Write an explanation in a language, with instants in local time."""
    return "\n".join(_Writer(language, zone).lines(explanation)) + "\n"


class _Writer:
    def __init__(self, language: Language, zone: ZoneInfo) -> None:
        self._words, self._zone = words(language), zone
        self._headings = self._words.headings

    def lines(self, explanation: Explanation) -> Iterator[str]:
        student: dict[str, Value] = {
            "student": explanation.student,
            "numbers": explanation.numbers if len(explanation.numbers) > 1 else None,
            "at": explanation.at,
        }
        yield self._fill(self._headings["student"], student)
        yield from (f"- {self._sentence(finding)}" for finding in explanation.about)
        if explanation.enrolments:
            yield ""
            yield self._headings["sources"]
        for enrolment in explanation.enrolments:
            yield from self._enrolment(enrolment)
        for answer in explanation.answers:
            yield from self._answer(answer)

    def _enrolment(self, enrolment: JudgedEnrolment) -> Iterator[str]:
        fact = enrolment.fact
        contents: dict[str, Value] = {
            "etape": fact.etape or self._headings["no_etape"],
            "label": enrolment.label,
            "version": fact.etape_version,
            "year": fact.academic_year,
            "system": fact.system,
            "status": fact.status,
            "payment": fact.payment,
        }
        source: dict[str, Value] = {
            "origin": fact.origin,
            "changed_at": fact.changed_at,
            "recorded_at": fact.recorded_at,
        }
        yield "  " + self._fill(self._headings["enrolment"], contents)
        yield "  - " + self._fill(self._headings["source"], source)
        yield from (f"  - {self._sentence(finding)}" for finding in enrolment.findings)

    def _answer(self, answer: Answer) -> Iterator[str]:
        where: dict[str, Value] = {"platform": answer.platform, "cohort": answer.cohort, "name": answer.name}
        yield ""
        yield self._fill(self._headings[_heading(answer)], where)
        if answer.alarm is not None:
            yield f"  {self._sentence(answer.alarm)}"
        yield f"  {self._sentence(answer.state)}"
        yield from (f"  - {self._sentence(finding)}" for finding in answer.findings)

    def _sentence(self, finding: Finding) -> str:
        return self._fill(self._words.sentences[finding.code], finding.values)

    def _fill(self, template: str, values: Mapping[str, Value]) -> str:
        def optional(match: re.Match[str]) -> str:
            known = all(values.get(name) not in {None, ()} for name in _VALUE.findall(match[1]))
            return match[1] if known else ""

        return _VALUE.sub(lambda match: self._value(match[1], values[match[1]]), _OPTIONAL.sub(optional, template))

    def _value(self, name: str, value: Value) -> str:
        if isinstance(value, tuple):
            return ", ".join(self._value(_PLURALS.get(name, name), item) for item in value)
        if name in _INSTANTS and isinstance(value, int | float):
            return self._words.instant(value, self._zone)
        if name == "hash":
            return short(str(value))
        if name in _YEARS and isinstance(value, int):
            return f"{value}-{value + 1}"
        return self._words.values.get(name, {}).get(str(value), printable(str(value)))


def _heading(answer: Answer) -> str:
    if answer.platform is None:
        return "cohort"
    return "platform" if answer.cohort is None else "place"
