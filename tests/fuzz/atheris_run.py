"""Coverage-guided fuzzing with atheris (`pip install 'exfilguard[fuzz]'`), libFuzzer's options on the command line:

    python -m tests.fuzz.atheris_run [-atheris_runs=1000000] [-max_total_time=600] [CORPUS]

The first byte says which parser the input is for; the rest is cut into pieces of either side. The corpus grows in
.cache/fuzz/corpus, begun with the recorded transcripts. The parsers run as Python here, so that their branches are seen.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["exfilguard.wire", "exfilguard.observe"]):
    from tests.fuzz.postgres import Postgres
    from tests.fuzz.target import Input
    from tests.wire import build

CORPUS = Path(__file__).parents[2] / ".cache" / "fuzz" / "corpus"
LIMITS = (None, 0, 1, 7)
TARGET = Postgres()


def one_input(data: bytes) -> None:
    """byte 0: 0xFF the start-up parser, else limits; then pieces: int16 (sign bit: client), bytes."""
    if not data:
        return
    head, pos = data[0], 1
    if head == 0xFF:
        TARGET.run_startup(data[1:])
        return
    steps = [("<", build.LOGIN)] if head & 16 else []
    while pos + 2 <= len(data):
        size = int.from_bytes(data[pos : pos + 2], "big")
        pos += 2
        steps.append((">" if size & 0x8000 else "<", data[pos : pos + (size & 0x7FFF)]))
        pos += size & 0x7FFF
    TARGET.run_session(Input(tuple(steps), LIMITS[head & 3], LIMITS[head >> 2 & 3]))


def seed_corpus() -> None:
    CORPUS.mkdir(parents=True, exist_ok=True)
    for number, messages in enumerate(TARGET.messages):
        for start in range(0, len(messages), 12):
            out = bytearray([16 | number & 15])
            for side, data in messages[start : start + 12]:
                size = min(len(data), 0x7FFF)
                out += ((0x8000 if side == ">" else 0) | size).to_bytes(2, "big") + data[:size]
            (CORPUS / f"seed-{number}-{start}").write_bytes(out)
    for number, data in enumerate(TARGET.startups):
        (CORPUS / f"startup-{number}").write_bytes(b"\xff" + data)


if __name__ == "__main__":
    seed_corpus()
    atheris.Setup([*sys.argv, str(CORPUS)], one_input)
    atheris.Fuzz()
