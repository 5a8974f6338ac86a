"""Envelopes of compressed sessions, with real zlib and zstd streams: opened, sealed anew, and what does not hold what it says."""

from __future__ import annotations

import random
import zlib

import pytest
import zstandard

from exfilguard.errors import ProtocolError
from exfilguard.wire.mysql.compression import TURN_CONTENT, Algorithm, Envelopes, Inflater, Wrapping, envelope

ALGORITHMS = pytest.mark.parametrize("algorithm", ["zlib", "zstd"])


def wrapped(payload: bytes, before: int, number: int = 0) -> bytes:
    return len(payload).to_bytes(3, "little") + bytes((number,)) + before.to_bytes(3, "little") + payload


def squeezed(content: bytes, algorithm: Algorithm, number: int = 0) -> bytes:
    inside = zlib.compress(content) if algorithm == "zlib" else zstandard.ZstdCompressor(3).compress(content)
    return wrapped(inside, len(content), number)


def opened(data: bytes, algorithm: Algorithm, step: int | None = None) -> bytes:
    inflater = Inflater(algorithm)
    out = b""
    for at in range(0, len(data), step or len(data) or 1):
        out += b"".join(content for content, _ in inflater.feed(data[at : at + (step or len(data))]))
    assert inflater.at_boundary
    return out


@ALGORITHMS
def test_contents_however_they_are_cut(algorithm: Algorithm) -> None:
    rng = random.Random(7)
    parts = [rng.randbytes(size) + b"x" * size for size in (1, 60, 5_000, 70_000)]
    data = b"".join(squeezed(part, algorithm, n) for n, part in enumerate(parts)) + envelope(4, b"plain")
    for step in (None, 1, 7, 4096):
        assert opened(data, algorithm, step) == b"".join(parts) + b"plain"


def test_frames_of_zstd_as_a_server_may_write_them() -> None:
    """Without its content's size in the header, with a checksum, at the highest level."""
    content = b"the same again " * 9_000
    unsized = zstandard.ZstdCompressor(write_content_size=False).compress(content)
    checked = zstandard.ZstdCompressor(write_checksum=True).compress(content)
    highest = zstandard.ZstdCompressor(22).compress(content)
    streamed = zstandard.ZstdCompressor().compressobj()
    pieces = streamed.compress(content[:999]) + streamed.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
    pieces += streamed.compress(content[999:]) + streamed.flush()
    for frame in (unsized, checked, highest, pieces):
        assert opened(wrapped(frame, len(content)), "zstd") == content


@ALGORITHMS
def test_what_is_sealed_can_be_opened_and_numbers_go_on(algorithm: Algorithm) -> None:
    envelopes = Envelopes(algorithm)
    envelopes.next = 255
    content = b"row " * 600_000
    sealed = envelopes.seal(b"short") + envelopes.seal(content)
    assert sealed[:12] == wrapped(b"short", 0, 255)
    assert sealed[12 + 3] == 0
    assert opened(sealed, algorithm) == b"short" + content
    assert len(sealed) < len(content) / 10
    assert envelopes.open(squeezed(b"y" * 100, algorithm)) == b"y" * 100


@ALGORITHMS
def test_an_envelope_that_does_not_hold_what_it_says(algorithm: Algorithm) -> None:
    content = b"z" * 1_000
    good = squeezed(content, algorithm)[7:]
    bomb = squeezed(bytes(16_000_000), algorithm)[7:]
    for payload, before in (
        (good, 999), (good, 1_001), (good[:-3], 1_000), (b"garbage", 7), (good, 1), (bomb, 100),
        (good[:5] + b"\xff\xff" + good[7:], 1_000),
    ):  # fmt: skip
        with pytest.raises(ProtocolError):
            opened(wrapped(payload, before), algorithm)


@ALGORITHMS
def test_one_side_of_an_authentication(algorithm: Algorithm) -> None:
    """Numbers go on from whoever sent last, over 255; what is cut anywhere is opened when it is whole."""
    side = Wrapping(algorithm, 254)
    assert side.seal(b"first") == wrapped(b"first", 0, 254)
    answer = squeezed(b"answer" * 20, algorithm, 255)
    for at in range(len(answer)):
        assert side.open(answer[at : at + 1], 1_000) == (b"answer" * 20 if at == len(answer) - 1 else b"")
    assert side.seal(b"second") == wrapped(b"second", 0, 0)
    assert side.seal(b"") == b""
    assert side.open(answer[:9], 1_000) == b""
    assert side.rest == answer[:9]


def test_an_authentication_holds_no_more_than_it_may() -> None:
    side = Wrapping("zlib", 1)
    assert side.open(wrapped(b"x" * 1_000, 0)[:900], 1_000) == b""
    with pytest.raises(ProtocolError):
        side.open(wrapped(b"x" * 5_000, 0)[:2_000], 1_000)


@ALGORITHMS
def test_what_is_opened_in_one_go_is_bounded_by_what_it_holds(algorithm: Algorithm) -> None:
    parts = [b"x" * size for size in (1, 100_000, 300_000, 7, 200_000, 200_000)] * 20
    data = b"".join(squeezed(part, algorithm) for part in parts)
    assert len(data) < 64 << 10
    for step in (len(data), 1, 10, 4096):
        inflater, held = Inflater(algorithm), []
        for piece in [data[at : at + step] for at in range(0, len(data), step)]:
            at = 0
            while at < len(piece):
                size = inflater.turn(piece, at, 64 << 10)
                assert 0 < size <= len(piece) - at
                held.append([content for content, _ in inflater.feed(piece[at : at + size])])
                at += size
        assert b"".join(content for turn in held for content in turn) == b"".join(parts)
        assert max(sum(map(len, turn[:-1])) for turn in held) < TURN_CONTENT
    assert Inflater(algorithm).turn(b"\0" * 100, 0, 64) == 64
