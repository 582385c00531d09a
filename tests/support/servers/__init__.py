"""Real servers for the tests: those named in the environment, or temporary ones on the loopback interface."""

import socket


class MissingServerError(Exception):
    """A real server is not available on this machine; the text says what to install or to set."""


def free_ports(count: int) -> list[int]:
    """Find ports that nothing listens on at this moment."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
