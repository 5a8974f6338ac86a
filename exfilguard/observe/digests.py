"""Sets of patient digests: what a session has seen and not yet told. The definition; _digests.pyx is the same in C."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

__all__ = ["DigestSet", "Hmac", "PlainDigestSet"]

_DIGEST = re.compile("[0-9a-f]{16}")


class PlainDigestSet:
    """Different digests (16 hex digits), in the order in which they came first."""

    __slots__ = ("_digests",)

    def __init__(self) -> None:
        self._digests: dict[str, None] = {}

    def add(self, digest: str) -> None:
        """Raises ValueError for what is no digest."""
        if _DIGEST.fullmatch(digest) is None:
            raise ValueError("not a digest")
        self._digests[digest] = None

    def update(self, digests: Iterable[str]) -> None:
        """`add` each."""
        for digest in digests:
            self.add(digest)

    def clear(self) -> None:
        self._digests.clear()

    def json(self) -> bytes:
        """`"0123456789abcdef","..`: the elements of a JSON array."""
        return ",".join(f'"{digest}"' for digest in self._digests).encode("ascii")

    def __len__(self) -> int:
        return len(self._digests)

    def __iter__(self) -> Iterator[str]:
        return iter(self._digests)

    def __contains__(self, digest: object) -> bool:
        return digest in self._digests


try:
    from ._digests import DigestSet, Hmac
except ImportError:  # no C compiler at installation
    DigestSet = PlainDigestSet  # type: ignore[assignment,misc]
    Hmac = None  # type: ignore[assignment,misc]
