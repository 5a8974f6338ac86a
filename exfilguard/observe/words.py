"""Which of a set of words a text has, in capitals or not (ASCII)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

try:
    from ._words import Words as CompiledWords
except ImportError:  # no C compiler at installation
    CompiledWords = None  # type: ignore[assignment,misc]


class PlainWords:
    """One search for each word: the definition."""

    def __init__(self, words: Iterable[str]) -> None:
        self._words = {word.encode().lower(): word for word in words if word}
        whole = [_edge(name[:1], rb"(?<!%s)") + re.escape(name) + _edge(name[-1:], rb"(?!%s)") for name in self._words]
        self._whole = re.compile(b"|".join(whole), re.IGNORECASE) if whole else None

    def found(self, data: bytes) -> set[str]:
        """Those of the words that this text has, as parts of others too."""
        low = data.lower()
        return {word for name, word in self._words.items() if name in low}

    def has_any(self, data: bytes) -> bool:
        """True when one of them stands there as a word of its own."""
        return self._whole is not None and self._whole.search(data) is not None


def _edge(last: bytes, looking: bytes) -> bytes:
    return looking % rb"[0-9A-Za-z_]" if re.fullmatch(rb"[0-9A-Za-z_]", last) else b""


def word_set(words: Iterable[str]) -> PlainWords:
    """One for these words; the same one for all who ask, since it takes some milliseconds to make."""
    return _made(frozenset(words))


@lru_cache(maxsize=64)
def _made(words: frozenset[str]) -> PlainWords:
    return PlainWords(words) if CompiledWords is None else CompiledWords(words)  # type: ignore[return-value]
