"""Moodle's web-service functions, over the tables of a `Site`: the table `FUNCTIONS` at the end.

They do what the recorded transcripts show and, where those are silent, what the sources of Moodle 4.3 say:
`cohort/externallib.php`, `user/externallib.php`, `webservice/externallib.php`.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

from worker.sandbox.moodle.session import (
    Default,
    Function,
    Params,
    Session,
    Shape,
    WebServiceError,
    boolean,
    email,
    integer,
    login,
    matching,
    raw,
    word,
)
from worker.sandbox.moodle.site import IDNUMBER_LENGTH, NAME_LENGTH, SYSTEM_CONTEXT, CohortRow, Site, User

NAMED: Shape = {"type": word, "value": raw}
COHORT: dict[str, Shape] = {
    "categorytype": NAMED,
    "name": raw,
    "idnumber": raw,
    "description": Default(raw),
    "descriptionformat": Default(integer),
    "visible": Default(boolean),
    "theme": Default(raw),
}
CONTEXT: Shape = {
    "contextid": Default(integer, 0),
    "contextlevel": Default(word, ""),
    "instanceid": Default(integer, 0),
}
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


def get_site_info(call: Session, _params: Params) -> object:
    """Say who the token is and what it may call."""
    site = call.site
    user = site.users[site.service_user]
    return {
        "sitename": site.name,
        "username": user.username,
        "firstname": user.firstname,
        "lastname": user.lastname,
        "fullname": f"{user.firstname} {user.lastname}",
        "lang": "en",
        "userid": user.id,
        "siteurl": site.url,
        "userpictureurl": _picture(site, 1),
        "functions": [{"name": name, "version": site.version} for name in sorted(site.granted)],
        "downloadfiles": 0,
        "uploadfiles": 0,
        "release": site.release,
        "version": site.version,
    }


def get_cohorts(call: Session, params: Params) -> object:
    """List the cohorts asked for, or all of them; unknown ids are left out."""
    wanted = set(params["cohortids"])
    if call.site.cohort_rows:
        call.require_manage("View site-wide cohorts")
    rows = call.site.cohort_rows.values()
    return call.shown_all(cohort for cohort in rows if not wanted or cohort.id in wanted)


def search_cohorts(call: Session, params: Params) -> object:
    """Search name, idnumber and description. `limitfrom` counts pages; a `limitnum` of 0 is no limit."""
    call.require_manage("View site-wide cohorts")
    site, context, query = call.site, params["context"], params["query"].lower()
    here = context["contextid"] or (SYSTEM_CONTEXT if context["contextlevel"] == "system" else 0)
    if not here:
        raise WebServiceError("invalidparameter")
    if params["includes"] not in {"self", "parents", "all"}:
        raise WebServiceError("codingerror", "Invalid parameter value for 'includes'.")
    contexts = {"self": {here}, "parents": {here, SYSTEM_CONTEXT}}.get(params["includes"])
    found = sorted(
        (
            cohort
            for cohort in site.cohort_rows.values()
            if (contexts is None or site.context_of(cohort) in contexts)
            and (
                query in {"", "0"}  # PHP holds "0" for empty
                or any(query in text.lower() for text in (cohort.name, cohort.idnumber, cohort.description))
            )
        ),
        key=lambda cohort: (cohort.name, cohort.idnumber),
    )
    page, size = params["limitfrom"], params["limitnum"]
    return {"cohorts": call.shown_all(found[page * size : (page + 1) * size] if size else found)}


def create_cohorts(call: Session, params: Params) -> object:
    """Create all or none. An idnumber that exists is refused: the empty one, too, once a cohort has it."""
    taken = {cohort.idnumber for cohort in call.site.cohort_rows.values()}
    for asked in params["cohorts"]:
        call.touched.add(asked["idnumber"])
        category = call.category(asked["categorytype"])
        if asked["idnumber"] in taken:
            raise WebServiceError("invalidparameter")
        call.require_manage()
        _check_lengths(asked)
        cohort = CohortRow(
            id=next(call.site.next_cohort),
            name=asked["name"],
            idnumber=asked["idnumber"],
            description=asked.get("description", ""),
            visible=asked.get("visible", True),
            category=category,
        )
        call.cohorts[cohort.id] = cohort
        call.spent["created"] += 1
        taken.add(cohort.idnumber)
    return [call.shown(cohort) for cohort in call.cohorts.values()]


def update_cohorts(call: Session, params: Params) -> None:
    """Change all or none. Nothing keeps idnumbers unique here; the cohort goes to the category named."""
    for asked in params["cohorts"]:
        if not asked["name"].strip():
            raise WebServiceError("invalidparameter")
        cohort = call.cohorts.get(asked["id"]) or call.cohort(asked["id"])
        call.require_manage()
        category = call.category(asked["categorytype"])
        _check_lengths(asked)
        kept = {key: asked[key] for key in ("name", "idnumber", "description", "visible") if key in asked}
        call.cohorts.pop(cohort.id, None)
        call.cohorts[cohort.id] = replace(cohort, category=category, **kept)
        call.spent["created"] += 1


def get_cohort_members(call: Session, params: Params) -> object:
    """List the members of each cohort, by lastname and firstname; one unknown cohort fails the call."""
    users, answer = call.site.users, []
    for cohort_id in params["cohortids"]:
        call.cohort(cohort_id)
        call.require_manage("View site-wide cohorts")
        members = sorted(
            call.site.members_of[cohort_id], key=lambda user: (users[user].lastname, users[user].firstname)
        )
        call.spent["member_read"] += len(members)
        answer.append({"cohortid": cohort_id, "userids": members})
    call.spent["cohort_read"] += len(answer)
    return answer


def add_cohort_members(call: Session, params: Params) -> object:
    """Add those that can be; say the others by warnings that carry no item id."""
    site, warnings = call.site, list[dict[str, str]]()
    by_idnumber = {cohort.idnumber: cohort.id for cohort in reversed(site.cohort_rows.values())}

    def warn(code: str, message: str) -> None:
        warnings.append({"warningcode": code, "message": message})

    for member in params["members"]:
        (cohort_by, cohort_value), (user_by, user_value) = (
            member["cohorttype"].values(),
            member["usertype"].values(),
        )
        if cohort_by not in {"id", "idnumber"}:
            warn("1", f"invalid parameter: cohortype={cohort_by}")
            continue
        if user_by not in {"id", "username"}:
            warn("1", f"invalid parameter: usertype={user_by}")
            continue
        cohort_id = by_idnumber.get(cohort_value) if cohort_by == "idnumber" else _database_id(cohort_value)
        if cohort_id not in site.cohort_rows:
            warn("2", f"cohort {cohort_by}={cohort_value} not exists")
            continue
        user_id = site.user_ids.get(user_value) if user_by == "username" else _database_id(user_value)
        if user_id not in site.users or site.users[user_id].deleted:
            warn("2", f"user {user_by}={user_value} not exists")
            continue
        call.cohort(cohort_id)
        if user_id in site.members_of[cohort_id] or (cohort_id, user_id) in call.added:
            warn("3", f"record already exists: cohort({cohort_by}={cohort_value} {user_by}={user_value})")
            continue
        call.require_manage("Add and remove cohort members")
        call.added[cohort_id, user_id] = None
        call.spent["added"] += 1
        call.spent["course_added"] += site.courses.get(cohort_id, 0)
    return {"warnings": warnings}


def delete_cohort_members(call: Session, params: Params) -> None:
    """Remove all or none; who isn't a member is fine."""
    for member in params["members"]:
        cohort_id, user_id = call.cohort(member["cohortid"]).id, member["userid"]
        if user_id not in call.site.users or call.site.users[user_id].deleted:
            raise WebServiceError("invaliduser")
        call.require_manage("Add and remove cohort members")
        call.removed[cohort_id, user_id] = None
        call.spent["removed"] += 1
        if user_id in call.site.members_of[cohort_id]:
            call.spent["course_removed"] += call.site.courses.get(cohort_id, 0)


def get_users_by_field(call: Session, params: Params) -> object:
    """Find accounts, deleted ones included, in the order of ids; one unclean value fails the call.

    Without viewdetails nobody is found. Without viewalldetails some fields are missing, username and idnumber
    among them, and who was looked for by one of those isn't found.
    """
    by = params["field"]
    if by not in {"id", "idnumber", "username", "email"}:
        raise WebServiceError(
            "codingerror",
            f"invalid field parameter: The search field '{by}' is not supported, look at the web service documentation",
        )
    cleaner: Callable[[str], object] = {"id": integer, "username": login}.get(by, raw)
    wanted = {cleaner(value) for value in params["values"]}
    if "moodle/user:viewdetails" not in call.site.capabilities:
        return []
    found = [_shown_user(call.site, user) for user in call.site.users.values() if getattr(user, by) in wanted]
    call.spent["looked_up"] += len(found)
    return [user for user in found if user.get(by)]


def create_users(call: Session, params: Params) -> object:
    """Create all or none; a username or an e-mail address that exists is refused."""
    call.require("moodle/user:create", asked="Create users")
    emails = {user.email.lower() for user in call.site.users.values()}
    usernames = set(call.site.user_ids)
    for asked in params["users"]:
        password = asked.pop("password", "") or asked.pop("createpassword", False)
        asked.pop("createpassword", None)
        if (
            not all(asked[key].strip() for key in ("username", "firstname", "lastname"))
            or asked["username"] in usernames
            or asked["email"].lower() in emails
            or (asked["auth"] == "manual" and not password)
        ):
            raise WebServiceError("invalidparameter")
        user = User(id=next(call.site.next_user), **asked)
        call.users[user.id] = user
        emails.add(user.email.lower())
        usernames.add(user.username)
    return [{"id": user.id, "username": user.username} for user in call.users.values()]


def _check_lengths(asked: Mapping[str, str]) -> None:
    if len(asked["name"]) > NAME_LENGTH or len(asked["idnumber"]) > IDNUMBER_LENGTH:
        raise WebServiceError("dmlwriteexception")


def _database_id(value: str) -> int:
    """Read an id as PostgreSQL does; what it can't read fails the whole call."""
    try:
        return integer(value)
    except WebServiceError:
        raise WebServiceError("Error") from None


def _picture(site: Site, size: int) -> str:
    return f"{site.url}/theme/image.php/boost/core/1/u/f{size}"


def _shown_user(site: Site, user: User) -> dict[str, object]:
    """Give the fields in the recorded order; empty ones among idnumber, city and country are left out."""
    details = "moodle/user:viewalldetails" in site.capabilities
    fields = {
        "id": user.id,
        "username": user.username if details else None,
        "fullname": f"{user.firstname} {user.lastname}",
        "email": user.email,
        "department": "" if details else None,
        "idnumber": (user.idnumber or None) if details else None,
        "firstaccess": 0,
        "lastaccess": 0,
        "auth": user.auth if details else None,
        "suspended": user.suspended,
        "confirmed": True if details else None,
        "lang": "" if details else None,
        "theme": "" if details else None,
        "timezone": "99",
        "mailformat": 1 if details else None,
        "city": user.city or None,
        "country": user.country or None,
        "profileimageurlsmall": _picture(site, 2),
        "profileimageurl": _picture(site, 1),
    }
    return {key: value for key, value in fields.items() if value is not None}


FUNCTIONS = {
    "core_webservice_get_site_info": Function({"serviceshortnames": Default([word])}, get_site_info),
    "core_cohort_get_cohorts": Function({"cohortids": Default([integer], [])}, get_cohorts),
    "core_cohort_search_cohorts": Function(
        {
            "query": raw,
            "context": CONTEXT,
            "includes": Default(word, "parents"),
            "limitfrom": Default(integer, 0),
            "limitnum": Default(integer, 25),
        },
        search_cohorts,
    ),
    "core_cohort_create_cohorts": Function({"cohorts": [COHORT]}, create_cohorts, writes=True),
    "core_cohort_update_cohorts": Function({"cohorts": [{"id": integer} | COHORT]}, update_cohorts, writes=True),
    "core_cohort_get_cohort_members": Function({"cohortids": [integer]}, get_cohort_members),
    "core_cohort_add_cohort_members": Function(
        {"members": [{"cohorttype": NAMED, "usertype": NAMED}]}, add_cohort_members, writes=True
    ),
    "core_cohort_delete_cohort_members": Function(
        {"members": [{"cohortid": integer, "userid": integer}]}, delete_cohort_members, writes=True
    ),
    "core_user_get_users_by_field": Function({"field": word, "values": [raw]}, get_users_by_field),
    "core_user_create_users": Function({"users": [USER]}, create_users),
}
