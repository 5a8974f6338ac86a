"""File descriptors: two for each session, so the process's limit is a limit of sessions."""

from __future__ import annotations

import resource

from ..config.schema import Config

RESERVED_DESCRIPTORS = 192
"""For the spool, the control and statistics sockets, clients being refused, cancels on their way, certificates being read."""


def descriptor_limit() -> int:
    """Raise this process's limit as far as it may be raised; returns it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard if hard != resource.RLIM_INFINITY else 1 << 30


def descriptor_problem(config: Config, descriptors: int) -> str:
    """What is wrong with the limit, and what to do; empty when there is room for every session that is configured."""
    sessions = sum(listener.max_sessions for listener in config.listener)
    needed = 2 * sessions + RESERVED_DESCRIPTORS
    if descriptors >= needed:
        return ""
    fit = max(1, (descriptors - RESERVED_DESCRIPTORS) // 2)
    return (
        f"file descriptors: this process may open {descriptors}, and {sessions} sessions (max_sessions) need {needed}: clients beyond "
        f"{fit} are refused with the engine's own error. Raise the limit (systemd: LimitNOFILE={needed}; shell: ulimit -Hn; "
        f"containers: --ulimit nofile={needed}), or lower max_sessions"
    )
