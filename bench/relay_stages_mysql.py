"""relay_stages.py's queries for MySQL: the bytes of sysbench's own, as MariaDB's client agrees on them."""

from __future__ import annotations

import struct

from exfilguard.observe.asked import AskedColumns
from exfilguard.observe.classify import Classifier
from exfilguard.observe.contexts import Contexts
from exfilguard.observe.identity import Identity, Rules
from exfilguard.observe.mysql.patients import OriginColumns
from exfilguard.observe.mysql.session import MysqlObserver
from exfilguard.observe.mysql.statement import templates
from exfilguard.observe.outlet import Outlet
from exfilguard.observe.patients import Digester
from exfilguard.observe.tally import Setting
from exfilguard.wire.mysql import messages
from exfilguard.wire.mysql.messages import lenenc_pack, packet
from exfilguard.wire.mysql.startup import Login

SQL = b"SELECT c FROM sbtest1 WHERE id="
VAR_STRING, UTF8 = 253, 33
CAPABILITIES = messages.CLIENT_PROTOCOL_41 | messages.CLIENT_DEPRECATE_EOF | messages.MARIADB_CLIENT_CACHE_METADATA
"""MariaDB leaves the columns of an execution out."""


def _packets(*payloads: bytes) -> bytes:
    return b"".join(packet(number, payload) for number, payload in enumerate(payloads, 1))


def _text(value: bytes) -> bytes:
    return lenenc_pack(len(value)) + value


_NAMES = b"".join(map(_text, (b"def", b"bench", b"sbtest1", b"sbtest1", b"c", b"c")))
COLUMN = _NAMES + b"\x0c" + struct.pack("<HIBHBH", UTF8, 360, VAR_STRING, 0, 0, 0)
CELL = _text(b"0123456789-" * 10 + b"012345678")
END = b"\xfe\0\0\2\0\0\0"


def observer(kind: type[MysqlObserver], outlet: Outlet) -> MysqlObserver:
    asked = AskedColumns(["sbtest1.id"], "mysql")
    setting = Setting("bench", Digester(b"0123456789abcdef"), 1000, 200, 1 << 20, outlet)
    made = kind(
        setting, "0123456789abcdef", "127.0.0.1", OriginColumns(["sbtest1.id"]),
        Identity(Rules(engine="mysql"), Contexts({}), "s", "127.0.0.1"), classifier=Classifier("mysql"), asked=asked,
        templates=templates(asked),
    )  # fmt: skip
    made.startup(Login(CAPABILITIES, "bench", "bench", "", {"program_name": "sysbench"}))
    made.login_succeeded(CAPABILITIES, "", 1)
    made.client_data(packet(0, b"\x16" + SQL + b"?"), 1)
    made.observed(_packets(b"\0" + struct.pack("<IHH", 1, 1, 1) + b"\0\0\0", COLUMN, COLUMN), 1)
    made.client_data(_execution(1, types=True), 1)  # the types of its parameters come once
    made.observed(_packets(b"\1\0", b"\0\0" + CELL, END), 1)
    return made


def _execution(number: int, *, types: bool) -> bytes:
    head = struct.pack("<BIBI", messages.COM_STMT_EXECUTE, 1, 0, 1) + b"\0" + (b"\1\3\0" if types else b"\0")
    return packet(0, head + struct.pack("<i", number))


def exchange(protocol: str, n: int) -> tuple[bytes, bytes]:
    if protocol == "simple":
        return packet(0, b"\3" + SQL + b"%d" % n), _packets(b"\1\1", COLUMN, CELL, END)
    return _execution(n, types=False), _packets(b"\1\0", b"\0\0" + CELL, END)
