"""A directory as a source of snapshots, from a real slapd."""

from collections import Counter, defaultdict
from typing import Any

import pytest

from schemas import EnrolmentRow, SnapshotRow, UnknownRow
from tests.support.requirements import needed
from tests.support.servers.slapd import SUFFIX, Slapd, real_slapd
from tests.support.supann import entry, ldif
from worker import snapshots
from worker.domain.errors import SourceIncomplete
from worker.domain.snapshots import SnapshotScope
from worker.runtime import sources
from worker.sandbox.university.generator import University
from worker.settings.root import Settings
from worker.sources import SnapshotSource

OURS = "0141408E"
SCOPE = SnapshotScope(uais=frozenset({OURS}), academic_years=frozenset({2026}))


def composite(etape: str, year: int = 2026, **more: str) -> str:
    return "".join(f"[{key}={value}]" for key, value in {"anneeinsc": year, "etape": etape, **more}.items())


def source(slapd: Slapd, base: str, uais: frozenset[str] = SCOPE.uais, **more: Any) -> SnapshotSource:  # noqa: ANN401 - as TOML gives them
    settings = Settings(
        uais=uais,
        active_years=frozenset({2026}),
        platforms={"ecampus": {"mode": "manual"}},
        sources={"directory": slapd.settings(base, **more)},
    )
    return sources.source(settings, "directory")


def read(slapd: Slapd, base: str, scope: SnapshotScope = SCOPE, **more: Any) -> tuple[list[SnapshotRow], Counter[str]]:  # noqa: ANN401 - idem
    reading = source(slapd, base, **more).read(scope)
    return list(reading), reading.left_out


def members(rows: list[SnapshotRow]) -> dict[str, frozenset[str]]:
    found = defaultdict(set)
    for row in rows:
        assert isinstance(row, EnrolmentRow)
        found[row.etape.code].add(row.student.student_id)
    return {code: frozenset(students) for code, students in found.items()}


def test_a_directory_of_35_000_students_makes_a_snapshot_of_the_cohorts_that_its_university_must_have() -> None:
    university = University()
    for _ in university.september_day():  # people arrive, resign, change, are merged
        pass
    base = f"ou=people,{SUFFIX}"
    with needed(), real_slapd(ldif(university, base)) as directory:
        reading = source(directory, base).read(SCOPE)
        with snapshots.collect(reading, SCOPE) as collected:
            rows: list[SnapshotRow] = [EnrolmentRow.model_validate_json(row) for row in collected]
    assert members(rows) == university.truth()
    assert (collected.system, collected.repeated, collected.unknown) == ("supann", 0, {})
    assert reading.left_out["other_year"] > 1_000
    assert reading.left_out["foreign_etab"] > 100
    assert set(reading.left_out) == {"other_year", "foreign_etab"}


def test_rows_outside_the_scope_are_counted_by_reason(slapd: Slapd) -> None:
    base = slapd.branch(
        [
            entry("22600001", composite("XINFO2_101"), composite("XINFO1_101", 2025), composite("DROI1_101")),
            entry("22600002", composite("XINFO2_101", etab="{UAI}0751717J"), "[anneeinsc=2026]"),
        ]
    )
    rows, left_out = read(
        slapd, base, SnapshotScope(uais=SCOPE.uais, academic_years=SCOPE.academic_years, etapes=("XINFO*",))
    )
    assert members(rows) == {"XINFO2": {"22600001"}}
    assert left_out == {"other_year": 1, "other_etape": 1, "foreign_etab": 1, "no_etape": 1}


def test_two_entries_of_one_student_add_up_and_the_first_login_counts(slapd: Slapd) -> None:
    first = entry("22600001", composite("XINFO2_101"), composite("XMATH2_101"), login="camille1")
    second = entry("22600001", composite("XINFO2_101"), composite("XPHYS2_101"), login="exemple1")
    base = slapd.branch([first, second.replace("uid=e22600001,", "uid=other,").replace("uid: e22600001", "uid: other")])
    rows, left_out = read(slapd, base)
    with snapshots.collect(rows, SCOPE) as collected:
        assert collected.rows == 3
    assert left_out == {"repeated": 1}
    logins = {row.etape.code: row.student.login for row in rows if isinstance(row, EnrolmentRow)}
    assert logins == {"XINFO2": "camille1", "XMATH2": "camille1", "XPHYS2": "exemple1"}


def test_an_ambiguous_entry_is_unknown_and_the_others_are_told(slapd: Slapd) -> None:
    twice = entry("22600002", composite("XINFO2_101")).replace("supannEtuId:", "supannEtuId: 22600003\nsupannEtuId:")
    base = slapd.branch([entry("22600001", composite("XINFO2_101")), twice])
    rows, _ = read(slapd, base)
    assert [row.student_id for row in rows if isinstance(row, UnknownRow)] == ["22600002", "22600003"]
    assert members([row for row in rows if isinstance(row, EnrolmentRow)]) == {"XINFO2": {"22600001"}}


def test_codes_that_a_directory_takes_for_the_same_lead_to_one_cohort(slapd: Slapd) -> None:
    base = slapd.branch([entry("22600001", composite("XINFO2_101")), entry("22600002", composite("xinfo2_101"))])
    assert members(read(slapd, base)[0]) == {"XINFO2": {"22600001", "22600002"}}


def test_a_directory_without_the_composite_is_read_by_its_single_values(slapd: Slapd) -> None:
    def sentence(number: str, etapes: list[str], years: list[int]) -> str:
        values = [f"supannEtuEtape: {etape}" for etape in etapes]
        values += [f"supannEtuAnneeInscription: {year}" for year in years]
        return "\n".join([entry(number).rstrip(), *values])

    base = slapd.branch(
        [
            sentence("22600001", ["XINFO2_101"], [2026]),
            sentence("22600002", ["XINFO1_101", "XINFO2_101"], [2025, 2026]),
            sentence("22600003", ["XINFO1_101"], [2025]),
            sentence("22600004", [], []),
        ]
    )
    rows, left_out = read(slapd, base, composite="")
    assert [(row.student_id, row.reason) for row in rows if isinstance(row, UnknownRow)] == [
        ("22600002", "ambiguous_year")
    ]
    assert members([row for row in rows if isinstance(row, EnrolmentRow)]) == {"XINFO2": {"22600001"}}
    assert left_out == {"other_year": 1}


def test_a_directory_that_shows_nobody_is_incomplete(slapd: Slapd) -> None:
    with pytest.raises(SourceIncomplete, match="the directory shows no entry"):
        read(slapd, slapd.branch())


def test_a_directory_that_hides_the_enrolments_is_incomplete(slapd: Slapd) -> None:
    base = slapd.branch([entry("22600001"), entry("22600002")])
    with pytest.raises(SourceIncomplete, match="2 entries, none of which has supannEtuInscription"):
        read(slapd, base)


def test_a_directory_that_shows_nothing_of_an_establishment_is_not_complete_for_it(slapd: Slapd) -> None:
    base = slapd.branch([entry("22600001", composite("XINFO2_101"))])
    both = frozenset({OURS, "0751717J"})
    directory = source(slapd, base, both, uai=OURS)
    with pytest.raises(SourceIncomplete, match="shows no enrolment at 0751717J"):
        list(directory.read(SnapshotScope(uais=both, academic_years=SCOPE.academic_years)))
    assert len(list(directory.read(SCOPE))) == 1
