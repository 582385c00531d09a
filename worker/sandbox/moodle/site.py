"""What a Moodle stores, and what people change through its pages.

Facts called "recorded" are in `moodle-transcripts.json`; the others come from the source code of Moodle 4.3.
"""

import hashlib
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

SYSTEM_CONTEXT = 1
CATEGORY_CONTEXTS = 1000  # a category's context id in the sandbox is its id plus this
NAME_LENGTH, IDNUMBER_LENGTH = 254, 100  # of the cohort table's columns; one more is a write error, as recorded

CAPABILITIES = frozenset(
    {
        "webservice/rest:use",
        "moodle/cohort:manage",
        "moodle/user:viewdetails",
        "moodle/user:viewalldetails",
        "moodle/user:create",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """A row of Moodle's user table."""

    id: int
    username: str
    idnumber: str
    firstname: str
    lastname: str
    email: str
    auth: str = "cas"
    city: str = "Caen"
    country: str = "FR"
    suspended: bool = False
    deleted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CohortRow:
    """A row of Moodle's cohort table. `category` is a category's idnumber, or None at system level."""

    id: int
    name: str
    idnumber: str
    description: str = ""
    visible: bool = True
    component: str = ""
    category: str | None = None


class Site:
    """The tables of one Moodle, in the order in which PostgreSQL would read them, and its settings.

    Its methods are what a person can do, from any thread. As in Moodle, only usernames are unique. `collation` returns
    equal texts for what the database takes for one: on PostgreSQL only what is one, on MariaDB `idnumbers.fold`.
    """

    def __init__(self, *, name: str, token: str, collation: Callable[[str], str] = str) -> None:
        self.lock = threading.RLock()
        self.collation = collation
        self.name = name
        self.token = token
        self.url = "http://127.0.0.1"
        self.release = "4.3 (Build: 20231009)"
        self.version = "2023100900"
        self.escapes_names = False  # Moodle 5 does: `&` comes back as `&amp;` unless moodlewssettingraw=1
        self.capabilities = set(CAPABILITIES)
        self.auth_plugins = {"manual", "cas", "ldap", "shibboleth", "oauth2"}  # those that are installed
        self.granted: set[str] = set()  # the functions of the token's service
        self.users: dict[int, User] = {}
        self.user_ids: dict[str, int] = {}
        self.cohort_rows: dict[int, CohortRow] = {}
        self.members_of: dict[int, set[int]] = {}
        self.categories: dict[str, int] = {}
        self.courses: dict[int, int] = {}
        self.next_user = count(1)
        self.next_cohort = count(1)  # a sequence: a call that is rolled back uses up its number, as recorded
        for username in ("guest", "admin", "etape-cohorts"):
            self.add_user(username=username)
        self.service_user = self.user_ids["etape-cohorts"]

    def add_user(self, *, username: str, idnumber: str = "", suspended: bool = False) -> int:
        """Create an account, named after its rank (ids 1 to 3 are Moodle's own); returns its id."""
        with self.lock:
            user_id = next(self.next_user)
            rank = user_id - 3
            self.put_user(
                User(
                    id=user_id,
                    username=username,
                    idnumber=idnumber,
                    firstname=f"Prenom{rank}",
                    lastname=f"Nom{rank}",
                    email=f"e{rank}@etu.example.org",
                    suspended=suspended,
                )
            )
            return user_id

    def add_users(self, accounts: Iterable[tuple[str, str]]) -> list[int]:
        """Create accounts from pairs of username and idnumber; returns their ids."""
        return [self.add_user(username=username, idnumber=idnumber) for username, idnumber in accounts]

    def suspend_user(self, user_id: int) -> None:
        """Suspend an account; it can still be added to cohorts (recorded)."""
        with self.lock:
            self.put_user(replace(self.users[user_id], suspended=True))

    def change_user(self, user_id: int, **values: Any) -> None:  # noqa: ANN401 - columns
        """Change any column of an account, unchecked, as an upgrade, a script or a directory's synchronisation does."""
        with self.lock:
            self.put_user(replace(self.users[user_id], **values))

    def delete_user(self, user_id: int, *, at: float | None = None) -> None:
        """Delete an account as Moodle does: its row is renamed (recorded), its memberships are deleted."""
        with self.lock:
            user = self.users[user_id]
            moment = int(time.time() if at is None else at)
            while (username := f"{user.email}.{moment}") in self.user_ids:
                moment += 1
            digest = hashlib.md5(user.username.encode(), usedforsecurity=False).hexdigest()
            del self.user_ids[user.username]
            self.put_user(replace(user, username=username, email=digest, idnumber="", deleted=True))
            for members in self.members_of.values():
                members.discard(user_id)

    def create_cohort(
        self,
        *,
        name: str,
        idnumber: str,
        description: str = "",
        component: str = "",
        category: str | None = None,
    ) -> int:
        """Create a cohort, even with the idnumber of another; `category` is created on first use. Returns its id."""
        with self.lock:
            if category is not None:
                self.categories.setdefault(category, len(self.categories) + 1)
            cohort_id = next(self.next_cohort)
            self.put_cohort(
                CohortRow(
                    id=cohort_id,
                    name=name,
                    idnumber=idnumber,
                    description=description,
                    component=component,
                    category=category,
                )
            )
            return cohort_id

    def edit_cohort(self, cohort_id: int, **changes: str) -> None:
        """Change name, idnumber, description or component."""
        with self.lock:
            self.put_cohort(replace(self.cohort_rows[cohort_id], **changes))  # type: ignore[arg-type] # str fields

    def rename_cohort(self, cohort_id: int, name: str) -> None:
        """Change a cohort's name."""
        self.edit_cohort(cohort_id, name=name)

    def delete_cohort(self, cohort_id: int) -> None:
        """Delete a cohort, its memberships and its synchronisations."""
        with self.lock:
            del self.cohort_rows[cohort_id], self.members_of[cohort_id]
            self.courses.pop(cohort_id, None)

    def add_member(self, cohort_id: int, user_id: int) -> None:
        """Add an account to a cohort."""
        with self.lock:
            self.members_of[cohort_id].add(self.users[user_id].id)

    def remove_member(self, cohort_id: int, user_id: int) -> None:
        """Remove an account from a cohort."""
        with self.lock:
            self.members_of[cohort_id].discard(user_id)

    def synchronise(self, cohort_id: int, courses: int = 10) -> None:
        """Synchronise the cohort's members into so many courses, which only shows in the cost of calls."""
        with self.lock:
            self.courses[self.cohort_rows[cohort_id].id] = courses

    def cohorts(self) -> list[CohortRow]:
        """Every cohort, by id."""
        with self.lock:
            return sorted(self.cohort_rows.values(), key=lambda cohort: cohort.id)

    def members(self, cohort_id: int) -> set[int]:
        """Return the ids of the cohort's members."""
        with self.lock:
            return set(self.members_of[cohort_id])

    def memberships(self) -> dict[str, set[str]]:
        """Return the usernames of members by cohort idnumber, empty cohorts included."""
        with self.lock:
            usernames: dict[str, set[str]] = {}
            for cohort in self.cohort_rows.values():
                names = (self.users[user_id].username for user_id in self.members_of[cohort.id])
                usernames.setdefault(cohort.idnumber, set()).update(names)
            return usernames

    def put_user(self, user: User) -> None:
        """Insert or replace a row; the table stays in the order of ids."""
        former = self.users.get(user.id)
        if former is not None and self.user_ids.get(former.username) == user.id:
            del self.user_ids[former.username]
        self.users[user.id] = user
        self.user_ids[user.username] = user.id

    def put_cohort(self, cohort: CohortRow) -> None:
        """Insert or replace a row; the newest version of a row is read last, as recorded (`get_cohorts`)."""
        self.cohort_rows.pop(cohort.id, None)
        self.cohort_rows[cohort.id] = cohort
        self.members_of.setdefault(cohort.id, set())

    def context_of(self, cohort: CohortRow) -> int:
        """Return the id of the cohort's context."""
        return SYSTEM_CONTEXT if cohort.category is None else CATEGORY_CONTEXTS + self.categories[cohort.category]

    def picture(self, size: int) -> str:
        """Return the address of the picture of users who have none."""
        return f"{self.url}/theme/image.php/boost/core/1/u/f{size}"
