"""Who wrote a frame: HMAC-SHA-256 under its sidecar's own key, in the header `signature` of its Kafka record. Pure.

Kafka checks who may write to a topic and does not tell its readers who did. All sidecars write to one topic, so without this a stolen
credential of one could write frames in another's name. Signed is the partition (4 bytes, big-endian) and the record's value to the
byte: a frame is good where it was meant for and nowhere else. That one comes again is seen by `(sidecar, epoch, seq)`.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence

HEADER = "signature"
MIN_KEY_CHARACTERS = 32
REASONS = ("unsigned", "unknown", "forged")
"""Why a frame is refused: without a signature; of a sidecar that has no key here; not by a key of its sidecar."""


def sign(key: bytes, partition: int, value: bytes) -> bytes:
    """32 bytes."""
    return hmac.digest(key, partition.to_bytes(4, "big") + value, "sha256")


class FrameKeys:
    """Keys by (tenant, sidecar's id), the newest first; counts what it refuses. A frame's `sidecar` is the id, a dash and the relay's
    number."""

    def __init__(self, keys: Mapping[tuple[str, str], Sequence[bytes]], *, accept_unsigned: bool = False) -> None:
        self.keys = keys
        self.accept_unsigned = accept_unsigned
        self.refused = dict.fromkeys(REASONS, 0)

    def refusal(self, partition: int, tenant: str, sidecar: str, value: bytes, signature: bytes) -> str:
        """Why this frame is not its sidecar's; empty when it is."""
        if not signature:
            return "" if self.accept_unsigned else self._refuse("unsigned", sidecar)
        known = self.keys.get((tenant, sidecar.rpartition("-")[0]))
        if not known:
            return self._refuse("unknown", sidecar)
        if any(hmac.compare_digest(sign(key, partition, value), signature) for key in known):
            return ""
        return self._refuse("forged", sidecar)

    def _refuse(self, reason: str, sidecar: str) -> str:
        self.refused[reason] += 1
        text = {
            "unsigned": "is not signed",
            "unknown": "is signed, and there is no key of its sidecar",
            "forged": "is not signed with a key of its sidecar",
        }[reason]
        return f"frame: {text} ({sidecar[:80]!a})"


def signature_of(headers: object) -> bytes:
    """Of a record as any of our Kafka clients gives them: pairs, or a mapping, or nothing."""
    if not headers:
        return b""
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    for name, value in pairs:  # type: ignore[attr-defined]
        if name == HEADER:
            return bytes(value or b"")
    return b""
