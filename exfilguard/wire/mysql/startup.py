"""The login: the server's greeting, the client's answer, and what a guard between them changes.

    HandshakeV10           int1 10, string version, int4 thread id, 8 bytes nonce, 0, int2 capabilities, int1 charset, int2 status,
                           int2 capabilities, int1 nonce length, 6 zero bytes, int4 MariaDB's capabilities, nonce, string plugin
    HandshakeResponse41    int4 capabilities, int4 max packet, int1 charset, 19 zero bytes, int4 MariaDB's capabilities, string user,
                           password, [string database], [string plugin], [attributes], [int1 zstd level]
    SSLRequest             the response's first 32 bytes

https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_connection_phase.html
https://mariadb.com/kb/en/connection/
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ...errors import ProtocolError
from .compression import HAS_ZSTD
from .messages import (
    CLIENT_CONNECT_ATTRS,
    CLIENT_CONNECT_WITH_DB,
    CLIENT_MYSQL,
    CLIENT_OPTIONAL_RESULTSET_METADATA,
    CLIENT_PLUGIN_AUTH,
    CLIENT_PLUGIN_AUTH_LENENC_CLIENT_DATA,
    CLIENT_PROTOCOL_41,
    CLIENT_SECURE_CONNECTION,
    CLIENT_SSL,
    CLIENT_ZSTD_COMPRESSION_ALGORITHM,
    MARIADB_CLIENT_COM_MULTI,
    lenenc,
    lenenc_bytes,
)

MAX_LOGIN_PACKET_BYTES = 1 << 16
"""No packet of a login is longer: attributes are limited to 64 kB by the clients."""
MAX_ACCOUNT_CHARS = 128
"""MariaDB cuts a longer name here, and lets in whose it is then; MySQL has none of more than 32."""
SSL_REQUEST_BYTES = 32
NOBODY = b"exfilguard-nobody"
"""An account that is not there."""
_UTF8 = 33
ANONYMOUS = "(anonymous)"
"""Whoever logs in as nobody, `''` of the grant tables: an event needs a name, or it would not be counted."""

NEVER = (
    CLIENT_OPTIONAL_RESULTSET_METADATA
    | MARIADB_CLIENT_COM_MULTI
    | (0 if HAS_ZSTD else CLIENT_ZSTD_COMPRESSION_ALGORITHM)
)
"""Not offered through the guard: no driver asks for the first two by itself, and both change what a packet is."""

_CODECS = {
    number: codec
    for codec, numbers in {
        "cp1252": (5, 8, 15, 31, 47, 48, 49, 94),
        "iso8859-2": (2, 9, 21, 27, 77),
        "iso8859-9": (30, 78),
        "iso8859-13": (20, 41, 42, 79),
        "cp1250": (26, 34, 44, 66, 99),
        "cp1256": (57, 67),
        "cp1257": (29, 58, 59),
        "cp850": (4, 80),
        "cp852": (40, 81),
        "hp-roman8": (6, 72),
        "mac-roman": (39, 53),
        "gb18030": (24, 28, 86, 87, 248, 249, 250),
        "latin-1": (63, 3, 69),  # dec8
        "mac-latin2": (38, 43),
        "iso8859-7": (25, 70),
        "iso8859-8": (16, 71),
        "cp1251": (14, 23, 50, 51, 52),
        "cp866": (36, 68),
        "koi8-r": (7, 74),
        "koi8-u": (22, 75),
        "tis-620": (18, 89),
        "big5": (1, 84),
        "euc-kr": (19, 85),
        "euc-jp": (12, 91, 97, 98),
        "shift-jis": (13, 88),
        "cp932": (95, 96),
    }.items()
    for number in numbers
}
"""The clients' character sets by the collation's number; their `latin1` is Windows' 1252."""
_ARMENIAN = {0xB2 + 2 * n: 0x531 + n for n in range(38)} | {0xB3 + 2 * n: 0x561 + n for n in range(38)} | {0xA2: 0x587}
_ARMSCII8: dict[int, int | str] = {
    **_ARMENIAN,
    **dict(zip((0xA4, 0xA5, 0xA9, 0xAB, 0xAC, 0xFF), ")(.,-'", strict=True)),
}
_SWE7 = str.maketrans("@[\\]^`{|}~", "ÉÄÖÅÜéäöåü")
_TABLES: dict[int, Mapping[int, int | str | None]] = {32: _ARMSCII8, 64: _ARMSCII8, 10: _SWE7, 82: _SWE7}
"""Sets that Python has not. In one of them some ASCII has a second spelling, in the other what looks like ASCII is not."""


@dataclass(frozen=True, slots=True)
class Greeting:
    """HandshakeV10. `capabilities` with MariaDB's in the upper half."""

    version: str
    thread_id: int
    capabilities: int
    nonce: bytes
    plugin: str


@dataclass(frozen=True, slots=True)
class Login:
    """HandshakeResponse41 or COM_CHANGE_USER, without the password."""

    capabilities: int
    user: str
    database: str
    plugin: str
    attributes: dict[str, str] = field(default_factory=dict)


def split(buffer: bytes) -> tuple[int, bytes, bytes] | None:
    """(sequence, payload, rest) of the first packet in `buffer`; None when more bytes are needed. Raises ProtocolError."""
    if len(buffer) < 4:
        return None
    length = int.from_bytes(buffer[:3], "little")
    if not length or length > MAX_LOGIN_PACKET_BYTES:
        raise ProtocolError("a packet of the login is empty or too long")
    if len(buffer) < 4 + length:
        return None
    return buffer[3], buffer[4 : 4 + length], buffer[4 + length :]


def greeting(payload: bytes) -> Greeting:
    """Raises ProtocolError for another protocol version."""
    if payload[:1] != b"\x0a":
        raise ProtocolError("the server speaks another protocol than version 10")
    end = payload.find(0, 1)
    if end < 0 or len(payload) < end + 32:
        raise ProtocolError("the server's greeting is too short")
    at = end + 1
    capabilities = int.from_bytes(payload[at + 13 : at + 15], "little")
    capabilities |= int.from_bytes(payload[at + 18 : at + 20], "little") << 16
    if not capabilities & CLIENT_MYSQL:
        capabilities |= int.from_bytes(payload[at + 27 : at + 31], "little") << 32
    size = max(13, payload[at + 20] - 8) if payload[at + 20] else 13
    second = payload[at + 31 : at + 31 + size]
    name_at = at + 31 + size
    return Greeting(
        payload[1:end].decode("ascii", "replace"),
        int.from_bytes(payload[at : at + 4], "little"),
        capabilities,
        (payload[at + 4 : at + 12] + second).rstrip(b"\0")[:20],
        payload[name_at:].partition(b"\0")[0].decode("ascii", "replace"),
    )


def offer(payload: bytes, *, tls: bool) -> bytes:
    """The greeting as the client may see it: TLS is the guard's to offer, and what it cannot follow is left out."""
    found = greeting(payload)
    capabilities = found.capabilities & ~NEVER
    capabilities = capabilities | CLIENT_SSL if tls else capabilities & ~CLIENT_SSL
    at = payload.index(0, 1) + 1
    out = bytearray(payload)
    out[at + 13 : at + 15] = (capabilities & 0xFFFF).to_bytes(2, "little")
    out[at + 18 : at + 20] = (capabilities >> 16 & 0xFFFF).to_bytes(2, "little")
    if not capabilities & CLIENT_MYSQL:
        out[at + 27 : at + 31] = (capabilities >> 32).to_bytes(4, "little")
    return bytes(out)


def response_capabilities(payload: bytes) -> int:
    """Capabilities of a HandshakeResponse41 or SSLRequest. Raises ProtocolError for the one of before MySQL 4.1."""
    if len(payload) < SSL_REQUEST_BYTES:
        raise ProtocolError("the login packet is too short")
    capabilities = int.from_bytes(payload[:4], "little")
    if not capabilities & CLIENT_PROTOCOL_41:
        raise ProtocolError("the client speaks the protocol of before MySQL 4.1")
    if not capabilities & CLIENT_MYSQL:
        capabilities |= int.from_bytes(payload[28:32], "little") << 32
    return capabilities


def is_ssl_request(payload: bytes) -> bool:
    """True for the packet that asks for TLS."""
    return len(payload) == SSL_REQUEST_BYTES and bool(int.from_bytes(payload[:4], "little") & CLIENT_SSL)


def answer(payload: bytes, *, tls: bool) -> bytes:
    """The response as the database may see it: CLIENT_SSL says what the connection to the database is, and what `offer` hides
    is not agreed to, whatever the client says."""
    capabilities = response_capabilities(payload) & ~NEVER
    capabilities = capabilities | CLIENT_SSL if tls else capabilities & ~CLIENT_SSL
    out = bytearray(payload)
    out[:4] = (capabilities & 0xFFFFFFFF).to_bytes(4, "little")
    if not capabilities & CLIENT_MYSQL:
        out[28:32] = (capabilities >> 32).to_bytes(4, "little")
    return bytes(out)


def nobody(found: Greeting) -> bytes:
    """A HandshakeResponse41 of an account that is not there, without a password."""
    capabilities = CLIENT_MYSQL | CLIENT_PROTOCOL_41 | CLIENT_SECURE_CONNECTION | CLIENT_PLUGIN_AUTH
    head = (capabilities & found.capabilities).to_bytes(4, "little") + (1 << 24).to_bytes(4, "little")
    return head + bytes((_UTF8,)) + bytes(23) + NOBODY + b"\0\0" + found.plugin.encode() + b"\0"


def login(payload: bytes) -> Login:
    """HandshakeResponse41. Raises ProtocolError."""
    capabilities = response_capabilities(payload)
    user, pos = _cstring(payload, SSL_REQUEST_BYTES)
    if capabilities & CLIENT_PLUGIN_AUTH_LENENC_CLIENT_DATA:
        _, pos = lenenc_bytes(payload, pos)
    elif capabilities & CLIENT_SECURE_CONNECTION:
        pos = _short(payload, pos)
    else:
        _, pos = _cstring(payload, pos)
    database = plugin = b""
    if capabilities & CLIENT_CONNECT_WITH_DB and pos < len(payload):
        database, pos = _cstring(payload, pos)
    if capabilities & CLIENT_PLUGIN_AUTH and pos < len(payload):
        plugin, pos = _cstring(payload, pos)
    attributes = _attributes(payload, pos) if capabilities & CLIENT_CONNECT_ATTRS else {}
    return Login(capabilities, _account(user, payload[8]), _text(database), _text(plugin), attributes)


def change_user(body: bytes, capabilities: int) -> Login:
    """COM_CHANGE_USER's body, behind the command byte. Raises ProtocolError."""
    user, pos = _cstring(body, 0)
    pos = _short(body, pos) if capabilities & CLIENT_SECURE_CONNECTION else _cstring(body, pos)[1]
    database, pos = _cstring(body, pos)
    plugin = b""
    charset = int.from_bytes(body[pos : pos + 2], "little")
    if pos >= len(body) and not user.isascii():
        raise ProtocolError("the account's name is in a character set that is not told")
    attributes: dict[str, str] = {}
    if pos + 2 < len(body):
        pos += 2  # character set
        if capabilities & CLIENT_PLUGIN_AUTH and pos < len(body):
            plugin, pos = _cstring(body, pos)
        if capabilities & CLIENT_CONNECT_ATTRS:
            attributes = _attributes(body, pos)
    return Login(capabilities, _account(user, charset), _text(database), _text(plugin), attributes)


def _account(user: bytes, charset: int) -> str:
    """The account's name as the server reads it: in the client's character set, then without quotes around it, cut."""
    table = _TABLES.get(charset)
    try:
        name = user.decode("utf-8") if table is None else user.decode("latin-1").translate(table)
    except UnicodeDecodeError:
        name = user.decode(_CODECS.get(charset, "cp1252"), "replace")
    if len(name) > 1 and name[0] == name[-1] == "'":
        name = name[1:-1]
    return name[:MAX_ACCOUNT_CHARS] or ANONYMOUS


def _attributes(payload: bytes, pos: int) -> dict[str, str]:
    if pos >= len(payload):
        return {}
    size, pos = lenenc(payload, pos)
    end = pos + size
    if size < 0 or end > len(payload):
        raise ProtocolError("connection attributes are malformed")
    out = {}
    while pos < end:
        key, pos = lenenc_bytes(payload, pos)
        value, pos = lenenc_bytes(payload, pos)
        if pos > end:
            raise ProtocolError("connection attributes are malformed")
        out[_text(key)] = _text(value)
    return out


def _short(data: bytes, pos: int) -> int:
    """Behind a string with one length byte."""
    if pos >= len(data) or pos + 1 + data[pos] > len(data):
        raise ProtocolError("the login packet is cut off")
    return pos + 1 + data[pos]


def _cstring(data: bytes, pos: int) -> tuple[bytes, int]:
    end = data.find(0, pos)
    if end < 0:
        # The last string of a packet may go without its end: connectors differ here.
        return data[pos:], len(data)
    return data[pos:end], end + 1


def _text(text: bytes) -> str:
    return text.decode("utf-8", "replace")


def scrambled(password: bytes, nonce: bytes) -> bytes:
    """A zero-terminated password XORed with the nonce, as it is then encrypted for caching_sha2_password and sha256_password.

    https://dev.mysql.com/doc/dev/mysql-server/latest/page_caching_sha2_authentication_exchanges.html
    """
    return bytes(byte ^ nonce[i % len(nonce)] for i, byte in enumerate(password))
