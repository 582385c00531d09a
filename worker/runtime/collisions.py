"""Idnumbers that a Moodle on MariaDB would take for one, found before it refuses them."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from worker.domain.idnumbers import fold
from worker.domain.rules import Mapper, PlatformPolicy, Policy
from worker.ledger import Ledger, blocked

SHOWN = 10
"""Collisions that are named one by one."""
_WHERE = "to a Moodle on MariaDB or MySQL these are one, and the second is refused (PostgreSQL keeps them apart)"


def collisions(policy: Policy, platform: PlatformPolicy, ledger: Ledger) -> Iterator[str]:
    """Yield a sentence for each collision on a platform: of its templates, of the aliases, and of the étapes known.

    What Moodle has already refused is told elsewhere, and what Moodle has side by side isn't a collision there.
    """
    for each in _alike(template.idnumber for template in platform.templates):
        yield f"templates {_named(each)}: {_WHERE}; make them differ by more than case and accents"
    for each in _alike(set(policy.aliases.values())):
        yield f"aliases lead to {_named(each)}: {_WHERE}; let them lead to one of these codes"
    with ledger.read() as connection:
        known = blocked.idnumbers(connection, platform.name)
        waiting = {cohort.idnumber for cohort in blocked.read(connection, platform.name)}
    mapper = Mapper(policy)
    made = {idnumber for idnumber, _, is_made in known if is_made}
    wanted = {idnumber if etape is None else mapper.successor(etape, idnumber)[1] for idnumber, etape, _ in known}
    found = [each for each in _alike(wanted) if waiting.isdisjoint(each) and not made.issuperset(each)]
    for each in found[:SHOWN]:
        yield f"étapes lead to {_named(each)}: {_WHERE}; join them by an alias, or give one another idnumber"
    if more := found[SHOWN:]:
        yield f"{len(more)} more pairs of étapes lead to idnumbers that are one to MariaDB or MySQL"


def _alike(texts: Iterable[str]) -> list[Sequence[str]]:
    """Return the texts that have one fold, where there are several."""
    groups: defaultdict[str, set[str]] = defaultdict(set)
    for text in texts:
        groups[fold(text)].add(text)
    return [sorted(group) for _, group in sorted(groups.items()) if len(group) > 1]


def _named(texts: Sequence[str]) -> str:
    return " and ".join(repr(text) for text in texts)
