"""pg_dump and pg_restore of the server's own version (PGBIN): plain, custom, and a directory by two jobs; dropped in between."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import psycopg

from tests.drivers.scenario import Scenario

run = Scenario(lambda error: getattr(error, "sqlstate", None))
bin_dir = Path(os.environ["PGBIN"])
os.environ["PGSSLMODE"] = os.environ["PGGSSENCMODE"] = "disable"


def tool(name: str, *arguments: str) -> Any:
    done = subprocess.run([bin_dir / name, *arguments], capture_output=True, text=True, check=False, timeout=60)
    # A dump has a random token of its own since 2025 (\restrict).
    lines = [line for line in done.stdout.splitlines() if not line.startswith(("\\restrict", "\\unrestrict"))]
    return [done.returncode, lines, done.stderr.splitlines()]


def by_two(name: str, *arguments: str) -> Any:
    """`tool`, where two processes write their errors at once, each line in pieces: only which letters came is certain."""
    status, lines, errors = tool(name, *arguments)
    return [status, lines, "".join(sorted("".join(errors)))]


def drop() -> None:
    with psycopg.connect(autocommit=True) as connection:
        connection.execute("DROP SCHEMA care CASCADE")


with tempfile.TemporaryDirectory() as work:
    run.step("plain", lambda: tool("pg_dump", "--schema=care"))
    run.step("inserts", lambda: tool("pg_dump", "--table=care.patient", "--rows-per-insert=50"))
    run.step("a table that is not there", lambda: tool("pg_dump", "--table=nulle_part"))
    run.step("custom", lambda: tool("pg_dump", "-Fc", "--schema=care", "-f", f"{work}/custom"))
    drop()
    run.step("restored", lambda: tool("pg_restore", "-d", os.environ["PGDATABASE"], f"{work}/custom"))
    run.step("directory, two jobs", lambda: by_two("pg_dump", "-Fd", "-j2", "--schema=care", "-f", f"{work}/directory"))
    drop()
    run.step(
        "restored, two jobs", lambda: by_two("pg_restore", "-j2", "-d", os.environ["PGDATABASE"], f"{work}/directory")
    )
    run.step("restored once more", lambda: tool("pg_restore", "-d", os.environ["PGDATABASE"], f"{work}/custom")[0])
run.print()
