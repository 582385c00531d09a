"""The short sections: which enrolments count, the ledger, the rhythm of converging, the night, retention, the web."""

from typing import Annotated

from pydantic import Field, SecretStr

from worker.domain.accounts import CONFIRM_NIGHTS
from worker.domain.states import Payment, Status
from worker.settings.section import Section

Seconds = Annotated[float, Field(ge=0)]


class EligibilitySettings(Section):
    """Which enrolments count."""

    statuses: frozenset[Status] = frozenset({Status.ACTIVE})
    """Statuses that count, among active, pending, cancelled, resigned."""
    payments: frozenset[Payment] = frozenset({Payment.PAID, Payment.UNKNOWN})
    """Payment states that count, among paid, due, unknown. A directory doesn't know payments: all are unknown."""
    exclude_etapes: tuple[str, ...] = ()
    """Étape codes (globs) that never lead to a cohort, on any platform."""
    exclude_components: tuple[str, ...] = ()
    """Component codes (globs) that never lead to a cohort, on any platform."""
    grace_days: float = Field(0.0, ge=0, le=366)
    """Days that the memberships of a year stay after it was removed from `active_years`."""


class SnapshotSettings(Section):
    """Which snapshots are accepted."""

    max_age_hours: float = Field(20.0, gt=0, le=24 * 31)
    """Maximum hours since the source was read. Above 24, changes may take longer than the promised day."""
    max_shrink_percent: float = Field(10.0, ge=0, le=100)
    """Percent of a year's rows that may be missing since the last accepted snapshot; 100 disables the limit."""


class LedgerSettings(Section):
    """Where the state is kept."""

    url: SecretStr = SecretStr("sqlite:///ledger.db")
    """`sqlite:///FILE` for one worker, `postgresql+psycopg://…` for several. With a password: COHORTS_LEDGER__URL."""

    @property
    def serves_several(self) -> bool:
        """Whether several workers may share it."""
        return not self.url.get_secret_value().startswith("sqlite")


class ConvergeSettings(Section):
    """When gaps are closed."""

    coalesce_seconds: Seconds = 2.0
    """Seconds that an addition waits for others, so that a burst makes few calls."""
    removal_delay_seconds: Seconds = 120.0
    """Seconds that a removal waits, so that a delete followed by a create cancels out."""
    park_seconds: Annotated[float, Field(gt=0)] = 300.0
    """Seconds before the first retry of a membership that can't be applied (no account); doubles each time."""
    park_most_seconds: Annotated[float, Field(gt=0)] = 86_400.0
    """Maximum seconds between retries."""
    poll_seconds: Annotated[float, Field(gt=0)] = 1.0
    """Seconds between polls of the ledger when there is nothing to do."""


class ReconcileSettings(Section):
    """The night."""

    wait_minutes: float = Field(60.0, ge=0)
    """Minutes that a reconciliation waits for gaps to be closed before it reports what is left."""
    confirm_accounts_nights: int = Field(CONFIRM_NIGHTS, ge=1, le=31)
    """Nights within which Moodle is asked again whose each known account is, a part of them a night, 2,000 at least."""


class RetentionSettings(Section):
    """How long data about people is kept: `cohorts purge` applies it. Topics must expire before the ledger does."""

    journal_days: float = Field(365.0, ge=31)
    """Days that the journal, the decisions of people and the reports of reconciliations are kept. The guard counts
    those of 30 days."""
    student_days: float = Field(365.0, ge=7)
    """Days that a student is kept who has no enrolment any more and is in no cohort."""
    dead_letter_days: float = Field(365.0, ge=1)
    """Days that dead letters are to be kept: `cohorts purge` counts the older ones, Kafka's retention removes them."""


class WebSettings(Section):
    """Where metrics and health are served."""

    host: str = "127.0.0.1"
    """Address to listen on; loopback by default."""
    port: int = Field(9464, ge=0, le=65535)
    """Port of /metrics, /livez and /readyz; 0 picks a free one."""
