"""The drivers that are proved, how each scenario is started, and what it needs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
SCENARIOS = HERE / "scenarios"
CACHE = Path.home() / ".cache" / "exfilguard" / "drivers"
TIMEOUT_S = 60

NODE_PACKAGES = ("pg@8.23.1", "pg-cursor@2.22.0")
PGJDBC = "42.7.8"


@dataclass(frozen=True, slots=True)
class Driver:
    """One client."""

    name: str
    command: Callable[[dict[str, str]], list[str]]
    """From its environment, which it may add to."""
    exact: bool = True
    """The scenario counts every row that it receives; otherwise its driver asks questions of its own."""
    text: bool = False
    """Its output is what people read, not the steps as JSON."""
    oldest: int = 0
    """The oldest server it speaks with; 0: any here."""


def needs(*programs: str) -> None:
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")


def _fetched(name: str, command: list[str], files: dict[str, str]) -> Path:
    """A directory filled once by a package manager."""
    target = CACHE / name
    if not (target / "complete").exists():
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        for file, text in files.items():
            (target / file).write_text(text, encoding="utf-8")
        done = subprocess.run(command, cwd=target, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, f"{name} could not be fetched: {done.stdout[-500:]}{done.stderr[-500:]}"
        (target / "complete").touch()
    return target


def python(name: str) -> Callable[[dict[str, str]], list[str]]:
    def command(environment: dict[str, str]) -> list[str]:
        environment["PYTHONPATH"] = str(HERE.parents[1])
        return [sys.executable, str(SCENARIOS / name)]

    return command


def node(environment: dict[str, str]) -> list[str]:
    needs("node", "npm")
    modules = _fetched(
        "node-" + "-".join(NODE_PACKAGES).replace("@", "-"),
        ["npm", "install", "--no-package-lock", "--no-audit", "--no-fund", *NODE_PACKAGES],
        {"package.json": json.dumps({"name": "drivers", "version": "0.0.0", "private": True})},
    )
    environment["NODE_NO_WARNINGS"] = "1"  # they name the process id
    environment["NODE_PATH"] = str(modules / "node_modules")
    return ["node", str(SCENARIOS / "node.js")]


def compiled(program: str) -> list[str]:
    """The command line of a Java program of the scenarios, with pgjdbc."""
    pom = f"""<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
<groupId>exfilguard</groupId><artifactId>driver</artifactId><version>1</version>
<dependencies><dependency><groupId>org.postgresql</groupId><artifactId>postgresql</artifactId>
<version>{PGJDBC}</version></dependency></dependencies></project>
"""
    jars = _fetched(
        f"pgjdbc-{PGJDBC}",
        ["mvn", "-q", "-B", "dependency:copy-dependencies", "-DoutputDirectory=libs", "-DincludeScope=runtime"],
        {"pom.xml": pom},
    )
    source = SCENARIOS / f"{program}.java"
    classes = jars / "classes"
    made = classes / f"{program}.class"
    if not made.exists() or made.stat().st_mtime < source.stat().st_mtime:
        subprocess.run(["javac", "-cp", f"{jars}/libs/*", "-d", str(classes), str(source)], check=True, timeout=120)
    # As light as it goes: the machine is shared with the server and the guard.
    return ["java", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp", f"{classes}:{jars}/libs/*", program]


def jdbc(environment: dict[str, str]) -> list[str]:
    needs("javac", "java", "mvn")
    return compiled("Jdbc")


def php(environment: dict[str, str]) -> list[str]:
    needs("php")
    modules = subprocess.run(["php", "-m"], capture_output=True, text=True, check=False).stdout.split()
    if not {"pdo_pgsql", "pgsql"} <= set(modules):
        pytest.skip("needs php-pgsql")
    return ["php", str(SCENARIOS / "pdo.php")]


def psql(environment: dict[str, str]) -> list[str]:
    environment |= {"PGSSLMODE": "disable", "PGGSSENCMODE": "disable"}
    return [f"{environment['PGBIN']}/psql", "-X", "-a", "-f", str(SCENARIOS / "psql.sql")]


def pgbench(protocol: str) -> Callable[[dict[str, str]], list[str]]:
    def command(environment: dict[str, str]) -> list[str]:
        environment |= {"PGSSLMODE": "disable", "PGGSSENCMODE": "disable"}
        return [f"{environment['PGBIN']}/pgbench", "-n", "-M", protocol, "-c", "3", "-t", "40", "--random-seed=7",
                "-f", str(SCENARIOS / "pgbench.sql")]  # fmt: skip

    return command


DRIVERS = {
    driver.name: driver
    for driver in (
        Driver("psql", psql, exact=False, text=True),
        Driver("pgbench-simple", pgbench("simple"), exact=False, text=True),
        Driver("pgbench-extended", pgbench("extended"), exact=False, text=True),
        Driver("pgbench-prepared", pgbench("prepared"), exact=False, text=True),
        Driver("pg_dump", python("pg_tools.py"), exact=False),
        Driver("psycopg", python("psycopg3.py")),
        Driver("asyncpg", python("asyncpg_.py"), exact=False),
        Driver("pg8000", python("pg8000_.py")),
        Driver("sqlalchemy", python("sqlalchemy_.py"), exact=False),
        Driver("django", python("django_.py"), exact=False, oldest=14),
        Driver("node-postgres", node),
        Driver("pgjdbc", jdbc, exact=False),
        Driver("php", php, exact=False),
    )
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a scenario's client saw."""

    status: int
    steps: Any
    rows: int
    errors: str


def play(driver: Driver, port: int, bin_dir: Path, account: dict[str, str]) -> Outcome:
    """Run the scenario against `port`."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PG")}
    environment |= {"PGHOST": "127.0.0.1", "PGPORT": str(port), "PGBIN": str(bin_dir), "LC_ALL": "C.UTF-8", **account}
    command = driver.command(environment)
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, encoding="utf-8", check=False, timeout=TIMEOUT_S
    )
    if driver.text:
        # pgbench tells its speed, which is nobody's to compare.
        lines = [line for line in done.stdout.splitlines() if not line.startswith(("latency", "initial", "tps"))]
        # psql names the port it was told to use.
        errors = done.stderr.replace(f"port {port} ", "port N ")
        return Outcome(done.returncode, lines, 0, errors)
    assert done.returncode == 0, f"{driver.name}: {done.stderr[-2000:]}"
    found = json.loads(done.stdout.replace(f"port {port} ", "port N "))
    return Outcome(0, found["steps"], found["rows"], done.stderr.replace(f"port {port} ", "port N "))
