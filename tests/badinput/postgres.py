"""PostgreSQL's bad messages."""

from __future__ import annotations

import struct

from tests.badinput.case import CANARY, Case, Phase
from tests.wire import build as b

HELLO = b.startup(user="app", database="care")
SASL = b.message("R", struct.pack("!I", 10) + b"SCRAM-SHA-256\0\0")
SQL = f"SELECT id, nom FROM patient WHERE nom = '{CANARY}'"
COLUMNS = b.description(("id", 16_400, 1, 20), ("nom", 16_400, 2, 25))
ROW = b.row(b"1", CANARY.encode())
ENDLESS = 0x7FFFFFFF
_IDLE = ((">", HELLO), ("<", b.LOGIN))
_ASKED = (*_IDLE, (">", b.query(SQL)))
_BOUND = b.parse("s", SQL) + b.bind("", "s") + b.describe("P", "") + b.execute("") + b.SYNC

PHASES = {
    "start-up": Phase((), connected=False),
    "TLS": Phase(((">", struct.pack("!II", 8, 80877103)), ("=", b"S")), connected=False),
    "PROXY header": Phase((), connected=False),
    "authentication": Phase(((">", HELLO), ("<", SASL))),
    "before authentication": Phase(((">", HELLO),)),
    "idle": Phase(_IDLE),
    "query": Phase(_ASKED),
    "result": Phase((*_ASKED, ("<", COLUMNS + ROW))),
    "prepared": Phase((*_IDLE, (">", _BOUND))),
    "prepared result": Phase((*_IDLE, (">", _BOUND), ("<", b.PARSED + b.BOUND + COLUMNS + ROW))),
    "COPY in": Phase((*_IDLE, (">", b.query("COPY patient FROM STDIN")), ("<", b.COPY_IN))),
    "COPY out": Phase(
        (*_IDLE, (">", b.query("COPY patient TO STDOUT")), ("<", b.copy_out() + b.copy_data(b"1\tDupont\n")))
    ),
    "COPY out, binary": Phase((*_IDLE, (">", b.query("COPY patient TO STDOUT BINARY")), ("<", b.copy_out(True)))),
}


def header(kind: str, length: int, body: bytes = b"") -> bytes:
    """A message that lies about its length."""
    return kind.encode() + struct.pack("!I", length & 0xFFFFFFFF) + body


def startup_packet(code: int, body: bytes, length: int | None = None) -> bytes:
    return struct.pack("!II", len(body) + 8 if length is None else length, code) + body


V3 = 196608
_NOISE = bytes(range(255, 127, -1)) * 20

_START = {
    "HTTP": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "SSH": b"SSH-2.0-OpenSSH_9.2\r\n",
    "zeros": b"\0" * 64,
    "noise": _NOISE,
    "length 0": struct.pack("!II", 0, V3),
    "length 7": struct.pack("!II", 7, V3),
    "length of a gigabyte": startup_packet(V3, b"user\0x\0\0", 1 << 30),
    "length 10,001": startup_packet(V3, b"x" * 100, 10_001),
    "negative length": struct.pack("!II", 0xFFFFFFFF, V3),
    "protocol 2.0": startup_packet(131072, b"x" * 288),
    "protocol 4.0": startup_packet(4 << 16, b"user\0app\0\0"),
    "no user": startup_packet(V3, b"database\0care\0\0"),
    "user without a value": startup_packet(V3, b"user\0\0"),
    "parameters without an end": startup_packet(V3, b"user\0app"),
    "an empty body": startup_packet(V3, b""),
    "a name without a value": startup_packet(V3, b"user\0app\0database\0\0\0options\0"),
    "bytes that are not UTF-8": startup_packet(V3, b"user\0\xff\xfe\0\0"),
    "SSLRequest with a body": startup_packet(80877103, b"more"),
    "GSSENCRequest with a body": startup_packet(80877104, b"more"),
    "CancelRequest without a secret": startup_packet(80877102, b"\0\0\0\7"),
    "CancelRequest of 9,000 bytes": startup_packet(80877102, b"\0\0\0\7" + b"x" * 9_000),
    "a typed message": b.query(SQL),
    "a truncated length": b"\0\0",
    "a truncated message": HELLO[:-5],
    "replication": b.startup(user="app", replication="true"),
    "a browser's TLS": bytes.fromhex("16030100050100000100"),
}
_PROXY = {
    "none: the protocol itself": HELLO,
    "v1 without an end": b"PROXY TCP4 " + b"1" * 120,
    "v1 of words": b"PROXY TCP4 here there 1 2\r\n",
    "v1 with a port of 70,000": b"PROXY TCP4 192.0.2.1 192.0.2.2 70000 1\r\n",
    "v1 with mixed families": b"PROXY TCP6 192.0.2.1 192.0.2.2 1 2\r\n",
    "v1 that is not ASCII": b"PROXY TCP4 \xff\xfe 192.0.2.2 1 2\r\n",
    "v2 of version 3": b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\x0c" + b"\1" * 12,
    "v2 of an unknown command": b"\r\n\r\n\0\r\nQUIT\n\x2f\x11\0\x0c" + b"\1" * 12,
    "v2 too short for its addresses": b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x04" + b"\1" * 4,
    "v2 of 65,535 bytes": b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff" + b"\1" * 100,
    "v2 truncated": b"\r\n\r\n\0\r\nQUIT\n\x21\x11",
    "v1, then no start-up": b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\nGET / HTTP/1.1\r\n\r\n",
}
_TLS = {
    "HTTP": b"GET / HTTP/1.1\r\n\r\n",
    "a StartupMessage in clear": HELLO,
    "a truncated ClientHello": bytes.fromhex("16030100050100"),
    "an alert": bytes.fromhex("15030100020228"),
    "a record of 64 kB": b"\x16\x03\x01\xff\xff" + b"\0" * 2_000,
    "noise": _NOISE,
}
_AUTH_CLIENT = {
    "a query": b.query(SQL),
    "an unknown type": b.message("\x7f", b"x"),
    "length 3": header("p", 3),
    "length of a gigabyte": header("p", 1 << 30, b"x" * 100),
    "an empty password message": b.message("p"),
    "a truncated password message": b.message("p", b"secret\0")[:-3],
    "Terminate": b.message("X"),
    "HTTP": b"GET / HTTP/1.1\r\n\r\n",
    "a second StartupMessage": HELLO,
    "COPY data": b.copy_data(b"x" * 100),
}
_IDLE_CLIENT = {
    "an unknown type": b.message("z", b"x"),
    "a type of zero": b"\0\0\0\0\4",
    "length 3": header("Q", 3),
    "length 0": header("Q", 0),
    "a negative length": header("Q", 0xFFFFFFFF, b"x" * 10),
    "length of two gigabytes": header("Q", ENDLESS, SQL.encode()),
    "a query without an end": b.message("Q", b"SELECT 1"),
    "an empty query": b.message("Q"),
    "a query that is not UTF-8": b.message("Q", b"SELECT '\xff\xfe\xc0'\0"),
    "a query of 300,000 bytes": b.query("SELECT '" + "x" * 300_000 + "'"),
    "a truncated query": b.query(SQL)[:-4],
    "a server's message (DataRow)": ROW,
    "a server's message (ReadyForQuery)": b.READY,
    "COPY data": b.copy_data(b"1\tx\n"),
    "CopyDone": b.COPY_DONE,
    "CopyFail": b.message("f", b"no\0"),
    "Parse without a body": b.message("P"),
    "Parse with 65,535 parameters and none there": b.message("P", b"s\0SELECT 1\0\xff\xff"),
    "Parse truncated": b.parse("s", SQL)[:-6],
    "Bind without a body": b.message("B"),
    "Bind with counts that lie": b.message("B", b"\0s\0\xff\xff\0\0\xff\xff"),
    "Bind with a value of -2 bytes": b.message("B", b"\0s\0\0\0\0\1\xff\xff\xff\xfe\0\0"),
    "Bind of an unknown statement": b.bind("", "nobody") + b.SYNC,
    "Execute of an unknown portal": b.execute("nobody") + b.SYNC,
    "Execute without its count": b.message("E", b"p\0"),
    "Describe of an unknown kind": b.message("D", b"Xs\0") + b.SYNC,
    "Describe without a body": b.message("D"),
    "Close of an unknown kind": b.message("C", b"Xs\0") + b.SYNC,
    "FunctionCall with counts that lie": b.message("F", b"\0\0\0\1\xff\xff"),
    "a password message": b.message("p", b"secret\0"),
    "Sync with a body": b.message("S", b"x" * 50),
    "a StartupMessage": HELLO,
    "HTTP": b"GET / HTTP/1.1\r\n\r\n",
    "noise": _NOISE,
    "100,001 Parse without a Sync": b.parse("", "SELECT 1") * 100_001,
    "100,001 Sync": b.SYNC * 100_001,
}
_QUERY_CLIENT = {
    "a second query at once": b.query(SQL),
    "an unknown type": b.message("z", b"x"),
    "length 3": header("Q", 3),
    "noise": _NOISE,
    "Terminate": b.message("X"),
}
_COPY_CLIENT = {
    "a query in place of data": b.query(SQL),
    "an unknown type": b.message("z", b"x"),
    "data of length 3": header("d", 3),
    "data of two gigabytes": header("d", ENDLESS, b"x" * 1000),
    "CopyFail": b.message("f", b"no\0"),
    "CopyDone twice": b.COPY_DONE * 2,
    "noise": _NOISE,
}
_AUTH_SERVER = {
    "HTTP": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "SSH": b"SSH-2.0-OpenSSH_9.2\r\n",
    "noise": _NOISE,
    "an error of protocol 2": b"EFATAL:  too many\n\0",
    "an ErrorResponse": b.error("53300"),
    "an unknown authentication": b.message("R", struct.pack("!I", 99)),
    "authentication without a code": b.message("R", b"\0"),
    "length 3": header("R", 3),
    "length of two gigabytes": header("R", ENDLESS, b"\0\0\0\x0a"),
    "BackendKeyData first": b.KEY,
    "ReadyForQuery first": b.READY,
    "a row first": ROW,
    "a key of 300 bytes": b.AUTH_OK + b.message("K", b"\0\0\0\7" + b"x" * 300) + b.READY,
    "a truncated message": b.LOGIN[:7],
    "an answer to a TLS request": b"S",
}
_IDLE_SERVER = {
    "RowDescription unasked": COLUMNS,
    "a row unasked": ROW,
    "ReadyForQuery unasked": b.READY,
    "CommandComplete unasked": b.complete("SELECT 1"),
    "CopyOutResponse unasked": b.copy_out() + b.copy_data(b"1\n"),
    "CopyBothResponse unasked": b.message("W", b"\0\0\0"),
    "authentication again": b.AUTH_OK,
    "another key": b.message("K", b"\0\0\0\x09abcd"),
    "an unknown type": b.message("@", b"x"),
    "length 3": header("N", 3),
    "a negative length": header("N", 0xFFFFFFFF, b"x"),
    "a notice of two gigabytes": header("N", ENDLESS, b"x" * 1000),
    "an ErrorResponse": b.error("57P01"),
    "a notification": b.message("A", b"\0\0\0\1c\0p\0"),
    "a notification without an end": b.message("A", b"\0\0"),
    "a parameter without an end": b.message("S", b"TimeZone"),
    "noise": _NOISE,
}
_QUERY_SERVER = {
    "a row before its description": ROW,
    "a description without a body": b.message("T"),
    "a description with 65,535 columns and none there": b.message("T", b"\xff\xff"),
    "a description truncated in a name": b.message("T", b"\0\1id"),
    "CommandComplete without an end": b.message("C", b"SELECT 1"),
    "CommandComplete without a body": b.message("C"),
    "CommandComplete with a count of 30 digits": b.complete("SELECT " + "9" * 30),
    "CommandComplete with a count of 5,000 digits": b.complete("SELECT " + "9" * 5_000),
    "ReadyForQuery without a status": b.message("Z"),
    "ReadyForQuery without CommandComplete": b.READY,
    "ReadyForQuery twice": b.complete("SELECT 0") + b.READY * 2,
    "ParseComplete": b.PARSED,
    "CopyInResponse": b.COPY_IN,
    "CopyOutResponse without a body": b.message("H"),
    "an empty ErrorResponse": b.message("E"),
    "an unknown type": b.message("@", b"x"),
    "noise": _NOISE,
}
_RESULT_SERVER = {
    "a row without a body": b.message("D"),
    "a row with one column too many": b.row(b"1", b"x", b"y"),
    "a row with one column too few": b.row(b"1"),
    "a row with 65,535 columns and none there": b.message("D", b"\xff\xff"),
    "a field longer than its row": b.message("D", b"\0\2\0\0\0\x64x\0\0\0\1y"),
    "a field of -2 bytes": b.message("D", b"\0\2\xff\xff\xff\xfe\xff\xff\xff\xff"),
    "a row of two gigabytes": header("D", ENDLESS, b"\0\2\0\0\0\1" + b"x" * 1000),
    "a row of length 3": header("D", 3),
    "a row of length 0": header("D", 0),
    "a negative length": header("D", 0xFFFFFFFF, b"x" * 10),
    "a second description": COLUMNS,
    "a type of zero": b"\0\0\0\0\4",
    "an ErrorResponse in the middle": b.error("57014") + b.READY,
    "CopyData in the middle": b.copy_data(b"1\n"),
    "an unknown type": b.message("@", b"x"),
    "noise": _NOISE,
}
_PREPARED_SERVER = {
    "BindComplete before ParseComplete": b.BOUND,
    "a row before BindComplete": b.PARSED + ROW,
    "ParameterDescription with counts that lie": b.PARSED + b.BOUND + b.message("t", b"\xff\xff"),
    "NoData, then a row": b.PARSED + b.BOUND + b.NO_DATA + ROW,
    "ReadyForQuery before the rest": b.PARSED + b.READY,
    "an error, then no ReadyForQuery but a row": b.error() + ROW,
    "three ParseComplete": b.PARSED * 3,
    "PortalSuspended at once": b.PARSED + b.BOUND + b.SUSPENDED,
}
_COPY_OUT_SERVER = {
    "a row in COPY": ROW,
    "data of length 3": header("d", 3),
    "data of two gigabytes": header("d", ENDLESS, b"1\tx\n" * 100),
    "an unknown type": b.message("@", b"x"),
    "CopyInResponse in COPY": b.COPY_IN,
    "ReadyForQuery in COPY": b.READY,
    "noise": _NOISE,
}
_COPY_BINARY_SERVER = {
    "a header that is none": b.copy_data(b"not a PGCOPY header" * 3),
    "a tuple with 32,767 fields and none there": b.copy_data(b"PGCOPY\n\xff\r\n\0" + b"\0" * 8 + b"\x7f\xff"),
    "a field of -2 bytes": b.copy_data(b"PGCOPY\n\xff\r\n\0" + b"\0" * 8 + b"\0\1\xff\xff\xff\xfe"),
    "a field of two gigabytes": b.copy_data(b"PGCOPY\n\xff\r\n\0" + b"\0" * 8 + b"\0\1\x7f\xff\xff\xff" + b"x" * 100),
    "an extension of two gigabytes": b.copy_data(b"PGCOPY\n\xff\r\n\0\0\0\0\0\x7f\xff\xff\xff" + b"x" * 100),
}
_DEATHS = (
    ("before authentication", b""),
    ("authentication", b""),
    ("idle", b""),
    ("query", b""),
    ("result", b"D\0\0"),
    ("result", ROW[:11]),
    ("result", b""),
    ("COPY out", b.copy_data(b"2\tx\n")[:6]),
    ("COPY in", b""),
    ("prepared result", b""),
)


def cases() -> list[Case]:
    """All of them, in the order of the page."""
    out: list[Case] = []
    for phase, side, found in (
        ("start-up", "client", _START),
        ("PROXY header", "client", _PROXY),
        ("TLS", "client", _TLS),
        ("before authentication", "server", _AUTH_SERVER),
        ("authentication", "client", _AUTH_CLIENT),
        ("idle", "client", _IDLE_CLIENT),
        ("idle", "server", _IDLE_SERVER),
        ("query", "client", _QUERY_CLIENT),
        ("query", "server", _QUERY_SERVER),
        ("result", "client", _QUERY_CLIENT),
        ("result", "server", _RESULT_SERVER),
        ("prepared", "server", _PREPARED_SERVER),
        ("COPY in", "client", _COPY_CLIENT),
        ("COPY out", "client", {"noise": _NOISE, "CopyFail": b.message("f", b"no\0")}),
        ("COPY out", "server", _COPY_OUT_SERVER),
        ("COPY out, binary", "server", _COPY_BINARY_SERVER),
    ):
        out += [Case(phase, side, what, data) for what, data in found.items()]  # type: ignore[arg-type]
    for phase, data in _DEATHS:
        where = "in the middle of a message" if data else "between messages"
        where += f", {len(data)} bytes in" if data else ""
        out.append(Case(phase, "server", f"closes {where}", data, "close"))
        out.append(Case(phase, "server", f"resets {where}", data, "reset"))
    for phase in ("start-up", "authentication", "idle", "query", "result", "COPY in", "COPY out"):
        data = HELLO[:9] if phase == "start-up" else b.query(SQL)[:7]
        out.append(Case(phase, "client", "closes in the middle of a message", data, "close"))
        out.append(Case(phase, "client", "resets in the middle of a message", data, "reset"))
        out.append(Case(phase, "client", "says no more (half-close)", b"", "half-close"))
    for phase in ("idle", "query", "result"):
        out.append(Case(phase, "server", "says no more (half-close)", b"", "half-close"))
    return out
