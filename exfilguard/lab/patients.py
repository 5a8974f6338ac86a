"""A synthetic French hospital: patients, stays, reports, users; the same for the same seed. Nobody here exists.

Orders of magnitude: 1.5 stays a patient and 1.2 reports a stay; names drawn from the most frequent ones in France with a
falling weight, so that searches by name find few and many. The social security numbers begin with 9: no real one does.
"""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

DATABASE = "dpi"
PATIENT_COLUMNS = ["patient.id", "sejour.patient_id", "compte_rendu.patient_id"]
EXPORT_ACCOUNT = "dpi_export"
"""The privileged application account: the one whose password is stolen."""
BATCH_ACCOUNT = "batch_nuit"
HOOK_ACCOUNT = "exfilguard_hook"
CATALOG_ACCOUNT = "exfilguard_catalog"

_SURNAMES = [
    "MARTIN",
    "BERNARD",
    "THOMAS",
    "PETIT",
    "ROBERT",
    "RICHARD",
    "DURAND",
    "DUBOIS",
    "MOREAU",
    "LAURENT",
    "SIMON",
    "MICHEL",
    "LEFEBVRE",
    "LEROY",
    "ROUX",
    "DAVID",
    "BERTRAND",
    "MOREL",
    "FOURNIER",
    "GIRARD",
    "BONNET",
    "DUPONT",
    "LAMBERT",
    "FONTAINE",
    "ROUSSEAU",
    "VINCENT",
    "MULLER",
    "LEFEVRE",
    "FAURE",
    "ANDRE",
    "MERCIER",
    "BLANC",
    "GUERIN",
    "BOYER",
    "GARNIER",
    "CHEVALIER",
    "FRANCOIS",
    "LEGRAND",
    "GAUTHIER",
    "GARCIA",
    "PERRIN",
    "ROBIN",
    "CLEMENT",
    "MORIN",
    "NICOLAS",
    "HENRY",
    "ROUSSEL",
    "MATHIEU",
    "GAUTIER",
    "MASSON",
    "MARCHAND",
    "DUVAL",
    "DENIS",
    "DUMONT",
    "MARIE",
    "LEMAIRE",
    "NOEL",
    "MEYER",
    "DUFOUR",
    "MEUNIER",
    "BRUN",
    "BLANCHARD",
    "GIRAUD",
    "JOLY",
    "RIVIERE",
    "LUCAS",
    "BRUNET",
    "GAILLARD",
    "BARBIER",
    "ARNAUD",
    "MARTINEZ",
    "GERARD",
    "ROCHE",
    "RENARD",
    "SCHMITT",
    "ROY",
    "LEROUX",
    "COLIN",
    "VIDAL",
    "CARON",
    "PICARD",
    "ROGER",
    "FABRE",
    "AUBERT",
    "LEMOINE",
    "RENAUD",
    "DUMAS",
    "LACROIX",
    "OLIVIER",
    "PHILIPPE",
    "BOURGEOIS",
    "PIERRE",
    "BENOIT",
    "REY",
    "LECLERC",
    "PAYET",
    "ROLLAND",
    "LECLERCQ",
    "GUILLAUME",
    "LECOMTE",
    "LOPEZ",
    "JEAN",
    "DUPUY",
    "GUILLOT",
    "HUBERT",
    "BERGER",
    "CARPENTIER",
    "SANCHEZ",
    "DUPUIS",
    "MOULIN",
]
_WOMEN = [
    "Marie",
    "Nathalie",
    "Isabelle",
    "Sylvie",
    "Catherine",
    "Françoise",
    "Martine",
    "Christine",
    "Valérie",
    "Sandrine",
    "Stéphanie",
    "Véronique",
    "Sophie",
    "Céline",
    "Chantal",
    "Patricia",
    "Anne",
    "Brigitte",
    "Julie",
    "Monique",
    "Aurélie",
    "Nicole",
    "Laurence",
    "Annie",
    "Émilie",
    "Dominique",
    "Virginie",
    "Corinne",
    "Élodie",
    "Christelle",
    "Camille",
    "Caroline",
    "Léa",
    "Sarah",
    "Florence",
    "Laetitia",
    "Audrey",
    "Hélène",
    "Laura",
    "Manon",
    "Michèle",
    "Cécile",
    "Chloé",
    "Inès",
]
_MEN = [
    "Jean",
    "Philippe",
    "Michel",
    "Alain",
    "Patrick",
    "Nicolas",
    "Christophe",
    "Pierre",
    "Christian",
    "Éric",
    "Frédéric",
    "Laurent",
    "Stéphane",
    "David",
    "Pascal",
    "Daniel",
    "Alexandre",
    "Julien",
    "Thierry",
    "Olivier",
    "Bernard",
    "Thomas",
    "Sébastien",
    "Gérard",
    "Didier",
    "Dominique",
    "Vincent",
    "François",
    "Bruno",
    "Guillaume",
    "Jérôme",
    "Jacques",
    "Marc",
    "Maxime",
    "Romain",
    "Claude",
    "Antoine",
    "Franck",
    "Jean-Pierre",
    "Anthony",
    "Kévin",
    "Gilles",
    "Cédric",
    "Serge",
    "André",
    "Mathieu",
]
_STREETS = [
    "de l'Église",
    "Victor Hugo",
    "de la Gare",
    "Pasteur",
    "Jean Jaurès",
    "des Écoles",
    "du Moulin",
    "de Verdun",
    "des Tilleuls",
    "du Stade",
]
_CITIES = (
    ("75011", "Paris"), ("69003", "Lyon"), ("13005", "Marseille"), ("31000", "Toulouse"), ("44000", "Nantes"),
    ("67000", "Strasbourg"), ("33000", "Bordeaux"), ("59000", "Lille"), ("35000", "Rennes"), ("34000", "Montpellier"),
    ("92100", "Boulogne-Billancourt"), ("93200", "Saint-Denis"), ("94000", "Créteil"), ("76000", "Rouen"),
)  # fmt: skip
UNITS = ("CARDIO", "CHIR-DIG", "ORTHO", "MATERNITE", "URGENCES", "PNEUMO", "NEURO", "ONCO", "GERIATRIE", "PEDIATRIE")
_REASONS = (
    "Douleur thoracique", "Bilan programmé", "Chute à domicile", "Dyspnée aiguë", "Suivi de grossesse", "Fièvre prolongée",
    "Appendicectomie", "Prothèse de hanche", "Accident vasculaire cérébral", "Chimiothérapie, cure", "Coloscopie", "Asthme",
)  # fmt: skip
_SENTENCES = (
    "Patient vu ce jour en consultation de suivi.", "L'examen clinique est sans particularité.",
    "La tension artérielle est contrôlée sous traitement.", "Le bilan biologique montre une amélioration.",
    "Poursuite du traitement à l'identique.", "Imagerie de contrôle à prévoir dans trois mois.",
    "Pas de signe de complication.", "Retour à domicile avec ordonnance.", "Un courrier est adressé au médecin traitant.",
    "La cicatrisation est de bonne qualité.", "Éducation thérapeutique réalisée auprès du patient.",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Staff:
    """Login names by class; the policy's patterns know them by prefix."""

    doctors: tuple[str, ...]
    nurses: tuple[str, ...]
    secretaries: tuple[str, ...]

    @property
    def all(self) -> tuple[str, ...]:
        return self.doctors + self.nurses + self.secretaries


def staff(doctors: int = 20, nurses: int = 24, secretaries: int = 12) -> Staff:
    """Who works there. The names are the frequent ones above, numbered by their place."""
    names = [name.lower() for name in _SURNAMES]
    cut = doctors + nurses
    return Staff(
        tuple(f"dr.{name}" for name in names[:doctors]),
        tuple(f"ide.{name}" for name in names[doctors:cut]),
        tuple(f"sec.{name}" for name in names[cut : cut + secretaries]),
    )


def _weighted(rng: random.Random, items: list[str]) -> Callable[[], str]:
    """Draws from a list whose first entries are the frequent ones (weight 1/(rank+5))."""
    table = rng.choices(items, [1 / (rank + 5) for rank in range(len(items))], k=4096)
    return lambda: table[rng.getrandbits(12)]


def generate(patients: int, seed: int) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """(table, row) of the whole hospital, patient by patient."""
    rng = random.Random(seed)
    surname, woman, man = _weighted(rng, _SURNAMES), _weighted(rng, _WOMEN), _weighted(rng, _MEN)
    doctors = staff().doctors
    birth_0, today = dt.date(1930, 1, 1), dt.datetime(2026, 11, 1, 8, 0)
    stay_id = report_id = 0
    for number in range(1, patients + 1):
        female = rng.random() < 0.53
        born = birth_0 + dt.timedelta(days=rng.randrange(34_700))
        code, city = _CITIES[min(rng.getrandbits(4), len(_CITIES) - 1)]
        name = surname()
        yield (
            "patient",
            (
                number,
                f"IPP{number:09d}",
                f"9{born:%y%m}{code[:2]}{rng.randrange(1, 990):03d}{number % 1000:03d}{rng.randrange(1, 97):02d}",
                name,
                surname() if female and rng.random() < 0.4 else None,
                woman() if female else man(),
                "F" if female else "M",
                born,
                f"{rng.randrange(1, 120)} rue {_STREETS[rng.randrange(len(_STREETS))]}",
                code,
                city,
                f"0{rng.randrange(1, 8)} 99 {rng.randrange(100):02d} {rng.randrange(100):02d} {rng.randrange(100):02d}",
                f"Dr {surname()}",
            ),
        )
        for _ in range(1 + (rng.random() < 0.35) + (rng.random() < 0.15)):
            stay_id += 1
            entry = today - dt.timedelta(minutes=rng.randrange(2_600_000))
            leave = entry + dt.timedelta(hours=rng.randrange(2, 200))
            yield (
                "sejour",
                (
                    stay_id,
                    number,
                    f"IEP{stay_id:010d}",
                    UNITS[rng.randrange(len(UNITS))],
                    entry,
                    leave if leave < today else None,
                    _REASONS[rng.randrange(len(_REASONS))],
                    doctors[rng.randrange(len(doctors))],
                ),
            )
            for _ in range(1 + (rng.random() < 0.2)):
                report_id += 1
                first = rng.randrange(len(_SENTENCES))
                text = " ".join(_SENTENCES[(first + i * 3) % len(_SENTENCES)] for i in range(rng.randrange(3, 7)))
                yield ("compte_rendu", (report_id, number, stay_id, leave, "Compte rendu d'hospitalisation", text))


def load(
    admin_dsn: str,
    patients: int,
    seed: int,
    password: str,
    progress: Callable[[int], None] = lambda done: None,
) -> None:
    """Create the roles and tables in the database of `admin_dsn`, and fill them. `password`: of every account.

    `progress` is called with the number of patients written so far. Raises psycopg.Error.
    """
    here = Path(__file__).parent
    with psycopg.connect(admin_dsn) as connection:
        connection.execute((here / "schema.sql").read_text(encoding="utf-8"))
        _make_roles(connection, password)
        _fill(connection, patients, seed, progress)
        connection.execute((here / "indexes.sql").read_text(encoding="utf-8"))
        connection.commit()


CHUNK = 5_000


def _fill(connection: psycopg.Connection[Any], patients: int, seed: int, progress: Callable[[int], None]) -> None:
    columns = {"patient": 13, "sejour": 8, "compte_rendu": 6}
    rows: dict[str, list[tuple[Any, ...]]] = {table: [] for table in columns}

    def flush() -> None:
        for table, pending in rows.items():
            copy = sql.SQL("COPY {} FROM STDIN").format(sql.Identifier(table))
            with connection.cursor() as cursor, cursor.copy(copy) as out:
                out.write("".join("\t".join("\\N" if v is None else str(v) for v in row) + "\n" for row in pending))
            pending.clear()

    done = 0
    for table, row in generate(patients, seed):
        if table == "patient":
            done += 1
            if done % CHUNK == 0:
                flush()
                progress(done)
        rows[table].append(row)
    flush()
    with connection.cursor() as cursor, cursor.copy("COPY utilisateur FROM STDIN") as out:
        for number, login in enumerate(staff().all, 1):
            out.write_row((number, login, login.partition(".")[2].upper(), login.partition(".")[0]))
    progress(patients)


def _make_roles(connection: psycopg.Connection[Any], password: str) -> None:
    def role(name: str, options: str = "") -> None:
        statement = sql.SQL("CREATE ROLE {} LOGIN PASSWORD {} " + options)
        connection.execute(statement.format(sql.Identifier(name), sql.Literal(password)))

    everyone = [*staff().all, EXPORT_ACCOUNT, BATCH_ACCOUNT]
    for name in everyone:
        role(name)
    names = sql.SQL(", ").join(map(sql.Identifier, everyone))
    connection.execute(sql.SQL("GRANT SELECT ON ALL TABLES IN SCHEMA public TO {}").format(names))
    role(CATALOG_ACCOUNT)
    # As deploy/postgres/hook.sql grants it.
    role(HOOK_ACCOUNT, "CREATEROLE NOINHERIT")
    connection.execute(f"GRANT pg_signal_backend TO {HOOK_ACCOUNT} WITH INHERIT TRUE")
    connection.execute(
        sql.SQL("GRANT {} TO {} WITH ADMIN TRUE, INHERIT FALSE, SET FALSE").format(names, sql.Identifier(HOOK_ACCOUNT))
    )
