"""`make bench-archive`: how long does the exposure of one account for one day take, in an archive of 100 million events?

The events are made as columns by DuckDB (20,000 accounts over 30 days, a few patients each) and go through the archive's own
commit and compaction, as those of the frames do; how fast frames become columns is measured beside it, on frames. The question is
asked of the reader that the reports use, every page's checksum verified, another account and day each time, and cold: before each
question the archive's files are dropped from the page cache.

    make bench-archive                                           all at once (about an hour)
    make bench-archive KEEP=/var/tmp/a ARGS='--seconds 300'      a part of the writing; again until it is full, then it is asked
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import sys
import tempfile
import time
from pathlib import Path

import duckdb
import orjson
import pyarrow as pa

from exfilguard.events.codec import decode_frame, encode_frame, frame_head
from exfilguard.evidence.archive import DAY_MS, ArchiveWriter
from exfilguard.evidence.columns import EVENTS
from exfilguard.evidence.exposure import exposure
from exfilguard.evidence.reader import ArchiveReader

from .report import QUICK, RESULTS, Report, percentile

EVENTS_TOTAL = int(os.environ.get("EVENTS", "2_000_000" if QUICK else "100_000_000"))
DAYS = 3 if QUICK else 30
ACCOUNTS = 20_000
BATCH = 500_000
QUESTIONS = 20
FIRST_DAY_MS = 1_764_028_800_000 // DAY_MS * DAY_MS
TENANT = "bench"
PAGE = Path(__file__).parents[1] / "docs" / "benchmarks" / "archive.md"

_MADE = f"""
SELECT ({{day}} + (random() * {DAY_MS - 1})::BIGINT)::BIGINT AS time_ms,
       'account-' || lpad(((random() * random() * {ACCOUNTS})::INT)::VARCHAR, 5, '0') AS principal,
       'query' AS kind, 'login' AS evidence, 'postgresql' AS engine, 'dpi' AS listener,
       'h-' || (random() * 100000)::INT AS session, 'dpi' AS login, 'dpi' AS database,
       '10.0.' || (random() * 200)::INT || '.' || (random() * 250)::INT AS source, 'dpi-web' AS application,
       lpad(to_hex((random() * 400)::INT), 16, '0') AS fingerprint, 'origin' AS patients_by, '' AS error, '' AS detail,
       (random() * 20)::BIGINT AS rows, 0::BIGINT AS hidden_rows, (random() * 5000)::BIGINT AS bytes,
       0::BIGINT AS patients_estimated, (random() * 500)::BIGINT AS statement, (random() * 9000)::BIGINT AS duration_us,
       n AS seq
  FROM range({{first}}, {{last}}) AS t(n)
"""


def batch(connection: duckdb.DuckDBPyConnection, day: int, first: int, count: int) -> pa.Table:
    """`count` events of one day as EVENTS, two random patients each."""
    query = _MADE.format(day=day, first=first, last=first + count)
    made = connection.sql(query).to_arrow_table()
    digests = pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(8), 2 * count, [None, pa.py_buffer(os.urandom(16 * count))]
    )
    empty = pa.FixedSizeBinaryArray.from_buffers(pa.binary(8), 0, [None, pa.py_buffer(b"")])
    zeros = pa.array([0] * (count + 1), pa.int32())
    columns = {
        "patients": pa.ListArray.from_arrays(pa.array(range(0, 2 * count + 1, 2), pa.int32()), digests),
        "asked": pa.ListArray.from_arrays(zeros, empty),
        "flags": pa.ListArray.from_arrays(zeros, pa.array([], pa.string())),
        "sidecar": pa.array(["h-0"] * count, pa.string()),
        "epoch": pa.array(["e"] * count, pa.string()),
        "item": pa.array([0] * count, pa.int32()),
    }
    arrays = [columns[f.name] if f.name in columns else made[f.name].combine_chunks().cast(f.type) for f in EVENTS]
    return pa.Table.from_arrays(arrays, schema=EVENTS)


def _shapes(writer: ArchiveWriter) -> None:
    """The statements of an application: 400 shapes, as the fingerprints of the events name them."""
    events = [
        {
            "time_ms": FIRST_DAY_MS, "kind": "query", "listener": "dpi", "session": "s", "principal": "setup", "fingerprint": f"{n:016x}",
            "query": f"SELECT id, nom, prenom, naissance FROM dossier_{n} WHERE id = ? ORDER BY naissance LIMIT ?",
            "columns": ["id", "nom", "prenom", "naissance"],
        }
        for n in range(401)
    ]  # fmt: skip
    head = frame_head(TENANT, "h-0", "shapes")
    writer.add(0, 0, decode_frame(encode_frame(head, 0, [orjson.dumps(event) for event in events])))
    writer.commit(FIRST_DAY_MS + DAY_MS - 1)


def fill(root: Path, seconds: float) -> float:
    """Goes on with what is there; seconds that it took. Stops when the time is over."""
    began = time.monotonic()
    writer = ArchiveWriter(root, 3 * 365 * DAY_MS)
    writer.begin("bench")
    if not writer.manifest.events:
        _shapes(writer)
    connection = duckdb.connect(config={"threads": 2})
    done = writer.manifest.events
    for n in range(DAYS):
        day = FIRST_DAY_MS + n * DAY_MS
        until = EVENTS_TOTAL * (n + 1) // DAYS
        while done < until and time.monotonic() - began < seconds:
            count = min(BATCH, until - done)
            writer.commit_tables([(TENANT, batch(connection, day, done, count))], day + DAY_MS - 1)
            done += count
        while time.monotonic() - began < seconds and writer.compact(day + 2 * DAY_MS):
            pass
        if time.monotonic() - began >= seconds:
            break
    print(f"{done:,} events, {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    writer.close()
    return time.monotonic() - began


def frames_per_s() -> float:
    """Events of frames that become columns on disk, per second."""
    event = {
        "time_ms": FIRST_DAY_MS, "kind": "query", "listener": "dpi", "session": "s", "principal": "account-00017",
        "login": "dpi", "database": "dpi", "source": "10.0.0.9", "application": "dpi-web", "fingerprint": "ab" * 8,
        "rows": 12, "bytes": 900, "patients": [f"{n:016x}" for n in range(3)], "patients_by": "origin", "statement": 4,
    }  # fmt: skip
    head, one = frame_head(TENANT, "h-0", "e"), orjson.dumps(event)
    frames = [encode_frame(head, n, [one] * 500) for n in range(40 if QUICK else 200)]
    with tempfile.TemporaryDirectory(prefix="exfilguard-bench-") as name:
        writer = ArchiveWriter(Path(name), 3 * 365 * DAY_MS)
        writer.begin("bench")
        began = time.monotonic()
        for n, frame in enumerate(frames):
            writer.add(0, n, decode_frame(frame))
        writer.commit(FIRST_DAY_MS)
        took = time.monotonic() - began
        writer.close()
    return len(frames) * 500 / took


def forget(root: Path) -> None:
    """The archive's files leave the page cache."""
    for path in root.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def write_page() -> None:
    """docs/benchmarks/archive.md, of the last full run."""
    found = json.loads((RESULTS / "archive.json").read_text(encoding="utf-8"))
    values = {bar["name"]: bar["value"] for bar in found["bars"]}
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(
        "# Archive: the exposure of one account for one day\n\n"
        f"Made by `make bench-archive` ({found['when'][:10]}, Python {found['python']}, {found['cores']} cores); do not edit.\n\n"
        f"{values['events']:,.0f} events of {ACCOUNTS:,} accounts over {found['days']} days, two patients each, written by the archive's own\n"
        f"commit and compaction: {found['files']} Parquet files, {found['bytes_per_event']:.0f} bytes an event. {QUESTIONS} questions, each of another\n"
        "account and day, with the archive's files dropped from the page cache before; every page that is read is checked.\n\n"
        "| | seconds |\n| --- | ---: |\n"
        f"| slowest question (bar: under 2 s) | {values['exposure_of_an_account_and_day_max_s']:.2f} |\n"
        f"| median question | {found['exposure_p50_s']:.2f} |\n\n"
        "Why: the manifest names each file's day, tenant and time span, so only the day's files are opened; rows are sorted by account, so\n"
        "the row groups' statistics leave one or two of them to read. Frames become columns on disk at "
        f"{found['frames_to_archive_events_per_s']:,.0f} events/s.\n",
        encoding="utf-8",
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench-archive")
    parser.add_argument("--seconds", type=float, default=math.inf, help="of writing in this run; with KEEP=DIR")
    args = parser.parse_args()
    report = Report("archive")
    with contextlib.ExitStack() as stack:
        made = os.environ.get("KEEP") or stack.enter_context(tempfile.TemporaryDirectory(prefix="exfilguard-bench-"))
        root = Path(made) / "archive"
        filled_s = fill(root, args.seconds)
        files = [entry for entry in ArchiveReader(root).manifest.files.values() if entry.kind == "events"]
        if sum(entry.rows for entry in files) < EVENTS_TOTAL:
            print("not full yet: run it again", file=sys.stderr)
            return 1
        times, patients = [], []
        for n in range(QUESTIONS):
            day = FIRST_DAY_MS + n % DAYS * DAY_MS
            forget(root)
            began = time.monotonic()
            reader = ArchiveReader(root)
            found = exposure(reader, TENANT, f"account-{n * 137 % ACCOUNTS:05d}", day, day + DAY_MS)
            times.append(time.monotonic() - began)
            patients.append(len(found.patients))
            if reader.skipped:
                raise SystemExit(f"damaged: {reader.skipped}")
    report.bar("events", sum(f.rows for f in files), EVENTS_TOTAL, at_most=False)
    report.bar("exposure_of_an_account_and_day_max_s", max(times), 2)
    report.bar("questions_with_an_answer", sum(p > 0 for p in patients), QUESTIONS, at_most=False)
    report.facts |= {
        "frames_to_archive_events_per_s": frames_per_s(),
        "exposure_p50_s": percentile(times, 0.5),
        "days": DAYS,
        "patients_p50": percentile([float(p) for p in patients], 0.5),
        "files": len(files),
        "bytes_per_event": sum(f.nbytes for f in files) / max(1, sum(f.rows for f in files)),
        "fill_s": filled_s,
    }
    print(report.facts, flush=True)
    status = report.finish()
    if not QUICK:
        write_page()
    return status


if __name__ == "__main__":
    raise SystemExit(main())
