"""The sidecars' keys as files, for who reads frames: `kafka.frame_keys_dir`.

`SIDECAR.key` is of a sidecar of the reader's own tenant, `TENANT/SIDECAR.key` of another's. A file holds one key a line, the newest
first; `#` begins a comment. A file that changes is used within seconds, so a key is exchanged without a restart: the new line here, the
new key at the sidecar, the old line away.
"""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path

from ..config.schema import Config
from ..errors import ConfigError
from ..events.signature import MIN_KEY_CHARACTERS, FrameKeys

log = logging.getLogger(__name__)

_Seen = frozenset[tuple[str, int, int]]


def read_keys(directory: Path, tenant: str) -> dict[tuple[str, str], list[bytes]]:
    """(tenant, sidecar) -> its keys. Raises ConfigError."""
    out: dict[tuple[str, str], list[bytes]] = {}
    problems = []
    for path in _files(directory):
        owner = tenant if path.parent == directory else path.parent.name
        try:
            lines = [line.strip() for line in path.read_text(encoding="ascii").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            problems.append(f"{path}: cannot be read ({type(error).__name__}): check its permissions")
            continue
        keys = [line.encode() for line in lines if line and not line.startswith("#")]
        if not keys or any(len(key) < MIN_KEY_CHARACTERS for key in keys):
            problems.append(
                f"{path}: holds one key a line, of at least {MIN_KEY_CHARACTERS} characters: `openssl rand -hex 32`"
            )
        out[(owner, path.stem)] = keys
    if not out and not problems:
        problems.append(f"{directory}: holds no SIDECAR.key: every frame would be refused")
    if problems:
        raise ConfigError(problems)
    return out


def _files(directory: Path) -> list[Path]:
    return sorted([*directory.glob("*.key"), *directory.glob("*/*.key")])


def _look(directory: Path) -> _Seen:
    out = []
    for path in _files(directory):
        with contextlib.suppress(OSError):  # just now taken away
            state = path.stat()
            out.append((str(path), state.st_mtime_ns, state.st_size))
    return frozenset(out)


class KeyFiles:
    """The keys in force; None in `keys` where signatures are not looked at."""

    def __init__(self, config: Config) -> None:
        """Raises ConfigError."""
        self._tenant = config.tenant
        self._directory = Path(config.kafka.frame_keys_dir) if config.kafka.frame_keys_dir else None
        self._seen: _Seen = frozenset()
        self.keys: FrameKeys | None = None
        if self._directory is not None:
            self._seen = _look(self._directory)
            self.keys = FrameKeys(
                read_keys(self._directory, self._tenant), accept_unsigned=config.kafka.unsigned_frames == "accept"
            )

    def reload(self) -> None:
        """Every second or so. What cannot be used changes nothing."""
        if self.keys is None or self._directory is None or (seen := _look(self._directory)) == self._seen:
            return
        self._seen = seen
        try:
            self.keys.keys = read_keys(self._directory, self._tenant)
        except ConfigError as error:
            log.error("the sidecars' keys stay as they were: %s", error)
        else:
            log.info("the sidecars' keys were read again: %d sidecars", len(self.keys.keys))

    def figures(self) -> list[tuple[str, dict[str, str], float]]:
        """For a Snapshot."""
        if self.keys is None:
            return []
        return [("frames_refused_total", {"reason": reason}, count) for reason, count in self.keys.refused.items()]
