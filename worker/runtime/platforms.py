"""The connections to the settings' platforms."""

from worker.moodle import CallLimits, Transport
from worker.settings.platforms import PlatformSettings


def transport(name: str, platform: PlatformSettings) -> Transport:
    """Build the connection to a platform's web services. Raises ValueError without its url and token."""
    if platform.url is None or platform.token is None:
        raise ValueError(f"{name} has no url and token")
    limits = CallLimits(**platform.limits.model_dump())
    return Transport(name, platform.url, platform.token.get_secret_value(), limits)
