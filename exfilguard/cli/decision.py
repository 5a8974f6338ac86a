"""What an operator decides: a verdict on the topic, and an action that says who, when, from where and why.

Both are sealed by one chain: the decision shows when either is removed.
"""

from __future__ import annotations

import os
import pwd
import re
import secrets
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ..config.schema import Config
from ..errors import ConfigError
from ..events.action import MASS_LOCK, OPERATOR, Action, Operation, Outcome
from ..events.chain import ChainWriter
from ..events.codec import encode_action, encode_verdict
from ..events.topics import Topics
from ..events.verdict import Verdict
from ..runtime.clock import now_ms

_NAME = re.compile(r"[A-Za-z0-9._@-]{1,64}")


@dataclass(frozen=True, slots=True)
class Person:
    """Who types the command."""

    name: str
    os_user: str
    """As the operating system knows; behind sudo, who asked for it."""
    host: str

    @property
    def actor(self) -> str:
        """For the record: `anna`, or `anna as root` where the operating system knows another name."""
        return self.name if self.name == self.os_user else f"{self.name} as {self.os_user}"


def os_user() -> str:
    """Not from the environment, which anybody may set; SUDO_USER counts for root only, who could be anybody anyway."""
    if os.geteuid() == 0 and os.environ.get("SUDO_UID", "").isdigit():
        try:
            return pwd.getpwuid(int(os.environ["SUDO_UID"])).pw_name
        except KeyError:
            return f"uid {os.environ['SUDO_UID']}"
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid {os.getuid()}"


def person(name: str) -> Person:
    """`name`: from --as, or empty. Raises ConfigError."""
    if name and not _NAME.fullmatch(name):
        raise ConfigError(["--as: write a name of letters, digits, dots, dashes, at signs; at most 64"])
    user = os_user()
    return Person(name or user, user, socket.gethostname())


def same_person(actor: str, who: Person) -> bool:
    """One name or one login in common is enough to be the same."""
    name, _, user = actor.partition(" as ")
    return name == who.name or (user or name) == who.os_user


def next_revision(known: Verdict | None, now: int) -> int:
    """Order is by revision: newer than what stands, whatever the clock says."""
    return max(now, known.revision + 1 if known is not None else 0)


def action_of(
    config: Config,
    who: Person,
    principal: str,
    operation: Operation,
    outcome: Outcome,
    revision: int,
    reason: str,
    **more: Any,
) -> Action:
    """The record of one decision."""
    now = now_ms()
    return Action(
        tenant=config.tenant, principal=principal, hook=OPERATOR, operation=operation, outcome=outcome, verified=False,
        verdict_revision=revision, started_ms=now, ended_ms=now, actor=who.actor, host=who.host, reason=reason, **more,
    )  # fmt: skip


def publish(config: Config, who: Person, verdict: Verdict | None, action: Action) -> None:
    """Write the verdict, if there is one, then the action; each acknowledged by all replicas. Raises BrokerError."""
    from ..runtime.kafka import producer_of, send_now

    topics, chain = Topics(config.kafka.prefix), ChainWriter(f"operator:{who.name}", secrets.token_hex(8))
    with producer_of(config) as producer:
        if verdict is not None:
            send_now(producer, topics.verdicts, verdict.key.encode(), chain.seal(encode_verdict(verdict)))
        send_now(producer, topics.actions, action.key.encode(), chain.seal(encode_action(action)))


def standing(config: Config) -> dict[str, Verdict]:
    """Every key's newest verdict. Raises BrokerError."""
    from ..runtime.kafka import read_verdicts

    return read_verdicts(config)


def actions(config: Config) -> list[Action]:
    """All actions of this tenant. Raises BrokerError."""
    from ..runtime.kafka import read_actions

    return [action for action in read_actions(config) if action.tenant == config.tenant]


def request_of(found: Iterable[Action], verdict: Verdict, now: int) -> Action | None:
    """The newest request to lift this verdict that still waits for a second operator."""
    newest = None
    for action in found:
        if (
            (action.hook, action.operation, action.outcome) == (OPERATOR, "unlock", "requested")
            and action.key == verdict.key
            and action.verdict_revision == verdict.revision
            and now < action.expires_ms
        ):
            newest = action
    return newest


def held_verdicts(found: Iterable[Action], verdicts: dict[str, Verdict], now: int) -> list[Verdict]:
    """Verdicts in force whose suspension the mass-lock stop holds back."""
    held = {
        action.key: action.verdict_revision for action in found if (action.hook, action.outcome) == (MASS_LOCK, "held")
    }
    return [
        verdict
        for key, verdict in verdicts.items()
        if held.get(key) == verdict.revision and verdict.in_force(now) and verdict.level == "lock"
    ]
