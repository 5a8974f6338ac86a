"""The end of a MySQL command that was cut, found in what the server still sends."""

from __future__ import annotations

import pytest

from exfilguard.errors import ProtocolError
from exfilguard.wire.mysql.discard import Discard
from tests.wire import mysql_build as b

ROWS = b.numbered(*[b.row(str(n), "x" * 40) for n in range(50)], first=9)
NEXT = b.result([b.column("1")], [b.row("1")])


def fed(data: bytes, step: int, capabilities: int = b.NATIVE, only_reads: bool = True) -> tuple[Discard, bytes]:
    found, rest = Discard(capabilities, only_reads=only_reads), b""
    for at in range(0, len(data), step):
        if found.done:
            rest += data[at : at + step]
            continue
        passing, behind = found.feed(data[at : at + step])
        assert not passing
        rest += behind
    return found, rest


@pytest.mark.parametrize("step", [1, 7, 100_000])
def test_the_next_answer_is_kept_whole(step: int) -> None:
    more = 0x0A
    for capabilities, deprecate in ((b.NATIVE, False), (b.DEPRECATE, True)):
        end = b.ok(header=0xFE) if deprecate else b.eof()
        further = b.ok(status=more, header=0xFE) if deprecate else b.eof(more)
        for tail, stands in (
            (b.numbered(end), False),
            (b.numbered(b.err("70100")), False),
            (b.numbered(further) + b.result([b.column("2")], [b.row("2")], deprecate=deprecate), False),
            (b.numbered(further) + b.numbered(b.ok(7)), True),
            (b.numbered(further) + b.numbered(b.ok(7, more)) + b.numbered(b.err("42000")), False),
        ):
            found, rest = fed(ROWS + tail + NEXT, step, capabilities)
            assert found.done
            assert rest == NEXT
            assert found.stands == stands
    outs = b.numbered(b"\1", b.column("total"), b.eof(0x100A), b.binary(b"\x0a\0\0\0"), b.eof(), b.ok())
    found, rest = fed(ROWS + b.numbered(b.eof(more)) + outs + NEXT, step)
    assert (found.done, rest) == (True, NEXT), "the OK behind OUT parameters is told before their row only"
    found, _ = fed(ROWS + b.numbered(b.eof()), step, only_reads=False)
    assert found.stands, "what was cut had changed something"


def test_what_cannot_be_dropped() -> None:
    with pytest.raises(ProtocolError):
        fed(b.numbered(b.eof(0x0A), b"\xfbfile"), 1000)
