"""A real directory that is watched: what changes in it becomes messages, once, whoever is killed on the way."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import schemas
from schemas import EnrolmentDeleted, EnrolmentState, StudentRekeyed
from tests.support.builders import UAI
from tests.support.servers.slapd import SUFFIX, Slapd
from tests.support.supann import entry
from worker import kafka
from worker.domain.errors import BrokerError, SettingsError, SourceIncomplete
from worker.ledger import Ledger
from worker.runtime import sources
from worker.sandbox.broker import EmbeddedBroker
from worker.settings.kafka import TopicFormat
from worker.settings.root import Settings
from worker.sources.watch import PollResult, Watch

ONE, TWO = "22600001", "22600002"


def composite(etape: str, year: int = 2026) -> str:
    return f"[etab={{UAI}}{UAI}][anneeinsc={year}][etape={etape}_101]"


@dataclass
class World:
    """A branch of a directory, a topic, and what watches the one and tells on the other."""

    slapd: Slapd
    bus: EmbeddedBroker
    topic: str
    ledger: Ledger
    base: str
    now: float = 1_800_000_000.0
    more: dict[str, Any] = field(default_factory=dict)

    def settings(self, **more: Any) -> Settings:  # noqa: ANN401 - as TOML gives them
        return Settings(
            uais=frozenset({UAI}),
            platforms={"ecampus": {"mode": "manual"}},
            kafka={"bootstrap": self.bus.properties["bootstrap.servers"], "topics": [self.topic]},
            sources={"ldap": self.slapd.settings(self.base, **self.more)},
            **({"active_years": frozenset({2026})} | more),
        )

    def watch(self, **more: Any) -> Watch:  # noqa: ANN401 - idem
        found = sources.watch(self.settings(**more), self.ledger, "ldap")
        found._clock = lambda: self.now
        return found

    def poll(self, **more: Any) -> PollResult:  # noqa: ANN401 - idem
        """Look as a process does that has just been started."""
        self.now += 20
        return self.watch(**more).poll()

    def events(self) -> list[schemas.Event]:
        records = kafka.read_to_end(self.bus.properties, self.topic)
        return [schemas.EVENTS.validate_json(record.value or b"") for record in records]

    def enrolled(self) -> set[tuple[str, str]]:
        """Return étape and student of what the newest message on each enrolment says to be so."""
        newest: dict[str, EnrolmentState | EnrolmentDeleted] = {}
        for event in self.events():
            if isinstance(event, EnrolmentState | EnrolmentDeleted):
                known = newest.get(event.data.enrolment_id)
                if known is None or event.data.version > known.data.version:
                    newest[event.data.enrolment_id] = event
        states = [event for event in newest.values() if isinstance(event, EnrolmentState)]
        return {(event.data.etape.code, event.data.student.student_id) for event in states}

    def dn(self, number: str) -> str:
        return f"dn: uid=e{number},{self.base}"

    def add(self, number: str, *composites: str) -> None:
        self.slapd.change(entry(number, *composites, base=self.base))

    def replace(self, number: str, attribute: str, *values: str) -> None:
        lines = "".join(f"{attribute}: {value}\n" for value in values)
        self.slapd.change(f"{self.dn(number)}\nchangetype: modify\nreplace: {attribute}\n{lines}")

    def delete(self, number: str) -> None:
        self.slapd.change(f"{self.dn(number)}\nchangetype: delete\n")

    def move(self, number: str, branch: str, origin: str | None = None) -> None:
        dn, rdn = f"dn: uid=e{number},{origin or self.base}", f"newrdn: uid=e{number}\ndeleteoldrdn: 0"
        self.slapd.change(f"{dn}\nchangetype: moddn\n{rdn}\nnewsuperior: {branch}\n")


@pytest.fixture
def world(slapd: Slapd, embedded_broker: EmbeddedBroker, topic: str, tmp_path: Path) -> Iterator[World]:
    embedded_broker.create_topic(topic, 3)
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    found = World(slapd, embedded_broker, topic, ledger, slapd.branch())
    found.add(ONE, composite("L1DROI"), composite("L1DROI", 2025))
    found.add(TWO, composite("L1DROI"))
    yield found
    ledger.close()


def test_the_first_look_tells_everything_and_the_next_one_nothing(world: World) -> None:
    assert world.poll().published == {"state": 2}
    assert world.enrolled() == {("L1DROI", ONE), ("L1DROI", TWO)}
    assert {event.data.source.system for event in world.events()} == {"supann"}
    result = world.poll()
    assert (result.entries, result.read, result.published) == (2, 0, {})


def test_another_etape_a_further_one_and_a_new_student_are_told(world: World) -> None:
    world.poll()
    world.replace(ONE, "supannEtuInscription", composite("L2DROI"))
    world.replace(TWO, "supannEtuInscription", composite("L1DROI"), composite("M1DROI"))
    world.add("22600003", composite("L1DROI"))
    assert world.poll().published == {"state": 3, "deleted": 1}
    assert world.enrolled() == {
        ("L2DROI", ONE), ("L1DROI", TWO), ("M1DROI", TWO), ("L1DROI", "22600003"),
    }  # fmt: skip


def test_a_change_that_is_none_of_ours_is_read_and_not_told(world: World) -> None:
    world.poll()
    world.replace(ONE, "mail", "another@example.fr")
    result = world.poll()
    assert (result.read, result.published) == (1, {})


def test_another_login_is_told(world: World) -> None:
    world.poll()
    world.replace(ONE, "supannAliasLogin", "camille")
    assert world.poll().published == {"state": 1}
    assert any("camille" in event.model_dump_json() for event in world.events())


@pytest.mark.parametrize("leaves", [World.delete, lambda world, number: world.move(number, world.slapd.branch())])
def test_whoever_two_looks_in_a_row_miss_has_left(world: World, leaves: Callable[[World, str], None]) -> None:
    world.poll()
    leaves(world, ONE)
    result = world.poll()
    assert (result.missed, result.published) == (1, {})
    assert world.poll().published == {"deleted": 1}
    assert world.enrolled() == {("L1DROI", TWO)}
    [deleted] = [event for event in world.events() if isinstance(event, EnrolmentDeleted)]
    assert deleted.time.timestamp() == world.now - 20, "when they were missed first"
    assert world.poll().published == {}


def test_whoever_is_back_at_the_next_look_has_not_left(world: World) -> None:
    world.poll()
    elsewhere = world.slapd.branch()
    world.move(ONE, elsewhere)
    assert world.poll().missed == 1
    world.move(ONE, world.base, elsewhere)
    for _ in range(2):
        result = world.poll()
        assert (result.missed, result.published) == (0, {})


def test_whoever_comes_back_after_having_left_is_enrolled_again(world: World) -> None:
    world.poll()
    elsewhere = world.slapd.branch()
    world.move(ONE, elsewhere)
    world.now += 10_000_000  # our clock is ahead of the directory's
    world.poll()
    world.poll()
    assert world.enrolled() == {("L1DROI", TWO)}
    world.move(ONE, world.base, elsewhere)
    assert world.poll().published == {"state": 1}
    assert world.enrolled() == {("L1DROI", ONE), ("L1DROI", TWO)}


def test_an_entry_that_is_made_anew_ends_nothing(world: World) -> None:
    world.poll()
    world.delete(ONE)
    world.add(ONE, composite("L1DROI"))
    for _ in range(3):
        assert world.poll().published == {}
    assert world.enrolled() == {("L1DROI", ONE), ("L1DROI", TWO)}


def test_a_student_is_enrolled_by_any_of_two_entries(world: World) -> None:
    twin = entry("twin", composite("L1DROI"), base=world.base, login=ONE)
    world.slapd.change(twin.replace("Id: twin", f"Id: {ONE}"))
    world.poll()
    world.replace(ONE, "supannEtuInscription", composite("L2DROI"))
    assert world.poll().published == {"state": 1}
    assert ("L1DROI", ONE) in world.enrolled()


def test_another_student_number_is_a_merge(world: World) -> None:
    world.poll()
    world.replace(ONE, "supannEtuId", "22609999")
    assert world.poll().published == {"rekeyed": 1, "state": 1, "deleted": 1}
    [merge] = [event for event in world.events() if isinstance(event, StudentRekeyed)]
    assert (merge.data.previous_student_id, merge.data.student_id) == (ONE, "22609999")
    assert world.enrolled() == {("L1DROI", "22609999"), ("L1DROI", TWO)}


def test_what_cannot_be_understood_takes_nothing_back(world: World) -> None:
    world.poll()
    world.replace(ONE, "supannEtuInscription", "[anneeinsc=now][etape=L1DROI_101]")
    world.replace(TWO, "supannEtuId", TWO, "22600009")
    assert world.poll().published == {}
    assert world.enrolled() == {("L1DROI", ONE), ("L1DROI", TWO)}


def test_a_year_that_is_opened_is_told_and_one_that_is_closed_is_left_to_the_rules(world: World) -> None:
    world.poll()
    assert world.poll(active_years={2025, 2026}).published == {"state": 1}
    assert world.poll(active_years={2025}).published == {}
    assert len(world.enrolled()) == 2


def test_a_listing_that_is_cut_is_no_leaving(world: World) -> None:
    world.slapd.change(*(entry(f"2260{i:04}", composite("L1DROI"), base=world.base) for i in range(100, 130)))
    world.poll()
    before = world.enrolled()
    world.more = {"bind_dn": f"cn=limited,{SUFFIX}", "page_size": 10}
    for _ in range(3):
        with pytest.raises(SourceIncomplete, match="has reached its limit of entries"):
            world.poll()
    assert world.enrolled() == before


def test_more_who_are_missing_than_may_leave_at_once_have_not_left(world: World) -> None:
    world.slapd.change(*(entry(f"2260{i:04}", composite("L1DROI"), base=world.base) for i in range(100, 130)))
    world.poll()
    before = world.enrolled()
    world.more = {"filter": f"(supannEtuId={ONE})"}
    for _ in range(3):
        with pytest.raises(SourceIncomplete, match="31 of 32 entries are missing, more than the 10 % of"):
            world.poll()
    assert world.enrolled() == before


class KilledError(Exception):
    """The process is no more."""


def killed_once_it_has_told(world: World) -> None:
    """Look, and be killed between Kafka's acknowledgement and the ledger."""
    watch = world.watch()
    send = watch._producer.send

    def killed(records: Iterable[Any]) -> None:
        send(records)
        raise KilledError

    watch._producer.send = killed  # type: ignore[method-assign] # a process that ends there
    world.now += 20
    with pytest.raises(KilledError):
        watch.poll()


def test_whoever_is_killed_once_it_has_told_tells_the_same_again(world: World) -> None:
    killed_once_it_has_told(world)
    assert world.poll().published == {"state": 2}
    assert world.enrolled() == {("L1DROI", ONE), ("L1DROI", TWO)}
    assert world.poll().published == {}


def test_what_was_told_by_whoever_was_killed_is_ended_though_nobody_saw_it_since(world: World) -> None:
    killed_once_it_has_told(world)
    world.delete(ONE)
    for _ in range(2):
        world.poll()
    assert world.enrolled() == {("L1DROI", TWO)}


def test_what_went_back_to_what_it_was_after_somebody_was_killed_is_told_so(world: World) -> None:
    world.poll()
    world.replace(ONE, "supannEtuInscription", composite("L2DROI"))
    killed_once_it_has_told(world)
    assert ("L2DROI", ONE) in world.enrolled()
    world.replace(ONE, "supannEtuInscription", composite("L1DROI"))
    world.poll()
    assert world.enrolled() == {("L1DROI", ONE), ("L1DROI", TWO)}


def test_another_student_number_that_was_told_by_whoever_was_killed_is_told_again(world: World) -> None:
    world.poll()
    world.replace(ONE, "supannEtuId", "22609999")
    killed_once_it_has_told(world)
    world.poll()
    assert world.enrolled() == {("L1DROI", "22609999"), ("L1DROI", TWO)}


def test_what_kafka_does_not_take_is_told_by_the_next_look(world: World) -> None:
    watch = world.watch()

    def refused(_records: Iterable[Any]) -> None:
        raise BrokerError("nobody acknowledges")

    watch._producer.send = refused  # type: ignore[assignment,method-assign] # a Kafka that is away
    with pytest.raises(BrokerError):
        watch.poll()
    assert world.poll().published == {"state": 2}
    assert world.enrolled() == {("L1DROI", ONE), ("L1DROI", TWO)}


def test_a_directory_that_only_knows_when_an_entry_was_modified_is_watched_too(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.sources.directory._CSN", "modifyTimestamp")
    world.poll()
    world.replace(ONE, "supannEtuInscription", composite("L2DROI"))  # most likely within the same second
    world.poll()
    world.replace(ONE, "supannEtuInscription", composite("L3DROI"))
    world.poll()
    assert world.enrolled() == {("L3DROI", ONE), ("L1DROI", TWO)}


def test_a_source_that_is_no_directory_is_refused(world: World) -> None:
    with pytest.raises(
        SettingsError, match=r"^no directory apogee among the sources of the settings; there are: ldap$"
    ):
        sources.watch(world.settings(), world.ledger, "apogee")


def test_without_a_topic_of_native_messages_there_is_none_to_publish_to(world: World) -> None:
    settings = world.settings()
    captured = settings.kafka.model_copy(update={"formats": {world.topic: TopicFormat.DEBEZIUM}})
    with pytest.raises(SettingsError, match=r'no topic with format "native" to publish changes to$'):
        sources.watch(settings.model_copy(update={"kafka": captured}), world.ledger, "ldap")
