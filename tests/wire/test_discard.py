"""The end of a statement that was cut, whole, byte by byte, and with what follows it."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exfilguard.errors import ProtocolError
from exfilguard.wire.postgres.discard import MAX_KEPT_BYTES, Discard
from tests.wire import build as b

NOTIFICATION = b.message("A", b"\0\0\0\7canal\0bonjour\0")
PAYLOAD = b.message("A", b"\0\0\0\7canal\0" + b"Dupont Marie 1970-01-01 Paris 75000\0")
STATUS = b.message("S", b"TimeZone\0UTC\0")
DROPPED = (
    b.row(b"x" * 300) * 5
    + b.copy_data(b"line\n")
    + b.message("N", b"SNOTICE\0\0")
    + b.complete("SELECT 5")
    + b.error("57014")
)


def fed(stream: bytes, rng: random.Random | None, step: int = 1) -> tuple[bytes, bytes]:
    discard = Discard()
    passing, pos = b"", 0
    while not discard.done:
        size = rng.randrange(1, 40) if rng else step
        seen, rest = discard.feed(stream[pos : pos + size])
        passing, pos = passing + seen, pos + size
        assert pos < len(stream) + size
    return passing, rest + stream[pos:]


def test_all_is_dropped_but_what_may_come_at_any_time() -> None:
    stream = DROPPED + NOTIFICATION + DROPPED + PAYLOAD + STATUS + DROPPED + b.READY + b.row(b"the next statement's")
    expected = (NOTIFICATION + STATUS, b.READY + b.row(b"the next statement's"))
    assert Discard().feed(stream) == expected
    assert fed(stream, None) == expected
    for seed in range(50):
        assert fed(stream, random.Random(seed)) == expected


def test_an_endless_notification_is_not_kept() -> None:
    long = b.message("A", b"x" * (MAX_KEPT_BYTES + 1))
    discard = Discard()
    for at in range(0, len(long), 1000):
        assert discard.feed(long[at : at + 1000]) == (b"", b"")
        assert len(discard._carry) <= 1000
    assert discard.feed(b.READY) == (b"", b.READY)


@pytest.mark.parametrize("data", [b"\xff", b"D\0\0\0\3", b"D\xff\xff\xff\xff"])
def test_what_is_no_message_is_an_error(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        Discard().feed(b.row(b"1") + data)


@given(st.lists(st.binary(max_size=60)))
def test_any_bytes_are_taken_or_refused(pieces: list[bytes]) -> None:
    discard = Discard()
    try:
        for piece in pieces:
            discard.feed(piece)
            if discard.done:
                return
    except ProtocolError:
        return


@pytest.mark.parametrize(
    ("stream", "stands"),
    [
        (b.row(b"1") + b.complete("SELECT 9"), False),
        (b.row(b"1") + b.error("57014"), False),
        (b.complete("INSERT 0 9"), True),
        (b.complete("SELECT 9") + b.PARSED + b.BOUND + b.complete("DELETE 4"), True),
        (b.complete("SELECT 9") + b.PARSED + b.BOUND + b.complete("SELECT 1"), False),
        (b.complete("INSERT 0 9") + b.PARSED + b.BOUND + b.error("57014"), False),
        (b.complete("CALL"), True),
    ],
)
def test_what_was_done_before_the_cancel_is_known(stream: bytes, stands: bool) -> None:
    for step in (1, 3, 1000):
        discard = Discard()
        for at in range(0, len(stream) + 1, step):
            discard.feed((stream + b.READY)[at : at + step])
        assert discard.done
        assert discard.stands == stands
