"""Whatever the order in which messages arrive, however often and in whichever batches: the same is desired.

A model of a few lines says what that is.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from random import Random
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.builders import ECAMPUS, FOREIGN_UAI, NOW, POLICY, UAI, deleted, merged, names, recorder, told
from worker.domain.changes import (
    BELOW_ALL_VERSIONS,
    Change,
    ComponentChange,
    EnrolmentChange,
    EtapeChange,
    NumberChange,
    Received,
)
from worker.domain.rules import CohortTemplate, Mode, PlatformPolicy, Policy, Route
from worker.domain.states import Payment, Status
from worker.formats import cloudevents
from worker.ledger import Ledger, status
from worker.ledger.schema import metadata
from worker.sandbox.university.generator import University
from worker.sandbox.university.records import Message

SANTE = PlatformPolicy(
    name="sante",
    mode=Mode.AUTOMATIC,
    routes=(Route(components=("MED",)), Route(etapes=("A",), exclude_components=("U99",))),
    templates=(
        CohortTemplate(idnumber="{etape}-{version}", name="{idnumber} {etape_label}"),
        CohortTemplate(idnumber="{component}", name="{component_label}"),
    ),
)
PRELUDE = PlatformPolicy(name="prelude", mode=Mode.MANUAL)
SMALL = Policy(
    uais=frozenset({UAI}),
    active_years=frozenset({2026}),
    exclude_etapes=("X",),
    aliases={"OLD": "A"},
    platforms=(ECAMPUS, PRELUDE, SANTE),
)
World = dict[str, tuple[dict[str, frozenset[str]], dict[str, str | None]]]
"""By platform: the desired members and the wanted name of every cohort that has some."""


# The model


def expected(changes: Sequence[Change]) -> World:  # noqa: C901 - a fold read from top to bottom
    """Fold all messages at once, and write down what follows."""
    enrolments = [c for c in changes if isinstance(c, EnrolmentChange)]
    merges = {
        (c.changed_at, c.student_id, c.previous_student_id)
        for c in changes
        if isinstance(c, NumberChange) and c.uai == UAI
    }
    spoken = [c for c in changes if isinstance(c, EnrolmentChange | EtapeChange) and c.uai == UAI]
    etape_components: dict[str, str] = {}
    component_labels: dict[str, str] = {}
    for said in sorted(spoken, key=lambda c: (c.changed_at, c.component or "")):
        if said.etape and said.component:
            etape_components[said.etape] = said.component
    alone = [c for c in changes if isinstance(c, ComponentChange) and c.uai == UAI]
    for named in sorted([*spoken, *alone], key=lambda c: (c.changed_at, c.component_label or "")):
        if named.component and named.component_label:
            component_labels[named.component] = named.component_label

    def rank(said: EnrolmentChange | EtapeChange) -> tuple[Any, ...]:
        whole = isinstance(said, EtapeChange) and said.etape_version is None
        version = said.etape_version or ""
        return whole, len(version), version, said.changed_at, said.etape_label

    etape_labels = {c.etape: c.etape_label for c in sorted((c for c in spoken if c.etape and c.etape_label), key=rank)}

    latest: dict[tuple[str, str], EnrolmentChange] = {}
    by_source: dict[tuple[str, str, str], EnrolmentChange] = {}
    for change in sorted(enrolments, key=lambda c: (c.version, c.changed_at)):
        by_source[change.uai, change.enrolment_id, change.system] = change
    for change in sorted(by_source.values(), key=lambda c: (c.changed_at, c.system)):
        latest[change.uai, change.enrolment_id] = change

    members: dict[str, dict[str, set[str]]] = {"ecampus": {}, "sante": {}}
    wanted: dict[str, dict[str, str | None]] = {"ecampus": {}, "sante": {}}

    def join(platform: str, idnumber: str, student: str, *words: str | None, between: str = ": ") -> None:
        members[platform].setdefault(idnumber, set()).add(student)
        known = [word for word in words if word is not None]
        wanted[platform][idnumber] = between.join(known) if len(known) == len(words) else None

    for change in latest.values():
        valid = change.status is Status.ACTIVE and change.payment is not Payment.DUE
        if change.uai != UAI or not valid or change.academic_year != 2026 or change.etape in {None, "X"}:
            continue
        assert change.etape is not None
        code = "A" if change.etape == "OLD" else change.etape
        component = change.component or etape_components.get(change.etape)
        student = survivor(change.student_id, merges)
        home = component_labels.get(etape_components.get(code, ""))
        join("ecampus", code, student, home, etape_labels.get(code))
        if component == "MED" or (code == "A" and component != "U99"):
            if change.etape_version is not None:
                idnumber = f"{code}-{change.etape_version}"
                join("sante", idnumber, student, idnumber, etape_labels.get(code), between=" ")
            if component is not None:
                join("sante", component, student, component_labels.get(component))
    return {
        name: ({idnumber: frozenset(who) for idnumber, who in cohorts.items()}, wanted[name])
        for name, cohorts in members.items()
    }


def logins(changes: Sequence[Change]) -> dict[str, str]:
    """Give the latest login of each student; of two at once, that which comes last in the alphabet."""
    said = [c for c in changes if isinstance(c, EnrolmentChange) and c.uai == UAI and c.login is not None]
    return {c.student_id: c.login for c in sorted(said, key=lambda c: (c.changed_at, c.login)) if c.login is not None}


def survivor(number: str, merges: set[tuple[float, str, str]]) -> str:
    """Follow the latest merge of each number; of those that go round in a circle, the oldest never was."""
    into = {previous: (student, at) for at, student, previous in sorted(merges)}

    def circle(start: str) -> list[str]:
        trail = [start]
        while (step := into.get(trail[-1])) is not None and step[0] not in trail:
            trail.append(step[0])
        return trail if step is not None and step[0] == start else []

    for start in sorted(into):
        if around := circle(start):
            del into[min(around, key=lambda n: (into[n][1], n))]
    while number in into:
        number = into[number][0]
    return number


# Small universes

INSTANTS = st.integers(1, 5).map(lambda i: NOW + i)
STUDENTS = st.sampled_from("1234")
COMPONENTS = st.sampled_from([None, "U99", "MED", "LET"])
VERSIONS = st.sampled_from([None, "99", "101", "221"])
ETAPES = st.sampled_from(["A", "A", "B", "OLD", "X"])
UAIS = st.sampled_from([UAI, UAI, UAI, FOREIGN_UAI])


def labelled(prefix: str, key: str | None) -> st.SearchStrategy[str | None]:
    return st.none() if key is None else st.sampled_from([None, f"{prefix} {key}", f"{prefix} {key} bis"])


@st.composite
def enrolment_changes(draw: st.DrawFn) -> EnrolmentChange:
    etape, component = draw(ETAPES), draw(COMPONENTS)
    facts: dict[str, Any] = {
        "uai": draw(UAIS),
        "enrolment_id": draw(st.sampled_from(["e1", "e2", "e3"])),
        "system": draw(st.sampled_from(["apogee", "supann"])),
        "version": draw(st.integers(1, 4)),
        "changed_at": draw(INSTANTS),
        "student_id": draw(STUDENTS),
    }
    if draw(st.integers(0, 5)) == 0:
        return deleted(**facts)
    return told(
        **facts,
        status=draw(st.sampled_from([Status.ACTIVE, Status.ACTIVE, Status.ACTIVE, Status.CANCELLED])),
        payment=draw(st.sampled_from([Payment.PAID, Payment.PAID, Payment.UNKNOWN, Payment.DUE])),
        academic_year=draw(st.sampled_from([2026, 2026, 2026, 2025])),
        etape=etape,
        etape_version=draw(VERSIONS),
        etape_label=draw(labelled("Étape", etape)),
        component=component,
        component_label=draw(labelled("UFR", component)),
        login=draw(st.sampled_from([None, "login", "other"])),
    )


@st.composite
def merge_changes(draw: st.DrawFn) -> NumberChange:
    previous, into = draw(st.permutations("1234"))[:2]
    return merged(previous, into, at=draw(INSTANTS), uai=draw(UAIS))


@st.composite
def descriptions(draw: st.DrawFn) -> EtapeChange:
    etape, component = draw(ETAPES), draw(COMPONENTS)
    return EtapeChange(
        uai=draw(UAIS),
        etape=etape,
        changed_at=draw(INSTANTS),
        origin="etapes",
        etape_version=draw(st.one_of(VERSIONS, st.just(BELOW_ALL_VERSIONS))),
        etape_label=draw(labelled("Étape", etape)),
        component=component,
        component_label=draw(labelled("UFR", component)),
    )


@st.composite
def component_descriptions(draw: st.DrawFn) -> ComponentChange:
    component = draw(st.sampled_from(["U99", "MED", "LET"]))
    return ComponentChange(
        uai=draw(UAIS),
        component=component,
        component_label=draw(st.sampled_from([f"UFR {component}", f"UFR {component} bis"])),
        changed_at=draw(INSTANTS),
        origin="components",
    )


def identity(change: Change) -> object:
    """A source says one thing under one version at one instant; anything else is said as often as it likes."""
    if isinstance(change, EnrolmentChange):
        return change.uai, change.enrolment_id, change.system, change.version, change.changed_at
    return change


@st.composite
def universes(draw: st.DrawFn) -> list[Change]:
    """Draw what is said of a small world, some of it said again under another version."""
    one = st.one_of(enrolment_changes(), enrolment_changes(), merge_changes(), descriptions(), component_descriptions())
    changes = draw(st.lists(one, min_size=1, max_size=14))
    if enrolments := [change for change in changes if isinstance(change, EnrolmentChange)]:
        again = st.builds(
            EnrolmentChange._replace, st.sampled_from(enrolments), version=st.integers(1, 6), changed_at=INSTANTS
        )
        changes += draw(st.lists(again, max_size=4))
    return [*{identity(change): change for change in changes}.values()]


UNIVERSES = universes()


@contextmanager
def emptied(ledger: Ledger) -> Iterator[Ledger]:
    with ledger.write() as connection:
        for table in reversed(metadata.sorted_tables):
            connection.execute(sa.delete(table))
    yield ledger


def tell(ledger: Ledger, changes: Sequence[Change], random: Random, policy: Policy, batches: int) -> None:
    """Record everything in any order, some of it repeatedly, in about so many batches."""
    arrived = [*changes, *random.sample(changes, random.randint(0, len(changes)))]
    random.shuffle(arrived)
    cuts = sorted(random.randint(0, len(arrived)) for _ in range(random.randint(0, batches)))
    for start, end in zip([0, *cuts], [*cuts, len(arrived)], strict=True):
        batch = [Received(change=change, published_at=NOW) for change in arrived[start:end]]
        recorder(ledger, policy).record(batch, now=NOW)


def world(ledger: Ledger, policy: Policy) -> World:
    return {
        platform.name: (status.desired(ledger, platform.name), names(ledger, platform.name))
        for platform in policy.platforms
        if platform.mode is not Mode.MANUAL
    }


def check(ledger: Ledger, changes: Sequence[Change], random: Random) -> None:
    """Tell a universe, perhaps with other settings for a while."""
    with emptied(ledger):
        first = random.choice([SMALL, replace(SMALL, aliases={}), POLICY])
        recorder(ledger, first).apply_policy(now=NOW)
        some = random.randint(0, len(changes)) if first != SMALL else 0
        if some:
            tell(ledger, changes[:some], random, first, 4)
        recorder(ledger, SMALL).apply_policy(now=NOW)
        tell(ledger, changes, random, SMALL, 8)
        found = world(ledger, SMALL)
        assert found == expected(changes)
        assert status.logins(ledger) == logins(changes)
        assert status.desired(ledger, "prelude") == {}


@pytest.fixture(scope="module")
def sqlite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    ledger = Ledger(f"sqlite:///{tmp_path_factory.mktemp('fold') / 'ledger.db'}")
    yield ledger
    ledger.close()


@given(UNIVERSES, st.randoms(use_true_random=False))
@settings(max_examples=150, deadline=None)
def test_any_order_and_repetition_and_batches_desire_the_same(
    sqlite: Ledger, changes: list[Change], random: Random
) -> None:
    check(sqlite, changes, random)


@given(UNIVERSES, st.randoms(use_true_random=False))
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_and_so_they_do_on_postgresql(postgres_url: str, changes: list[Change], random: Random) -> None:
    ledger = Ledger(postgres_url)
    try:
        check(ledger, changes, random)
    finally:
        ledger.close()


# A whole university


def heard(told_: Sequence[Message]) -> list[Change]:
    return [cloudevents.parse(value=m.payload(), origin=f"enrolments[0]@{i}") for i, m in enumerate(told_)]


def university(seed: int) -> tuple[University, list[Change]]:
    living = University(seed=seed, students=300, etapes=25)
    said = [*living.initial(), *living.september_day(300), *living.september_day(100)]
    return living, heard(said)


def by_label(living: University, codes: Sequence[str]) -> dict[str, str]:
    labels = living.labels()
    return {code: f"{labels[code][2]}: {labels[code][0]}" for code in codes}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("order", ["as told", "backwards", "shuffled"])
def test_a_university_is_as_its_records_say_in_any_order(sqlite: Ledger, seed: int, order: str) -> None:
    living, changes = university(seed)
    if order == "backwards":
        changes.reverse()
    if order == "shuffled":
        Random(seed).shuffle(changes)
    with emptied(sqlite):
        for start in range(0, len(changes), 97):
            batch = [Received(change=change, published_at=NOW) for change in changes[start : start + 97]]
            recorder(sqlite).record(batch, now=NOW)
        assert status.desired(sqlite, "ecampus") == living.truth()
        assert names(sqlite) == by_label(living, [*living.truth()])


def test_a_university_is_as_its_records_say_on_every_ledger(ledger: Ledger) -> None:
    living, changes = university(7)
    tell(ledger, changes, Random(7), POLICY, 5)
    assert status.desired(ledger, "ecampus") == living.truth()
    assert names(ledger) == by_label(living, [*living.truth()])
