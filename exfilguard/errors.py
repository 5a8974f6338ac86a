"""Every error ExfilGuard raises on purpose. One flat hierarchy.

Rules: a message says what the operator should do, and never carries SQL literals, row values, patient identifiers or
credentials. Anything else that escapes a module is a bug.
"""

from __future__ import annotations


class ExfilGuardError(Exception):
    """Base of all errors raised on purpose."""


class ConfigError(ExfilGuardError):
    """The configuration cannot be used. `problems` lists every mistake found, not only the first."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class ProtocolError(ExfilGuardError):
    """The peer's bytes do not follow the database protocol. The only error a wire parser may raise."""


class CodecError(ExfilGuardError):
    """A record read from Kafka cannot be decoded. The reason names the field, never its value."""


class SnapshotError(ExfilGuardError):
    """A windows snapshot cannot be read: wrong version, wrong shape, or damaged."""


class SpoolFull(ExfilGuardError):
    """The spool reached its bound, or its disk is full. The listener's policy decides what happens next."""


class HookError(ExfilGuardError):
    """A lock-out hook could not do, or could not verify, what it was asked."""


class HookRefused(HookError):
    """A lock-out hook will not act on this account (superuser, break-glass, shared). Not a failure."""


class BrokerError(ExfilGuardError):
    """Kafka could not be reached or refused a request, within the time given."""


class EmbeddedError(ExfilGuardError):
    """A part of the one-machine installation (broker, demo database) could not be started."""


class EvidenceError(ExfilGuardError):
    """The archive, the ledger or a key of theirs cannot be used as it is."""


class DrillAborted(ExfilGuardError):
    """A drill met something it did not expect and stopped: the message says what, and what to do."""
