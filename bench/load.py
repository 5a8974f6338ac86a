"""The stream benches' input: frames as a sidecar writes them, of many accounts with a Zipf distribution (s = 1).

Each event is one statement of one account, about 320 bytes of JSON: listener, session, principal, login, database, source,
application, fingerprint, rows, bytes and one patient. Of an account's statements nine in ten are about twenty patients that it
sees again and again, one in ten about somebody new.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

from exfilguard.events.codec import encode_event, encode_frame, frame_head
from exfilguard.events.query import QueryEvent

ACCOUNTS = 100_000
FRAME_EVENTS = 500
TENANT = "bench"
PLACEHOLDER_MS = 1_111_111_111_111
"""Stands for the time in a template; as many digits as a time of today, so that it can be replaced in place."""


def account(number: int) -> str:
    return f"dr.name{number:06d}"


def templates(frames: int, accounts: int = ACCOUNTS, seed: int = 1) -> Iterator[list[bytes]]:
    """The encoded events of so many frames, with PLACEHOLDER_MS for their time."""
    rng = random.Random(seed)
    weights = list(itertools.accumulate(1 / (rank + 1) for rank in range(accounts)))
    names = list(range(accounts))
    rng.shuffle(names)
    for _ in range(frames):
        events = []
        for n in rng.choices(names, cum_weights=weights, k=FRAME_EVENTS):
            known = rng.random() < 0.9
            patient = (n * 31 + rng.randrange(20)) * 0x9E3779B97F4A7C15 % (1 << 64) if known else rng.getrandbits(64)
            rows = rng.randrange(1, 8)
            events.append(
                encode_event(
                    QueryEvent(
                        time_ms=PLACEHOLDER_MS,
                        kind="query",
                        listener="dpi",
                        session=f"0-{n % 5000}",
                        principal=account(n),
                        login="dpi",
                        database="dpi",
                        source=f"10.1.{n % 25}.{n % 250}",
                        application="dpi",
                        statement=rng.randrange(1, 1000),
                        fingerprint=f"{rng.randrange(200):016x}",
                        rows=rows,
                        bytes=rows * 180,
                        patients=(f"{patient:016x}",),
                        patients_by="origin",
                        duration_us=rng.randrange(100, 900),
                    )
                )
            )
        yield events


class Frames:
    """Numbers templates and dates them: the frames of one sidecar for one partition."""

    def __init__(self, bodies: list[list[bytes]], epoch: str, sidecar: str = "bench-0") -> None:
        stamp = b"%d" % PLACEHOLDER_MS
        self._bodies = [b",".join(events).split(stamp) for events in bodies]
        self._head = frame_head(TENANT, sidecar, epoch)
        self.seq = 0
        self.events = 0
        """In all frames so far."""

    def next(self, now_ms: int) -> bytes:
        """The next frame, its events at `now_ms`."""
        body = (b"%d" % now_ms).join(self._bodies[self.seq % len(self._bodies)])
        value = encode_frame(self._head, self.seq, [body])
        self.seq += 1
        self.events += FRAME_EVENTS
        return value

    def special(self, event: QueryEvent) -> bytes:
        """A frame of one event."""
        value = encode_frame(self._head, self.seq, [encode_event(event)])
        self.seq += 1
        self.events += 1
        return value
