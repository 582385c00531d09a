"""The desired state doesn't depend on the order of messages, their repetition or their batches.

A model of a few lines says what it must be.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.builders import ECAMPUS, FOREIGN_UAI, NOW, POLICY, UAI, deleted, merged, names, recorder, told
from tests.support.properties import MANY
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


@dataclass(frozen=True, kw_only=True)
class Descriptions:
    """What is known of étapes and components in the end."""

    etape_labels: dict[str | None, str | None]
    etape_components: dict[str | None, str | None]
    component_labels: dict[str | None, str | None]

    def component(self, change: EnrolmentChange) -> str | None:
        return change.component or self.etape_components.get(change.etape)

    def etape_label(self, code: str) -> str | None:
        return self.etape_labels.get(code)

    def component_label(self, code: str | None) -> str | None:
        return self.component_labels.get(code)


@dataclass(frozen=True, kw_only=True)
class Cohorts:
    """The cohorts of a platform, by idnumber."""

    members: dict[str, set[str]] = field(default_factory=dict)
    names: dict[str, str | None] = field(default_factory=dict)

    def join(self, idnumber: str, student: str, *words: str | None, between: str = ": ") -> None:
        """Add a member; the name of the cohort is the words, once all are known."""
        self.members.setdefault(idnumber, set()).add(student)
        known = [word for word in words if word is not None]
        self.names[idnumber] = between.join(known) if len(known) == len(words) else None


def expected(changes: Sequence[Change]) -> World:
    """Fold all messages at once, and write down what follows."""
    described, merged_numbers = describe(changes), merges(changes)
    ecampus, sante = Cohorts(), Cohorts()
    for change in newest(changes):
        if is_member(change):
            student = survivor(change.student_id, merged_numbers)
            join_ecampus(ecampus, change, student, described)
            join_sante(sante, change, student, described)
    return {
        name: ({idnumber: frozenset(who) for idnumber, who in cohorts.members.items()}, cohorts.names)
        for name, cohorts in (("ecampus", ecampus), ("sante", sante))
    }


def describe(changes: Sequence[Change]) -> Descriptions:
    """Take the last word on each étape and component."""
    of_etapes = [c for c in changes if isinstance(c, EnrolmentChange | EtapeChange) and c.uai == UAI]
    of_components = [c for c in changes if isinstance(c, ComponentChange) and c.uai == UAI]
    return Descriptions(
        etape_labels=latest(of_etapes, "etape", "etape_label", rank=label_rank),
        etape_components=latest(of_etapes, "etape", "component"),
        component_labels=latest([*of_etapes, *of_components], "component", "component_label"),
    )


def latest(
    changes: Sequence[Any], key: str, value: str, rank: Callable[[Any], tuple[Any, ...]] | None = None
) -> dict[str | None, str | None]:
    """Map one field to another, as the latest change with both does; of two at once, the last in the alphabet."""
    complete = [c for c in changes if getattr(c, key) and getattr(c, value)]
    complete.sort(key=rank or (lambda c: (c.changed_at, getattr(c, value))))
    return {getattr(c, key): getattr(c, value) for c in complete}


def label_rank(change: EnrolmentChange | EtapeChange) -> tuple[Any, ...]:
    """An étape's own label is above those of its versions; of these, the highest version's counts."""
    is_own = isinstance(change, EtapeChange) and change.etape_version is None
    version = change.etape_version or ""
    return is_own, len(version), version, change.changed_at, change.etape_label


def newest(changes: Sequence[Change]) -> Collection[EnrolmentChange]:
    """Take of each enrolment the highest version of each source, and of these the latest."""
    enrolments = [c for c in changes if isinstance(c, EnrolmentChange)]
    enrolments.sort(key=lambda c: (c.version, c.changed_at))
    by_source = {(c.uai, c.enrolment_id, c.system): c for c in enrolments}
    in_order = sorted(by_source.values(), key=lambda c: (c.changed_at, c.system))
    return {(c.uai, c.enrolment_id): c for c in in_order}.values()


def is_member(change: EnrolmentChange) -> bool:
    is_valid = change.status is Status.ACTIVE and change.payment is not Payment.DUE
    return is_valid and change.uai == UAI and change.academic_year == 2026 and change.etape not in {None, "X"}


def code_of(change: EnrolmentChange) -> str:
    assert change.etape is not None
    return SMALL.aliases.get(change.etape, change.etape)


def join_ecampus(cohorts: Cohorts, change: EnrolmentChange, student: str, described: Descriptions) -> None:
    code = code_of(change)
    component = described.etape_components.get(code)
    cohorts.join(code, student, described.component_label(component), described.etape_label(code))


def join_sante(cohorts: Cohorts, change: EnrolmentChange, student: str, described: Descriptions) -> None:
    code, component = code_of(change), described.component(change)
    if component != "MED" and (code != "A" or component == "U99"):
        return
    if change.etape_version is not None:
        idnumber = f"{code}-{change.etape_version}"
        cohorts.join(idnumber, student, idnumber, described.etape_label(code), between=" ")
    if component is not None:
        cohorts.join(component, student, described.component_label(component))


def merges(changes: Sequence[Change]) -> set[tuple[float, str, str]]:
    """When each number was merged, into which number, and the number itself."""
    ours = [c for c in changes if isinstance(c, NumberChange) and c.uai == UAI]
    return {(c.changed_at, c.student_id, c.previous_student_id) for c in ours}


def logins(changes: Sequence[Change]) -> dict[str, str]:
    """Return the latest login of each student; of two at once, that which comes last in the alphabet."""
    with_login = [c for c in changes if isinstance(c, EnrolmentChange) and c.uai == UAI and c.login is not None]
    return {
        c.student_id: c.login for c in sorted(with_login, key=lambda c: (c.changed_at, c.login)) if c.login is not None
    }


def survivor(number: str, merges: set[tuple[float, str, str]]) -> str:
    """Follow the latest merge of each number; of merges in a circle, the oldest doesn't count."""
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
    """A source has one state under one version at one instant; any other change may repeat."""
    if isinstance(change, EnrolmentChange):
        return change.uai, change.enrolment_id, change.system, change.version, change.changed_at
    return change


@st.composite
def universes(draw: st.DrawFn) -> list[Change]:
    """Draw the changes of a small world, some of them again under another version."""
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


def record(ledger: Ledger, changes: Sequence[Change], random: Random, policy: Policy, batches: int) -> None:
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
    """Record a universe, perhaps with other settings for a while, and compare the ledger with the model."""
    with emptied(ledger):
        first = random.choice([SMALL, replace(SMALL, aliases={}), POLICY])
        recorder(ledger, first).apply_policy(now=NOW)
        some = random.randint(0, len(changes)) if first != SMALL else 0
        if some:
            record(ledger, changes[:some], random, first, 4)
        recorder(ledger, SMALL).apply_policy(now=NOW)
        record(ledger, changes, random, SMALL, 8)
        assert world(ledger, SMALL) == expected(changes)
        assert status.logins(ledger) == logins(changes)
        assert status.desired(ledger, "prelude") == {}


@pytest.fixture(scope="module")
def sqlite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    ledger = Ledger(f"sqlite:///{tmp_path_factory.mktemp('fold') / 'ledger.db'}")
    yield ledger
    ledger.close()


@given(UNIVERSES, st.randoms(use_true_random=False))
@settings(max_examples=MANY, deadline=None)
def test_the_desired_state_does_not_depend_on_order_repetition_or_batches(
    sqlite: Ledger, changes: list[Change], random: Random
) -> None:
    check(sqlite, changes, random)


@given(UNIVERSES, st.randoms(use_true_random=False))
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_desired_state_on_postgresql_does_not_depend_on_order_repetition_or_batches(
    postgres_url: str, changes: list[Change], random: Random
) -> None:
    ledger = Ledger(postgres_url)
    try:
        check(ledger, changes, random)
    finally:
        ledger.close()


# A whole university


def parsed(messages: Sequence[Message]) -> list[Change]:
    return [cloudevents.parse(value=m.payload(), origin=f"enrolments[0]@{i}") for i, m in enumerate(messages)]


def university(seed: int) -> tuple[University, list[Change]]:
    generated = University(seed=seed, students=300, etapes=25)
    messages = [*generated.initial(), *generated.september_day(300), *generated.september_day(100)]
    return generated, parsed(messages)


def by_label(generated: University, codes: Sequence[str]) -> dict[str, str]:
    labels = generated.labels()
    return {code: f"{labels[code][2]}: {labels[code][0]}" for code in codes}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("order", ["as published", "backwards", "shuffled"])
def test_a_university_is_as_its_records_say_in_any_order(sqlite: Ledger, seed: int, order: str) -> None:
    generated, changes = university(seed)
    if order == "backwards":
        changes.reverse()
    if order == "shuffled":
        Random(seed).shuffle(changes)
    with emptied(sqlite):
        for start in range(0, len(changes), 97):
            batch = [Received(change=change, published_at=NOW) for change in changes[start : start + 97]]
            recorder(sqlite).record(batch, now=NOW)
        assert status.desired(sqlite, "ecampus") == generated.truth()
        assert names(sqlite) == by_label(generated, [*generated.truth()])


def test_a_university_is_as_its_records_say_on_every_ledger(ledger: Ledger) -> None:
    generated, changes = university(7)
    record(ledger, changes, Random(7), POLICY, 5)
    assert status.desired(ledger, "ecampus") == generated.truth()
    assert names(ledger) == by_label(generated, [*generated.truth()])
