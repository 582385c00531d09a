"""Change capture from APOGÉE: the envelopes of Debezium as an input format of topics."""

from worker.formats.debezium import Debezium

__all__ = ["Debezium"]
