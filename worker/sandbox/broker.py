"""A Kafka broker inside this process: librdkafka's mock cluster, which the confluent-kafka wheel contains.

Its C interface is `rdkafka_mock.h`, which librdkafka calls experimental: the version of confluent-kafka is pinned.
"""

import ctypes
from typing import Self

from confluent_kafka import cimpl

from worker.domain.errors import BrokerError

LIBRARY = ctypes.CDLL(cimpl.__file__)
PRODUCER = 0  # rd_kafka_type_t: any client can carry a mock cluster
BROKER_ID = 1  # of the first and only broker

# Every type is declared: otherwise ctypes truncates pointers to 32 bits.
for name, result, arguments in (
    ("rd_kafka_conf_new", ctypes.c_void_p, ()),
    (
        "rd_kafka_conf_set",
        ctypes.c_int,
        (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t),
    ),
    ("rd_kafka_new", ctypes.c_void_p, (ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t)),
    ("rd_kafka_destroy", None, (ctypes.c_void_p,)),
    ("rd_kafka_err2name", ctypes.c_char_p, (ctypes.c_int,)),
    ("rd_kafka_mock_cluster_new", ctypes.c_void_p, (ctypes.c_void_p, ctypes.c_int)),
    ("rd_kafka_mock_cluster_destroy", None, (ctypes.c_void_p,)),
    ("rd_kafka_mock_cluster_bootstraps", ctypes.c_char_p, (ctypes.c_void_p,)),
    ("rd_kafka_mock_group_initial_rebalance_delay_ms", None, (ctypes.c_void_p, ctypes.c_int32)),
    (
        "rd_kafka_mock_topic_create",
        ctypes.c_int,
        (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int, ctypes.c_int),
    ),
    ("rd_kafka_mock_broker_set_down", ctypes.c_int, (ctypes.c_void_p, ctypes.c_int32)),
    ("rd_kafka_mock_broker_set_up", ctypes.c_int, (ctypes.c_void_p, ctypes.c_int32)),
):
    function = getattr(LIBRARY, name)
    function.restype = result
    function.argtypes = arguments


class EmbeddedBroker:
    """One broker for clients on this machine, gone at the end of the `with`.

    It keeps 5 MiB and 100,000 batches per partition and silently drops the oldest. It doesn't support transactions
    (aborted records are delivered), the creation of topics by clients (an unknown topic appears, with 4 partitions,
    when it is written to), topic ids, offsets by time, retention, compaction or a maximum message size.
    """

    def __enter__(self) -> Self:
        properties = LIBRARY.rd_kafka_conf_new()
        LIBRARY.rd_kafka_conf_set(properties, b"log_level", b"0", None, 0)
        self._client = LIBRARY.rd_kafka_new(PRODUCER, properties, None, 0)
        self._cluster = LIBRARY.rd_kafka_mock_cluster_new(self._client, 1)
        LIBRARY.rd_kafka_mock_group_initial_rebalance_delay_ms(self._cluster, 0)
        self.bootstrap: str = LIBRARY.rd_kafka_mock_cluster_bootstraps(self._cluster).decode()
        self.properties = {"bootstrap.servers": self.bootstrap}
        return self

    def __exit__(self, *_: object) -> None:
        LIBRARY.rd_kafka_mock_cluster_destroy(self._cluster)
        LIBRARY.rd_kafka_destroy(self._client)

    def create_topic(self, name: str, partitions: int) -> None:
        """Create a topic that does not exist yet."""
        _check(LIBRARY.rd_kafka_mock_topic_create(self._cluster, name.encode(), partitions, 1), f"create {name}")

    def stop(self) -> None:
        """Break every connection and refuse new ones, like a broker that is down; its records are kept."""
        _check(LIBRARY.rd_kafka_mock_broker_set_down(self._cluster, BROKER_ID), "stop")

    def start(self) -> None:
        """Accept connections again after `stop`."""
        _check(LIBRARY.rd_kafka_mock_broker_set_up(self._cluster, BROKER_ID), "start")


def _check(code: int, what: str) -> None:
    if code:
        raise BrokerError(f"The embedded broker cannot {what}: {LIBRARY.rd_kafka_err2name(code).decode()}")
