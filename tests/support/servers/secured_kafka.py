"""A Kafka with authentication (SCRAM over TLS, client certificates, bearer tokens) and authorisation."""
# ruff: noqa: S603 -- the programs and their arguments are our own

import base64
import json
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from confluent_kafka.admin import (  # type: ignore[attr-defined] # its stubs forget to export them
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from tests.support.servers import MissingServerError
from tests.support.servers.kafka import OwnKafka, libraries
from worker.runtime.topics import Right

PASSWORD = "a-password-of-the-tests"
OPERATIONS = {"DescribeConfigs": AclOperation.DESCRIBE_CONFIGS}
PROTOCOLS = {"SCRAM": "SASL_SSL", "MTLS": "SSL", "BEARER": "SASL_PLAINTEXT"}

# Whoever comes by the listener of the tests, without a name, may do everything.
SECURITY = """\
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS
ssl.keystore.type=PEM
ssl.keystore.location={directory}/server.pem
ssl.truststore.type=PEM
ssl.truststore.location={directory}/ca.crt
listener.name.mtls.ssl.client.auth=required
listener.name.mtls.ssl.principal.mapping.rules=RULE:^CN=(.*)$/$1/
listener.name.scram.sasl.enabled.mechanisms=SCRAM-SHA-512
listener.name.scram.scram-sha-512.sasl.jaas.config={module}.scram.ScramLoginModule required;
listener.name.bearer.sasl.enabled.mechanisms=OAUTHBEARER
listener.name.bearer.oauthbearer.sasl.jaas.config={module}.oauthbearer.OAuthBearerLoginModule required \
unsecuredLoginStringClaim_sub="kafka";
"""


class SecuredKafka(OwnKafka):
    """Its administrator connects with `properties`, users with the other methods and the rights given to them."""

    def __init__(self, libraries: Path, directory: Path) -> None:
        _certify(directory)
        self._certificates = directory
        security = SECURITY.format(directory=directory, module="org.apache.kafka.common.security")
        super().__init__(libraries, directory, PROTOCOLS, security)

    def by_password(self, user: str, password: str = PASSWORD) -> dict[str, Any]:
        """Return the settings of a user with SCRAM over TLS: `kafka.bootstrap`, `kafka.client`, `kafka.password`."""
        client = {
            "security.protocol": "SASL_SSL",
            "sasl.mechanism": "SCRAM-SHA-512",
            "sasl.username": user,
            "ssl.ca.location": str(self._certificates / "ca.crt"),
        }
        return {"bootstrap": self.addresses["SCRAM"], "client": client, "password": password}

    def by_certificate(self) -> dict[str, Any]:
        """Return the settings of the user `certified`, who has a certificate."""
        client = {
            "security.protocol": "SSL",
            "ssl.ca.location": str(self._certificates / "ca.crt"),
            "ssl.certificate.location": str(self._certificates / "client.crt"),
            "ssl.key.location": str(self._certificates / "client.key"),
        }
        return {"bootstrap": self.addresses["MTLS"], "client": client}

    def by_token(self, user: str) -> dict[str, Any]:
        """Return the settings of a user with a bearer token, which isn't signed here."""
        client = {
            "security.protocol": "SASL_PLAINTEXT",
            "sasl.mechanism": "OAUTHBEARER",
            "enable.sasl.oauthbearer.unsecure.jwt": "true",
            "sasl.oauthbearer.config": f"principal={user}",
        }
        return {"bootstrap": self.addresses["BEARER"], "client": client}

    def by_provider(self, endpoint: str) -> dict[str, Any]:
        """Return the settings for a token of an OpenID provider, which decides on the user."""
        client = {
            "security.protocol": "SASL_PLAINTEXT",
            "sasl.mechanism": "OAUTHBEARER",
            "sasl.oauthbearer.method": "oidc",
            "sasl.oauthbearer.client.id": "cohorts",
            "sasl.oauthbearer.client.secret": PASSWORD,
            "sasl.oauthbearer.token.endpoint.url": endpoint,
        }
        return {"bootstrap": self.addresses["BEARER"], "client": client}

    def add_user(self, user: str) -> None:
        """Create a user with a password."""
        scram = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
        admin = self.admin()
        for answer in admin.alter_user_scram_credentials(
            [UserScramCredentialUpsertion(user, scram, PASSWORD.encode())]
        ).values():
            answer.result()

    def allow(self, user: str, rights: Iterable[Right]) -> None:
        """Grant rights to a user who has none yet, and wait until they are in force."""
        admin = self.admin()
        bindings = [
            AclBinding(
                ResourceType[right.kind.upper()], right.name, ResourcePatternType.LITERAL, f"User:{user}", "*",
                OPERATIONS.get(right.operation) or AclOperation[right.operation.upper()], AclPermissionType.ALLOW,
            )
            for right in rights
        ]  # fmt: skip
        for answer in admin.create_acls(bindings).values() if bindings else ():
            answer.result()
        of_user = AclBindingFilter(
            ResourceType.ANY, None, ResourcePatternType.ANY, f"User:{user}", None,  # type: ignore[arg-type] # any
            AclOperation.ANY, AclPermissionType.ANY,
        )  # fmt: skip
        while len(admin.describe_acls(of_user).result()) != len(bindings):
            pass


class _Provider(BaseHTTPRequestHandler):
    """Gives an unsigned token in return for the right password; the path names the user."""

    def do_POST(self) -> None:
        known = base64.b64encode(f"cohorts:{PASSWORD}".encode()).decode()
        if self.headers["authorization"] != f"Basic {known}":
            self.send_error(401)
            return
        self.rfile.read(int(self.headers["content-length"]))
        claims = {"sub": self.path.lstrip("/"), "iat": int(time.time()), "exp": int(time.time()) + 3600}
        token = f"{_part({'alg': 'none'})}.{_part(claims)}."
        answer = json.dumps({"access_token": token, "token_type": "Bearer", "expires_in": 3600}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        """Log nothing."""


def _part(content: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(content).encode()).decode().rstrip("=")


@contextmanager
def openid_provider() -> Iterator[str]:
    """Yield the address of a token provider, to which the name of the user must be appended."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Provider) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@contextmanager
def secured_kafka() -> Iterator[SecuredKafka]:
    """Yield a temporary secured Kafka; raises MissingServerError."""
    if not shutil.which("openssl"):
        raise MissingServerError("no openssl: install it")
    with tempfile.TemporaryDirectory(prefix="kafka-") as directory:
        kafka = SecuredKafka(libraries(), Path(directory))
        try:
            kafka.start()
            yield kafka
        finally:
            kafka.stop()


def _certify(directory: Path) -> None:
    """Create an authority, and certificates of the server and of the user `certified`."""
    new = (
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "2",
    )
    _run(directory, *new, "-subj", "/CN=authority", "-keyout", "ca.key", "-out", "ca.crt")
    for name, subject, more in (
        ("server", "localhost", ("-addext", "subjectAltName=IP:127.0.0.1")),
        ("client", "certified", ()),
    ):
        by = ("-CA", "ca.crt", "-CAkey", "ca.key", "-addext", "basicConstraints=critical,CA:FALSE", *more)
        _run(directory, *new, *by, "-subj", f"/CN={subject}", "-keyout", f"{name}.key", "-out", f"{name}.crt")
    key, certificate = (directory / "server.key").read_text(), (directory / "server.crt").read_text()
    (directory / "server.pem").write_text(key + certificate)


def _run(directory: Path, *command: str) -> None:
    subprocess.run(command, cwd=directory, check=True, capture_output=True)
