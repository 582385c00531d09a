"""The connections to the settings' platforms."""

from worker.domain.errors import SettingsError
from worker.domain.rules import Mode
from worker.moodle import CallLimits, Transport
from worker.settings.platforms import PlatformSettings
from worker.settings.root import Settings


def missing_token(name: str, platform: PlatformSettings) -> str | None:
    """Return that a platform can't be called for want of a token, and the remedy; None if it has one or needs none."""
    if platform.mode is Mode.MANUAL or platform.token is not None:
        return None
    return (
        f"it has no token: set COHORTS_PLATFORMS__{name.upper()}__TOKEN in the environment, or mount a file of that "
        "name among the secrets"
    )


def require_tokens(settings: Settings) -> None:
    """Raise SettingsError, with one line for each platform that has no token and needs one."""
    missing = {name: missing_token(name, platform) for name, platform in sorted(settings.platforms.items())}
    if sentences := [f"platforms.{name}: {sentence}" for name, sentence in missing.items() if sentence]:
        raise SettingsError("\n".join(sentences))


def transport(name: str, platform: PlatformSettings) -> Transport:
    """Build the connection to a platform's web services. Raises SettingsError without its url or token."""
    if platform.url is None or platform.token is None:
        raise SettingsError(f"platforms.{name}: {missing_token(name, platform) or 'it has no url or no token'}")
    limits = CallLimits(**platform.limits.model_dump())
    return Transport(name, platform.url, platform.token.get_secret_value(), limits)
