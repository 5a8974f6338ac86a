"""The standing verdicts on disk: what a sidecar enforces from its first second, whether Kafka answers or not."""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path

import orjson

from ..errors import CodecError
from ..events.codec import decode_verdict, encode_verdict
from ..events.verdict import Verdict

log = logging.getLogger(__name__)


class VerdictTable:
    """The newest verdict of every key, in one JSON file of its owner only, replaced whole."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._verdicts: dict[str, Verdict] = {}
        try:
            saved = orjson.loads(self.path.read_bytes())
        except FileNotFoundError:
            return
        except (OSError, orjson.JSONDecodeError):
            log.error("%s cannot be read and is left out: the verdicts come again from Kafka", self.path)
            return
        for item in saved if isinstance(saved, list) else ():
            with contextlib.suppress(CodecError):
                verdict = decode_verdict(orjson.dumps(item))
                self._verdicts[verdict.key] = verdict

    def verdicts(self) -> list[Verdict]:
        return list(self._verdicts.values())

    def apply(self, verdict: Verdict) -> bool:
        """Keep it when it is newer than what stood; True when it was. The caller saves."""
        known = self._verdicts.get(verdict.key)
        if known is not None and known.revision >= verdict.revision:
            return False
        self._verdicts[verdict.key] = verdict
        return True

    def save(self) -> None:
        """Raises OSError."""
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        written = self.path.with_suffix(".new")
        descriptor = os.open(written, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(b"[" + b",\n".join(encode_verdict(v) for v in self._verdicts.values()) + b"]\n")
        written.rename(self.path)
