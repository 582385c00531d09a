"""The worker is killed: at random, and at the steps where something is half done."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial

from tools.chaos.campaign import Fault
from tools.chaos.world import World

STEPS: Mapping[str, tuple[str, str]] = {  # steps that need free cohorts come first: the others leave them leased
    "between Moodle's response and its settling": ("worker.moodle.transport:Transport.write", "after"),
    "in the ledger's transaction": ("worker.ledger.recorder:_advance", "after"),
    "between the ledger's transaction and the offsets": ("worker.kafka:RecordConsumer.commit", "before"),
    "between a dead letter and the ledger's transaction": ("worker.kafka:RecordProducer.send", "after"),
    "before it has read anything": ("worker.kafka:RecordConsumer.poll", "before"),
    "between claiming cohorts and anything else": ("worker.moodle.reader:MoodleReader.users", "before"),
    "between the intention and the call": ("worker.ledger.work_queue:WorkQueue.mark_in_flight", "after"),
    "between settling and giving the lease back": ("worker.ledger.work_queue:WorkQueue.release", "before"),
}
"""The function, and whether before or after it."""
BRIEF = [*STEPS][:4]


@contextmanager
def killed_at(world: World, step: str) -> Iterator[None]:
    function, when = STEPS[step]
    world.restart(dies=(function, when, 1))
    yield
    world.wait_for_end()


@contextmanager
def killed_at_random(world: World) -> Iterator[None]:
    """Kill the worker once it has done a little more, whatever it is doing."""

    def work_done() -> int:
        return len(world.moodle.calls) + sum(world.installation.recorded().values()) // 5

    enough = work_done() + world.random.randint(1, 15)
    yield
    world.eventually(lambda: work_done() >= enough)
    world.worker.kill()
    world.wait_for_end()


FAULTS = (
    Fault(name="SIGKILL at random", strike=killed_at_random),
    *(Fault(name=f"SIGKILL {step}", strike=partial(killed_at, step=step), brief=step in BRIEF) for step in STEPS),
)
