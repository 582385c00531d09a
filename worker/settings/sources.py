"""The settings of the sources of snapshots: files, SQL, directories."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, SecretStr, model_validator

from worker.settings.section import Section, Uai


class FileSourceSettings(Section):
    """A file that somebody writes: CSV or JSON lines."""

    kind: Literal["file"]
    """A file."""
    path: Path
    """Its path."""
    encoding: Literal["utf-8", "windows-1252", "iso-8859-1"] | None = None
    """Encoding of CSV; by default UTF-8 where the file is, else windows-1252."""
    separator: Annotated[str, Field(min_length=1, max_length=1)] | None = None
    """Between the cells of CSV; by default what is most frequent in the line of names, of `;`, `,`, tab and `|`."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Name in the file = column of ours, e.g. `"Code étape" = "etape"`; `""` for a column that doesn't matter."""
    constants: dict[str, str] = Field(default_factory=dict)
    """Column of ours = what it is in every row, e.g. `system = "apogee"`, where the file has no such column."""
    words: dict[str, dict[str, str]] = Field(default_factory=dict)
    """Column of ours = the words in the file and ours for them, e.g. `status = { E = "active", R = "resigned" }`."""


class SqlSourceSettings(Section):
    """A database: APOGÉE's, or a copy of its tables."""

    kind: Literal["sql"]
    """A database."""
    url: SecretStr
    """SQLAlchemy URL, e.g. `oracle+oracledb://…` or `postgresql+psycopg://…`: COHORTS_SOURCES__<NAME>__URL."""
    query: Path | None = None
    """File of a SELECT in place of APOGÉE's, with its columns; `:years` stands for the academic years."""
    uai: Uai | None = None
    """Code UAI of the rows; may be left out when `uais` has one."""


class LdapSourceSettings(Section):
    """A directory that follows SupAnn."""

    kind: Literal["ldap"]
    """A directory."""
    uri: Annotated[str, Field(pattern=r"^ldaps?://[^\s/]+$")]
    """Address: `ldaps://HOST`, or `ldap://HOST` for StartTLS, with `:PORT` where it isn't the usual one."""
    ca_file: Path | None = None
    """Certificates of authorities to trust, PEM; by default those of the system (Debian: libldap-common)."""
    certificate_file: Path | None = None
    """Our own certificate, PEM, for `sasl = "EXTERNAL"`."""
    key_file: Path | None = None
    """Its key, PEM."""
    bind_dn: str | None = None
    """DN to bind as; without it and `sasl`, the directory is read anonymously."""
    password: SecretStr | None = None
    """Its password: COHORTS_SOURCES__<NAME>__PASSWORD, or a file of that name among the secrets."""
    sasl: Literal["EXTERNAL", "GSSAPI"] | None = None
    """SASL mechanism to bind with instead: EXTERNAL by our certificate, GSSAPI by the process's Kerberos ticket."""
    base: str
    """DN of the branch of people, e.g. `ou=people,dc=univ-example,dc=fr`. Who is elsewhere has left."""
    filter: str = "(supannEtuId=*)"
    """LDAP filter of the students."""
    page_size: int = Field(500, ge=1, le=10_000)
    """Entries a page; at most what the server allows."""
    timeout_seconds: float = Field(60.0, gt=0)
    """Seconds that the directory may take for a page."""
    student_id: str = "supannEtuId"
    """Attribute of the student number."""
    login: str = "supannAliasLogin"
    """Attribute of the login, for platforms that match by it; empty where there is none."""
    composite: str = "supannEtuInscription"
    """Attribute that ties an étape to its year and establishment; empty where none does: docs/sources/directory.md."""
    etape_prefix: str = ""
    """What stands before the code of an étape, after its label: taken away."""
    etape_separator: str = "_"
    """Between the code of an étape and its version, the last one counts; empty where there is no version."""
    component: str = "affect"
    """Key of the composite that holds the component; empty where none does."""
    component_prefix: str = ""
    """What stands before the code of the component, e.g. `HS_`: taken away."""
    uai: Uai | None = None
    """Code UAI of enrolments that don't name one; may be left out when `uais` has one."""
    watch_seconds: float = Field(20.0, ge=1, le=600)
    """Seconds between two looks at what has changed, when it is watched."""

    @model_validator(mode="after")
    def _binds_one_way(self) -> Self:
        if self.bind_dn is not None and self.sasl is not None:
            raise ValueError("bind_dn and sasl exclude each other")
        if (self.bind_dn is None) != (self.password is None):
            raise ValueError("bind_dn and password go together")
        if (self.certificate_file is None) != (self.key_file is None):
            raise ValueError("certificate_file and key_file go together")
        if self.sasl == "EXTERNAL" and self.certificate_file is None:
            raise ValueError("sasl EXTERNAL needs certificate_file and key_file")
        return self


SourceSettings = Annotated[FileSourceSettings | SqlSourceSettings | LdapSourceSettings, Field(discriminator="kind")]
