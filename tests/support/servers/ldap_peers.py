"""Faulty directories: connections that are cut or fall silent, and a server with a given response."""

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

CHUNK = 65_536
BIND_RESPONSE, SEARCH_DONE = 0x61, 0x65


@contextmanager
def line(port: int, *, most: int, cut: bool) -> Iterator[int]:
    """Forward to a local port; once the server has sent so many bytes, cut the connection or let it fall silent."""

    def serve(client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", port)) as server:
            threading.Thread(target=_pump, args=(client, server), daemon=True).start()
            left = most
            while left and (chunk := server.recv(min(CHUNK, left))):
                client.sendall(chunk)
                left -= len(chunk)
            if not cut:
                silent.wait()
            client.shutdown(socket.SHUT_RDWR)

    silent = threading.Event()
    with serving(serve) as ours:
        yield ours
        silent.set()


@contextmanager
def answering(code: int, *, certificate: Path) -> Iterator[int]:
    """Serve LDAP over TLS: each bind succeeds, each search has this result code and no entry."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_suffix(".key"))

    def serve(client: socket.socket) -> None:
        with context.wrap_socket(client, server_side=True) as connection:
            connection.recv(CHUNK)
            connection.sendall(_answer(1, BIND_RESPONSE, 0))
            connection.recv(CHUNK)
            connection.sendall(_answer(2, SEARCH_DONE, code))
            connection.recv(CHUNK)

    with serving(serve) as ours:
        yield ours


def _answer(message_id: int, operation: int, code: int) -> bytes:
    """Return an LDAPResult (RFC 4511, 4.1.9) without DN and text."""
    return bytes([0x30, 12, 0x02, 1, message_id, operation, 7, 0x0A, 1, code, 0x04, 0, 0x04, 0])


def _pump(client: socket.socket, server: socket.socket) -> None:
    with suppress(OSError):  # the line was cut
        while chunk := client.recv(CHUNK):
            server.sendall(chunk)
        server.shutdown(socket.SHUT_WR)


@contextmanager
def serving(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """Serve connections, each in a thread; returns the port."""

    def run(client: socket.socket) -> None:
        with suppress(OSError):  # the client went away, or didn't like our certificate
            serve(client)

    def accept() -> None:
        with suppress(OSError):  # closed: the end
            while True:
                threading.Thread(target=run, args=(listener.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
