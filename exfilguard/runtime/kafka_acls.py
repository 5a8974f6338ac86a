"""Users, topics and ACLs of a secured Kafka, from the list in deploy/kafka/acls.toml."""

from __future__ import annotations

import contextlib
import difflib
import secrets
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kafka.admin import (
    ACL,
    ACLFilter,
    ACLOperation,
    ACLPermissionType,
    ACLResourcePatternType,
    ResourcePattern,
    ResourcePatternFilter,
    ResourceType,
    ScramMechanism,
    UserScramCredentialUpsertion,
)
from kafka.errors import KafkaError

from ..config.schema import Config
from ..errors import BrokerError, ConfigError

ITERATIONS = 8_192
_OPERATIONS = {"read": ACLOperation.READ, "write": ACLOperation.WRITE}
_KEYS = {*_OPERATIONS, "groups"}


@dataclass(frozen=True, slots=True, order=True)
class Right:
    """One thing a user may do."""

    kind: str
    """topic or group"""
    name: str
    operation: str
    """read or write; Kafka lets who may do either see the topic as well."""


def load_roles(path: Path, prefix: str) -> dict[str, list[Right]]:
    """Role -> rights. Raises ConfigError."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError([f"{path}: cannot be read ({error}): name deploy/kafka/acls.toml or your copy"]) from None
    problems, roles = [], {}
    for role, section in document.items():
        if not isinstance(section, Mapping) or not section.keys() <= _KEYS:
            problems.append(f"{path}: [{role}]: holds {', '.join(sorted(_KEYS))} only, lists of names")
            continue
        rights = []
        for key, names in section.items():
            kind, operation = ("group", "read") if key == "groups" else ("topic", key)
            rights += [Right(kind, name.replace("{prefix}", prefix), operation) for name in names]
        roles[role] = sorted(rights)
    if problems:
        raise ConfigError(problems)
    return roles


def role_of(user: str, roles: Iterable[str]) -> str:
    """`sidecar-east` -> sidecar. Raises ConfigError."""
    known = list(roles)
    for role in known:
        if user == role or user.startswith(f"{role}-"):
            return role
    near = difflib.get_close_matches(user, known, 1)
    raise ConfigError([
        f"--user {user}: begin it with a role ({', '.join(known)})" + (f"; did you mean {near[0]}?" if near else "")
    ])  # fmt: skip


def new_password() -> str:
    """Also a key: 32 characters, 192 bit."""
    return secrets.token_urlsafe(24)


def _acl(user: str, right: Right) -> Any:
    kind = ResourceType.GROUP if right.kind == "group" else ResourceType.TOPIC
    pattern = ResourcePattern(kind, right.name, ACLResourcePatternType.LITERAL)
    return ACL(f"User:{user}", "*", _OPERATIONS[right.operation], ACLPermissionType.ALLOW, pattern)


def apply(admin: Any, config: Config, users: Mapping[str, tuple[str, list[Right]]]) -> list[str]:
    """`users`: name -> (password, rights). Each then has these rights and no others. Returns what was changed, a line each.
    Raises BrokerError."""
    said = []
    try:
        found = admin.describe_user_scram_credentials()
        refused = admin.alter_user_scram_credentials(
            [
                UserScramCredentialUpsertion(user, ScramMechanism.SCRAM_SHA_512, password, iterations=ITERATIONS)
                for user, (password, _) in users.items()
            ]
        )
        if wrong := {user: message for user, message in refused.items() if message}:
            raise BrokerError(f"the brokers did not take the password of {', '.join(sorted(wrong))}")
        said += [f"{user}: {'password set again' if user in found else 'made'}" for user in users]
        for user, (_, rights) in users.items():
            said += _set_rights(admin, user, {_acl(user, right) for right in rights})
    except KafkaError as error:
        raise BrokerError(
            f"{config.kafka.bootstrap} did not do it ({type(error).__name__}): use an administrator's credential (a super user)"
        ) from None
    return said


def _set_rights(admin: Any, user: str, wanted: set[Any]) -> list[str]:
    everything = ACLFilter(
        f"User:{user}", None, ACLOperation.ANY, ACLPermissionType.ANY,
        ResourcePatternFilter(ResourceType.ANY, None, ACLResourcePatternType.ANY),
    )  # fmt: skip
    there, error = admin.describe_acls(everything)
    if getattr(error, "errno", 0):
        raise error
    had = set(there)
    new, old = wanted - had, had - wanted
    if new:
        made = admin.create_acls(list(new))
        if made["failed"]:
            raise BrokerError(f"{len(made['failed'])} rights of {user} were not taken: {made['failed'][0][1]}")
    if old:
        admin.delete_acls(
            [
                ACLFilter(
                    a.principal, a.host, a.operation, a.permission_type,
                    ResourcePatternFilter(
                        a.resource_pattern.resource_type, a.resource_pattern.resource_name, a.resource_pattern.pattern_type
                    ),
                )
                for a in old
            ]
        )  # fmt: skip
    return [f"{user}: {len(new)} rights given, {len(old)} taken away"] if new or old else []


def as_commands(users: Mapping[str, list[Right]], bootstrap: str) -> list[str]:
    """The same with Kafka's own tools, for who prefers them; the password is asked for by the shell, not written here."""
    tool = f"--bootstrap-server {bootstrap} --command-config admin.properties"
    out = []
    for user, rights in users.items():
        out.append(
            f'kafka-configs.sh {tool} --alter --entity-type users --entity-name {user} --add-config "SCRAM-SHA-512=[password=$(cat {user}.password)]"'
        )
        out += [
            f"kafka-acls.sh {tool} --add --allow-principal User:{user} --operation {right.operation.capitalize()} "
            f"--{right.kind} {right.name}"
            for right in rights
        ]
    return out


def password_of(directory: Path, user: str) -> str:
    """From `directory/user.password`, made when it is not there. Raises ConfigError."""
    return secret_at(directory / f"{user}.password", "--passwords")


def secret_at(path: Path, option: str) -> str:
    """What the file holds; made when it is not there, for its owner only. `option`: where it was named. Raises ConfigError."""
    with contextlib.suppress(FileNotFoundError):
        return path.read_text(encoding="utf-8").strip()
    made = new_password()
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.touch(mode=0o600, exist_ok=False)
        path.write_text(made + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError([f"{path}: cannot be written ({error.strerror}): choose another {option}"]) from None
    return made
