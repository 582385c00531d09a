"""Moodle's web-service functions on accounts, after `user/externallib.php`."""

from collections.abc import Callable

from worker.sandbox.moodle.session import (
    Default,
    Params,
    Session,
    Shape,
    WebServiceError,
    boolean,
    email,
    integer,
    is_login,
    login,
    matching,
    raw,
)
from worker.sandbox.moodle.site import Site, User

USER: Shape = {
    "username": login,
    "auth": Default(matching("manual|cas|ldap|shibboleth|oauth2"), "manual"),
    "password": Default(raw),
    "createpassword": Default(boolean),
    "firstname": raw,
    "lastname": raw,
    "email": email,
    "idnumber": Default(raw, ""),
    "city": Default(raw, ""),
    "country": Default(raw, ""),
}
DETAILS = {"username", "department", "idnumber", "auth", "confirmed", "lang", "theme", "mailformat"}
"""Fields of a user that only viewalldetails shows."""
LEFT_OUT_IF_EMPTY = {"idnumber", "city", "country"}
CLEANERS: dict[str, Callable[[str], object]] = {"id": integer, "idnumber": raw, "username": login, "email": raw}
"""By field that accounts can be found by."""


def get_users_by_field(call: Session, params: Params) -> object:
    """Find accounts, deleted ones included, in the order of ids; one unclean value fails the call.

    Without viewdetails nobody is found. Without viewalldetails the fields in `DETAILS` are missing, and a search by one
    of them finds nobody. One unclean account among those that are found fails the call.
    """
    by = params["field"]
    if by not in CLEANERS:
        raise WebServiceError(
            "codingerror",
            f"invalid field parameter: The search field '{by}' is not supported, look at the web service documentation",
        )
    wanted = {CLEANERS[by](value) for value in params["values"]}
    if "moodle/user:viewdetails" not in call.site.capabilities:
        return []
    if by in {"idnumber", "username"}:
        collation = call.site.collation
        wanted = {collation(value) for value in params["values"]}
        users = [user for user in call.site.users.values() if collation(getattr(user, by)) in wanted]
    else:
        users = [user for user in call.site.users.values() if getattr(user, by) in wanted]
    call.spent["looked_up"] += len(users)
    if not all(_is_clean(call.site, user) for user in users):
        raise WebServiceError("invalidresponse")
    found = [_shown_user(call.site, user) for user in users]
    return [user for user in found if user.get(by)]


def create_users(call: Session, params: Params) -> object:
    """Create all or none; a username or an e-mail address that exists is refused."""
    call.require("moodle/user:create", "Create users")
    emails = {user.email.lower() for user in call.site.users.values()}
    usernames = set(call.site.user_ids)
    for given in params["users"]:
        password = given.pop("password", "") or given.pop("createpassword", False)
        given.pop("createpassword", None)
        if (
            not all(given[key].strip() for key in ("username", "firstname", "lastname"))
            or given["username"] in usernames
            or given["email"].lower() in emails
            or (given["auth"] == "manual" and not password)
        ):
            raise WebServiceError("invalidparameter")
        user = User(id=next(call.site.next_user), **given)
        call.users[user.id] = user
        emails.add(user.email.lower())
        usernames.add(user.username)
    return [{"id": user.id, "username": user.username} for user in call.users.values()]


def _is_clean(site: Site, user: User) -> bool:
    """Whether what is stored of an account passes the check of what the function returns (seen on every release)."""
    stored = (user.firstname, user.lastname, user.city)
    return user.deleted or (
        user.auth in site.auth_plugins and is_login(user.username) and not any("<" in text for text in stored)
    )


def _shown_user(site: Site, user: User) -> dict[str, object]:
    """Return the fields in the recorded order."""
    fields = {
        "id": user.id,
        "username": user.username,
        "fullname": f"{user.firstname} {user.lastname}",
        "email": user.email,
        "department": "",
        "idnumber": user.idnumber,
        "firstaccess": 0,
        "lastaccess": 0,
        "auth": user.auth,
        "suspended": user.suspended,
        "confirmed": True,
        "lang": "",
        "theme": "",
        "timezone": "99",
        "mailformat": 1,
        "city": user.city,
        "country": user.country,
        "profileimageurlsmall": site.picture(2),
        "profileimageurl": site.picture(1),
    }
    left_out = {name for name in LEFT_OUT_IF_EMPTY if not fields[name]}
    if "moodle/user:viewalldetails" not in site.capabilities:
        left_out |= DETAILS
    return {name: value for name, value in fields.items() if name not in left_out}
