"""What the server says beside its rows, and which of it may hold somebody's data.

    NoticeResponse          always: RAISE NOTICE says whatever it is given, and so does what PostgreSQL itself quotes
    NotificationResponse    its payload, unless it is short
    ErrorResponse           what it quotes (a value that could not be cast, the row that failed) and where that came from; not what
                            stands in the client's own text, such as the name of a table that does not exist
    ParameterStatus         a long value: search_path's, since PostgreSQL 18

Source: https://www.postgresql.org/docs/current/protocol-error-fields.html
"""

from __future__ import annotations

import re

LEAST_BYTES = 32
"""A name with a date of birth is longer. A shorter text is nobody where nothing says that it is of patients: a worker may be told a
million times a day which job is next."""
MAX_PLAIN_BYTES = 256
"""A longer error or setting says more than what is wrong. A shorter one that quotes nothing holds no value."""

_NOTICE, _NOTIFICATION, _ERROR, _SETTING = b"NAES"
_QUOTED = re.compile(rb'"([^"]*)"')


def fields(body: bytes) -> list[tuple[bytes, bytes]]:
    """(code, value) of an ErrorResponse's or NoticeResponse's fields, as far as they are there."""
    return [(part[:1], part[1:]) for part in body.split(b"\0") if part]


def said(kind: int, body: bytes) -> list[bytes]:
    """The texts of it that are the session's: not where in the server's source they come from, nor how grave it is."""
    if kind == _NOTIFICATION:
        return [body[4:].partition(b"\0")[2].rstrip(b"\0")]
    if kind == _SETTING:
        return [body]
    return [value for code, value in fields(body) if code not in b"SVCPpFLR"]


def discloses(kind: int, body: bytes, sql: bytes) -> bool:
    """True when this message, or the beginning of it, may hold a record. `sql`: the client's text that it answers."""
    if kind == _NOTICE:
        return True
    if kind == _NOTIFICATION:
        return len(said(kind, body)[0]) >= LEAST_BYTES
    if kind != _ERROR or len(body) > MAX_PLAIN_BYTES:
        return len(body) > MAX_PLAIN_BYTES
    text = sql.lower()
    for code, value in fields(body):
        if code in b"DW":
            return True
        if code == b"M" and any(quoted.lower() not in text for quoted in _QUOTED.findall(value)):
            return True
    return False
