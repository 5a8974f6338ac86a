"""Mutations of a conversation: of its bytes, its lengths, its messages, and of the order in which they come."""

from __future__ import annotations

import random

from tests.wire.transcript import Step

INTERESTING = (
    0,
    1,
    3,
    4,
    5,
    6,
    7,
    8,
    0x7F,
    0xFF,
    0x7FFF,
    0xFFFF,
    1 << 16,
    1 << 24,
    1 << 30,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
)


def bytes_of(rng: random.Random, data: bytes) -> bytes:
    """A few bytes changed, put in, or taken out."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 8))):
        at = rng.randrange(len(out) + 1)
        match rng.randrange(6):
            case 0 if at < len(out):
                out[at] = rng.randrange(256)
            case 1 if at < len(out):
                out[at] ^= 1 << rng.randrange(8)
            case 2:
                out[at:at] = rng.randbytes(rng.choice((1, 1, 2, 5, 20)))
            case 3:
                del out[at : at + rng.choice((1, 1, 2, 5, 100))]
            case 4:
                size = rng.choice((1, 2, 4))
                out[at : at + size] = (rng.choice(INTERESTING) & ((1 << 8 * size) - 1)).to_bytes(
                    size, rng.choice(("big", "little"))
                )
            case _:
                del out[at:]
    return bytes(out)


def damaged(rng: random.Random, steps: list[Step], times: int) -> None:
    """So often the bytes of some step are changed, in place."""
    for _ in range(times if steps else 0):
        at = rng.randrange(len(steps))
        steps[at] = (steps[at][0], bytes_of(rng, steps[at][1]))


def order(rng: random.Random, steps: list[Step]) -> list[Step]:
    """Messages doubled, lost, swapped, or said by the other side."""
    out = list(steps)
    for _ in range(rng.choice((1, 1, 2, 3))):
        if not out:
            break
        at, other = rng.randrange(len(out)), rng.randrange(len(out))
        match rng.randrange(5):
            case 0:
                out.insert(other, out[at])
            case 1:
                del out[at]
            case 2:
                out[at], out[other] = out[other], out[at]
            case 3:
                side, data = out[at]
                out[at] = ("<" if side == ">" else ">", data)
            case _:
                out += [out[at]] * rng.choice((1, 2, 50))
    return out


def cut(rng: random.Random, steps: list[Step]) -> list[Step]:
    """The same bytes in other pieces."""
    out: list[Step] = []
    for side, data in steps:
        if out and out[-1][0] == side and rng.random() < 0.5:
            out[-1] = (side, out[-1][1] + data)
        elif len(data) > 1 and rng.random() < 0.3:
            at = rng.randrange(1, len(data))
            out += [(side, data[:at]), (side, data[at:])]
        else:
            out.append((side, data))
    return out
