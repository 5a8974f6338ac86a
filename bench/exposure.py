"""`make bench-exposure`: does the exposure report say, patient by patient, what the thief's own connection received?

Random attacks (lab/variety.py), each by an account of its own, through a whole installation with its archive; some end by
themselves, some are cut in the middle. Afterwards each account's exposure is read from the archive, its digests are resolved
with the installation's key, and the patients are compared with those the client got. Where the identifier was no column of
the result (names only, json_agg) the report estimates: it must name nobody wrongly, and count nobody too few.
"""

from __future__ import annotations

import os
import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from exfilguard.cli.installation import Installation
from exfilguard.config.schema import ArchiveConfig
from exfilguard.embedded.postgres import EmbeddedPostgres
from exfilguard.evidence.exposure import Exposure, exposure
from exfilguard.evidence.reader import ArchiveReader
from exfilguard.evidence.resolve import Candidate, Resolution, digester_of, resolve
from exfilguard.lab import variety

from .clinic import PASSWORD, TENANT, guarded, port_of
from .report import QUICK, Report

ATTACKS = 20 if QUICK else 100
PATIENTS = 30_000
LIMIT = 400
POLICY = f"""
version = "bench"
default_class = "anybody"
[class.anybody]
limits = [ {{ unit = "patients", window = "1m", lock = {LIMIT} }} ]
"""


@dataclass(slots=True)
class Outcome:
    """One attack and what the report says of it."""

    haul: variety.Haul
    taken: Exposure
    resolution: Resolution

    @property
    def named(self) -> set[int]:
        """Patients that the report names."""
        digests = {patient.digest for patient in self.taken.patients} | set(self.resolution.packed)
        return {int(self.resolution.found[d].identifier) for d in digests & self.resolution.found.keys()}

    @property
    def exact(self) -> bool:
        return self.named == self.haul.patients and not self.resolution.unknown

    @property
    def honest(self) -> bool:
        """Nobody named wrongly, nobody left uncounted."""
        others = self.taken.estimated - len(self.resolution.packed)
        return self.named <= self.haul.patients and len(self.named) + others >= len(self.haul.patients)


@dataclass(slots=True)
class Results:
    """Of all attacks."""

    outcomes: list[Outcome] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0


def run(attacks: int, seed: int, directory: Path) -> Results:
    """A whole installation below `directory`, attacked. The ways come round in turn, everything else is random."""
    results = Results()
    rng = random.Random(seed)
    thieves = [f"thief_{n:03d}" for n in range(attacks)]
    with EmbeddedPostgres(directory / "postgres") as database:
        installation = guarded(directory, database, thieves, POLICY, PATIENTS, archive=ArchiveConfig(commit_ms=500))
        installation.start()
        try:
            port = port_of(installation)
            hauls = [
                variety.steal(
                    database.dsn(thief, PASSWORD, "dpi", port=port), rng, PATIENTS, variety.WAYS[n % len(variety.WAYS)]
                )
                for n, thief in enumerate(thieves)
            ]
            _archived(installation)
        finally:
            installation.stop()
    began = time.monotonic()
    reader = ArchiveReader(Path(installation.config.archive_dir))
    digester = digester_of((installation.data_dir / "digest.key").read_text(encoding="ascii"))
    for thief, haul in zip(thieves, hauls, strict=True):
        taken = exposure(reader, TENANT, thief, 0, 1 << 50)
        resolution = resolve(taken, digester, (Candidate(str(n)) for n in range(1, PATIENTS + 1)))
        results.outcomes.append(Outcome(haul, taken, resolution))
    results.seconds = time.monotonic() - began
    results.skipped = reader.skipped
    return results


def _archived(installation: Installation, seconds: float = 30.0) -> None:
    """Returns when every event that was spooled is in the archive."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        spooled = installation.total("events_spooled_total")
        if spooled and installation.total("archive_events_total") >= spooled:
            return
        time.sleep(0.2)
    raise SystemExit("the archive does not keep up: see its log")


def main() -> int:
    seed = int(os.environ.get("SEED", "20241119"))
    report = Report("exposure")
    with tempfile.TemporaryDirectory(prefix="exfilguard-bench-") as name:
        directory = Path(name)
        directory.chmod(0o711)
        results = run(ATTACKS, seed, directory)
    visible = [o for o in results.outcomes if o.haul.visible]
    hidden = [o for o in results.outcomes if not o.haul.visible]
    for outcome in results.outcomes:
        if not (outcome.exact if outcome.haul.visible else outcome.honest):
            haul = outcome.haul
            missing, extra = len(haul.patients - outcome.named), len(outcome.named - haul.patients)
            print(
                f"{haul.way}: received {len(haul.patients)}, named {len(outcome.named)} ({missing} missing, {extra} too many), "
                f"estimated {outcome.taken.estimated}, ended {haul.sqlstate or 'by itself'}",
                file=sys.stderr,
            )
    report.bar("attacks", len(results.outcomes), ATTACKS, at_most=False)
    report.bar("reports_not_equal_to_what_was_received", sum(not o.exact for o in visible), 0)
    report.bar("estimates_that_name_wrongly_or_count_too_few", sum(not o.honest for o in hidden), 0)
    report.bar(
        "attacks_cut_in_the_middle", sum(bool(o.haul.sqlstate) for o in results.outcomes), ATTACKS // 10, at_most=False
    )
    report.bar("damaged_files", len(results.skipped), 0)
    received = sum(len(o.haul.patients) for o in hidden)
    report.facts |= {
        "seed": seed,
        "ways": dict(Counter(o.haul.way for o in results.outcomes)),
        "patients_received_with_identifier": sum(len(o.haul.patients) for o in visible),
        "patients_received_without_identifier": received,
        "of_those_named_by_the_report": sum(len(o.named) for o in hidden),
        "of_those_estimated": sum(o.taken.estimated for o in hidden),
        "seconds_per_report": results.seconds / max(1, len(results.outcomes)),
    }
    print(report.facts, flush=True)
    return report.finish()


if __name__ == "__main__":
    raise SystemExit(main())
