"""Every procedure of the runbook, tried as it is written, with worker processes on a real Kafka."""

import re
import time
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime

import orjson
import pytest

from tests.support.installation import (
    LAW,
    UAI,
    YEAR,
    Install,
    Installation,
    enrolment,
    eventually,
    lawyers,
    number,
    numbers,
    platform,
    welcome,
)
from tests.support.procedures import procedure
from worker.domain.states import Action, PlatformState
from worker.ledger import status
from worker.sandbox.moodle.server import Fault, SandboxMoodle
from worker.sandbox.university.catalogue import CatalogueEtape, Faculty
from worker.sandbox.university.records import InventedEnrolment, Message, enrolled
from worker.sync import dead_letters

pytestmark = pytest.mark.end_to_end

EVERYBODY = range(20)
GUARD = {"floor": 2, "cohort_percent": 20, "platform_percent": 100}
HASH = re.compile(r"\b[0-9a-f]{8}\b")


def of_year(year: int, rank: int) -> Message:
    """Tell an enrolment in law of another year."""
    row = InventedEnrolment(
        uai=UAI, person=rank, number=number(rank), year=year, etape=LAW, etape_version="101", revision=1
    )
    return enrolled(replace(row, at=1_788_000_000.0))


def just_now(rank: int, *, status: str = "active") -> Message:
    """Tell an enrolment in law as it is now, after whatever snapshot there was."""
    row = InventedEnrolment(
        uai=UAI, person=rank, number=number(rank), year=YEAR, etape=LAW, etape_version="101", revision=9
    )
    return enrolled(replace(row, status=status, at=time.time()))


def image(here: Installation, messages: Iterable[Message]) -> dict[str, str]:
    """Write the image that a source would give now; gives what stands for FILE and TIME."""
    file = here.directory / "image.jsonl"
    file.write_bytes(b"".join(orjson.dumps(message.value["data"]) + b"\n" for message in messages))
    return {"FILE": str(file), "TIME": datetime.fromtimestamp(time.time(), UTC).isoformat()}


def configure(here: Installation, **settings: object) -> None:
    """Change settings of the file, or the mode of the platform."""
    mode = settings.pop("mode", None)
    if mode is not None:
        here.settings["platforms"]["ecampus"]["mode"] = mode
    here.settings.update(settings)
    here.write_settings()


def removed(here: Installation) -> set[str]:
    return {student for _, student in status.applied(here.ledger, "ecampus", Action.REMOVE)}


def nobody_was_taken_out(moodle: SandboxMoodle) -> bool:
    return "core_cohort_delete_cohort_members" not in {call.function for call in moodle.calls}


@pytest.fixture
def law(install: Install, moodle: SandboxMoodle) -> Installation:
    """Twenty lawyers in their cohort; no worker is left running."""
    here = install({"ecampus": platform(moodle, guard=GUARD)}, partitions=1)
    welcome(moodle, EVERYBODY)
    worker = here.worker()
    here.publish(enrolment(rank) for rank in EVERYBODY)
    eventually(lambda: lawyers(moodle) == numbers(EVERYBODY) and here.missing("ecampus") == set())
    assert worker.terminate() == 0
    return here


def test_first_installation(install: Install, moodle: SandboxMoodle) -> None:
    here = install({"ecampus": platform(moodle, guard=GUARD, mode="observe")})
    welcome(moodle, EVERYBODY)
    cohort = moodle.create_cohort(name="Droit, première année", idnumber="L1DROI")
    moodle.add_member(cohort, moodle.add_user(username="a.teacher"))
    for rank in range(16):
        moodle.add_member(cohort, moodle.user_ids[f"e{number(rank)}"])
    there = lawyers(moodle)
    rows = [enrolment(rank, status="resigned" if rank < 8 else "active") for rank in EVERYBODY]
    with procedure(here, "First installation") as tried:
        assert "FAILURE" not in tried.run("cohorts check")
        worker = here.worker()
        worker.started()
        tried.run("cohorts snapshot publish FILE --taken-at TIME", **image(here, rows))
        assert "0 cohorts of ours" in tried.run("cohorts reconcile")
        eventually(lambda: here.state_of("ecampus").gaps["foreign"] == 12)
        tried.run("cohorts status")
        assert "1 cohort could be adopted on ecampus" in tried.run("cohorts adopt ecampus")
        assert "1 of 1 cohort adopted" in tried.run("cohorts adopt ecampus 'L1*' --apply")
        assert "0 of 0 cohorts adopted" in tried.run("cohorts adopt ecampus --apply")
        assert "drift: 8 extra" in tried.run("cohorts reconcile --without-snapshot")
        assert "8 there before the adoption" in tried.run("cohorts plan")
        assert "held: 8 removals of 1 cohort;" in tried.run("cohorts held")
        assert lawyers(moodle) == there
        assert not any(call.writes for call in moodle.calls)

        assert worker.terminate() == 0
        configure(here, mode="automatic")
        here.worker()
        eventually(lambda: lawyers(moodle) == there | numbers(EVERYBODY))
        held = tried.run("cohorts held")
        tried.run("cohorts approve HASH", HASH=HASH.findall(held)[0])
        eventually(lambda: lawyers(moodle) == numbers(range(8, 20)) | {"a.teacher"})
        assert not HASH.search(tried.run("cohorts plan"))
        tried.run("cohorts status")
    assert here.missing("ecampus") == set()


def test_year_rollover(law: Installation, moodle: SandboxMoodle) -> None:
    welcome(moodle, range(20, 30))
    again = [of_year(YEAR + 1, rank) for rank in (*range(10), *range(20, 30))]
    with procedure(law, "Year rollover") as tried:
        configure(law, active_years=[YEAR, YEAR + 1])
        worker = law.worker()
        worker.started()
        both = image(law, [*map(enrolment, EVERYBODY), *again])
        tried.run("cohorts snapshot publish FILE --taken-at TIME", **both)
        tried.run("cohorts reconcile")
        eventually(lambda: lawyers(moodle) == numbers(range(30)))
        assert "10 year closed" in tried.run("cohorts plan --active-years 2027")
        assert lawyers(moodle) == numbers(range(30))
        assert worker.terminate() == 0

        configure(law, active_years=[YEAR + 1])
        law.worker()
        eventually(lambda: law.state_of("ecampus").gaps["held"] == 10)
        assert lawyers(moodle) == numbers(range(30))
        held = tried.run("cohorts held")
        tried.run("cohorts approve HASH", HASH=HASH.findall(held)[0])
        eventually(lambda: lawyers(moodle) == numbers([*range(10), *range(20, 30)]))
        assert not HASH.search(tried.run("cohorts plan"))
        tried.run("cohorts status")
    eventually(lambda: removed(law) == numbers(range(10, 20)))


def test_moodle_upgrade_or_maintenance_and_rotating_a_token(law: Installation, moodle: SandboxMoodle) -> None:
    before = law.worker()
    welcome(moodle, [20])
    with procedure(law, "Moodle upgrade or maintenance") as tried:
        tried.run("cohorts status")
        moodle.fault = Fault.MAINTENANCE_SETTING
        law.publish([enrolment(20)])
        eventually(lambda: law.state_of("ecampus").state is PlatformState.UNAVAILABLE)
        [cohort] = [each.id for each in moodle.cohorts()]
        for rank in range(3):  # the database that was restored is older
            moodle.remove_member(cohort, moodle.user_ids[f"e{number(rank)}"])
        moodle.fault = None
        assert "FAILURE" not in tried.run("cohorts check")
        assert "drift: 3 missing" in tried.run("cohorts reconcile --without-snapshot")
        tried.run("cohorts status")
    assert nobody_was_taken_out(moodle)

    with procedure(law, "Rotating a token") as tried:
        eventually(lambda: lawyers(moodle) == numbers(range(21)))
        law.settings["platforms"]["ecampus"]["token"] = moodle.token = "second"
        law.write_settings()
        assert "FAILURE" not in tried.run("cohorts check")
        assert before.terminate() == 0
        worker = law.worker()
        welcome(moodle, [21])
        law.publish([enrolment(21)])
        eventually(lambda: lawyers(moodle) == numbers(range(22)))
        tried.run("cohorts status")
    assert law.is_up("ecampus")
    assert "second" not in worker.text()


def test_restoring_the_ledger_from_nothing(law: Installation, moodle: SandboxMoodle) -> None:
    for file in law.directory.glob("ledger.db*"):
        file.unlink()
    law.ledgers.pop().close()
    rows = [enrolment(rank, status="resigned" if rank < 2 else "active", revision=2) for rank in (*EVERYBODY, 20)]
    welcome(moodle, [20, 30])
    [cohort] = [each.id for each in moodle.cohorts()]
    moodle.add_member(cohort, moodle.user_ids[f"e{number(30)}"])  # of whom neither image nor topic speak any more
    there = numbers([*EVERYBODY, 30])
    with procedure(law, "Restoring the ledger from nothing") as tried:
        configure(law, mode="observe")
        worker = law.worker()
        worker.started()
        assert "FAILURE" not in tried.run("cohorts check")
        tried.run("cohorts snapshot publish FILE --taken-at TIME", **image(law, rows[1:]))
        assert "0 cohorts of ours" in tried.run("cohorts reconcile")
        eventually(lambda: law.state_of("ecampus").cohorts["foreign"] == 1)
        tried.run("cohorts status")
        assert "1 cohort could be adopted" in tried.run("cohorts adopt ecampus")
        tried.run("cohorts adopt ecampus --apply")
        read = tried.run("cohorts reconcile --without-snapshot")
        assert "drift: 2 extra" in read
        assert "unmatched kept: 1" in read
        assert "2 there before the adoption" in tried.run("cohorts plan")
        assert lawyers(moodle) == there
        held = tried.run("cohorts held")
        tried.run("cohorts approve HASH", HASH=HASH.findall(held)[0])
        assert worker.terminate() == 0
        configure(law, mode="automatic")
        law.worker()
        eventually(lambda: lawyers(moodle) == numbers([*range(2, 21), 30]))
        tried.run("cohorts status")
    assert law.recorded() == law.published()
    eventually(lambda: removed(law) == numbers([0, 1]))
    assert len(moodle.cohorts()) == 1


def test_a_backup_is_restored_and_its_ledger_moved_to_postgresql(
    law: Installation, moodle: SandboxMoodle, postgres_url: str
) -> None:
    backup = law.directory / "backup.db"
    sports = CatalogueEtape("L1SPOR", "Licence 1 STAPS", Faculty("SPO", "UFR STAPS"), ("101",), 0)
    before = law.worker()
    with procedure(law, "Restoring the ledger from a backup") as tried:
        where = "sqlite:////var/backups/cohorts/ledger.db"
        assert "the copy is the same ledger" in tried.run(
            f"cohorts ledger copy --to {where}", **{where: f"sqlite:///{backup}"}
        )
        welcome(moodle, range(20, 30))
        law.publish([enrolment(20), enrolment(0, status="resigned", revision=2)])
        law.publish([enrolled(InventedEnrolment(
            uai=UAI, person=21, number=number(21), year=YEAR, etape=sports, etape_version="101", at=1_788_000_001.0,
        ))])  # fmt: skip
        after = numbers(range(1, 21))
        eventually(lambda: lawyers(moodle) == after and set(moodle.memberships()) == {"L1DROI", "L1SPOR"})
        eventually(lambda: law.missing("ecampus") == set())
        assert before.terminate() == 0

        law.ledgers.pop().close()
        for file in law.directory.glob("ledger.db*"):
            file.unlink()
        backup.rename(law.directory / "ledger.db")
        assert "FAILURE" not in tried.run("cohorts check")
        assert sum(map(int, law.recorded().values())) == 20
        worker = law.worker()
        eventually(lambda: law.recorded() == law.published() and law.missing("ecampus") == set())
        assert len(moodle.cohorts()) == 2
        rows = [*map(enrolment, range(1, 21)), enrolment(0, status="resigned", revision=2)]
        configure(law, snapshot={"max_shrink_percent": 100})
        tried.run("cohorts snapshot publish FILE --taken-at TIME", **image(law, rows))
        tried.run("cohorts reconcile")
        assert "done" in tried.run("cohorts runs")
        tried.run("cohorts held")
        eventually(lambda: lawyers(moodle) == after)
    assert worker.terminate() == 0

    desired, stood = status.desired(law.ledger, "ecampus"), law.status()
    with procedure(law, "Moving SQLite to PostgreSQL") as tried:
        tried.run("cohorts ledger copy --to URL", URL=postgres_url)
        law.ledgers.pop().close()
        configure(law, ledger={"url": postgres_url})
        assert "FAILURE" not in tried.run("cohorts check")
        tried.run("cohorts status")
        assert (status.desired(law.ledger, "ecampus"), law.status()) == (desired, stood)
        law.worker()
        law.publish([just_now(22), just_now(1, status="resigned")])
        eventually(lambda: lawyers(moodle) == numbers([*range(2, 21), 22]))
    assert "the target is a ledger in use" in law.run("ledger", "copy", "--to", postgres_url).stderr


def test_erasing_a_person_forgetting_what_is_old_and_a_replay_after_that(
    law: Installation, moodle: SandboxMoodle
) -> None:
    worker = law.worker()
    assert "aren't over (academic year 2026)" in law.run("erase", number(0)).stderr
    law.publish([enrolment(0, status="resigned", revision=2)])
    law.produce([(b"22009999", b"{", ())])
    eventually(lambda: lawyers(moodle) == numbers(range(1, 20)) and removed(law) == numbers([0]))
    with procedure(law, "Erasing a person") as tried:
        assert "1 enrolment, 1 membership" in tried.run("cohorts erase STUDENT --dry-run", STUDENT=number(0))
        assert "Not erased: messages on the topics" in tried.run("cohorts erase STUDENT", STUDENT=number(0))
        assert "Aucune source ne connaît le numéro" in tried.run("cohorts explain STUDENT", 1, STUDENT=number(0))
    eventually(lambda: len(law.letters()) == 1)
    with procedure(law, "Forgetting what is old") as tried:
        assert "0 student numbers" in tried.run("cohorts purge --dry-run")
        said = tried.run("cohorts purge")
        assert f"0 dead letters in {law.dead_letters} are older than 365 days" in said
    assert dead_letters.older(law.kafka.properties, law.dead_letters, time.time() + 60) == 1
    assert worker.terminate() == 0

    moodle.calls.clear()
    with procedure(law, "Replay of a topic") as tried:
        assert f"{law.topic}[0] 22" in tried.run("cohorts positions")
        said = tried.run("cohorts positions --forget TOPIC", TOPIC=law.topic)
        assert f"1 position of {law.topic} forgotten" in said
        again = law.worker()
        eventually(lambda: again.metrics().get(("cohorts_changes_total", "stale")) == 19)
        assert f"{law.topic}[0] 22" in tried.run("cohorts positions")
    assert "1 student number, 1 enrolment" in law.run("erase", number(0)).stdout  # the topic brought them back
    assert lawyers(moodle) == numbers(range(1, 20))
    assert nobody_was_taken_out(moodle)


def test_apogee_to_pegase(install: Install, moodle: SandboxMoodle) -> None:
    here = install({"ecampus": platform(moodle, guard=GUARD)})
    moodle.add_users((f"e0{rank:07}", f"0{rank:07}") for rank in EVERYBODY)
    everybody = {f"e0{rank:07}" for rank in EVERYBODY}
    old = CatalogueEtape("XINFO1_101", "L1 Informatique", Faculty("U99", "UFR des Sciences"), ("101",), 0)

    def told(rank: int, *, pegase: bool, revision: int = 1, status: str = "active") -> Message:
        at = 1_788_000_000.0 + revision
        etape = replace(old, code="XINFO1-101") if pegase else old
        row = InventedEnrolment(
            uai=UAI, person=rank, number=f"0{rank:07}", year=YEAR, etape=etape, etape_version="101",
            status=status, revision=revision, at=time.time() if pegase else at,
        )  # fmt: skip
        message = enrolled(row)
        if pegase:
            message.value["source"] = f"urn:uai:{UAI}:pegase"
            message.value["data"] |= {"source": {"system": "pegase", "uai": UAI}, "enrolment_id": f"pegase-{rank}"}
        return message

    def members(code: str) -> set[str]:
        return moodle.memberships().get(code, set())

    worker = here.worker()
    here.publish(told(rank, pegase=False) for rank in EVERYBODY)
    eventually(lambda: members("XINFO1_101") == everybody)
    [cohort] = [each.id for each in moodle.cohorts()]
    assert worker.terminate() == 0
    with procedure(here, "APOGÉE to PEGASE") as tried:
        configure(here, aliases={"XINFO1_101": "XINFO1-101"})
        worker = here.worker()
        eventually(lambda: members("XINFO1-101") == everybody)
        tried.run("cohorts status")
        rows = [told(rank, pegase=True) for rank in EVERYBODY]
        seen = tried.run("cohorts snapshot publish FILE --taken-at TIME --dry-run", **image(here, rows))
        assert "20" in seen
        tried.run("cohorts snapshot publish FILE --taken-at TIME", **image(here, rows))
        said = tried.run("cohorts reconcile")
        assert "20 new or changed, 20 ended by absence, 0 memberships changed" in said
        here.publish([told(3, pegase=False, revision=5, status="resigned")])  # too late to be believed
        eventually(lambda: here.recorded() == here.published())
        assert not HASH.search(tried.run("cohorts plan"))
        assert "pegase" in tried.run("cohorts explain STUDENT", STUDENT="00000003")
    assert [each.id for each in moodle.cohorts()] == [cohort]
    assert members("XINFO1-101") == everybody
    assert nobody_was_taken_out(moodle)
    assert removed(here) == set()
    here.publish([told(3, pegase=True, revision=2, status="resigned")])
    eventually(lambda: members("XINFO1-101") == everybody - {"e00000003"})
