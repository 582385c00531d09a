"""A web server whose certificate has expired: nobody should send it anything."""
# ruff: noqa: S603 -- the program and its arguments are our own

import shutil
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from socket import socket

from tests.support.servers import MissingServerError
from tests.support.servers.ldap_peers import serving

CONFIGURATION = """\
[ca]
default_ca = ours
[ours]
database = index
new_certs_dir = .
rand_serial = yes
default_md = sha256
policy = policy
x509_extensions = extensions
[policy]
commonName = supplied
[extensions]
subjectAltName = IP:127.0.0.1
"""
KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
DAYS = ("-startdate", "20200101000000Z", "-enddate", "20200102000000Z")


@dataclass
class Expired:
    """The address of the server and its certificate."""

    url: str
    certificate: Path
    """The file of the certificate, which would be trusted if it hadn't expired."""
    received: list[bytes] = field(default_factory=list)
    """What clients sent all the same."""


@contextmanager
def expired(directory: Path) -> Iterator[Expired]:
    """Serve with an expired certificate, written to this folder; raises MissingServerError without openssl."""
    if not shutil.which("openssl"):
        raise MissingServerError("no openssl: install it")
    (directory / "ca.cnf").write_text(CONFIGURATION)
    (directory / "index").touch()
    for command in (
        ("openssl", "req", "-new", *KEY, "-subj", "/CN=expired", "-keyout", "site.key", "-out", "site.csr"),
        ("openssl", "ca", "-batch", "-config", "ca.cnf", "-selfsign", "-keyfile", "site.key", *DAYS, "-notext",
         "-in", "site.csr", "-out", "site.crt"),
    ):  # fmt: skip
        subprocess.run(command, cwd=directory, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "site.crt", directory / "site.key")
    received: list[bytes] = []

    def serve(client: socket) -> None:
        with context.wrap_socket(client, server_side=True) as connection:
            received.append(connection.recv(1000))

    with serving(serve) as port:
        yield Expired(f"https://127.0.0.1:{port}", directory / "site.crt", received)
