"""What a supervisor is told: ready, alive, stopping. It is systemd's protocol: one datagram a state."""

import socket
import time
from collections.abc import Callable, Mapping

import structlog

log = structlog.get_logger()


class Supervisor:
    """The systemd that started this process, as its environment says, or nobody: then telling does nothing.

    See sd_notify(3) for NOTIFY_SOCKET and sd_watchdog_enabled(3) for WATCHDOG_USEC.
    """

    def __init__(self, environment: Mapping[str, str], clock: Callable[[], float] = time.monotonic) -> None:
        socket_name = environment.get("NOTIFY_SOCKET", "")
        self._address = "\0" + socket_name[1:] if socket_name.startswith("@") else socket_name
        self._every = int(environment.get("WATCHDOG_USEC", "0")) / 2e6  # half of what it waits, as it advises
        self._clock = clock
        self._next = clock()

    def tell(self, state: str) -> None:
        """Say `READY=1`, `WATCHDOG=1` or `STOPPING=1`. A supervisor that can't be told is only logged."""
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagrams:
                datagrams.sendto(state.encode(), self._address)
        except OSError as error:
            log.warning("the supervisor cannot be told", state=state, error=str(error))

    def expects_beat(self) -> bool:
        """Whether it wants to hear now that all is well; then not again until half of its patience is over."""
        now = self._clock()
        if not self._every or now < self._next:
            return False
        self._next = now + self._every
        return True
