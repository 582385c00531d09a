"""The responses of Moodle's functions: the fields that are read, so that nothing else is taken for a response.

A proxy, another version, or whoever has taken over the site may send anything.
"""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, Field, TypeAdapter

_Id = Annotated[int, Field(strict=True, ge=0, lt=2**63)]


class _Function(BaseModel):
    name: str


class _Site(BaseModel):
    sitename: str
    release: str
    userid: _Id
    functions: list[_Function]


class _Cohort(BaseModel):
    id: _Id
    name: str
    idnumber: str | None
    description: str | None = None
    descriptionformat: Annotated[int, Field(strict=True, ge=0, le=9)] = 1


class _Found(BaseModel):
    cohorts: list[_Cohort]


class _Members(BaseModel):
    cohortid: _Id
    userids: list[_Id]


class _User(BaseModel):
    id: _Id
    username: str = ""
    idnumber: str | None = None


class _Created(BaseModel):
    id: _Id
    idnumber: str


class _Warning(BaseModel):
    warningcode: str
    message: str = ""


class _Added(BaseModel):
    warnings: list[_Warning]


FORMS: Mapping[str, TypeAdapter[Any]] = {
    "core_webservice_get_site_info": TypeAdapter(_Site),
    "core_cohort_get_cohorts": TypeAdapter(list[_Cohort]),
    "core_cohort_search_cohorts": TypeAdapter(_Found),
    "core_cohort_get_cohort_members": TypeAdapter(list[_Members]),
    "core_user_get_users_by_field": TypeAdapter(list[_User]),
    "core_cohort_create_cohorts": TypeAdapter(list[_Created]),
    "core_cohort_add_cohort_members": TypeAdapter(_Added),
    "core_cohort_update_cohorts": TypeAdapter(None),
    "core_cohort_delete_cohort_members": TypeAdapter(None),
}
"""The form of each function's response, `null` for those that give none: whatever else comes wasn't done."""
