"""The ledger of the settings, what writes changes into it, and what a person reviews removals with."""

from collections.abc import Iterator
from contextlib import contextmanager

from worker.domain.errors import SettingsError
from worker.domain.rules import Mapper, Mode
from worker.ledger import Ledger, Recorder
from worker.settings.root import Settings
from worker.sync.review import Review


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


def review_of(settings: Settings, ledger: Ledger, platform: str | None = None) -> Review:
    """Build the review of one platform's removals, or of those of all that aren't manual. Raises SettingsError."""
    names = [name for name, each in sorted(settings.platforms.items()) if each.mode is not Mode.MANUAL]
    if platform is not None and settings.platform(platform).mode is Mode.MANUAL:
        raise SettingsError(f"{platform} is managed by hand: nothing is planned or held there")
    chosen = names if platform is None else [platform]
    return Review(ledger, {name: settings.guard(name) for name in chosen})
