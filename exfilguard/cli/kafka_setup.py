"""`exfilguard kafka-setup`: topics, users and ACLs of a secured Kafka, from one list (deploy/kafka). Can be run again at any time."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from kafka.errors import KafkaError

from ..errors import BrokerError
from ..runtime.kafka import admin_client, ensure_topics
from ..runtime.kafka_acls import apply, as_commands, load_roles, password_of, role_of, secret_at
from ..runtime.kafka_trouble import why
from .common import add_config_option, load

ATTEMPTS = 50
"""A topic just made is known to every broker within moments."""


def register(commands: Any) -> None:
    text = "make topics, users and ACLs on a secured Kafka, with an administrator's credential"
    parser = commands.add_parser("kafka-setup", help=text, description=f"{text}. See deploy/kafka/README.md.")
    add_config_option(parser)
    parser.add_argument("--acls", required=True, metavar="FILE", help="the list of roles: deploy/kafka/acls.toml")
    parser.add_argument(
        "--passwords",
        required=True,
        metavar="DIR",
        help="where USER.password is; one that is missing is made, readable by you only",
    )
    parser.add_argument(
        "--user",
        action="append",
        default=[],
        metavar="NAME",
        help="a user, named ROLE or ROLE-SOMETHING; repeat it. Default: one of each role",
    )
    parser.add_argument(
        "--frame-keys",
        metavar="DIR",
        help="where NAME.key of each user sidecar-NAME is, with which that sidecar signs its frames; one that is missing is made",
    )
    parser.add_argument(
        "--print", action="store_true", help="print the same with Kafka's own tools, and change nothing"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    config = load(args)
    roles = load_roles(Path(args.acls), config.kafka.prefix)
    users = {user: roles[role_of(user, roles)] for user in args.user or roles}
    if args.print:
        print("\n".join(as_commands(users, config.kafka.bootstrap)))
        return 0
    passwords = {user: password_of(Path(args.passwords), user) for user in users}
    if args.frame_keys:
        for user in users:
            role, _, name = user.partition("-")
            if role == "sidecar" and name:
                secret_at(Path(args.frame_keys) / f"{name}.key", "--frame-keys")
    try:
        admin = admin_client(config)
    except (KafkaError, OSError) as error:
        reason = why(config) or "check the broker"
        raise BrokerError(f"{config.kafka.bootstrap} did not answer ({type(error).__name__}): {reason}") from None
    try:
        for _ in range(ATTEMPTS):
            if found := ensure_topics(admin, config):
                break
        print(f"{len(found)} topics are there, {config.kafka.replication} copies of each that was made now")
        for line in apply(admin, config, {user: (passwords[user], rights) for user, rights in users.items()}):
            print(line)
    except KafkaError as error:
        raise BrokerError(
            f"{config.kafka.bootstrap} did not do it ({type(error).__name__}): use an administrator's credential (a super user)"
        ) from None
    finally:
        admin.close()
    return 0
