"""The drivers that are proved, and how each scenario is started."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.drivers.drivers import HERE, TIMEOUT_S, Driver, Outcome, _fetched, needs
from tests.drivers.mysql.servers import DATABASE, PASSWORD, USER

SCENARIOS = Path(__file__).parent / "scenarios"
MYSQL2 = "mysql2@3.24.6"
MARIADB_NODE = "mariadb@3.5.4"
JARS = ("com.mysql:mysql-connector-j:9.7.0", "org.mariadb.jdbc:mariadb-java-client:3.5.10")


def dbapi(which: str, module: str) -> Callable[[dict[str, str]], list[str]]:
    def command(environment: dict[str, str]) -> list[str]:
        if importlib.util.find_spec(module.partition(".")[0]) is None:
            pytest.skip(f"needs {module} (pip install 'exfilguard[drivers]')")
        environment["PYTHONPATH"] = str(HERE.parents[1])
        return [sys.executable, str(SCENARIOS / "dbapi.py"), which]

    return command


def node(environment: dict[str, str]) -> list[str]:
    needs("node", "npm")
    modules = _fetched(
        "node-" + f"{MYSQL2}-{MARIADB_NODE}".replace("@", "-"),
        ["npm", "install", "--no-package-lock", "--no-audit", "--no-fund", MYSQL2, MARIADB_NODE],
        {"package.json": json.dumps({"name": "drivers", "version": "0.0.0", "private": True})},
    )
    environment["NODE_PATH"] = str(modules / "node_modules")
    return ["node", str(SCENARIOS / "node.js")]


def jdbc(url: str) -> Callable[[dict[str, str]], list[str]]:
    def command(environment: dict[str, str]) -> list[str]:
        needs("javac", "java", "mvn")
        dependencies = "".join(
            "<dependency><groupId>{}</groupId><artifactId>{}</artifactId><version>{}</version></dependency>".format(
                *jar.split(":")
            )
            for jar in JARS
        )
        pom = f"""<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
<groupId>exfilguard</groupId><artifactId>driver</artifactId><version>1</version>
<dependencies>{dependencies}</dependencies></project>
"""
        jars = _fetched(
            "mysql-jdbc",
            ["mvn", "-q", "-B", "dependency:copy-dependencies", "-DoutputDirectory=libs", "-DincludeScope=runtime"],
            {"pom.xml": pom},
        )
        source, classes = SCENARIOS / "MysqlJdbc.java", jars / "classes"
        compiled = classes / "MysqlJdbc.class"
        if not compiled.exists() or compiled.stat().st_mtime < source.stat().st_mtime:
            subprocess.run(["javac", "-cp", f"{jars}/libs/*", "-d", str(classes), str(source)], check=True, timeout=120)
        environment["DBURL"] = url
        light = ["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"]
        return ["java", *light, "-cp", f"{classes}:{jars}/libs/*", "MysqlJdbc"]

    return command


def php(environment: dict[str, str]) -> list[str]:
    needs("php")
    modules = subprocess.run(["php", "-m"], capture_output=True, text=True, check=False).stdout.split()
    if not {"pdo_mysql", "mysqli"} <= set(modules):
        pytest.skip("needs php-mysql")
    return ["php", str(SCENARIOS / "php.php")]


def _client(environment: dict[str, str], *more: str) -> list[str]:
    environment["MYSQL_PWD"] = PASSWORD
    return ["--no-defaults", "-h127.0.0.1", f"-P{environment['DBPORT']}", f"-u{USER}", *more]


def mariadb(environment: dict[str, str]) -> list[str]:
    needs("mariadb")
    options = _client(environment, "-vv", "--force", "--table", "--local-infile=1", DATABASE)
    return ["sh", "-c", f"mariadb {' '.join(options)} < '{SCENARIOS / 'client.sql'}'"]


def dump(environment: dict[str, str]) -> list[str]:
    needs("mariadb-dump")
    return ["mariadb-dump", *_client(environment, "--skip-dump-date", "--single-transaction", "--hex-blob", DATABASE)]


def compressed_dump(environment: dict[str, str]) -> list[str]:
    command = dump(environment)
    return [*command[:-1], "--compress", "--quick", DATABASE]


def sysbench(*options: str) -> Callable[[dict[str, str]], list[str]]:
    def command(environment: dict[str, str]) -> list[str]:
        needs("sysbench")
        common = [
            "sysbench", "oltp_read_write", "--db-driver=mysql", "--mysql-host=127.0.0.1", f"--mysql-port={environment['DBPORT']}",
            f"--mysql-user={USER}", f"--mysql-password={PASSWORD}", f"--mysql-db={DATABASE}", "--tables=1",
            "--table-size=200", "--rand-seed=7", "--threads=1", "--events=15", "--time=0", *options,
        ]  # fmt: skip
        quoted = " ".join(f"'{part}'" for part in common)
        return [
            "sh",
            "-c",
            f"{quoted} prepare && {quoted} run | grep -E 'read:|write:|other:|transactions:|errors:' | sed 's/(.*//' && {quoted} cleanup",
        ]

    return command


DRIVERS = {
    driver.name: driver
    for driver in (
        Driver("mariadb", mariadb, exact=False, text=True),
        Driver("mariadb-dump", dump, exact=False, text=True),
        Driver("mariadb-dump-compressed", compressed_dump, exact=False, text=True),
        Driver("sysbench", sysbench(), exact=False, text=True),
        Driver("sysbench-unprepared", sysbench("--db-ps-mode=disable"), exact=False, text=True),
        Driver("pymysql", dbapi("pymysql", "pymysql")),
        Driver("mysqlclient", dbapi("mysqlclient", "MySQLdb")),
        Driver("mariadb-python", dbapi("mariadb", "mariadb"), exact=False),
        Driver("mysql-connector", dbapi("connector", "mysql.connector"), exact=False),
        Driver("node", node, exact=False),
        Driver("connector-j", jdbc("jdbc:mysql"), exact=False),
        Driver("mariadb-java", jdbc("jdbc:mariadb"), exact=False),
        Driver("php", php, exact=False),
    )
}


def play(driver: Driver, port: int) -> Outcome:
    """Run the scenario against `port`."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MYSQL", "MARIADB"))}
    account = {"DBUSER": USER, "DBPASSWORD": PASSWORD, "DBNAME": DATABASE}
    environment |= {"DBPORT": str(port), "LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "0", **account}
    command = driver.command(environment)
    done = subprocess.run(
        command,
        env=environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="backslashreplace",
        check=False,
        timeout=TIMEOUT_S,
    )
    # No scenario names its port. It is not blanked out: its digits may stand in the data (they do in 2 of 100 ports).
    if driver.text:
        return Outcome(done.returncode, done.stdout.splitlines(), 0, done.stderr)
    assert done.returncode == 0, f"{driver.name}: {done.stderr[-2000:]}"
    found = json.loads(done.stdout)
    return Outcome(0, found["steps"], found["rows"], done.stderr)
