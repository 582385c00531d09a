"""The runbook's backup of a ledger on PostgreSQL, by PostgreSQL's own tools."""

import pytest

from tests.support.installation import Install, enrolment, eventually, lawyers, numbers, platform, welcome
from tests.support.procedures import procedure
from tests.support.servers.postgres import Postgres
from worker.sandbox.moodle.server import SandboxMoodle

pytestmark = pytest.mark.end_to_end


def address(url: str) -> str:
    """Return the address of a ledger in the form that PostgreSQL's tools take."""
    return url.replace("postgresql+psycopg:", "postgresql:")


def test_a_ledger_on_postgresql_is_restored_from_what_was_dumped_beside_its_worker(
    install: Install, moodle: SandboxMoodle, postgres: Postgres, postgres_url: str
) -> None:
    installation = install(
        {"ecampus": platform(moodle, guard={"floor": 2})}, partitions=1, ledger={"url": postgres_url}
    )
    welcome(moodle, range(12))
    where = "/var/backups/cohorts/ledger.dump"
    before, backup = installation.worker(), {where: str(installation.directory / "ledger.dump")}
    installation.publish(enrolment(rank) for rank in range(10))
    eventually(lambda: lawyers(moodle) == numbers(range(10)) and installation.missing("ecampus") == set())
    dump, restore = "pg_dump --format custom --file", "pg_restore --no-owner --single-transaction --dbname ADDRESS"
    with (
        postgres.database() as other,
        procedure(installation, "Restoring a ledger on PostgreSQL from a backup") as tried,
    ):
        tried.run(f"{dump} {where} ADDRESS", ADDRESS=address(postgres_url), **backup)
        installation.publish([enrolment(10), enrolment(0, status="resigned", revision=2)])
        eventually(lambda: lawyers(moodle) == numbers(range(1, 11)) and installation.missing("ecampus") == set())
        assert before.terminate() == 0

        tried.run(f"{restore} {where}", ADDRESS=address(other), **backup)
        installation.ledgers.pop().close()
        installation.settings["ledger"] = {"url": other}
        installation.write_settings()
        assert "FAILURE" not in tried.run("cohorts check")
        assert sum(map(int, installation.recorded().values())) == 10
        worker = installation.worker()
        installation.publish([enrolment(11)])
        eventually(lambda: lawyers(moodle) == numbers(range(1, 12)) and installation.missing("ecampus") == set())
        assert installation.recorded() == installation.published()
        assert worker.terminate() == 0
    assert len(moodle.cohorts()) == 1
