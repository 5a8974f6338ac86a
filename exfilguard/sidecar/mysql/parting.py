"""The end of a database's connection on which nobody has logged in: its client went away, was silent, or was refused.

MySQL and MariaDB count connections that end before a login, and refuse everybody from that address once there were
`max_connect_errors` (100) of them in a row. Behind the guard all clients have its address: a monitor that looks whether the port is
open, or one locked account that tries again and again, would keep everybody from the database. A login that fails does not count. So
the guard logs in as an account that is not there, and leaves when it was told so.
Source: https://dev.mysql.com/doc/refman/8.4/en/host-cache.html
"""

from __future__ import annotations

import asyncio

from ...errors import ProtocolError
from ...wire.mysql import messages, startup
from ...wire.mysql.messages import packet
from ..sides import ServerSide, ignore

ANSWERED_WITHIN_S = 5.0


class Parting:
    """Of one connection, which is its own from here on. `greeted`: the server's greeting, where it was read already; `behind`: what came
    behind it, or the beginning of it."""

    def __init__(self, side: ServerSide, greeted: startup.Greeting | None, behind: bytes) -> None:
        self._side = side
        self._told = False
        self._buffer = behind
        side.divert = self._answer
        side.resume_all()
        asyncio.get_running_loop().call_later(ANSWERED_WITHIN_S, side.abort)
        if greeted is not None:
            self._log_in(greeted)
        self._answer(b"")

    def _log_in(self, greeted: startup.Greeting) -> None:
        self._told = True
        self._side.write(packet(1, startup.nobody(greeted)))

    def _answer(self, data: bytes) -> None:
        self._buffer += data
        try:
            while (found := startup.split(self._buffer)) is not None:
                number, payload, self._buffer = found
                if payload[0] in (messages.ERR, messages.OK) and (self._told or payload[0] == messages.ERR):
                    if payload[0] == messages.OK:  # to accounts without a name everybody is one
                        self._side.write(packet(0, bytes((messages.COM_QUIT,))))
                    self._leave()
                    return
                if self._told:
                    self._side.write(packet(number + 1 & 0xFF, b""))  # whatever it asks to be proven
                else:
                    self._log_in(startup.greeting(payload))
        except ProtocolError:
            self._leave()

    def _leave(self) -> None:
        self._side.divert = ignore
        self._side.close_softly()
