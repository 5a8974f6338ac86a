"""Two responders on one Kafka: no more accounts are suspended than one may, through a kill."""

from __future__ import annotations

import sys
from pathlib import Path

from exfilguard.config.responder import CommandHookConfig
from exfilguard.config.schema import Config, ResponderConfig
from exfilguard.embedded.kafka import ApacheKafka
from exfilguard.events.chain import ChainWriter
from exfilguard.events.codec import encode_verdict
from exfilguard.events.topics import Topics
from exfilguard.events.verdict import Verdict
from exfilguard.runtime.clock import now_ms
from exfilguard.runtime.kafka import producer_of, send_now

from .stack import Stack, kafka_config, wait_for

BOUND, ACCOUNTS = 5, 20
DOOR = """
import json, os, sys
given = json.load(sys.stdin)
path = os.path.join(sys.argv[1], given["account"])
if given["operation"] == "lock":
    open(path, "w").close()
elif given["operation"] == "unlock":
    os.path.exists(path) and os.unlink(path)
else:
    print(json.dumps({"locked": os.path.exists(path), "sessions": 0, "undo": {"locked": os.path.exists(path)}}))
"""


def test_two_responders_share_the_mass_lock_stop(tmp_path: Path, apache_kafka: ApacheKafka) -> None:
    locked, program = tmp_path / "locked", tmp_path / "door.py"
    locked.mkdir()
    program.write_text(DOOR, encoding="ascii")
    door = CommandHookConfig(name="door", argv=[sys.executable, "-S", str(program), str(locked)])
    kafka = kafka_config(apache_kafka, prefix=f"masslock{now_ms()}", partitions=8)
    responder = ResponderConfig(command=[door], mass_lock_accounts=BOUND, mass_lock_window_ms=3_600_000)
    stacks = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        stacks.append(Stack(Config(tenant="clinic", data_dir=str(tmp_path / name), kafka=kafka, responder=responder)))
    config, chain = stacks[0].config, ChainWriter("detector:1", "test")

    def order(first: int, last: int) -> None:
        with producer_of(config) as producer:
            for n in range(first, last):
                now = now_ms()
                verdict = Verdict(
                    "clinic", f"account{n}", "lock", now, now, "too many", "detector:1", crossed_ms=now
                )  # fmt: skip
                send_now(
                    producer, Topics(kafka.prefix).verdicts, verdict.key.encode(), chain.seal(encode_verdict(verdict))
                )

    def settled(accounts: int) -> bool:
        held = sum(stack.total("held_accounts") for stack in stacks)
        return len(list(locked.iterdir())) == BOUND and held == accounts - BOUND

    try:
        for stack in stacks:
            stack.start("responder")
        wait_for(lambda: _shared(stacks), 90.0)
        order(0, ACCOUNTS)
        wait_for(lambda: settled(ACCOUNTS), 60.0, stacks[0].log("responder")[-500:])
        stacks[0].kill("responder")
        order(ACCOUNTS, ACCOUNTS + 6)
        stacks[0].start("responder")
        wait_for(lambda: _shared(stacks) and settled(ACCOUNTS + 6), 90.0, stacks[1].log("responder")[-500:])
    finally:
        for stack in stacks:
            stack.stop()
    assert len(list(locked.iterdir())) == BOUND


def _shared(stacks: list[Stack]) -> bool:
    """Each has partitions, and together they have all eight once."""
    found = [stack.snapshot("responder") for stack in stacks]
    parts = [set(one.details["partitions"]) if one is not None else set() for one in found]
    return all(parts) and len(parts[0] | parts[1]) == 8 and not parts[0] & parts[1]
