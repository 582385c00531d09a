"""The ledger of the settings, and what writes changes into it."""

from collections.abc import Iterator
from contextlib import contextmanager

from worker.domain.rules import Mapper
from worker.ledger import Ledger, Recorder
from worker.settings.root import Settings


def open_ledger(settings: Settings) -> Ledger:
    """Open the ledger that the settings name."""
    return Ledger(settings.ledger.url.get_secret_value())


@contextmanager
def opened(settings: Settings) -> Iterator[Ledger]:
    """Open the ledger for as long as a command lasts."""
    ledger = open_ledger(settings)
    try:
        yield ledger
    finally:
        ledger.close()


def recorder(settings: Settings, ledger: Ledger, *, grace_days: float | None = None) -> Recorder:
    """Build what writes changes into the ledger; `grace_days` in place of the setting, to rehearse."""
    return Recorder(
        ledger,
        Mapper(settings.policy()),
        coalesce=settings.converge.coalesce_seconds,
        removal_delay=settings.converge.removal_delay_seconds,
        grace=86_400 * (settings.eligibility.grace_days if grace_days is None else grace_days),
    )
