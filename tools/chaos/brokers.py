"""Kafka goes away, comes back, and forgets."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from operator import methodcaller

from tests.support.servers.kafka import Kafka
from tools.chaos.campaign import Fault
from tools.chaos.world import World


@contextmanager
def away(world: World, end: Callable[[Kafka], None]) -> Iterator[None]:
    """End the broker, long enough for the worker to be told, and start it again."""
    told = len(world.worker.said("a library says"))
    end(world.kafka)
    try:
        world.eventually(lambda: len(world.worker.said("a library says")) > told)
    finally:
        world.kafka.start()
    yield


@contextmanager
def created_anew(world: World, *, under_a_worker: bool) -> Iterator[None]:
    """Delete the topic, once all of it has been read, and create it."""
    world.eventually(world.has_read)
    if not under_a_worker:
        world.worker.terminate()
    world.kafka.delete_topic(world.here.topic)
    world.kafka.create_topic(world.here.topic, world.here.partitions)
    yield
    if under_a_worker:
        world.dies()


@contextmanager
def forgotten(world: World) -> Iterator[None]:
    """Delete the group with all that it has committed."""
    world.worker.terminate()
    world.kafka.delete_group(world.here.topic)
    yield


@contextmanager
def more_partitions(world: World) -> Iterator[None]:
    """Give the topic another partition: most students' messages then go to another one than before."""
    world.here.partitions += 1
    world.kafka.add_partitions(world.here.topic, world.here.partitions)
    yield


FAULTS = (
    Fault(name="broker restarted", strike=partial(away, end=methodcaller("stop"))),
    Fault(name="broker killed", strike=partial(away, end=methodcaller("kill"))),
    Fault(name="topic created anew between two runs", strike=partial(created_anew, under_a_worker=False)),
    Fault(name="topic created anew under a worker", strike=partial(created_anew, under_a_worker=True), brief=True),
    Fault(name="offsets of the group lost", strike=forgotten, brief=True),
    Fault(name="partitions added", strike=more_partitions, brief=True),
)
