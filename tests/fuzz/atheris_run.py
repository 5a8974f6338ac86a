"""Coverage-guided fuzzing with atheris (`pip install 'exfilguard[fuzz]'`), libFuzzer's options on the command line:

    python -m tests.fuzz.atheris_run [--target postgres|mysql] [-atheris_runs=1000000] [-max_total_time=600] [CORPUS]
    python -m tests.fuzz.atheris_run --replay [--target ..]

What ends the process (an exception, a fault in compiled code, 30 s on one input) leaves that input beside the corpus: the next run tries
it again, and counts it as a failure or as mended.

The first byte says which parser the input is for and with what allowance; the rest is cut into pieces of either side. The corpus
grows in .cache/fuzz/corpus (corpus-mysql), begun with the recorded transcripts. The parsers run as Python here, so that their
branches are seen; `--replay` then gives what was found to the installed, compiled ones.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import sys
import time
from pathlib import Path
from typing import Any, Protocol

from tests.fuzz import page
from tests.fuzz.child import CPU_S, outlived
from tests.fuzz.interpreted import interpret

CACHE = page.STATES
SAVE_EVERY = 10_000
LIMITS = (None, 0, 1, 7)
MAX_PIECE = 0x7FFF


class Guided(Protocol):
    """A target as libFuzzer's bytes reach it."""

    def one_input(self, data: bytes) -> None: ...

    def seeds(self) -> list[bytes]: ...


def pieces(data: bytes) -> list[tuple[str, bytes]]:
    """int16 (sign bit: client), bytes; again and again."""
    steps, pos = [], 0
    while pos + 2 <= len(data):
        size = int.from_bytes(data[pos : pos + 2], "big")
        pos += 2
        steps.append((">" if size & 0x8000 else "<", data[pos : pos + (size & MAX_PIECE)]))
        pos += size & MAX_PIECE
    return steps


def written(steps: list[tuple[str, bytes]]) -> bytes:
    """`pieces` turned round."""
    out = bytearray()
    for side, data in steps:
        part = data[:MAX_PIECE]
        out += ((0x8000 if side == ">" else 0) | len(part)).to_bytes(2, "big") + part
    return bytes(out)


class GuidedPostgres:
    """byte 0: 0xFF the start-up parser, else limits, and whether the login goes before."""

    def __init__(self) -> None:
        from tests.fuzz.postgres import Postgres

        self.target = Postgres()

    def one_input(self, data: bytes) -> None:
        from tests.fuzz.target import Input
        from tests.wire import build

        if not data:
            return
        head = data[0]
        if head == 0xFF:
            self.target.run_startup(data[1:])
            return
        steps = [("<", build.LOGIN)] if head & 16 else []
        self.target.run_session(Input((*steps, *pieces(data[1:])), LIMITS[head & 3], LIMITS[head >> 2 & 3]))

    def seeds(self) -> list[bytes]:
        from tests.fuzz import copies

        found = [b"\xff" + data for data in self.target.startups]
        for number, messages in enumerate(self.target.messages):
            found += [bytes([16 | number & 15]) + written(messages[at : at + 12]) for at in range(0, len(messages), 12)]
        copied = [copies.conversation(random.Random(number), self.target.tables) for number in range(40)]
        return found + [bytes([16 | number % 3 & 3]) + written(steps[:24]) for number, steps in enumerate(copied)]


class GuidedMysql:
    """byte 0: 0xFF the login's packets, else limits; byte 1: capabilities and compression."""

    def __init__(self) -> None:
        from tests.fuzz.mysql import Mysql

        self.target = Mysql()

    def one_input(self, data: bytes) -> None:
        from tests.fuzz.target import Input

        if len(data) < 2:
            return
        head = data[0]
        if head == 0xFF:
            self.target.run_login(data[1:])
            return
        steps = (("=", data[1:2]), *pieces(data[2:]))
        self.target.run_session(Input(steps, LIMITS[head & 3], LIMITS[head >> 2 & 3]))

    def seeds(self) -> list[bytes]:
        found = [b"\xff" + data for data in self.target.logins]
        for number, packets in enumerate(self.target.messages):
            for at in range(0, len(packets), 12):
                found += [bytes([number & 15, at & 0xFF]) + written(packets[at : at + 12])]
        return found


TARGETS: dict[str, tuple[type[Any], Path]] = {
    "postgres": (GuidedPostgres, CACHE / "corpus"),
    "mysql": (GuidedMysql, CACHE / "corpus-mysql"),
}


class Counted:
    """Calls of a target, kept in its state: libFuzzer ends the process without a word to Python."""

    def __init__(self, target: Guided, state: Path, endings: Path) -> None:
        self.target, self.state = target, state
        found = json.loads(state.read_text(encoding="utf-8")) if state.is_file() else {}
        self.next, self.seconds = found.get("next", 0), found.get("seconds", 0.0)
        self.peak_kib = found.get("peak_kib", 0)
        self.failures: list[dict[str, str]] = []
        self.mended: list[dict[str, str]] = []
        for path in sorted(endings.iterdir()) if endings.is_dir() else ():
            error = outlived(target.one_input, path.read_bytes())
            (self.failures if error else self.mended).append({"error": error, "file": path.name})
        self._since = time.monotonic()

    def one_input(self, data: bytes) -> None:
        self.next += 1
        try:
            self.target.one_input(data)
        except Exception as error:
            self.failures.append({"error": type(error).__name__})
            self.save()
            raise
        if not self.next % SAVE_EVERY:
            self.save()

    def save(self) -> None:
        now = time.monotonic()
        self.seconds, self._since = self.seconds + now - self._since, now
        self.peak_kib = max(self.peak_kib, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        found = {
            "next": self.next,
            "seconds": round(self.seconds, 1),
            "failures": self.failures,
            "mended": self.mended,
            "peak_kib": self.peak_kib,
        }
        self.state.write_text(json.dumps(found, indent=1), encoding="utf-8")
        page.write(CACHE)


def replay(target: Guided, corpus: Path) -> int:
    """Everything in the corpus, once, through what is installed."""
    paths = sorted(corpus.iterdir()) if corpus.is_dir() else []
    for path in paths:
        try:
            target.one_input(path.read_bytes())
        except Exception as error:
            print(f"error: {path} gives {type(error).__name__}", file=sys.stderr)
            raise
    print(f"{len(paths):,} inputs of {corpus} through the installed parsers: no failure")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", choices=TARGETS, default="postgres")
    parser.add_argument("--replay", action="store_true")
    args, rest = parser.parse_known_args()
    make, corpus = TARGETS[args.target]
    if args.replay:
        return replay(make(), corpus)
    import atheris

    interpret()
    with atheris.instrument_imports(include=["exfilguard.wire", "exfilguard.observe"]):
        target: Guided = make()
    corpus.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(target.seeds()):
        (corpus / f"seed-{number}").write_bytes(data)
    endings = CACHE / f"endings-{args.target}"
    endings.mkdir(exist_ok=True)
    counted = Counted(target, CACHE / f"atheris-{args.target}.json", endings)
    counted.save()
    bounds = [f"-artifact_prefix={endings}/", f"-timeout={CPU_S}"]
    atheris.Setup([sys.argv[0], *bounds, *rest, str(corpus)], counted.one_input)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
