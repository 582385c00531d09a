"""Notifications to systemd: ready, alive, stopping. Its protocol is one datagram per state."""

import socket
import time
from collections.abc import Callable, Mapping

import structlog

log = structlog.get_logger()


class Supervisor:
    """The systemd that started this process, as its environment says; without one, notifying does nothing.

    See sd_notify(3) for NOTIFY_SOCKET and sd_watchdog_enabled(3) for WATCHDOG_USEC.
    """

    def __init__(self, environment: Mapping[str, str], clock: Callable[[], float] = time.monotonic) -> None:
        socket_name = environment.get("NOTIFY_SOCKET", "")
        self._address = "\0" + socket_name[1:] if socket_name.startswith("@") else socket_name
        self._every = (
            int(environment.get("WATCHDOG_USEC", "0")) / 2e6
        )  # seconds; half of the watchdog's time, as systemd advises
        self._clock = clock
        self._next = clock()

    def notify(self, state: str) -> None:
        """Send `READY=1`, `WATCHDOG=1` or `STOPPING=1`. A failure to do so is only logged."""
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagrams:
                datagrams.sendto(state.encode(), self._address)
        except OSError as error:
            log.warning("systemd cannot be notified", state=state, error=str(error))

    def expects_beat(self) -> bool:
        """Whether a heartbeat is due now; then the next one is due after half of the watchdog's time."""
        now = self._clock()
        if not self._every or now < self._next:
            return False
        self._next = now + self._every
        return True
