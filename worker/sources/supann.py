"""What an entry of a SupAnn directory says about enrolments. Pure.

The composite `supannEtuInscription` ties an étape to its year and establishment; it is a chain of `[key=value]`:

    [etab={UAI}0141408E][anneeinsc=2026][affect=HS_U99][etape={UAI:0141408E}XINFO2_101]

`supannEtuEtape` and `supannEtuAnneeInscription` each hold several values that nothing ties together: they are believed
only where the directory has no composite, of an entry that has one of each. When something that is said can't be
understood, its student is unknown, not gone.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from pydantic import ValidationError

from schemas import Component, EnrolmentRow, Etape, Source, UnknownRow

ETAPES, YEARS = "supannEtuEtape", "supannEtuAnneeInscription"
MOST_KEPT = 20_000
"""Composites that are kept understood."""
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
    """What is said can't be understood; the text is a reason that can be counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryFacts:
    """What an entry says."""

    rows: tuple[EnrolmentRow, ...]
    """Enrolments at our establishments, of every year; none twice."""
    unknown: tuple[UnknownRow, ...]
    """Students of whom it can't be said what else they are enrolled in."""
    left_out: Counter[str]
    """What it says besides, by reason: `foreign_etab` and `no_etape` of an enrolment, `no_student_id` of the entry."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Enrolment:
    """What a composite says, of whomever it is: all students of an étape share a few of them."""

    year: int
    etape: Etape
    source: Source

    def of(self, student: Mapping[str, str]) -> EnrolmentRow:
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
        self._understood = lru_cache(maxsize=MOST_KEPT)(self._understand)

    def says_anything(self, attributes: Mapping[str, Sequence[str]]) -> bool:
        """Whether the entry has the attribute of enrolments at all."""
        return self._enrolments in attributes

    def tell(self, attributes: Mapping[str, Sequence[str]]) -> EntryFacts:
        """Give all that an entry says; `attributes` are its values by name in lower case.

        Codes of étapes and components are in capitals, as APOGÉE has them, because a directory ignores their case.
        A login is taken where there is one; of several, none. Several student numbers: nothing is known of any.
        """
        numbers = sorted({number.strip() for number in attributes.get(self._student_id, ())})
        if reason := self._ambiguity(numbers, attributes):
            return _told([], numbers, reason, Counter())
        logins = {login.strip() for login in attributes.get(self._login, ())} - {""}
        student = {"student_id": numbers[0]} | ({"login": logins.pop()} if len(logins) == 1 else {})
        rows: dict[str, EnrolmentRow] = {}
        left_out: Counter[str] = Counter()
        reason = ""
        for composite in self._composites(attributes):
            try:
                found = self._understood(composite)
                row = found if isinstance(found, str) else found.of(student)
            except Unreadable as problem:
                reason = str(problem)
            except ValidationError:  # an étape of 33 characters, a year in the last century
                reason = "unreadable"
            else:
                if isinstance(row, str):
                    left_out[row] += 1
                else:
                    rows.setdefault(row.enrolment_id, row)
        return _told(rows.values(), numbers, reason, left_out)

    def _ambiguity(self, numbers: Sequence[str], attributes: Mapping[str, Sequence[str]]) -> str:
        if len(numbers) != 1:
            return "several_student_ids"
        if not self._form.composite and self.says_anything(attributes):
            both = attributes[ETAPES.lower()], attributes.get(YEARS.lower(), ())
            return "" if all(len(values) == 1 for values in both) else "ambiguous_year"
        return ""

    def _composites(self, attributes: Mapping[str, Sequence[str]]) -> Sequence[str]:
        if self._form.composite or not self.says_anything(attributes):
            return attributes.get(self._enrolments, ())
        [etape], [year] = attributes[ETAPES.lower()], attributes[YEARS.lower()]
        return [compose({"anneeinsc": year, "etape": etape})]

    def _understand(self, composite: str) -> "_Enrolment | str":
        """Give what a composite says, or why it is left out; raises Unreadable, or pydantic's ValidationError."""
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
    """Give the parts of a composite by their key in lower case, escapes decoded, labels kept.

    A value ends at `][`, or at the end, so that a lone bracket belongs to it. Raises Unreadable when it isn't a chain
    of `[key=value]`, has a key twice, or space between two parts: one of them would be lost in the other's value.
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
    """Give the composite of which `parse` gives these parts."""
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
    """Give the label in front of a value, `UAI:0141408E` of `{UAI:0141408E}X_1`, and the value, empty if unknown."""
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


def _told(rows: Iterable[EnrolmentRow], numbers: Sequence[str], reason: str, left_out: Counter[str]) -> EntryFacts:
    """Put together what an entry says; of these students something isn't known, when there is a reason."""
    unknown = []
    for number in numbers if reason else ():
        try:
            unknown.append(UnknownRow(student_id=number, reason=reason))
        except ValidationError:  # nothing that could be a student number
            left_out["no_student_id"] += 1
    if not numbers:
        left_out["no_student_id"] += 1
    return EntryFacts(rows=tuple(rows), unknown=tuple(unknown), left_out=left_out)
