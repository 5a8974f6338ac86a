"""docs/BAD_INPUT.md, from what happened."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tests.badinput import mysql, postgres
from tests.badinput.case import Case
from tests.badinput.stand import SETTINGS

PAGE = Path(__file__).parents[2] / "docs" / "BAD_INPUT.md"
CASES = {"postgres": postgres.cases(), "mysql": mysql.cases()}
TITLES = {"postgres": "PostgreSQL", "mysql": "MySQL and MariaDB"}

_HEAD = """# Bad input

Generated from `tests/badinput`, which plays every line through a real relay and compares: do not edit. Who says what, in which phase
of a session, and what becomes of it under each setting (`mode`, `on_desync`). After every line other sessions go on; after all of
them the relay has the descriptors and the memory that it had, and its log holds no traceback, no SQL and no value.

- *forwarded*: it reached the other side unchanged; whether it is an error is the other side's to say. A guard that corrected its
  clients would be seen.
- *desynced*: what follows can no longer be followed; counted (`desynced_total`), told as an event, alerted.
- *error*: the guard's own error packet, with its SQLSTATE (PostgreSQL) or number (MySQL).
- *not forwarded, goes on*: a beginning that may still become something. In the login it has `login_timeout`. Behind it only `enforce`
  waits, within the parsers' bounds: for a row that is not whole, and for up to 1 MiB of a statement that it has to look at first.
- *passed on, the answer is awaited*: a client that says no more may still hear what it asked for, as from the database itself.
- *closed*: the client's connection; *both closed*: the database's too; *database open*: for at most 5 s, for the greeting of a MySQL
  server that is to be left in order (it counts connections which end before a login, and blocks their address).
"""


def page(outcomes: Mapping[tuple[str, Case], Mapping[str, str]]) -> str:
    out = [_HEAD]
    for engine, cases in CASES.items():
        out += [f"## {TITLES[engine]}", "", "| phase | from | what | " + " | ".join(SETTINGS) + " |", "|---" * 6 + "|"]
        for case in cases:
            found = outcomes[engine, case]
            cells = " | ".join(found[settings] for settings in SETTINGS)
            out.append(f"| {case.phase} | {case.side} | {case.what} | {cells} |")
        out.append("")
    return "\n".join(out).rstrip() + "\n"
