"""The policy in force, and its file watched: the one home of reloading.

A file that changed is used from the next look on. One with mistakes, or one that cannot be read, is refused and the old policy stays;
it is tried again when it changes again. A file that is gone for a moment (an editor writes it anew) is no change.
"""

from __future__ import annotations

import logging
from collections.abc import Container
from pathlib import Path

from ..detect.policy import Policy, policy_at
from ..errors import ConfigError

log = logging.getLogger(__name__)


class PolicyFile:
    """`path` empty: the built-in policy, which never changes. Raises ConfigError where the first reading fails."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._changed_ns = self._look()
        self.policy = policy_at(path)
        self.refused = 0
        """Versions that were not taken."""

    def reload(self) -> bool:
        """True when another policy came into force. One stat when nothing changed; never raises."""
        changed_ns = self._look()
        if changed_ns in (0, self._changed_ns):
            return False
        self._changed_ns = changed_ns
        try:
            policy = policy_at(self.path)
        except ConfigError as error:
            self.refused += 1
            log.error("the policy was not reloaded, version %s stays: %s", self.policy.version, error)
            return False
        log.info("policy %s is in force, instead of %s", policy.version, self.policy.version)
        self.policy = policy
        return True

    def current(self) -> Policy:
        """The policy in force now, after a look at the file."""
        self.reload()
        return self.policy

    def _look(self) -> int:
        """When the file last changed, nanoseconds; 0: there is none to look at."""
        try:
            return Path(self.path).stat().st_mtime_ns if self.path else 0
        except OSError:
            return 0


class NeverLocked(Container[str]):
    """The accounts that no hook may suspend, as the policy file says now: an emergency account that is added counts at once."""

    def __init__(self, file: PolicyFile) -> None:
        self._file = file

    def __contains__(self, account: object) -> bool:
        return account in self._file.current().never_locked
