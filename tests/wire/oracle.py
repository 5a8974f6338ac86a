"""What passed, counted naively from the bytes of a tap: slow, obvious, and written without the project's own readers."""

from __future__ import annotations


def messages(stream: bytes) -> list[tuple[str, bytes]]:
    """Typed messages of a whole backend stream; what was cut off at its end is left out."""
    out = []
    pos = 0
    while pos + 5 <= len(stream):
        length = int.from_bytes(stream[pos + 1 : pos + 5], "big")
        if pos + 1 + length > len(stream):
            break
        out.append((chr(stream[pos]), stream[pos + 5 : pos + 1 + length]))
        pos += 1 + length
    return out


def rows_delivered(stream: bytes) -> int:
    """DataRows, values of function calls, and what COPY delivered: lines, or tuples of the binary form."""
    rows = 0
    binary = False
    for kind, body in messages(stream):
        if kind == "D" or (kind == "V" and int.from_bytes(body[:4], "big", signed=True) > 0):
            rows += 1
        elif kind == "H":
            binary = body[0] == 1
        elif kind == "d":
            if binary:
                if body.startswith(b"PGCOPY\n\xff\r\n\0"):
                    body = body[19 + int.from_bytes(body[15:19], "big") :]
                rows += body not in (b"", b"\xff\xff")
            else:
                rows += 1
    return rows


def statements(stream: bytes) -> list[str]:
    """How each statement behind the login ended, in order: a command tag, `suspended`, `empty`, or `!` and the SQLSTATE."""
    out = []
    logged_in = False
    for kind, body in messages(stream):
        if kind == "Z":
            logged_in = True
        elif not logged_in:
            continue
        elif kind == "C":
            out.append(body[:-1].decode())
        elif kind == "s":
            out.append("suspended")
        elif kind == "I":
            out.append("empty")
        elif kind == "V":
            out.append("function")
        elif kind == "E":
            out.append("!" + next(part[1:].decode() for part in body.split(b"\0") if part[:1] == b"C"))
    return out
