"""A temporary real OpenLDAP server: the installed slapd, with a SupAnn schema and certificates of its own."""
# ruff: noqa: S603 -- the programs and their arguments are our own

import shutil
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tests.support.servers import MissingServerError, free_ports
from worker.settings.sources import LdapSourceSettings

SUFFIX = "dc=example,dc=fr"
PASSWORD = "invented"
READER = f"cn=reader,{SUFFIX}"
LIMITED = f"cn=limited,{SUFFIX}"
MOST_OF_LIMITED = 20
"""Entries of a paged result that `LIMITED` may read, in all."""
START_SECONDS = 30
STOP_SECONDS = 20
_FOLDERS = ("/usr/sbin", "/usr/lib/openldap", "/usr/libexec")  # not in everybody's PATH
_SCHEMAS = ("/etc/ldap/schema", "/etc/openldap/schema")

CONFIGURATION = """\
include {schemas}/core.schema
include {schemas}/cosine.schema
include {schemas}/inetorgperson.schema
include {ours}
modulepath {modules}
moduleload back_mdb
pidfile {directory}/slapd.pid
TLSCACertificateFile {directory}/ca.pem
TLSCertificateFile {directory}/server.pem
TLSCertificateKeyFile {directory}/server.key
TLSVerifyClient allow
authz-regexp "cn=client" "{reader}"

database mdb
suffix "{suffix}"
rootdn "cn=admin,{suffix}"
rootpw {password}
directory {directory}/data
maxsize 1073741824
dbnosync
index objectClass,supannEtuId,entryUUID eq
limits dn.exact="{reader}" size=unlimited time=unlimited
limits dn.exact="{limited}" size.prtotal={most}
access to attrs=userPassword by anonymous auth
access to * by users read by anonymous auth
"""

BASE = f"""\
dn: {SUFFIX}
objectClass: dcObject
objectClass: organization
dc: example
o: Université inventée

dn: {READER}
objectClass: organizationalRole
objectClass: simpleSecurityObject
cn: reader
userPassword: {PASSWORD}

dn: {LIMITED}
objectClass: organizationalRole
objectClass: simpleSecurityObject
cn: limited
userPassword: {PASSWORD}

"""


class Slapd:
    """A running directory: `settings` reads a branch of it, `change` writes."""

    def __init__(self, directory: Path, ports: dict[str, int]) -> None:
        self.directory = directory
        self.ports = ports
        """By scheme: ldap, with StartTLS, and ldaps."""
        self.ca = directory / "ca.pem"

    def settings(self, base: str = f"ou=people,{SUFFIX}", **more: Any) -> LdapSourceSettings:  # noqa: ANN401 - as TOML gives them
        """Return the settings of a source that reads a branch as READER over StartTLS, except for `more`."""
        bind: dict[str, Any] = {} if "sasl" in more else {"bind_dn": READER, "password": PASSWORD}
        reached = {"uri": f"ldap://127.0.0.1:{self.ports['ldap']}", "ca_file": self.ca, "timeout_seconds": 20.0}
        return LdapSourceSettings(kind="ldap", base=base, **(reached | bind | more))

    def branch(self, entries: Iterable[str] = ()) -> str:
        """Create a branch with these entries, LDIF in which {base} stands for its DN; returns the DN."""
        name = f"ou={uuid.uuid4().hex},{SUFFIX}"
        self.change(branch_of(name), *(entry.replace("{base}", name) for entry in entries))
        return name

    def change(self, *ldif: str) -> None:
        """Apply changes in LDIF; an entry without a changetype is added."""
        changes = "\n\n".join(ldif)
        command = ["ldapmodify", "-a", "-x", "-H", f"ldap://127.0.0.1:{self.ports['ldap']}", "-D", f"cn=admin,{SUFFIX}"]
        subprocess.run([*command, "-w", PASSWORD], input=changes.encode(), check=True, stdout=subprocess.DEVNULL)


def branch_of(name: str) -> str:
    """Return the LDIF of a branch without entries."""
    return f"dn: {name}\nobjectClass: organizationalUnit\n\n"


@contextmanager
def real_slapd(ldif: Iterable[str] = ()) -> Iterator[Slapd]:
    """Yield a temporary directory with `ou=people` and these entries; raises MissingServerError."""
    slapd, slapadd, _, _ = map(_program, ("slapd", "slapadd", "ldapmodify", "openssl"))
    if find_spec("ldap") is None:
        raise MissingServerError(
            "no python-ldap: install what it is compiled with (Debian: gcc, python3-dev, libldap2-dev, libsasl2-dev), "
            "remove .venv/ready and start again"
        )
    with tempfile.TemporaryDirectory(prefix="slapd-", ignore_cleanup_errors=True) as name:
        directory = Path(name)
        (directory / "data").mkdir()
        certify(directory, "server", "IP:127.0.0.1")
        certify(directory, "client", "DNS:client")
        configuration = directory / "slapd.conf"
        configuration.write_text(_configuration(directory), encoding="utf-8")
        data = directory / "data.ldif"
        with data.open("w", encoding="utf-8") as file:
            file.writelines([BASE, branch_of(f"ou=people,{SUFFIX}")])
            file.writelines(ldif)
        ports = dict(zip(("ldap", "ldaps"), free_ports(2), strict=True))
        output = directory / "output"
        with output.open("wb") as log:
            subprocess.run([slapadd, "-q", "-f", configuration, "-l", data], check=True, stdout=log, stderr=log)
            urls = " ".join(f"{scheme}://127.0.0.1:{port}/" for scheme, port in ports.items())
            process = subprocess.Popen([slapd, "-f", configuration, "-h", urls, "-d", "0"], stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + START_SECONDS
            while not all(map(_listens, ports.values())):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise MissingServerError(f"slapd did not start:\n{output.read_text()[-2000:]}")
                time.sleep(0.02)
            yield Slapd(directory, ports)
        finally:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def certify(directory: Path, name: str, alternative: str, *, authority: str = "ca") -> None:
    """Write NAME.pem and NAME.key to a folder, signed by its authority, AUTHORITY.pem, created if missing."""
    new = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]

    def make(who: str, *more: str) -> None:
        command = [*new, "-subj", f"/CN={who}", "-out", f"{who}.pem", "-keyout", f"{who}.key", *more]
        subprocess.run(command, cwd=directory, check=True, capture_output=True)

    if not (directory / f"{authority}.pem").exists():
        make(authority, "-addext", "keyUsage=keyCertSign")
    signed = ["-CA", f"{authority}.pem", "-CAkey", f"{authority}.key", "-addext", "basicConstraints=CA:FALSE"]
    make(name, *signed, "-addext", f"subjectAltName={alternative}")


def _configuration(directory: Path) -> str:
    schemas = next((folder for folder in _SCHEMAS if (Path(folder) / "inetorgperson.schema").exists()), None)
    modules = next((folder for folder in ("/usr/lib/ldap", "/usr/lib64/openldap") if Path(folder).exists()), None)
    if schemas is None or modules is None:
        raise MissingServerError("slapd has no schemas or modules where Debian and Fedora have them")
    return CONFIGURATION.format(
        schemas=schemas,
        modules=modules,
        ours=Path(__file__).with_name("supann.schema"),
        directory=directory,
        suffix=SUFFIX,
        password=PASSWORD,
        reader=READER,
        limited=LIMITED,
        most=MOST_OF_LIMITED,
    )


def _program(name: str) -> str:
    found = shutil.which(name) or shutil.which(name, path=":".join(_FOLDERS))
    if found is None:
        raise MissingServerError(f"no {name}: install an OpenLDAP server and its tools (Debian: slapd, ldap-utils)")
    return found


def _listens(port: int) -> bool:
    with socket.socket() as attempt:
        return attempt.connect_ex(("127.0.0.1", port)) == 0
