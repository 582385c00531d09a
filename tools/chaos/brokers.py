"""Kafka stops, restarts, and loses what it held."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from operator import methodcaller

from tests.support.servers.kafka import Kafka
from tools.chaos.campaign import Fault
from tools.chaos.world import World


@contextmanager
def down(world: World, end: Callable[[Kafka], None]) -> Iterator[None]:
    """Stop the broker until the worker notices, and start it again."""
    before = len(world.worker.events("a library says"))
    end(world.kafka)
    try:
        world.eventually(lambda: len(world.worker.events("a library says")) > before)
    finally:
        world.kafka.start()
    yield


@contextmanager
def recreated(world: World, *, under_a_worker: bool) -> Iterator[None]:
    """Delete the topic once all of it has been read, and create it again."""
    world.eventually(world.has_read)
    if not under_a_worker:
        world.worker.terminate()
    world.kafka.delete_topic(world.installation.topic)
    world.kafka.create_topic(world.installation.topic, world.installation.partitions)
    yield
    if under_a_worker:
        world.wait_for_end()


@contextmanager
def offsets_lost(world: World) -> Iterator[None]:
    """Delete the consumer group and its committed offsets."""
    world.worker.terminate()
    world.kafka.delete_group(world.installation.topic)
    yield


@contextmanager
def more_partitions(world: World) -> Iterator[None]:
    """Add a partition to the topic: the messages of most students then go to another one than before."""
    world.installation.partitions += 1
    world.kafka.add_partitions(world.installation.topic, world.installation.partitions)
    yield


FAULTS = (
    Fault(name="broker restarted", strike=partial(down, end=methodcaller("stop"))),
    Fault(name="broker killed", strike=partial(down, end=methodcaller("kill"))),
    Fault(name="topic recreated between two runs", strike=partial(recreated, under_a_worker=False)),
    Fault(name="topic recreated under a worker", strike=partial(recreated, under_a_worker=True), brief=True),
    Fault(name="offsets of the group lost", strike=offsets_lost, brief=True),
    Fault(name="partitions added", strike=more_partitions, brief=True),
)
