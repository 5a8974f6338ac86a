"""Tryton module: every statement says, signed, which Tryton user it is for.

The server finds it in `trytond/modules` (or through the entry point group `trytond.modules`); it needs no activation in the
database. Settings in trytond.conf:

    [exfilguard]
    key_file = /etc/tryton/exfilguard.key    ; the secret of `identity.keys`, alone in the file
    key_id = k1
"""

from pathlib import Path

from psycopg2.extensions import cursor as plain_cursor
from trytond.backend.postgresql import database
from trytond.config import config
from trytond.transaction import Transaction

from exfilguard.context import tag

_logins: dict[tuple[str, int], str] = {}


def _request_user(transaction):
    """Whom the request is for: Tryton works as user 0 now and then in the middle of it."""
    known = getattr(transaction, "_exfilguard", None)
    if transaction.user and (known is None or known[0] != transaction.started_at):
        known = transaction._exfilguard = (transaction.started_at, transaction.user)
    if known is not None and known[0] == transaction.started_at:
        return known[1]
    return 0


class SigningCursor(database.LoggingCursor):
    """Tryton's cursor with a signed context at the end of what it sends."""

    def execute(self, sql, args=None):
        transaction = Transaction()
        user = _request_user(transaction) if transaction.database is not None else 0
        if not user:
            return super().execute(sql, args)
        name = transaction.database.name
        login = _logins.get((name, user))
        if login is None:
            plain_cursor.execute(self, "SELECT login FROM res_user WHERE id = %s", (user,))
            row = self.fetchone()
            login = _logins[name, user] = row[0] if row else str(user)
        text = self.mogrify(sql, args).decode(
            self.connection.encoding if self.connection.encoding != "UTF8" else "utf-8"
        )
        return super().execute(tag(text, login, "", _key(), key_id=config.get("exfilguard", "key_id", default="k1")))


def _key():
    if not hasattr(_key, "value"):
        _key.value = Path(config.get("exfilguard", "key_file")).read_bytes().strip()
    return _key.value


def register():
    database.LoggingCursor = SigningCursor
