"""The étapes of an invented university, their components and codes."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle as cycle_through
from itertools import islice, product, zip_longest

HEALTH = "SAN"


@dataclass(frozen=True, slots=True)
class Faculty:
    """A faculty, school or institute."""

    code: str
    label: str


@dataclass(frozen=True, slots=True)
class CatalogueEtape:
    """An étape and its versions. `size_rank` grows from crowded to small."""

    code: str
    label: str
    component: Faculty
    versions: tuple[str, ...]
    size_rank: int


@dataclass(frozen=True, slots=True)
class Cycle:
    """A kind of diploma: its years, and how its étapes are coded and labelled."""

    code: str
    label: str
    years: range
    size_rank: int = 0


LICENCE = Cycle("L{year}{mention}", "Licence {year} {label}", range(1, 4))
MASTER = Cycle("M{year}{mention}", "Master {year} {label}", range(1, 3), 3)
PRO = Cycle("LP{mention}", "Licence professionnelle {label}", range(3, 4), 3)
BUT = Cycle("B{year}{mention}", "BUT {year} {label}", range(1, 4), 1)
SCIENCE_LICENCE = Cycle("X{mention}{year}", "Licence {year} {label}", range(1, 4))
SCIENCE_MASTER = Cycle("Y{mention}{year}", "Master {year} {label}", range(1, 3), 3)
ENGINEER = Cycle("I{year}{mention}", "Ingénieur {year}A {label}", range(1, 4), 2)
DOCTORATE = Cycle("D{year}{mention}", "Doctorat {year}A {label}", range(1, 4), 4)
DU = Cycle("DU{mention}", "DU {label}", range(1, 2), 5)
CAPACITY = Cycle("CM{mention}", "Capacité de médecine {label}", range(1, 2), 5)
DFG = Cycle("DFG{mention}{year}", "Diplôme de formation générale en sciences {label} {year}", range(2, 4))
DFA = Cycle("DFA{mention}{year}", "Diplôme de formation approfondie en sciences {label} {year}", range(1, 4))

# component, its cycles, its mentions ("code label; …")
TAUGHT = (
    (
        Faculty("DRT", "UFR Droit"),
        (LICENCE, MASTER, DU),
        (
            "DROI Droit; ADPU Administration publique; AESO Administration économique et sociale; "
            "SCPO Science politique; NOTA Droit notarial"
        ),
    ),
    (
        Faculty(HEALTH, "UFR Santé"),
        (DFG, DFA),
        "SM médicales; SP pharmaceutiques; SO odontologiques",
    ),
    (
        Faculty(HEALTH, "UFR Santé"),
        (LICENCE, MASTER, CAPACITY),
        "SPSA Sciences pour la santé; PSYM Psychomotricité; CARD Cardiologie; GERO Gérontologie",
    ),
    (
        Faculty("SCI", "UFR Sciences"),
        (SCIENCE_LICENCE, SCIENCE_MASTER),
        "INFO Informatique; MATH Mathématiques; PHYS Physique; CHIM Chimie; BIOL Biologie; GEOL Géologie",
    ),
    (
        Faculty("IUT", "IUT"),
        (BUT, PRO),
        (
            "TCOM Techniques de commercialisation; GEAD Gestion des entreprises et des administrations; "
            "GEII Génie électrique et informatique industrielle; MMIN Métiers du multimédia et de l'internet"
        ),
    ),
    (
        Faculty("IAE", "IAE"),
        (LICENCE, MASTER, DU),
        "GEST Gestion; MARK Marketing; CCAU Comptabilité, contrôle, audit; FINA Finance",
    ),
    (
        Faculty("INS", "INSPE"),
        (MASTER, DU),
        (
            "PREM MEEF premier degré; SCDM MEEF second degré mathématiques; SDLE MEEF second degré lettres; "
            "ENCA MEEF encadrement éducatif"
        ),
    ),
    (
        Faculty("STP", "UFR STAPS"),
        (LICENCE, MASTER, PRO),
        ("STAP STAPS; APAS Activité physique adaptée et santé; ENSP Entraînement sportif; MSPO Management du sport"),
    ),
    (
        Faculty("LVE", "UFR Langues vivantes étrangères"),
        (LICENCE, MASTER, DU),
        (
            "LEAP Langues étrangères appliquées; ANGL LLCER anglais; ESPA LLCER espagnol; "
            "ALLE LLCER allemand; ETNO Études nordiques"
        ),
    ),
    (
        Faculty("HSS", "UFR Humanités et sciences sociales"),
        (LICENCE, MASTER),
        "HIST Histoire; LETT Lettres; PHIL Philosophie; SOCI Sociologie; ARTS Arts du spectacle",
    ),
    (
        Faculty("PSY", "UFR Psychologie"),
        (LICENCE, MASTER, DU),
        "PSYC Psychologie; NEUR Neuropsychologie; SEDU Sciences de l'éducation",
    ),
    (
        Faculty("SEG", "UFR Économie, géographie, aménagement"),
        (LICENCE, MASTER, PRO),
        "ECON Économie; GEOG Géographie; AMEN Aménagement du territoire",
    ),
    (
        Faculty("ING", "École supérieure d'ingénieurs"),
        (ENGINEER,),
        "AGRO Agroalimentaire; MECA Mécatronique; CYBE Cybersécurité; MATE Matériaux",
    ),
    (
        Faculty("SFC", "Formation continue"),
        (DU, PRO),
        (
            "CAGE Capacité de gestion des entreprises; DAEU Accès aux études universitaires; "
            "FLEI Français langue étrangère; NUME Compétences numériques"
        ),
    ),
    (
        Faculty("EDO", "Collège des écoles doctorales"),
        (DOCTORATE,),
        "SCVI Sciences de la vie; HUMA Humanités; SCIN Sciences et ingénierie",
    ),
)

PARCOURS = {
    "A": "en alternance",
    "B": "parcours bilingue",
    "C": "parcours conseil",
    "D": "à distance",
    "E": "parcours Europe",
    "F": "FOAD",
    "I": "parcours international",
    "J": "double diplôme",
    "N": "parcours numérique",
    "P": "parcours professionnel",
    "R": "parcours recherche",
    "T": "parcours transitions",
    "V": "site de Vire",
    "W": "parcours renforcé",
    "X": "oui-si",
}

STUDENTS_PER_ETAPE = 25
FEWEST_ETAPES, MOST_ETAPES = 25, 1_200

VERSIONS = (("101",), ("101", "102"), ("101",), ("101", "221"), ("101",), ("221",))


def etapes_for(students: int) -> int:
    """Return how many étapes suit a university of so many students."""
    return min(max(FEWEST_ETAPES, students // STUDENTS_PER_ETAPE), MOST_ETAPES)


def etapes(count: int) -> list[CatalogueEtape]:
    """Return `count` étapes with unique codes, of each component in turn, its main ones first."""
    every: dict[str, CatalogueEtape] = {}
    for wave in zip_longest(*(_etapes_of(*line) for line in TAUGHT)):
        for etape in filter(None, wave):
            every.setdefault(etape.code, etape)
    if not len(TAUGHT) <= count <= len(every):
        raise ValueError(f"{count} étapes requested; choose between {len(TAUGHT)} and {len(every)}")
    return list(islice(every.values(), count))


def _etapes_of(component: Faculty, cycles: tuple[Cycle, ...], mentions: str) -> Iterator[CatalogueEtape]:
    taught = [mention.split(" ", 1) for mention in mentions.split("; ")]
    plans = product(enumerate({"": "", **PARCOURS}.items()), taught, cycles)
    versions = cycle_through(VERSIONS)
    for (rank, (letter, parcours)), (mention, label), cycle in plans:
        if letter and len(mention) < len("DROI"):
            continue  # a short mention has no letter to spare for a parcours
        code = mention[: 4 - len(letter)] + letter
        for year in cycle.years:
            yield CatalogueEtape(
                code=cycle.code.format(year=year, mention=code),
                label=f"{cycle.label.format(year=year, label=label)} {parcours}".strip(),
                component=component,
                versions=next(versions),
                size_rank=10 * rank + cycle.size_rank + year,
            )
