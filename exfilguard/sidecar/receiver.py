"""Who is told what a socket brought: for _pump.pyx, which calls it without Python between."""

from __future__ import annotations


class Receiver:
    """The part of an asyncio.Protocol that every read needs."""

    def data_received(self, data: bytes) -> None:
        raise NotImplementedError
