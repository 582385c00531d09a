"""What Moodle's refusals mean: closed lists of errorcodes. What is on none of them is the platform's. Pure.

The codes are those of Moodle 4.1 to 5.1 (`webservice/lib.php`, `lib/external`, `require_login`, `lib/dmllib.php`),
and the statuses of the web servers in front of it.
"""

from collections.abc import Mapping

from worker.domain.errors import MoodleDenied, MoodleError, MoodleRejected, MoodleUnavailable

WRITE_FAILED = "dmlwriteexception"
"""A deadlock, a value that is too long, or a database that can't be written: `lastaccess` is, at every sign-in."""
UNCLEAN = "invalidresponse"
"""An account that is found has a stored value that Moodle's own check dislikes; or all have."""
TOO_LARGE = "http-413"
TOO_MANY_FIELDS = "too-many-fields"
OF_SIZE = frozenset({TOO_LARGE, TOO_MANY_FIELDS})
"""Codes that are about how much a call carries: fewer items may pass."""
HIDDEN = "invalidparameter"
"""The only refusal of a look-up that may hide a key: Moodle can't have an account of that name."""

LOOK_UP = "core_user_get_users_by_field"
_WRITING = frozenset(
    {
        "core_cohort_create_cohorts",
        "core_cohort_update_cohorts",
        "core_cohort_add_cohort_members",
        "core_cohort_delete_cohort_members",
    }
)
_OF_ITEMS = frozenset({"invalidparameter", "invalidrecord", "invaliduser", "invalidrecordunknown"})
"""Codes about an item, whatever is called; Moodle 5.0 and later give the last for the two before it."""

_ADDRESS = "the platform's url must be the site's wwwroot, with its scheme and path"
_ACCOUNT = "the service account "
REMEDIES: Mapping[str, str] = {
    "invalidtoken": "Moodle doesn't know it: check the token in the settings; if it was withdrawn or has expired, "
    "create one for the service account",
    "invalidtimedtoken": "the token is one of a session that has ended; create a permanent one for the service account",
    "accessexception": "Moodle refuses the token or the function: check the token, and see that web services and the "
    "external service are enabled, that the service holds the functions and lists the service account, that neither "
    "the token nor that listing has expired or excludes this machine, and that the role has webservice/rest:use",
    "nopermissions": "a capability is missing: give the service account's role moodle/cohort:manage, "
    "moodle/user:viewdetails and moodle/user:viewalldetails at system level",
    "nopermission": "a capability is missing: see the role of the service account at system level",
    "restrictedcontextexception": "the token is restricted to another context; create it for the whole site",
    "servicenotavailable": "the external service doesn't hold the function, or is disabled; enable and complete it",
    "servicerequireslogin": "the token is one of a session that has ended; create a permanent one",
    "requireloginerror": "the token signs nobody in; create one for the service account",
    "enablewsdescription": "web services are switched off; enable them in Moodle's advanced features",
    "wsaccessusersuspended": _ACCOUNT + "is suspended; activate it on Moodle",
    "wsaccessuserunconfirmed": _ACCOUNT + "isn't confirmed; confirm it on Moodle",
    "wsaccessusernologin": _ACCOUNT + "may not sign in (authentication nologin); give it manual accounts",
    "wsaccessuserdeleted": _ACCOUNT + "was deleted; create another one, with its role and a token",
    "wsaccessuserexpired": "the password of the service account has expired; renew it, or let it never expire",
    "usernotconfirmed": _ACCOUNT + "isn't confirmed; confirm it on Moodle",
    "authpluginnotfound": "the authentication plugin of the service account isn't installed (CAS left Moodle with "
    "5.0); set its authentication to manual accounts",
    "sitepolicynotagreed": _ACCOUNT + "hasn't agreed to the site policy; sign in as it once and agree, or set its "
    "authentication to web services",
    "forcepasswordchangenotice": _ACCOUNT + "must change its password first; sign in as it once and do so",
    "nopasswordchangeforced": _ACCOUNT + "must change its password but can't; take the flag off on Moodle",
    "passwordisexpired": "the password of the service account has expired; renew it, or let it never expire",
    "usernotfullysetup": "the profile of the service account isn't complete; fill in its name and address, and the "
    "required fields",
    "http-401": "the web server asks for a password of its own; let calls to webservice/rest/server.php pass",
    "http-403": "web services or the REST protocol are switched off on Moodle (site administration: advanced "
    "features; server, web services, manage protocols), or a firewall in front of it refuses this machine: let it pass",
    **dict.fromkeys(("http-301", "http-302", "http-303", "http-307", "http-308", "http-404", "http-410"), _ADDRESS),
}
"""Codes after which a person must act, with what to do."""
_WAITS = "nothing is lost, and the worker goes on by itself once it is over"
_REASONS: Mapping[str, str] = {
    "sitemaintenance": "the site is in maintenance",
    "upgraderunning": "the site is being upgraded",
    "dbconnectionfailed": "Moodle doesn't reach its database",
    "dmlreadexception": "Moodle can't read its database",
    WRITE_FAILED: "Moodle can't write to its database (read-only, full, or too busy)",
    UNCLEAN: "Moodle has a value stored that its own check refuses to show",
}
"""What is known of a platform that is unavailable."""


def remedy(code: str) -> str | None:
    """Return what a person must do about a refusal, or None when it isn't known to be for a person."""
    if code.startswith("wsaccessuser"):
        return REMEDIES.get(code, _ACCOUNT + "is stopped; look at it on Moodle")
    return REMEDIES.get(code)


def refusal(where: str, function: str, code: str) -> MoodleError:
    """Return the error that an errorcode of Moodle stands for; `where` names the platform and the function."""
    todo = remedy(code)
    if todo is not None:
        return MoodleDenied(code, f"{where}: {code}: {todo}")
    if _is_of_item(function, code):
        return MoodleRejected(code, f"{where}: {code}")
    # An answer that Moodle refuses to show comes after the work was done.
    return MoodleUnavailable(code, f"{where}: {unavailable(code)}", unknown=code == UNCLEAN)


def unavailable(code: str) -> str:
    """Return the sentence of a code that says that the whole platform is unavailable."""
    reason = _REASONS.get(code, "not a refusal of single items; Moodle's own log has the reason")
    return f"{code}: {reason}; {_WAITS}"


def _is_of_item(function: str, code: str) -> bool:
    if code == WRITE_FAILED:
        return function in _WRITING
    if code == UNCLEAN:
        return function == LOOK_UP
    return code in _OF_ITEMS
