"""What an entry of a SupAnn directory holds about enrolments. Pure.

The composite `supannEtuInscription` ties an étape to its year and establishment; it is a chain of `[key=value]`:

    [etab={UAI}0141408E][anneeinsc=2026][affect=HS_U99][etape={UAI:0141408E}XINFO2_101]

`supannEtuEtape` and `supannEtuAnneeInscription` each hold several values that nothing ties together: they are used only
where the directory has no composite, and only of an entry that has one of each. When a value can't be understood, its
student is unknown, not gone.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from pydantic import ValidationError

from schemas import Component, EnrolmentRow, Etape, Source, UnknownRow

ETAPES, YEARS = "supannEtuEtape", "supannEtuAnneeInscription"
MOST_CACHED = 20_000
"""Parsed composites that are cached."""
_PLACEHOLDER = "{INCONNU}"
_ESCAPED = re.compile("(?:#[0-9A-Fa-f]{2})+")
_LABEL = re.compile(r"\{([^{}]*)\}")
_UAI = re.compile("[0-9]{7}[A-Z]")
_YEAR = re.compile("[0-9]{4}")
_LOOSE = re.compile(r"\]\s+\[[^\[\]=]+=")
_VERSION = re.compile("[0-9]{1,3}")  # APOGÉE's COD_VRS_VET is a NUMBER(3)


@dataclass(frozen=True, slots=True, kw_only=True)
class SupannForm:
    """How a directory writes enrolments; see the settings of the same names."""

    uai: str
    """Establishment of enrolments that don't name one."""
    uais: frozenset[str]
    """Our establishments."""
    student_id: str
    login: str
    composite: str
    etape_prefix: str
    etape_separator: str
    component: str
    component_prefix: str


class Unreadable(ValueError):
    """A value can't be understood; the text is a reason that can be counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryFacts:
    """What an entry holds about enrolments."""

    rows: tuple[EnrolmentRow, ...]
    """Enrolments at our establishments, of every year; none twice."""
    unknown: tuple[UnknownRow, ...]
    """Students whose other enrolments, if any, are unknown."""
    left_out: tuple[str, ...]
    """Why the rest makes no row: `foreign_etab` or `no_etape` for an enrolment, `no_student_id` for the entry."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Enrolment:
    """What a composite states, without its student: all students of an étape share a few composites."""

    year: int
    etape: Etape
    source: Source

    def row(self, student: Mapping[str, str]) -> EnrolmentRow:
        etape = self.etape
        return EnrolmentRow.model_validate(
            {
                "enrolment_id": f"{student['student_id']}:{self.year}:{etape.code}:{etape.version or ''}",
                "academic_year": self.year,
                "student": student,
                "etape": etape,
                "status": "active",
                "source": self.source,
            }
        )


class Supann:
    """Reads entries as a directory writes them."""

    def __init__(self, form: SupannForm) -> None:
        self._form = form
        self._student_id = form.student_id.lower()
        self._login = form.login.lower()
        self._enrolments = (form.composite or ETAPES).lower()
        self._component = form.component.lower()
        enrolments = (form.composite,) if form.composite else (ETAPES, YEARS)
        self.attributes = tuple(name for name in (form.student_id, form.login, *enrolments) if name)
        """What to ask the directory for."""
        self._understood = lru_cache(maxsize=MOST_CACHED)(self._understand)

    def has_enrolments(self, attributes: Mapping[str, Sequence[str]]) -> bool:
        """Return whether an entry has the attribute of enrolments at all."""
        return self._enrolments in attributes

    def read(self, attributes: Mapping[str, Sequence[str]]) -> EntryFacts:
        """Read an entry; `attributes` are its values by name in lower case.

        Codes of étapes and components are in capitals, as in APOGÉE, because a directory ignores their case. A single
        login is kept; of several, none. Several student numbers: nothing is known of any of them.
        """
        numbers = sorted({number.strip() for number in attributes.get(self._student_id, ())})
        if reason := self._ambiguity(numbers, attributes):
            return _facts((), numbers, reason, ())
        logins = {login.strip() for login in attributes.get(self._login, ())} - {""}
        student = {"student_id": numbers[0]} | ({"login": logins.pop()} if len(logins) == 1 else {})
        rows: dict[str, EnrolmentRow] = {}
        left_out: list[str] = []
        for composite in self._composites(attributes):
            try:
                item = self._row(composite, student)
            except Unreadable as problem:
                reason = str(problem)
            else:
                if isinstance(item, str):
                    left_out.append(item)
                else:
                    rows.setdefault(item.enrolment_id, item)
        return _facts(rows.values(), numbers, reason, left_out)

    def _row(self, composite: str, student: Mapping[str, str]) -> EnrolmentRow | str:
        """Return the enrolment that a composite states, or why it is left out; raises Unreadable."""
        try:
            enrolment = self._understood(composite)
            return enrolment if isinstance(enrolment, str) else enrolment.row(student)
        except ValidationError:  # an étape of 33 characters, a year in the last century
            raise Unreadable("unreadable") from None

    def _ambiguity(self, numbers: Sequence[str], attributes: Mapping[str, Sequence[str]]) -> str:
        if len(numbers) != 1:
            return "several_student_ids"
        if not self._form.composite and self.has_enrolments(attributes):
            both = attributes[ETAPES.lower()], attributes.get(YEARS.lower(), ())
            return "" if all(len(values) == 1 for values in both) else "ambiguous_year"
        return ""

    def _composites(self, attributes: Mapping[str, Sequence[str]]) -> Sequence[str]:
        if self._form.composite or not self.has_enrolments(attributes):
            return attributes.get(self._enrolments, ())
        [etape], [year] = attributes[ETAPES.lower()], attributes[YEARS.lower()]
        return [compose({"anneeinsc": year, "etape": etape})]

    def _understand(self, composite: str) -> "_Enrolment | str":
        """Return what a composite states, or why it is left out; raises Unreadable, or pydantic's ValidationError."""
        parts = parse(composite)
        label, etape = _unlabelled(parts.get("etape", ""))
        if not etape:
            return "no_etape"
        _, etab = _unlabelled(parts.get("etab", ""))
        uais = [_uai(text) for text in (etab, _establishment_of(label)) if text]
        if not self._form.uais.issuperset(uais):
            return "foreign_etab"
        _, year = _unlabelled(parts.get("anneeinsc", ""))
        if not _YEAR.fullmatch(year):
            raise Unreadable("no_year")
        code, version = self._code_and_version(etape.upper())
        _, component = _unlabelled(parts.get(self._component, ""))
        component = component.upper().removeprefix(self._form.component_prefix.upper())
        return _Enrolment(
            year=int(year),
            etape=Etape(code=code, version=version, component=Component(code=component) if component else None),
            source=Source(system="supann", uai=uais[0] if uais else self._form.uai),
        )

    def _code_and_version(self, etape: str) -> tuple[str, str | None]:
        etape = etape.removeprefix(self._form.etape_prefix.upper())
        if self._form.etape_separator:
            code, _, version = etape.rpartition(self._form.etape_separator.upper())
            if code and _VERSION.fullmatch(version):
                return code, version
        return etape, None


def parse(composite: str) -> dict[str, str]:
    """Return the parts of a composite by their key in lower case, escapes decoded, labels kept.

    A value ends at `][`, or at the end, so that a lone bracket belongs to it. Raises Unreadable when it isn't a chain
    of `[key=value]`, has a key twice, or has space between two parts: one of them would be lost in the other's value.
    """
    text = composite.strip()
    if not (text.startswith("[") and text.endswith("]")) or _LOOSE.search(text):
        raise Unreadable("unreadable")
    parts: dict[str, str] = {}
    for part in text[1:-1].split("]["):
        key, equals, value = part.partition("=")
        key = _decoded(key).strip().lower()
        if not key or not equals or key in parts:
            raise Unreadable("unreadable")
        parts[key] = _decoded(value).strip()
    return parts


def compose(parts: Mapping[str, str]) -> str:
    """Return the composite that `parse` takes apart into these parts."""
    escaped = str.maketrans({character: f"#{ord(character):02X}" for character in "#[]="})
    return "".join(f"[{key.translate(escaped)}={value.translate(escaped)}]" for key, value in parts.items())


def _decoded(text: str) -> str:
    if "#" not in text:
        return text
    try:
        return _ESCAPED.sub(lambda found: bytes.fromhex(found[0].replace("#", "")).decode(), text)
    except UnicodeDecodeError:
        raise Unreadable("unreadable") from None


def _unlabelled(value: str) -> tuple[str, str]:
    """Return the label in front of a value (`UAI:0141408E` of `{UAI:0141408E}X_1`) and the value, empty if unknown."""
    found = None if value.upper() == _PLACEHOLDER else _LABEL.match(value)
    label, text = (found[1], value[found.end() :].strip()) if found else ("", value)
    return label, "" if text.upper() == _PLACEHOLDER else text


def _establishment_of(label: str) -> str:
    nomenclature, _, establishment = label.partition(":")
    return establishment if nomenclature.upper() == "UAI" else ""


def _uai(text: str) -> str:
    uai = text.strip().upper()
    if not _UAI.fullmatch(uai):
        raise Unreadable("unreadable_etab")
    return uai


def _facts(rows: Iterable[EnrolmentRow], numbers: Sequence[str], reason: str, left_out: Sequence[str]) -> EntryFacts:
    """Put together what an entry holds; with a reason, something about these students is unknown."""
    unknown = []
    unnumbered = [] if numbers else ["no_student_id"]
    for number in numbers if reason else ():
        try:
            unknown.append(UnknownRow(student_id=number, reason=reason))
        except ValidationError:  # nothing that could be a student number
            unnumbered.append("no_student_id")
    return EntryFacts(rows=tuple(rows), unknown=tuple(unknown), left_out=(*left_out, *unnumbered))
