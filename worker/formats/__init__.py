"""The formats of messages on topics: bytes become changes."""

from worker.formats.debezium import Debezium

__all__ = ["Debezium"]
