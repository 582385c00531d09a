"""One call to a web service of Moodle: its parameters, rights and errors, and what it will change.

A call first reads and computes (`Session.run`), is then in flight for as long as it costs, and only then commits, so
that simultaneous calls affect each other as they do in PostgreSQL.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from worker.sandbox.moodle.site import CohortRow, Site, User

Params: TypeAlias = dict[str, Any]

ERRORS = {  # errorcode: class of the exception, sentence; as recorded, or from Moodle's English strings
    "accessexception": ("webservice_access_exception", "Access control exception"),
    "codingerror": (
        "coding_exception",
        "Coding error detected, it must be fixed by a programmer: {}",
    ),
    "dbconnectionfailed": (
        "dml_connection_exception",
        (
            "<p>Error: Database connection failed</p>\n"
            "<p>It is possible that the database is overloaded or otherwise not running properly.</p>\n"
            "<p>The site administrator should also check that the database details"
            " have been correctly specified in config.php</p>"
        ),
    ),
    "dmlreadexception": ("dml_read_exception", "Error reading from database"),
    "dmlwriteexception": ("dml_write_exception", "Error writing to database"),
    "Error": ("moodle_exception", "cohort/Error"),
    "forcepasswordchangenotice": ("moodle_exception", "You must change your password to proceed."),
    "invalidparameter": ("invalid_parameter_exception", "Invalid parameter value detected"),
    "invalidrecord": (
        "dml_missing_record_exception",
        "Can't find data record in database table {}.",
    ),
    "invalidresponse": ("invalid_response_exception", "Invalid response value detected"),
    "invalidtoken": ("moodle_exception", "Invalid token - token not found"),
    "invaliduser": ("dml_missing_record_exception", "Invalid user"),
    "nopermissions": (
        "required_capability_exception",
        "Sorry, but you do not currently have permissions to do that ({}).",
    ),
    "pluginrefuses": ("moodle_exception", "local_levels/pluginrefuses"),
    "sitepolicynotagreed": ("moodle_exception", "Site policy not agreed."),
    "sitemaintenance": (
        "moodle_exception",
        "The site is undergoing maintenance and is currently not available",
    ),
    "wsaccessusersuspended": ("moodle_exception", "Refused web service access for suspended username: {}"),
}


class WebServiceError(Exception):
    """An exception as the service reports it; `about` completes the sentence."""

    def __init__(self, code: str, about: str = "") -> None:
        self.code = code
        self.exception, sentence = ERRORS[code]
        self.message = sentence.format(about)
        super().__init__(code)


# --- What a function takes. A dict is a structure, a list of one is a list, a function cleans a scalar. ---


@dataclass(frozen=True, slots=True)
class Default:
    """A key that may be missing, and its default value (None: the key stays missing)."""

    shape: "Shape"
    value: object = None


Shape: TypeAlias = "Callable[[str], object] | Default | dict[str, Shape] | list[Shape]"


def clean(shape: Shape, value: object) -> object:
    """Check like Moodle's validate_parameters: nothing missing, nothing unexpected, nothing unclean."""
    if callable(shape) and isinstance(value, str):
        return shape(value)
    if isinstance(shape, list) and isinstance(value, dict):
        return [clean(shape[0], item) for item in value.values()]
    if isinstance(shape, dict) and isinstance(value, dict):
        return _clean_structure(shape, value)
    raise WebServiceError("invalidparameter")


def _clean_structure(shape: Mapping[str, Shape], value: Mapping[str, object]) -> dict[str, object]:
    if not value.keys() <= shape.keys():
        raise WebServiceError("invalidparameter")
    cleaned = ((key, _clean_key(key, item, value)) for key, item in shape.items())
    return {key: item for key, item in cleaned if item is not None}


def _clean_key(key: str, shape: Shape, value: Mapping[str, object]) -> object:
    if key in value:
        return clean(shape.shape if isinstance(shape, Default) else shape, value[key])
    if isinstance(shape, Default):
        return shape.value
    raise WebServiceError("invalidparameter")


def matching(pattern: str) -> Callable[[str], str]:
    """Return a cleaner that accepts only text that matches as a whole."""
    compiled = re.compile(pattern)

    def cleaner(value: str) -> str:
        if not compiled.fullmatch(value):
            raise WebServiceError("invalidparameter")
        return value

    return cleaner


def raw(value: str) -> str:
    """Accept any text."""
    return value


def integer(value: str) -> int:
    """Accept an integer as PHP writes it."""
    return int(_INTEGER(value))


def boolean(value: str) -> bool:
    """Accept `0` or `1`, and nothing else."""
    return _BOOLEAN(value) == "1"


_INTEGER = matching(r"0|-?[1-9][0-9]{0,17}")
_BOOLEAN = matching("[01]")
word = matching("[A-Za-z0-9_-]*")
login = matching("[-.@_a-z0-9]*")


def is_login(value: str) -> bool:
    """Whether Moodle would accept this as a username."""
    try:
        login(value)
    except WebServiceError:
        return False
    return True


email = matching(r"[^@\s]+@[^@\s]+")


# --- One call ---


@dataclass(slots=True, eq=False)
class Session:
    """One call: its answer, what it has touched and spent, and what it will change when it commits.

    `spent` counts by the names of the fields of `Cost`. `touched` holds the ids of cohorts and, for a creation,
    their idnumbers.
    """

    site: Site
    raw: bool = False
    answer: object = None
    error: WebServiceError | None = None
    items: int = 0
    added: dict[tuple[int, int], None] = field(default_factory=dict)
    removed: dict[tuple[int, int], None] = field(default_factory=dict)
    cohorts: dict[int, CohortRow] = field(default_factory=dict)
    users: dict[int, User] = field(default_factory=dict)
    touched: set[int | str] = field(default_factory=set)
    spent: Counter[str] = field(default_factory=lambda: Counter(call=1))

    def run(self, function: "Function", arguments: Mapping[str, object]) -> None:
        """Compute the answer or the error of a function that the token may call; changes nothing yet."""
        try:
            params: Params = clean(function.takes, arguments)  # type: ignore[assignment] # a dict gives a dict
            self.items = sum(len(value) for value in params.values() if isinstance(value, list))
            self.answer = function.run(self, params)
        except WebServiceError as error:
            self.error = error

    def commit(self) -> None:
        """Apply every change, unless there was an error. What a person deleted meanwhile stays deleted."""
        if self.error:
            return
        for user in self.users.values():
            self.site.put_user(user)
        for cohort in self.cohorts.values():
            self.site.put_cohort(cohort)
        for cohort_id, user_id in self.removed:
            self.site.members_of.get(cohort_id, set()).discard(user_id)
        for cohort_id, user_id in self.added:
            self.site.members_of.get(cohort_id, set()).add(user_id)

    def require(self, capability: str, named: str) -> None:
        """Refuse the call without the capability; the error calls it by `named`."""
        if capability not in self.site.capabilities:
            raise WebServiceError("nopermissions", named)

    def require_manage(self, named: str = "Create, delete and move cohorts") -> None:
        """Refuse the call unless the account may manage cohorts, which covers assigning and viewing."""
        self.require("moodle/cohort:manage", named)

    def cohort(self, cohort_id: int) -> CohortRow:
        """Find a cohort and note that the call touches it."""
        if cohort_id not in self.site.cohort_rows:
            raise WebServiceError("invalidrecord", "cohort")
        self.touched.add(cohort_id)
        return self.site.cohort_rows[cohort_id]

    def category(self, categorytype: Mapping[str, str]) -> str | None:
        """Return the idnumber of the category that a `categorytype` names; None for the system."""
        ids = self.site.categories
        match categorytype["type"]:
            case "system":
                return None
            case "idnumber" if categorytype["value"] in ids:
                return categorytype["value"]
            case "id":
                for idnumber, category_id in ids.items():
                    if str(category_id) == categorytype["value"]:
                        return idnumber
        raise WebServiceError("invalidparameter")

    def shown(self, cohort: CohortRow) -> dict[str, object]:
        """Return a cohort as the service shows it: without its component and context."""
        escape = self.site.escapes_names and not self.raw
        return {
            "id": cohort.id,
            "name": cohort.name.replace("&", "&amp;") if escape else cohort.name,
            "idnumber": cohort.idnumber,
            "description": cohort.description,
            "descriptionformat": 1,
            "visible": cohort.visible,
            "theme": "",
        }

    def shown_all(self, cohorts: Iterable[CohortRow]) -> list[dict[str, object]]:
        """Return cohorts that are read, rather than created, as the service shows them."""
        rows = [self.shown(cohort) | {"customfields": []} for cohort in cohorts]
        self.spent["cohort_read"] += len(rows)
        return rows


@dataclass(frozen=True, slots=True)
class Function:
    """What a function takes, what it does, and whether it changes cohorts."""

    takes: dict[str, Shape]
    run: Callable[[Session, Params], object]
    writes: bool = False
