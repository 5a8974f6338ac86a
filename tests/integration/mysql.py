"""What the tests with MariaDB stand on: the server with a small clinic, and the relay in front of it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pymysql
from pymysql._auth import caching_sha2_password_auth, scramble_caching_sha2
from pymysql.cursors import SSCursor

from exfilguard.config.schema import Config, IdentityConfig, KafkaConfig, ListenerConfig, SidecarConfig
from exfilguard.embedded.child import free_port
from exfilguard.embedded.mariadb import EmbeddedMariadb
from exfilguard.events.codec import check_event
from exfilguard.sidecar.spool import SpoolReader

from .stack import DATABASE, PASSWORD, Stack, port_of

PATIENTS = 3_000
ACCOUNT = "dpi_export"

_SCHEMA = f"""
CREATE DATABASE {DATABASE} CHARACTER SET utf8mb4;
USE {DATABASE};
CREATE TABLE {DATABASE}.patient (id BIGINT PRIMARY KEY, nom VARCHAR(60) NOT NULL, prenom VARCHAR(60), naissance DATE,
  dossier MEDIUMTEXT, uid BINARY(16));
CREATE TABLE {DATABASE}.sejour (id INT PRIMARY KEY AUTO_INCREMENT, patient_id BIGINT NOT NULL, entree DATETIME(3),
  montant DECIMAL(9,2), note TEXT, KEY (patient_id));
INSERT INTO {DATABASE}.patient SELECT seq, CONCAT('NOM', seq MOD 97), IF(seq MOD 7, 'Prénom', NULL),
  DATE_ADD('1930-01-01', INTERVAL seq DAY), REPEAT('x', seq MOD 300), UNHEX(MD5(seq)) FROM seq_1_to_{PATIENTS};
INSERT INTO {DATABASE}.sejour (patient_id, entree, montant, note) SELECT 1 + seq MOD {PATIENTS}, NOW(3), seq / 7, 'é'
  FROM seq_1_to_6000;
CREATE USER {ACCOUNT}@'%' IDENTIFIED BY '{PASSWORD}';
GRANT ALL ON {DATABASE}.* TO {ACCOUNT}@'%';
GRANT FILE, RELOAD, PROCESS, REPLICATION SLAVE, BINLOG MONITOR ON *.* TO {ACCOUNT}@'%';
CREATE USER other@'%' IDENTIFIED BY '{PASSWORD}';
GRANT SELECT ON {DATABASE}.* TO other@'%';
INSTALL SONAME 'auth_ed25519';
CREATE USER edward@'%' IDENTIFIED VIA ed25519 USING PASSWORD('{PASSWORD}');
GRANT SELECT ON {DATABASE}.* TO edward@'%'
"""

PROCEDURES = (
    f"""CREATE PROCEDURE {DATABASE}.two_results(IN a INT, OUT total INT)
    BEGIN SELECT id FROM patient WHERE id <= a; SELECT id, nom FROM patient WHERE id <= 2; SET total = a; END""",
    f"""CREATE PROCEDURE {DATABASE}.breaks_off()
    BEGIN SELECT id, IF(id = 5, (SELECT q.id FROM patient q WHERE q.id > p.id LIMIT 2), 0)
    FROM patient p WHERE id < 9 ORDER BY id; SELECT 1; END""",
)


def load(server: EmbeddedMariadb) -> None:
    """Patients, stays and accounts."""
    with server.connect() as connection, connection.cursor() as cursor:
        for statement in _SCHEMA.split(";"):
            cursor.execute(statement.strip())
        for statement in PROCEDURES:
            cursor.execute(statement)


def mysql_listener(upstream: str, **changes: Any) -> ListenerConfig:
    """A listener on a free port."""
    known: dict[str, Any] = {
        "name": "dpi",
        "engine": "mariadb",
        "listen": f"127.0.0.1:{free_port()}",
        "upstream": upstream,
        "patient_columns": ["patient.id", "sejour.patient_id"],
    }
    return ListenerConfig(**{**known, **changes})


class GuardedMysql:
    """A running relay in front of a server."""

    def __init__(
        self, data_dir: Path, upstream: str, identity: IdentityConfig | None = None, workers: int = 1, **changes: Any
    ) -> None:
        self.listener = mysql_listener(upstream, **changes)
        self.port = port_of(self.listener.listen)
        config = Config(
            tenant="clinic",
            data_dir=str(data_dir),
            kafka=KafkaConfig(bootstrap="127.0.0.1:9"),
            identity=identity or IdentityConfig(),
            sidecar=SidecarConfig(workers=workers),
            listener=[self.listener],
        )
        self.stack = Stack(config)
        for number in range(workers):
            self.stack.start("relay", "--worker", str(number), key="relay" if number == 0 else f"relay-{number}")
            self.stack.relay_ready(number)

    def connect(self, user: str = ACCOUNT, **options: Any) -> pymysql.Connection[Any]:
        """A PyMySQL connection through the relay."""
        known: dict[str, Any] = {
            "host": "127.0.0.1", "port": self.port, "user": user, "password": PASSWORD, "database": DATABASE,
            "autocommit": True, "connect_timeout": 5,
        }  # fmt: skip
        return pymysql.connect(**{**known, **options})

    def events(self) -> list[dict[str, Any]]:
        """What the relay has spooled so far."""
        reader = SpoolReader(self.stack.data_dir / "spool" / "0")
        out: list[dict[str, Any]] = []
        for _ in range(1000):
            before = reader.position
            part = reader.read(10_000, 1 << 24)
            out += [check_event(orjson.loads(r.payload)) for r in part]
            if not part and reader.position == before:
                break
        return out

    def counted(self, principal: str = ACCOUNT, what: str = "rows") -> int:
        return sum(e.get(what, 0) for e in self.events() if e["principal"] == principal)

    def patients(self, events: Iterable[dict[str, Any]] | None = None) -> set[str]:
        """Digests of all patients seen."""
        return {p for e in (self.events() if events is None else events) for p in e.get("patients", ())}

    def stop(self) -> None:
        self.stack.stop()


class Streaming(SSCursor):
    """PyMySQL's own, that gives a lost connection's result up. Its finalizers would go on reading, and fail, whenever the collector
    comes by: what Python then writes of them it writes in the middle of anything, pytest's parsing of a source included, which
    Python 3.11 does not survive ("AST constructor recursion depth mismatch")."""

    def close(self) -> None:
        try:
            super().close()
        finally:
            self.connection = None
            if self._result is not None:
                self._result.unbuffered_active = False

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self.close()


def change_user(connection: Any, user: str, password: str) -> bool:
    """COM_CHANGE_USER with PyMySQL's own packets; it has no call for it. True when the server accepted the account."""
    proof = scramble_caching_sha2(password.encode(), connection.salt.rstrip(b"\0"))
    head = b"\x11" + user.encode() + b"\0" + bytes((len(proof),)) + proof + b"\0" + b"\x2d\0"
    connection._next_seq_id = 0
    connection.write_packet(head + b"caching_sha2_password\0" + b"\0")  # no attributes
    connection.password = password.encode()
    answer = connection._read_packet()
    if answer.is_auth_switch_request():
        answer.read_uint8()
        assert answer.read_string() == b"caching_sha2_password"
    try:
        return bool(caching_sha2_password_auth(connection, answer).is_ok_packet())
    except pymysql.MySQLError:
        return False


@contextlib.contextmanager
def guards(tmp_path: Path, server_port: int, **settings: Any) -> Iterator[Callable[..., GuardedMysql]]:
    """Starts relays in front of a server on this machine, or of the `upstream` that a test names, and stops them all at its end."""
    started: list[GuardedMysql] = []

    def start(upstream: str = "", **changes: Any) -> GuardedMysql:
        directory = tmp_path / f"data{len(started)}"
        found = GuardedMysql(directory, upstream or f"127.0.0.1:{server_port}", **{**settings, **changes})
        started.append(found)
        return found

    yield start
    for guarded in started:
        guarded.stop()
