"""Each verdict and action carries the hash of the one its writer wrote before it, so that a removed or edited one shows.

Rule: a writer is one process from its start to its end; its chain is `issuer@epoch`, `epoch` drawn anew at each start. Entries
count from 0 without a gap; `prev` is the SHA-256 of the whole record before it, as its bytes lay on the topic, and empty for
the first. Nothing has to be remembered across restarts, several writers never meet in one chain, and a record that was
delivered twice is the same entry twice. A chain's end is not marked: that its last entries are missing is for the ledger
and its checkpoints to show (evidence/ledger.py).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import orjson

from ..errors import CodecError

FIELD = "chain"


def digest_of(record: bytes) -> str:
    """SHA-256 of a record's bytes, 64 hex digits."""
    return hashlib.sha256(record).hexdigest()


@dataclass(frozen=True, slots=True)
class Link:
    """Where a record stands in its writer's chain."""

    chain: str
    seq: int
    prev: str
    """Hash of the entry before; empty for the first."""


class ChainWriter:
    """Seals the records of one process. Not thread-safe: one writer, one thread or event loop."""

    def __init__(self, issuer: str, epoch: str) -> None:
        self.chain = f"{issuer}@{epoch}"
        self._seq = 0
        self._prev = ""

    def seal(self, record: bytes) -> bytes:
        """The record (a JSON object) with its link. Seal once, then send the same bytes as often as it takes."""
        if not record.endswith(b"}") or len(record) < 3:
            raise ValueError("a record is a JSON object with at least one field")
        link = orjson.dumps({"id": self.chain, "seq": self._seq, "prev": self._prev})
        sealed = record[:-1] + b',"chain":' + link + b"}"
        self._seq += 1
        self._prev = digest_of(sealed)
        return sealed


def link_of(record: bytes) -> Link | None:
    """The link of a record; None when it has none. Raises CodecError when it cannot be read."""
    try:
        body = orjson.loads(record)
    except orjson.JSONDecodeError:
        raise CodecError("record: not JSON") from None
    found = body.get(FIELD) if isinstance(body, dict) else None
    if found is None:
        return None
    if not isinstance(found, dict):
        raise CodecError("record: chain is not an object")
    chain, seq, prev = found.get("id"), found.get("seq"), found.get("prev")
    if not isinstance(chain, str) or type(seq) is not int or seq < 0 or not isinstance(prev, str):
        raise CodecError("record: chain needs id, seq and prev")
    return Link(chain, seq, prev)
