"""The settings of the sources of snapshots: files, SQL, directories."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, SecretStr, model_validator

from worker.settings.section import Section, Uai


class FileSourceSettings(Section):
    """A file that another program or a person writes: CSV or JSON lines."""

    kind: Literal["file"]
    """A file."""
    path: Path
    """Its path."""
    encoding: Literal["utf-8", "windows-1252", "iso-8859-1"] | None = None
    """Encoding of CSV; by default UTF-8 when the file is valid UTF-8, else windows-1252."""
    separator: Annotated[str, Field(min_length=1, max_length=1)] | None = None
    """Separator of CSV; by default the most frequent in the line of names, among `;`, `,`, tab and `|`."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Name in the file = our column, e.g. `"Code étape" = "etape"`; `""` for a column to ignore."""
    constants: dict[str, str] = Field(default_factory=dict)
    """Our column = its value in every row, e.g. `system = "apogee"`, where the file has no such column."""
    words: dict[str, dict[str, str]] = Field(default_factory=dict)
    """Our column = words in the file and ours for them, e.g. `status = { E = "active", R = "resigned" }`."""


class SqlSourceSettings(Section):
    """A database: APOGÉE's, or a copy of its tables."""

    kind: Literal["sql"]
    """A database."""
    url: SecretStr
    """SQLAlchemy URL, e.g. `oracle+oracledb://…` or `postgresql+psycopg://…`: COHORTS_SOURCES__<NAME>__URL."""
    query: Path | None = None
    """File of a SELECT in place of APOGÉE's, with its columns; `:years` is replaced by the academic years."""
    uai: Uai | None = None
    """Code UAI of the rows; may be omitted when `uais` has only one."""


class LdapSourceSettings(Section):
    """A SupAnn directory."""

    kind: Literal["ldap"]
    """A directory."""
    uri: Annotated[str, Field(pattern=r"^ldaps?://[^\s/]+$")]
    """Address: `ldaps://HOST`, or `ldap://HOST` for StartTLS, with `:PORT` where it isn't the default."""
    ca_file: Path | None = None
    """Certificates of the authorities to trust, PEM; by default those of the system (Debian: libldap-common)."""
    certificate_file: Path | None = None
    """Client certificate, PEM, for `sasl = "EXTERNAL"`."""
    key_file: Path | None = None
    """Its key, PEM."""
    bind_dn: str | None = None
    """DN to bind as; without it and `sasl`, the directory is read anonymously."""
    password: SecretStr | None = None
    """Its password: COHORTS_SOURCES__<NAME>__PASSWORD, or a file of that name among the secrets."""
    sasl: Literal["EXTERNAL", "GSSAPI"] | None = None
    """SASL mechanism to bind with instead: EXTERNAL (client certificate) or GSSAPI (Kerberos ticket of the process)."""
    base: str
    """DN of the branch of people, e.g. `ou=people,dc=univ-example,dc=fr`. A person elsewhere has left."""
    filter: str = "(supannEtuId=*)"
    """LDAP filter of the students."""
    page_size: int = Field(500, ge=1, le=10_000)
    """Entries per page; at most what the server allows."""
    timeout_seconds: float = Field(60.0, gt=0)
    """Seconds that the directory may take for a page."""
    student_id: str = "supannEtuId"
    """Attribute of the student number."""
    login: str = "supannAliasLogin"
    """Attribute of the login, for platforms that match by it; empty where there is none."""
    composite: str = "supannEtuInscription"
    """Attribute that ties an étape to its year and establishment; empty where none does: docs/sources/directory.md."""
    etape_prefix: str = ""
    """Prefix to remove from the code of an étape, after its label."""
    etape_separator: str = "_"
    """Separator between the code of an étape and its version (the last occurrence); empty where there is no version."""
    component: str = "affect"
    """Key of the composite that holds the component; empty where none does."""
    component_prefix: str = ""
    """Prefix to remove from the code of the component, e.g. `HS_`."""
    uai: Uai | None = None
    """Code UAI of enrolments that don't name one; may be omitted when `uais` has only one."""
    watch_seconds: float = Field(20.0, ge=1, le=600)
    """Seconds between two polls for changes, when it is watched."""

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
