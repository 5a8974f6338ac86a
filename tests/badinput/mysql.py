"""MySQL's and MariaDB's bad messages."""

from __future__ import annotations

from exfilguard.wire.mysql.messages import lenenc_pack, packet
from tests.badinput.case import CANARY, Case, Phase
from tests.wire import mysql_build as b

SQL = f"SELECT id, nom FROM patient WHERE nom = '{CANARY}'"
OFFER = b.NATIVE | 1 << 9
GREETING = packet(0, b.greeting(OFFER))
HELLO = packet(1, b.login(capabilities=OFFER))
OK = packet(2, b.ok())
HEAD = b.numbered(lenenc_pack(2), b.column("id", "patient"), b.column("nom", "patient", kind=253), b.eof())
ROW = packet(5, b.row("1", CANARY))
PREPARED = b.numbered(
    b"\0" + (1).to_bytes(4, "little") + (2).to_bytes(2, "little") + b"\0\0\0\0\0",
    b.column("id", "patient"), b.column("nom", "patient", kind=253), b.eof(),
)  # fmt: skip
EXECUTE = b.command(0x17, (1).to_bytes(4, "little") + b"\0" + (1).to_bytes(4, "little"))
_IDLE = (("<", GREETING), (">", HELLO), ("<", OK))
_ASKED = (*_IDLE, (">", b.query(SQL)))
_STATEMENT = (*_IDLE, (">", b.command(0x16, SQL.encode())), ("<", PREPARED))

PHASES = {
    "before the greeting": Phase(()),
    "handshake": Phase((("<", GREETING),)),
    "authentication": Phase((("<", GREETING), (">", HELLO))),
    "idle": Phase(_IDLE),
    "query": Phase(_ASKED),
    "result": Phase((*_ASKED, ("<", HEAD + ROW))),
    "prepare": Phase((*_IDLE, (">", b.command(0x16, SQL.encode())))),
    "prepared": Phase(_STATEMENT),
    "prepared result": Phase((*_STATEMENT, (">", EXECUTE))),
    "LOAD DATA LOCAL": Phase(
        (*_IDLE, (">", b.query("LOAD DATA LOCAL INFILE 'f' INTO TABLE t")), ("<", packet(1, b"\xfbf")))
    ),
}
_NOISE = bytes(range(255, 127, -1)) * 20
_LOGIN = b.login(capabilities=OFFER)


def header(size: int, number: int, body: bytes = b"") -> bytes:
    """A packet that lies about its size."""
    return size.to_bytes(3, "little") + bytes((number,)) + body


_HANDSHAKE_CLIENT = {
    "HTTP": b"GET / HTTP/1.1\r\n\r\n",
    "noise": _NOISE,
    "an empty packet": packet(1, b""),
    "a packet of one byte": packet(1, b"\1"),
    "a response cut in its flags": packet(1, _LOGIN[:20]),
    "a user name without an end": packet(1, _LOGIN[:32] + b"app"),
    "a password longer than its packet": packet(1, _LOGIN[:32] + b"app\0\xfa12"),
    "attributes longer than their packet": packet(1, _LOGIN[:-1] + b"\xfd\xff\xff\xff"),
    "protocol 3.20": packet(1, b"\x05\xa0\0\0\0app\0secret"),
    "a size of 16 MB": header(0xFFFFFF, 1, b"x" * 1000),
    "a truncated response": HELLO[:-5],
    "a TLS request that was not offered": packet(
        1, (OFFER | 1 << 11).to_bytes(4, "little") + b"\0\0\0\1\x2d" + b"\0" * 23
    ),
    "a command": b.query(SQL),
    "a wrong packet number": packet(9, _LOGIN),
}
_AUTH_CLIENT = {
    "a password nobody asked for": packet(3, b"x" * 20),
    "an empty packet": packet(3, b""),
    "a command": b.query(SQL),
    "a size of 16 MB": header(0xFFFFFF, 3, b"x" * 1000),
    "noise": _NOISE,
}
_IDLE_CLIENT = {
    "an unknown command": b.command(0x77, b"x"),
    "an empty packet": packet(0, b""),
    "a wrong packet number": packet(7, b"\x03SELECT 1"),
    "an empty query": b.query(""),
    "a query that is not UTF-8": b.command(0x03, b"SELECT '\xff\xfe'"),
    "a query of 300,000 bytes": b.query("SELECT '" + "x" * 300_000 + "'"),
    "a truncated query": b.query(SQL)[:-4],
    "a packet of 16 MB that does not go on": header(0xFFFFFF, 0, b"\x03SELECT '" + b"x" * 1000),
    "COM_SLEEP": b.command(0x00),
    "COM_CONNECT": b.command(0x0B),
    "COM_BINLOG_DUMP": b.command(0x12, b"\4\0\0\0\0\0\1\0\0\0"),
    "COM_REGISTER_SLAVE": b.command(0x15, b"\1\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"),
    "COM_TABLE_DUMP": b.command(0x13, b"\1c\1p"),
    "COM_STMT_EXECUTE of an unknown statement": b.command(0x17, b"\xff\xff\0\0\0\1\0\0\0"),
    "COM_STMT_EXECUTE truncated": b.command(0x17, b"\1\0"),
    "COM_STMT_FETCH of an unknown statement": b.command(0x1C, b"\xff\xff\0\0\1\0\0\0"),
    "COM_STMT_SEND_LONG_DATA truncated": b.command(0x18, b"\1"),
    "COM_STMT_CLOSE without an id": b.command(0x19),
    "COM_CHANGE_USER without an end": b.command(0x11, b"other"),
    "COM_CHANGE_USER without a body": b.command(0x11),
    "COM_SET_OPTION without a value": b.command(0x1B),
    "COM_FIELD_LIST without an end": b.command(0x04, b"patient"),
    "two commands at once": b.query("SELECT 1") * 2,
    "100,001 commands at once": b.command(0x0E) * 100_001,
    "a handshake response": HELLO,
    "HTTP": b"GET / HTTP/1.1\r\n\r\n",
    "noise": _NOISE,
}
_QUERY_CLIENT = {
    "a second command": b.query(SQL),
    "COM_QUIT": b.command(0x01),
    "an empty packet": packet(0, b""),
    "noise": _NOISE,
}
_LOCAL_CLIENT = {
    "a command in place of data": b.query(SQL),
    "data of 16 MB that does not go on": header(0xFFFFFF, 2, b"x" * 1000),
    "the end twice": packet(2, b"") + packet(3, b""),
    "noise": _NOISE,
}
_GREETING_SERVER = {
    "HTTP": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "SSH": b"SSH-2.0-OpenSSH_9.2\r\n",
    "noise": _NOISE,
    "an empty packet": packet(0, b""),
    "protocol 9": packet(0, b"\x09" + b.greeting()[1:]),
    "a greeting cut in its version": packet(0, b"\x0a8.4"),
    "a greeting cut in its nonce": packet(0, b.greeting(OFFER)[:14]),
    "a greeting cut in its flags": packet(0, b.greeting(OFFER)[:26]),
    "a size of 16 MB": header(0xFFFFFF, 0, b"x" * 1000),
    "a truncated packet": GREETING[:20],
    "an error: too many connections": packet(0, b"\xff\x10\x04Too many connections"),
    "an error without a body": packet(0, b"\xff"),
    "an OK": packet(0, b.ok()),
}
_HANDSHAKE_SERVER = {
    "an OK before the response": packet(1, b.ok()),
    "an error before the response": packet(1, b.err("08004")),
    "a second greeting": GREETING,
    "noise": _NOISE,
}
_AUTH_SERVER = {
    "an empty packet": packet(2, b""),
    "a switch without a name": packet(2, b"\xfe"),
    "a switch to an unknown method": packet(2, b"\xfeno_such_method\0nonce\0"),
    "more data without a body": packet(2, b"\x01"),
    "an OK cut short": packet(2, b"\0"),
    "an error without a body": packet(2, b"\xff"),
    "a row": ROW,
    "a size of 16 MB": header(0xFFFFFF, 2, b"x" * 1000),
    "noise": _NOISE,
    "an error": packet(2, b.err("28000")),
}
_IDLE_SERVER = {
    "a result unasked": HEAD + ROW,
    "an OK unasked": packet(1, b.ok()),
    "an error unasked: the server goes down": packet(0, b.err("08S01")),
    "an empty packet": packet(0, b""),
    "noise": _NOISE,
}
_QUERY_SERVER = {
    "an empty packet": packet(1, b""),
    "a column count beyond all bounds": packet(1, b"\xfe" + b"\xff" * 8),
    "a column count without its bytes": packet(1, b"\xfd\xff"),
    "a definition cut short": b.numbered(lenenc_pack(1), b"\3def\0"),
    "a definition whose names are longer than it": b.numbered(lenenc_pack(1), b"\xfd\xff\xff\xff" + b"x" * 20),
    "an OK in place of a definition": b.numbered(lenenc_pack(2), b.ok(), b.ok(), b.eof()),
    "a wrong packet number": packet(77, b.ok()),
    "an OK cut short": packet(1, b"\0"),
    "an error without a body": packet(1, b"\xff"),
    "an OK for 2^64 - 1 rows": packet(1, b"\0\xfe" + b"\xff" * 8 + b"\0\2\0\0\0"),
    "a LOCAL INFILE request unasked": packet(1, b"\xfb/etc/passwd"),
    "noise": _NOISE,
}
_RESULT_SERVER = {
    "an empty row": packet(6, b""),
    "a row with one column too few": packet(6, b.row("1")),
    "a row with one column too many": packet(6, b.row("1", "x", "y")),
    "a field longer than its row": packet(6, b"\xfd\xff\xff\xff1"),
    "a field length without its bytes": packet(6, b"\xfe\1"),
    "a wrong packet number": packet(200, b.row("1", "x")),
    "a row of 16 MB that does not go on": header(0xFFFFFF, 6, b"\1" + b"x" * 1000),
    "an end without its status": packet(6, b"\xfe"),
    "an error in the middle": packet(6, b.err("70100")),
    "a new result without an end": packet(6, lenenc_pack(2))
    + b.numbered(b.column("a"), b.column("b"), b.eof(), first=7),
    "more results announced, none comes, and an OK unasked": packet(6, b.eof(10))
    + packet(7, b.ok())
    + packet(8, b.ok()),
    "noise": _NOISE,
}
_PREPARE_SERVER = {
    "an OK cut short": packet(1, b"\0\1"),
    "65,535 parameters and columns, none of them there": packet(1, b"\0\1\0\0\0\xff\xff\xff\xff\0\0\0"),
    "an empty packet": packet(1, b""),
    "noise": _NOISE,
}
_BINARY_SERVER = {
    "a binary row without its bitmap": HEAD + packet(5, b"\0"),
    "a binary row cut in a value": HEAD + packet(5, b"\0\0\1"),
    "a text row in a binary result": HEAD + packet(5, b.row("1", "x")),
    "an empty row": HEAD + packet(5, b""),
    "a string longer than its row": HEAD + packet(5, b"\0\0\1\0\0\0\xfd\xff\xff\xff"),
}
_DEATHS = (
    ("before the greeting", b""),
    ("handshake", b""),
    ("authentication", b""),
    ("idle", b""),
    ("query", b""),
    ("result", b"\x09\0"),
    ("result", packet(6, b.row("2", "x"))[:7]),
    ("result", b""),
    ("LOAD DATA LOCAL", b""),
    ("prepared result", b""),
)


def cases() -> list[Case]:
    """All of them, in the order of the page."""
    out: list[Case] = []
    for phase, side, found in (
        ("before the greeting", "client", {"HTTP": b"GET / HTTP/1.1\r\n\r\n", "300,000 bytes": b"x" * 300_000}),
        ("before the greeting", "server", _GREETING_SERVER),
        ("handshake", "client", _HANDSHAKE_CLIENT),
        ("handshake", "server", _HANDSHAKE_SERVER),
        ("authentication", "client", _AUTH_CLIENT),
        ("authentication", "server", _AUTH_SERVER),
        ("idle", "client", _IDLE_CLIENT),
        ("idle", "server", _IDLE_SERVER),
        ("query", "client", _QUERY_CLIENT),
        ("query", "server", _QUERY_SERVER),
        ("result", "client", _QUERY_CLIENT),
        ("result", "server", _RESULT_SERVER),
        ("prepare", "server", _PREPARE_SERVER),
        ("prepared", "client", {"COM_STMT_EXECUTE truncated": b.command(0x17, b"\1\0\0\0")}),
        ("prepared result", "server", _BINARY_SERVER),
        ("LOAD DATA LOCAL", "client", _LOCAL_CLIENT),
    ):
        out += [Case(phase, side, what, data) for what, data in found.items()]  # type: ignore[arg-type]
    for phase, data in _DEATHS:
        where = f"in the middle of a packet, {len(data)} bytes in" if data else "between packets"
        out.append(Case(phase, "server", f"closes {where}", data, "close"))
        out.append(Case(phase, "server", f"resets {where}", data, "reset"))
    for phase in ("handshake", "authentication", "idle", "query", "result", "LOAD DATA LOCAL"):
        out.append(Case(phase, "client", "closes in the middle of a packet", b.query(SQL)[:7], "close"))
        out.append(Case(phase, "client", "resets in the middle of a packet", b.query(SQL)[:7], "reset"))
        out.append(Case(phase, "client", "says no more (half-close)", b"", "half-close"))
    for phase in ("idle", "query", "result"):
        out.append(Case(phase, "server", "says no more (half-close)", b"", "half-close"))
    return out
