"""Moodle's web-service functions on the tables of a `Site`, all listed in `FUNCTIONS` at the end.

They do what the recorded transcripts show and, where those are silent, what the source code of Moodle 4.3 does:
`cohort/externallib.php`, `user/externallib.php`, `webservice/externallib.php`.
"""

from collections.abc import Mapping
from dataclasses import replace

from worker.sandbox.moodle.session import (
    Default,
    Function,
    Params,
    Session,
    Shape,
    WebServiceError,
    boolean,
    integer,
    raw,
    word,
)
from worker.sandbox.moodle.site import IDNUMBER_LENGTH, NAME_LENGTH, SYSTEM_CONTEXT, CohortRow
from worker.sandbox.moodle.users import USER, create_users, get_users_by_field

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


def get_site_info(call: Session, _params: Params) -> object:
    """Return whose token it is and what it may call."""
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
        "userpictureurl": site.picture(1),
        "functions": [{"name": name, "version": site.version} for name in sorted(site.granted)],
        "downloadfiles": 0,
        "uploadfiles": 0,
        "release": site.release,
        "version": site.version,
    }


def get_cohorts(call: Session, params: Params) -> object:
    """List the requested cohorts, or all of them; unknown ids are left out."""
    wanted = set(params["cohortids"])
    if call.site.cohort_rows:
        call.require_manage("View site-wide cohorts")
    rows = call.site.cohort_rows.values()
    return call.shown_all(cohort for cohort in rows if not wanted or cohort.id in wanted)


def search_cohorts(call: Session, params: Params) -> object:
    """Search name, idnumber and description. `limitfrom` counts pages; a `limitnum` of 0 is no limit."""
    call.require_manage("View site-wide cohorts")
    contexts = _searched_contexts(params["context"], params["includes"])
    query = params["query"].lower()
    found = [
        cohort
        for cohort in call.site.cohort_rows.values()
        if (contexts is None or call.site.context_of(cohort) in contexts) and _matches(cohort, query)
    ]
    found.sort(key=lambda cohort: (cohort.name, cohort.idnumber))
    page, size = params["limitfrom"], params["limitnum"]
    return {"cohorts": call.shown_all(found[page * size : (page + 1) * size] if size else found)}


def _searched_contexts(context: Params, includes: str) -> set[int] | None:
    """Return the ids of the contexts that a search goes through; None for all."""
    context_id = context["contextid"] or (SYSTEM_CONTEXT if context["contextlevel"] == "system" else 0)
    if not context_id:
        raise WebServiceError("invalidparameter")
    match includes:
        case "self":
            return {context_id}
        case "parents":
            return {context_id, SYSTEM_CONTEXT}
        case "all":
            return None
    raise WebServiceError("codingerror", "Invalid parameter value for 'includes'.")


def _matches(cohort: CohortRow, query: str) -> bool:
    if query in {"", "0"}:  # PHP takes "0" for empty
        return True
    return any(query in text.lower() for text in (cohort.name, cohort.idnumber, cohort.description))


def create_cohorts(call: Session, params: Params) -> object:
    """Create all or none. An idnumber that the database finds is refused, even the empty one once a cohort has it."""
    collation = call.site.collation
    taken = {collation(cohort.idnumber) for cohort in call.site.cohort_rows.values()}
    for given in params["cohorts"]:
        call.touched.add(given["idnumber"])
        category = call.category(given["categorytype"])
        if collation(given["idnumber"]) in taken:
            raise WebServiceError("invalidparameter")
        call.require_manage()
        _check_lengths(given)
        cohort = CohortRow(
            id=next(call.site.next_cohort),
            name=given["name"],
            idnumber=given["idnumber"],
            description=given.get("description", ""),
            visible=given.get("visible", True),
            category=category,
        )
        call.cohorts[cohort.id] = cohort
        call.spent["created"] += 1
        taken.add(collation(cohort.idnumber))
    return [call.shown(cohort) for cohort in call.cohorts.values()]


def update_cohorts(call: Session, params: Params) -> None:
    """Change all or none. Duplicate idnumbers are accepted; the cohort moves to the given category."""
    for given in params["cohorts"]:
        if not given["name"].strip():
            raise WebServiceError("invalidparameter")
        cohort = call.cohorts.get(given["id"]) or call.cohort(given["id"])
        call.require_manage()
        category = call.category(given["categorytype"])
        _check_lengths(given)
        changes = {key: given[key] for key in ("name", "idnumber", "description", "visible") if key in given}
        call.cohorts.pop(cohort.id, None)
        call.cohorts[cohort.id] = replace(cohort, category=category, **changes)
        call.spent["created"] += 1


def get_cohort_members(call: Session, params: Params) -> object:
    """List the members of each cohort by lastname and firstname; one unknown cohort fails the call."""
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


class ItemWarning(Exception):
    """An item that is left out; the answer names it by a warning without an item id."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def add_cohort_members(call: Session, params: Params) -> object:
    """Add those that can be added; the answer has a warning for each of the others."""
    warnings = []
    collation = call.site.collation
    cohort_ids = {collation(cohort.idnumber): cohort.id for cohort in reversed(call.site.cohort_rows.values())}
    for member in params["members"]:
        try:
            _add_member(call, cohort_ids, member)
        except ItemWarning as warning:
            warnings.append({"warningcode": warning.code, "message": warning.message})
    return {"warnings": warnings}


def _add_member(call: Session, cohort_ids: Mapping[str, int], member: Params) -> None:
    (cohort_by, cohort_value), (user_by, user_value) = member["cohorttype"].values(), member["usertype"].values()
    if cohort_by not in {"id", "idnumber"}:
        raise ItemWarning("1", f"invalid parameter: cohortype={cohort_by}")
    if user_by not in {"id", "username"}:
        raise ItemWarning("1", f"invalid parameter: usertype={user_by}")
    by_idnumber = cohort_by == "idnumber"
    cohort_id = cohort_ids.get(call.site.collation(cohort_value)) if by_idnumber else _database_id(cohort_value)
    if cohort_id not in call.site.cohort_rows:
        raise ItemWarning("2", f"cohort {cohort_by}={cohort_value} not exists")
    user_id = call.site.user_ids.get(user_value) if user_by == "username" else _database_id(user_value)
    if user_id not in call.site.users or call.site.users[user_id].deleted:
        raise ItemWarning("2", f"user {user_by}={user_value} not exists")
    call.cohort(cohort_id)
    if user_id in call.site.members_of[cohort_id] or (cohort_id, user_id) in call.added:
        raise ItemWarning("3", f"record already exists: cohort({cohort_by}={cohort_value} {user_by}={user_value})")
    call.require_manage("Add and remove cohort members")
    call.added[cohort_id, user_id] = None
    call.spent["added"] += 1
    call.spent["course_added"] += call.site.courses.get(cohort_id, 0)


def delete_cohort_members(call: Session, params: Params) -> None:
    """Remove all or none; accounts that aren't members are ignored."""
    for member in params["members"]:
        cohort_id, user_id = call.cohort(member["cohortid"]).id, member["userid"]
        if user_id not in call.site.users or call.site.users[user_id].deleted:
            raise WebServiceError("invaliduser")
        call.require_manage("Add and remove cohort members")
        call.removed[cohort_id, user_id] = None
        call.spent["removed"] += 1
        if user_id in call.site.members_of[cohort_id]:
            call.spent["course_removed"] += call.site.courses.get(cohort_id, 0)


def _check_lengths(given: Mapping[str, str]) -> None:
    if len(given["name"]) > NAME_LENGTH or len(given["idnumber"]) > IDNUMBER_LENGTH:
        raise WebServiceError("dmlwriteexception")


def _database_id(value: str) -> int:
    """Read an id as PostgreSQL does; an unreadable one fails the whole call."""
    try:
        return integer(value)
    except WebServiceError:
        raise WebServiceError("Error") from None


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
