"""The invented university as a SupAnn directory shows it."""

from collections.abc import Iterator
from itertools import cycle

from worker.sandbox.university.generator import University
from worker.sandbox.university.records import InventedEnrolment


def ldif(university: University, base: str) -> Iterator[str]:
    """Return an entry a student, with their valid enrolments of every year and establishment, however they are written.

    A directory knows no payment: what isn't paid isn't shown. Nor is what is over, or whom nothing is left of.
    """
    ways = cycle(WAYS)
    for number, rows in university._records._rows.items():
        shown = [row for row in rows.values() if row.status == "active" and row.payment != "due"]
        if shown:
            yield entry(number, *(next(ways)(row) for row in shown), base=base)


def entry(number: str, *composites: str, base: str = "{base}", login: str | None = None) -> str:
    """Return an entry as LDIF."""
    lines = [
        f"dn: uid=e{number},{base}",
        *(f"objectClass: {name}" for name in ("inetOrgPerson", "supannPerson", "eduPerson")),
        f"uid: e{number}",
        "cn: Camille Exemple",
        "sn: Exemple",
        "mail: camille@example.fr",
        "eduPersonAffiliation: student",
        f"supannEtuId: {number}",
        f"supannAliasLogin: {login or number}",
        *(f"supannEtuInscription: {composite}" for composite in dict.fromkeys(composites)),
    ]
    return "\n".join(lines) + "\n\n"


def _usual(row: InventedEnrolment) -> str:
    """As the example of Caen has it."""
    code = f"{row.etape.code}_{row.etape_version}"
    return (
        f"[etab={{UAI}}{row.uai}][anneeinsc={row.year}][regimeinsc={{SISE}}10][sectdisc={{INCONNU}}]"
        f"[typedip={{SISE}}XA][cursusann={{SUPANN}}L2][affect=HS_{row.etape.component.code}]"
        f"[diplome={{UAI:{row.uai}}}XX_101][etape={{UAI:{row.uai}}}{code}]"
    )


def _short(row: InventedEnrolment) -> str:
    return f"[etab={{UAI}}{row.uai}][anneeinsc={row.year}][etape={row.etape.code}_{row.etape_version}]"


def _by_label_alone(row: InventedEnrolment) -> str:
    return f"[anneeinsc={row.year}][etape={{UAI:{row.uai}}}{row.etape.code}_{row.etape_version}][etab={{INCONNU}}]"


def _escaped(row: InventedEnrolment) -> str:
    code = f"{row.etape.code}#5F{row.etape_version}"
    return f"[etape={{UAI:{row.uai}}}{code}][eltpedago=A#5D#5BB][anneeinsc={row.year}][etab={{UAI}}{row.uai}]"


def _bracketed(row: InventedEnrolment) -> str:
    """With a key that nobody knows, and a lone bracket within its value."""
    return f"[etab={row.uai}][local=a]b=c][anneeinsc={row.year}][etape={row.etape.code.lower()}_{row.etape_version}]"


WAYS = (_usual, _usual, _usual, _short, _by_label_alone, _escaped, _bracketed)
