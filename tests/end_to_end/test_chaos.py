"""The campaign in brief: one fault after the other, and one verdict. `make chaos` tries and judges each alone."""

from pathlib import Path

import pytest

from tests.support.servers.kafka import Kafka
from tests.support.servers.postgres import Postgres
from tools.chaos.campaign import try_faults
from tools.chaos.faults import FAULTS
from tools.chaos.world import living

pytestmark = pytest.mark.end_to_end

SEED = 7
MEMORY = 160 * 1024  # kB: a worker in peace uses 100 MB


def test_whatever_breaks_every_cohort_is_soon_right_and_nobody_is_removed_wrongly(
    kafka: Kafka, topic: str, tmp_path: Path
) -> None:
    faults = [fault for fault in FAULTS if fault.brief and not fault.postgres]
    with living(tmp_path, kafka, topic, seed=SEED) as world:
        trial = try_faults(world, faults)
    assert (trial.problem, trial.lost, trial.wrong) == ("", [], [])
    assert trial.peak < MEMORY


def test_a_postgresql_outage_costs_nothing_but_time(
    kafka: Kafka, topic: str, tmp_path: Path, postgres: Postgres
) -> None:
    faults = [fault for fault in FAULTS if fault.brief and fault.postgres]
    with living(tmp_path, kafka, topic, seed=SEED, postgres=postgres) as world:
        trial = try_faults(world, faults)
    assert (trial.problem, trial.lost, trial.wrong) == ("", [], [])
    assert trial.peak < MEMORY
