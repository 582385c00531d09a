"""The gate of LDAP: a directory that is read page by page, over TLS, whole or not at all.

python-ldap is an optional extra, because it has to be compiled: it is imported when a directory is opened. Failures
raise SourceIncomplete and say what to do; no text holds a DN, a value of an entry or a password.
"""

import os
import socket
import struct
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from worker.domain.errors import SettingsError, SourceIncomplete

UUIDS_A_SEARCH = 200
_UUID, _CSN, _MODIFIED = "entryUUID", "entryCSN", "modifyTimestamp"
_NO_CONNECTION = "it can't be reached, the connection was lost, or its certificate is wrong: check uri and ca_file"
_REMEDIES = {
    "INVALID_CREDENTIALS": "the bind_dn or its password is wrong",
    "INAPPROPRIATE_AUTH": "it can't be read anonymously: set bind_dn and password, or sasl",
    "INSUFFICIENT_ACCESS": "the bind account lacks read permission: ask for it",
    "NO_SUCH_OBJECT": "base doesn't exist, or the bind account lacks read permission on it",
    "SIZELIMIT_EXCEEDED": "the bind account has reached its limit of entries: ask for a higher limit of paged results",
    "ADMINLIMIT_EXCEEDED": "the bind account has reached an administrative limit: ask for a higher one",
    "TIMELIMIT_EXCEEDED": "it takes longer than its own limit: ask for an index on what filter names, or for more time",
    "TIMEOUT": "it takes longer than timeout_seconds: raise that, or lower page_size",
    "REFERRAL": "it refers to another server: name that one in uri",
    "UNAVAILABLE_CRITICAL_EXTENSION": "it doesn't support paged results",
    "SERVER_DOWN": _NO_CONNECTION,
    "CONNECT_ERROR": _NO_CONNECTION,
    "INVALID_DN_SYNTAX": "base or bind_dn isn't a DN",
    "FILTER_ERROR": "filter isn't an LDAP filter",
}

Attributes = Mapping[str, tuple[str, ...]]
"""The values of an entry by the name of their attribute in lower case; an absent attribute has no key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectoryOptions:
    """Where a directory is, how to bind to it, and what to read of it."""

    uri: str
    """`ldaps://HOST`, or `ldap://HOST` for StartTLS."""
    base: str
    """DN of the branch of people."""
    filter: str
    """LDAP filter of the students."""
    bind_dn: str | None
    password: str | None = field(repr=False)
    sasl: str | None
    """`EXTERNAL` or `GSSAPI`, in place of `bind_dn`."""
    ca_file: Path | None
    certificate_file: Path | None
    key_file: Path | None
    page_size: int
    timeout_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectoryEntry:
    """An entry, with the attributes that were asked for."""

    uuid: str
    """Its `entryUUID`, which lasts as long as the entry; empty where the directory has none."""
    csn: str
    """Differs whenever the entry has changed: `entryCSN`, or `modifyTimestamp` where there is none."""
    attributes: Attributes


class Directory:
    """A connection to a directory, open within a `with`; one reading at a time.

    Opening it raises SettingsError when python-ldap is missing or a file can't be used, and SourceIncomplete when the
    directory can't be reached, its certificate doesn't match, or it refuses the bind.
    """

    def __init__(self, options: DirectoryOptions) -> None:
        self._options = options
        self._read = 0

    def __enter__(self) -> Self:
        self._ldap = _library()
        with self._failures("opening the directory"):
            self._connection = self._opened()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._connection.unbind_ext()

    def read(self, attributes: Sequence[str], where: str = "") -> Iterator[Attributes]:
        """Yield these attributes of the entries under the base that pass the filter of the options, and `where`.

        Memory holds two pages. When it ends, the directory has returned everything; otherwise it raises
        SourceIncomplete.
        """
        self._read = 0
        with self._failures("reading the directory"):
            for page in self._pages(attributes, f"(&{self._options.filter}{where})"):
                for dn, found in page:
                    if dn is None:
                        raise SourceIncomplete(f"the directory is not whole: {_REMEDIES['REFERRAL']}")
                    self._read += 1
                    # What isn't UTF-8 becomes characters that no message may hold, so that it is refused later.
                    yield {
                        attribute.lower(): tuple([str(value, "utf-8", "surrogateescape") for value in values])
                        for attribute, values in found.items()
                    }

    def entries(self, attributes: Sequence[str], where: str = "") -> Iterator[DirectoryEntry]:
        """Yield the same, as entries that can be recognised later."""
        return map(recognised, self.read([*attributes, _UUID, _CSN, _MODIFIED], where))

    def versions(self) -> Iterator[tuple[str, str]]:
        """Yield the uuid and the csn of every entry: quicker than reading their attributes."""
        return ((entry.uuid, entry.csn) for entry in self.entries([]))

    def by_uuid(self, uuids: Sequence[str], attributes: Sequence[str]) -> Iterator[DirectoryEntry]:
        """Yield these entries, as far as they still exist, with these attributes."""
        escaped = self._ldap.filter.escape_filter_chars
        for start in range(0, len(uuids), UUIDS_A_SEARCH):
            chunk = uuids[start : start + UUIDS_A_SEARCH]
            yield from self.entries(attributes, f"(|{''.join(f'({_UUID}={escaped(uuid)})' for uuid in chunk)})")

    def _opened(self) -> Any:  # noqa: ANN401 - the library has no types
        """Return a new connection; after the time-out, the thread that opens it is left behind until the server acts.

        libldap bounds neither a blocking handshake of TLS nor, with GnuTLS, one that doesn't block.
        """
        opening: Future[Any] = Future()

        def run() -> None:
            try:
                opening.set_result(self._open())
            except BaseException as error:  # noqa: BLE001 - raised again by result()
                opening.set_exception(error)

        threading.Thread(target=run, name="directory", daemon=True).start()
        try:
            return opening.result(self._options.timeout_seconds)
        except TimeoutError:
            raise self._ldap.TIMEOUT from None

    def _open(self) -> Any:  # noqa: ANN401 - idem
        directory = self._options
        connection = self._ldap.initialize(directory.uri)
        for option, value in self._ldap_options().items():
            connection.set_option(option, value)
        # Until then the options of TLS are only noted, and those of the whole process apply.
        try:
            connection.set_option(self._ldap.OPT_X_TLS_NEWCTX, 0)
        except ValueError:  # libldap says no more
            raise SettingsError(
                "ca_file, certificate_file or key_file can't be used: one is missing, can't be read, isn't PEM, or "
                "the key doesn't belong to the certificate"
            ) from None
        if directory.uri.startswith("ldap:"):
            connection.start_tls_s()
        if directory.sasl == "EXTERNAL":
            connection.sasl_external_bind_s()
        elif directory.sasl == "GSSAPI":
            connection.sasl_gssapi_bind_s()
        else:
            connection.simple_bind_s(directory.bind_dn or "", directory.password or "")
        _bound_reads(connection.fileno(), directory.timeout_seconds)
        return connection

    def _ldap_options(self) -> dict[int, int | float | str]:
        ldap, directory = self._ldap, self._options
        files = {
            ldap.OPT_X_TLS_CACERTFILE: directory.ca_file,
            ldap.OPT_X_TLS_CERTFILE: directory.certificate_file,
            ldap.OPT_X_TLS_KEYFILE: directory.key_file,
        }
        return {
            ldap.OPT_PROTOCOL_VERSION: ldap.VERSION3,
            ldap.OPT_REFERRALS: 0,
            ldap.OPT_TIMEOUT: directory.timeout_seconds,
            ldap.OPT_X_TLS_REQUIRE_CERT: ldap.OPT_X_TLS_DEMAND,
            **{option: str(path) for option, path in files.items() if path is not None},
        }

    def _pages(self, attributes: Sequence[str], where: str) -> Iterator[list[tuple[str | None, Any]]]:
        """Yield the pages; the next one is requested before one is yielded, so that the directory works meanwhile."""
        ldap = self._ldap
        control = ldap.controls.SimplePagedResultsControl(criticality=True, size=self._options.page_size, cookie=b"")

        def request() -> int:
            message_id: int = self._connection.search_ext(
                self._options.base, ldap.SCOPE_SUBTREE, where, attributes, serverctrls=[control]
            )
            return message_id

        requested = request()
        while True:
            _, page, _, controls = self._connection.result3(requested, timeout=self._options.timeout_seconds)
            cookies = [answer.cookie for answer in controls if answer.controlType == control.controlType]
            if len(cookies) != 1:
                raise SourceIncomplete(f"reading the directory failed: {_REMEDIES['UNAVAILABLE_CRITICAL_EXTENSION']}")
            [control.cookie] = cookies
            if not control.cookie:
                yield page
                return
            requested = request()
            yield page

    @contextmanager
    def _failures(self, doing: str) -> Iterator[None]:
        """Raise what went wrong in our own words: the directory's may hold names."""
        try:
            yield
        except self._ldap.LDAPError as error:
            kind = type(error).__name__
            after = f", after {self._read} entries" if self._read else ""
            remedy = _REMEDIES.get(kind, f"it answered {kind}")
            raise SourceIncomplete(f"{doing} failed{after}: {remedy}") from None


def recognised(found: Attributes) -> DirectoryEntry:
    """Return an entry with the attributes that identify it; raises SourceIncomplete when one isn't plain or single."""
    uuid, csn, modified = (found.get(name.lower(), ("",)) for name in (_UUID, _CSN, _MODIFIED))
    if any(
        len(values) != 1 or not (values[0].isascii() and values[0].isprintable()) for values in (uuid, csn, modified)
    ):
        raise SourceIncomplete(f"the directory is not whole: an entry has no single {_UUID}, {_CSN} or {_MODIFIED}")
    return DirectoryEntry(uuid=uuid[0], csn=csn[0] or modified[0], attributes=found)


def _bound_reads(descriptor: int, seconds: float) -> None:
    """Bound each read of the socket: libldap's time-outs don't, once a response has begun."""
    whole, part = divmod(seconds, 1)
    with socket.socket(fileno=os.dup(descriptor)) as connection:
        limit = struct.pack("ll", int(whole), int(part * 1_000_000))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)


def _library() -> Any:  # noqa: ANN401 - it has no types
    try:
        import ldap  # noqa: PLC0415 - optional, and slow to import for the commands that don't need it
        import ldap.controls  # noqa: PLC0415 - idem
        import ldap.filter  # noqa: PLC0415 - idem
    except ImportError:
        raise SettingsError(
            "reading a directory needs python-ldap: pip install 'etape-cohorts[ldap]'. It is compiled, which needs a C "
            "compiler and headers (Debian: apt install gcc python3-dev libldap2-dev libsasl2-dev)"
        ) from None
    return ldap
