"""What lies around the sessions: PROXY headers, start-up packets, the end of a statement that was cut, in both engines."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from exfilguard.errors import ProtocolError
from exfilguard.wire import proxy
from exfilguard.wire.mysql.discard import Discard as MysqlDiscard
from exfilguard.wire.postgres import discard, startup
from tests.fuzz import mutate
from tests.fuzz.mysql import CAPABILITIES, Mysql
from tests.fuzz.postgres import Postgres
from tests.fuzz.target import Input

ADDRESSES = (
    proxy.Header("203.0.113.7", 4711, "10.0.0.9", 5432),
    proxy.Header("2001:db8::1", 1, "2001:db8::2", 65_535),
    proxy.Header(),
)


class Edges:
    """See target.Target. An input's first step says which reader it is for."""

    name = "edges"

    def __init__(self) -> None:
        self.headers = [proxy.build(version, header) for version in ("v1", "v2") for header in ADDRESSES]  # type: ignore[arg-type]
        postgres, mysql = Postgres(), Mysql()
        self.startups = postgres.startups
        self.answers = {
            "postgres": [[data for side, data in steps if side == "<"] for steps in postgres.messages],
            "mysql": [[data for side, data in steps if side == "<"] for steps in mysql.messages],
        }
        self.answers = {engine: [steps for steps in found if steps] for engine, found in self.answers.items()}

    def make(self, rng: random.Random) -> Input:
        which = rng.choice(("proxy", "startup", "postgres", "postgres", "mysql", "mysql"))
        if which in ("proxy", "startup"):
            data = rng.choice(self.headers if which == "proxy" else self.startups)
            if rng.random() < 0.9:
                data = mutate.bytes_of(rng, data)
            return Input(((which, data + rng.choice((b"", b"", rng.randbytes(20)))),))
        messages = rng.choice(self.answers[which])
        at = rng.randrange(len(messages))
        steps = [("<", data) for data in messages[at : at + rng.choice((1, 4, 16, 40))]]
        if rng.random() < 0.6:
            steps = mutate.order(rng, steps)
        for _ in range(rng.choice((0, 1, 1, 2))):
            if steps:
                at = rng.randrange(len(steps))
                steps[at] = ("<", mutate.bytes_of(rng, steps[at][1]))
        return Input(((which, bytes((rng.randrange(256),))), *mutate.cut(rng, steps)))

    def run(self, given: Input) -> None:
        which, data = given.steps[0]
        if which == "proxy":
            self.run_whole(proxy.parse, data, proxy.MAX_V2_BYTES)
        elif which == "startup":
            self.run_whole(startup.parse, data, startup.MAX_STARTUP_BYTES)
            changed = startup.strip_scram_plus(data)
            assert len(changed) <= len(data)
        else:
            self.run_discard(which, data[0], [piece for _, piece in given.steps[1:]])

    @staticmethod
    def run_whole(read: Callable[[bytes], tuple[Any, int]], data: bytes, most: int) -> None:
        """The same, whole and byte by byte; never more bytes wanted than the bound."""

        def outcome(part: bytes) -> Any:
            try:
                return read(part)
            except ProtocolError:
                return "refused"

        whole = outcome(data)
        for size in range(len(data) + 1):
            found = outcome(data[:size])
            if found == "refused" or found[1]:
                assert found == whole, "the end of the bytes changes nothing that is decided"
                return
        assert len(data) <= most
        assert whole == (None, 0)

    @staticmethod
    def run_discard(engine: str, shape: int, pieces: list[bytes]) -> None:
        reader: Any = (
            discard.Discard()
            if engine == "postgres"
            else MysqlDiscard(CAPABILITIES[shape % len(CAPABILITIES)], only_reads=bool(shape & 128))
        )
        total = 0
        for piece in pieces:
            total += len(piece)
            try:
                passing, rest = reader.feed(piece)
            except ProtocolError:
                return
            assert len(passing) + len(rest) <= total
            assert reader.stands in (True, False)
            if reader.done:
                return
            assert rest == b""
            if engine == "postgres":
                assert len(reader._carry) <= discard.MAX_KEPT_BYTES + len(piece)
