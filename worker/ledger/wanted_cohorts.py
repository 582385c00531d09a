"""The cohorts that desired memberships need: noted as wanted, named, and renamed with their étapes."""

from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import Any

import sqlalchemy as sa

from worker.domain.instants import Instant
from worker.domain.rules import Mapper, WantedCohort
from worker.domain.states import CohortState
from worker.ledger.cohort_guard import first_load_goes_on
from worker.ledger.cohorts import UNBLOCKED, UNDECIDED
from worker.ledger.database import select_in
from worker.ledger.schema import cohort, component, etape

CohortName = tuple[str, str]
"""Platform and idnumber."""
_WANTED = ("platform", "idnumber", "template", "etape", "component")
"""The columns of a cohort that the rules decide."""
_wanted_values = attrgetter(*_WANTED)
_COLUMNS = [cohort.c[name] for name in ("id", *_WANTED, "wanted_name")]


class WantedCohorts:
    """The cohorts of some platforms, as the rules want them."""

    def __init__(self, mapper: Mapper, platforms: Sequence[str]) -> None:
        self._mapper = mapper
        self._cohorts = sa.select(*_COLUMNS).where(cohort.c.platform.in_(platforms))

    def by_id(self, connection: sa.Connection, ids: Iterable[int]) -> dict[int, sa.Row[Any]]:
        """Read these cohorts; those of other platforms are left out."""
        return {row.id: row for row in select_in(connection, self._cohorts, cohort.c.id, {*ids})}

    def ids(self, connection: sa.Connection, wanted: Iterable[WantedCohort], now: Instant) -> dict[CohortName, int]:
        """Return the ids of wanted cohorts by platform and idnumber; new ones are noted and named first."""
        # Of two templates that lead to one cohort, the later one names it.
        by_name = {(each.platform, each.idnumber): each for each in sorted(wanted, key=attrgetter("template"))}
        known = self._read(connection, by_name)
        new = [by_name[name] for name in sorted(by_name.keys() - known.keys())]
        # Templates may have changed since the cohort was first wanted.
        changed = [name for name in by_name.keys() & known.keys() if _differs(known[name], by_name[name])]
        if new:
            connection.execute(sa.insert(cohort), _new_rows(connection, new, now))
        for name in changed:
            this = sa.update(cohort).where(cohort.c.id == known[name].id)
            connection.execute(this.values(_values(by_name[name])))
        if new or changed:
            written = self._read(connection, [*((each.platform, each.idnumber) for each in new), *changed])
            self._write_names(connection, list(written.values()))
            known |= written
        return {name: row.id for name, row in known.items()}

    def rename(self, connection: sa.Connection, etapes: Iterable[str], components: Iterable[str]) -> None:
        """Write anew the wanted names of the cohorts of these étapes and components."""
        components = {*components}
        of_components = select_in(connection, sa.select(etape.c.code), etape.c.component, components)
        codes = {*etapes, *(row.code for row in of_components)}
        if not codes and not components:
            return
        rows = {row.id: row for row in select_in(connection, self._cohorts, cohort.c.etape, codes)}
        rows |= {row.id: row for row in select_in(connection, self._cohorts, cohort.c.component, components)}
        self._write_names(connection, list(rows.values()))

    def rename_all(self, connection: sa.Connection) -> None:
        """Write anew the wanted names of all cohorts."""
        self._write_names(connection, connection.execute(self._cohorts).all())

    def follow_aliases(self, connection: sa.Connection) -> None:
        """Let the cohort of an old code live on under the new one, unless that one has a cohort on Moodle already."""
        of_etapes = self._cohorts.add_columns(cohort.c.state).where(cohort.c.etape.is_not(None))
        for row in connection.execute(of_etapes.order_by(cohort.c.id)).all():
            etape_code, idnumber = self._mapper.successor(row.etape, row.idnumber)
            same = sa.and_(cohort.c.platform == row.platform, cohort.c.idnumber == idnumber)
            successor = connection.execute(sa.select(cohort.c.id, cohort.c.state).where(same)).first()
            values = {"idnumber": idnumber, "etape": etape_code, "wanted_name": None}
            this = sa.update(cohort).where(cohort.c.id == row.id)
            if successor is None:
                connection.execute(this.values(**values, **UNDECIDED))
            elif row.state == CohortState.OWNED and successor.state != CohortState.OWNED:
                that = sa.update(cohort).where(cohort.c.id == successor.id)
                connection.execute(that.values(idnumber=f"#{successor.id}"))  # two cohorts can't have one meanwhile
                connection.execute(this.values(**values, **UNDECIDED))
                freed = {"idnumber": row.idnumber, "etape": row.etape, "state": CohortState.WANTED.value}
                connection.execute(that.values(wanted_name=None, held=None, **freed, **UNBLOCKED, **UNDECIDED))

    def _read(self, connection: sa.Connection, names: Iterable[CohortName]) -> dict[CohortName, sa.Row[Any]]:
        rows = select_in(connection, self._cohorts, cohort.c.idnumber, {idnumber for _, idnumber in names})
        return {(row.platform, row.idnumber): row for row in rows}

    def _write_names(self, connection: sa.Connection, rows: Sequence[sa.Row[Any]]) -> None:
        codes = {row.etape for row in rows if row.etape is not None}
        described = {row.code: row for row in select_in(connection, sa.select(etape), etape.c.code, codes)}
        codes = {row.component for row in [*rows, *described.values()] if row.component is not None}
        components = select_in(connection, sa.select(component), component.c.code, codes)
        labels = {row.code: row.label for row in components}
        names = []
        for row in rows:
            name = self._name(row, described.get(row.etape), labels)
            if name != row.wanted_name:
                names.append({"b_id": row.id, "b_name": name})
        if names:
            renamed = sa.update(cohort).where(cohort.c.id == sa.bindparam("b_id"))
            connection.execute(renamed.values(wanted_name=sa.bindparam("b_name"), **_UNDECIDED_LABEL), names)

    def _name(self, row: sa.Row[Any], described: sa.Row[Any] | None, labels: dict[str, str]) -> str | None:
        """Return the wanted name of a cohort; None while a label that it needs is unknown."""
        code = row.component or (None if described is None else described.component)
        return self._mapper.name(
            WantedCohort(**{name: getattr(row, name) for name in _WANTED}),
            etape_label=None if described is None else described.label,
            component=code,
            component_label=labels.get(code or ""),
        )


_UNDECIDED_LABEL = {
    **UNDECIDED,
    # A cohort that is not to be created isn't under any name; one that keeps its label has another to be decided on.
    "rejected": sa.case((cohort.c.state == CohortState.OWNED, sa.null()), else_=cohort.c.rejected),
}
"""The columns of a cohort that gets another label than the one that a person decided about."""


def _new_rows(connection: sa.Connection, new: Iterable[WantedCohort], now: Instant) -> list[dict[str, Any]]:
    """Return the rows of cohorts that are wanted for the first time."""
    rows = [_values(each) | {"state": CohortState.WANTED.value} for each in new]
    first_load = {name: first_load_goes_on(connection, name, now) for name in {row["platform"] for row in rows}}
    return [row | {"first_load": first_load[row["platform"]]} for row in rows]


def _values(wanted: WantedCohort) -> dict[str, Any]:
    return dict(zip(_WANTED, _wanted_values(wanted), strict=True))


def _differs(row: sa.Row[Any], wanted: WantedCohort) -> bool:
    return bool(_wanted_values(row) != _wanted_values(wanted))
