"""The settings of Kafka: brokers, topics, formats."""

from enum import StrEnum
from typing import Annotated, Self

from pydantic import Field, SecretStr, model_validator

from worker.settings.section import Section, Uai


class TopicFormat(StrEnum):
    """How the messages of a topic are written."""

    NATIVE = "native"
    DEBEZIUM = "debezium"


class KafkaSettings(Section):
    """Where messages come from."""

    bootstrap: str = "localhost:9092"
    """Brokers, host:port, comma-separated."""
    topics: Annotated[tuple[str, ...], Field(min_length=1)] = ("enrolments",)
    """Topics of enrolment messages."""
    formats: dict[str, TopicFormat] = Field(default_factory=dict)
    """Topic = format: native (that of `cohorts schema`, the default) or debezium (change capture from APOGÉE)."""
    capture_uai: Uai | None = None
    """Code UAI of the messages in format `debezium`; may be omitted when `uais` has only one."""
    snapshots: str = "enrolments.snapshots"
    """Topic of the snapshots."""
    dead_letters: str = "enrolments.dead-letters"
    """Topic for messages that can never be read."""
    group: str = "etape-cohorts"
    """Consumer group, shared by all the workers of one university."""
    batch: int = Field(5000, ge=1, le=100_000)
    """Messages recorded in one transaction, at most."""
    invalid_limit: int = Field(100, ge=1)
    """Invalid messages in a row after which consumption stops: the contract is broken, and a person must look."""
    client: dict[str, SecretStr] = Field(default_factory=dict)
    """Other librdkafka properties, e.g. `security.protocol`, `ssl.ca.location`, `group.protocol`."""
    password: SecretStr | None = None
    """`sasl.password`: COHORTS_KAFKA__PASSWORD, or a file of that name among the secrets."""

    @model_validator(mode="after")
    def _formats_name_topics(self) -> Self:
        if unknown := self.formats.keys() - {*self.topics}:
            raise ValueError(f"formats names {', '.join(sorted(unknown))}, which topics doesn't")
        return self

    @property
    def captured(self) -> frozenset[str]:
        """Return the topics of change capture."""
        return frozenset(topic for topic, kind in self.formats.items() if kind is TopicFormat.DEBEZIUM)

    @property
    def native(self) -> tuple[str, ...]:
        """Return the topics whose messages follow `schemas`."""
        return tuple(topic for topic in self.topics if topic not in self.captured)

    def properties(self) -> dict[str, str]:
        """Return librdkafka's properties, secrets included: never print them."""
        others = {name: value.get_secret_value() for name, value in self.client.items()}
        if self.password is not None:
            others["sasl.password"] = self.password.get_secret_value()
        return {"bootstrap.servers": self.bootstrap, **others}
