"""`exfilguard archive` against real brokers: killed again and again, each event is in the archive once, each decision in the
ledger once, and what `audit verify` and `archive export` say of it as their users run them."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

from exfilguard.config.schema import ArchiveConfig, Config
from exfilguard.embedded.broker import EmbeddedBroker
from exfilguard.embedded.kafka import ApacheKafka
from exfilguard.events.action import Action
from exfilguard.events.chain import ChainWriter
from exfilguard.events.codec import encode_action, encode_verdict
from exfilguard.events.topics import Topics
from exfilguard.events.verdict import Verdict
from exfilguard.evidence.reader import ArchiveReader
from exfilguard.runtime.kafka import producer_of, send_now

from .pipeline import PARTITIONS, TENANT, installation
from .stack import Stack, wait_for

COMMIT = ArchiveConfig(commit_ms=200, checkpoint_ms=1_000)


def archived(config: Config) -> tuple[Counter[str], dict[str, int], int]:
    """Events and rows per account, and how many names of events there are, as DuckDB counts them."""
    reader = ArchiveReader(Path(config.archive_dir))
    connection = reader.scan(TENANT, 0, 1 << 50)
    events: Counter[str] = Counter()
    rows: dict[str, int] = {}
    for name, count, total in connection.execute(
        "SELECT principal, count(*), sum(rows) FROM events GROUP BY 1"
    ).fetchall():
        events[name], rows[name] = count, int(total)
    found = connection.execute(
        "SELECT count(DISTINCT (sidecar, epoch, hash(principal), seq, item, time_ms)) FROM events"
    )
    assert reader.skipped == {}
    row = found.fetchone()
    assert row is not None
    return events, rows, row[0]


def command(stack: Stack, *arguments: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "exfilguard", *arguments, "--config", str(stack.path)]
    return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)


def test_killed_again_and_again_everything_is_in_once(tmp_path: Path, broker: EmbeddedBroker | ApacheKafka) -> None:
    made, load = installation(tmp_path / "i", broker)
    elsewhere = tmp_path / "elsewhere"
    stack = Stack(replace(made.config, archive=replace(COMMIT, checkpoint_dir=str(elsewhere))))
    topics = Topics(stack.config.kafka.prefix)
    rng = random.Random(5)
    decisions = 0
    try:
        stack.start("shipper")
        stack.start("archive")
        wait_for(lambda: stack.snapshot("archive"), 30, stack.log("archive")[-500:])
        load.write(50)
        wait_for(lambda: stack.total("archive_events_total") >= 50, 30, stack.log("archive")[-500:])
        with producer_of(stack.config) as producer:
            writer = ChainWriter("detector:t", "e1")
            for _ in range(6):
                load.write(200)
                for _ in range(3):
                    decisions += 1
                    verdict = Verdict(
                        TENANT, f"account{decisions % 4}", "cut", decisions, decisions, "much", "detector:t"
                    )
                    record = writer.seal(encode_verdict(verdict))
                    send_now(producer, topics.verdicts, verdict.key.encode(), record)
                    if rng.random() < 0.5:  # at least once is what a producer promises
                        send_now(producer, topics.verdicts, verdict.key.encode(), record)
                    decisions += 1
                    action = Action(TENANT, verdict.principal, "h", "lock", "done", True, 1, decisions, decisions, "ok")
                    send_now(producer, topics.actions, action.key.encode(), writer.seal(encode_action(action)))
                time.sleep(rng.random() * 0.6)
                stack.kill("archive")
                stack.start("archive")
            standing = replace(verdict, reason="published again by a sidecar")
            send_now(producer, topics.verdicts, standing.key.encode(), encode_verdict(standing))

        def done() -> bool:
            found = stack.snapshot("archive")
            return (
                found is not None
                and found.details["events"] >= load.events
                and stack.total("ledger_entries_total") >= decisions + 1
            )

        wait_for(done, 40, stack.log("archive")[-800:])
        stack.kill("archive", 15)
    finally:
        stack.stop()
    events, rows, names = archived(stack.config)
    assert events.total() == names == load.events
    assert rows == {key.partition("/")[2]: count for key, count in load.rows.items() if key.partition("/")[2] in rows}
    verified = command(stack, "audit", "verify", "--json")
    found = json.loads(verified.stdout)
    assert (verified.returncode, found["ok"]) == (0, True), found
    lines = [json.loads(line) for line in _ledger(stack).read_text().splitlines()]
    kinds = Counter(line["type"] for line in lines)
    assert kinds["verdict"] + kinds["action"] == decisions
    assert kinds.keys() <= {"genesis", "verdict", "action", "repair"}
    assert found["covered"] == len(lines) - 1, "signed when it was stopped"
    assert PARTITIONS > 1

    exported = command(stack, "archive", "export", "--from", "1d", "--format", "jsonl")
    assert exported.returncode == 0
    assert len(exported.stdout.splitlines()) >= sum(1 for _ in rows)

    # Somebody removes an entry.
    (key,) = elsewhere.glob("*.public-key.pem")
    (_ledger(stack).parent / "checkpoints.jsonl").unlink()
    text = _ledger(stack).read_text().splitlines(keepends=True)
    _ledger(stack).write_text("".join(text[:5] + text[6:]))
    bad = command(stack, "audit", "verify", "--public-key", str(key), "--checkpoints", str(elsewhere))
    assert bad.returncode == 1
    assert "entry 5 is missing" in bad.stdout


def _ledger(stack: Stack) -> Path:
    (path,) = (Path(stack.config.archive_dir) / "ledger").glob("ledger-*.jsonl")
    return path


def test_a_broker_that_forgot_is_read_again_and_nothing_is_in_twice(tmp_path: Path) -> None:
    with EmbeddedBroker(log_path=tmp_path / "b1.log") as first:
        port = first.port
        made, load = installation(tmp_path / "i", first)
        stack = Stack(replace(made.config, archive=COMMIT))
        try:
            stack.start("shipper")
            stack.start("archive")
            wait_for(lambda: stack.snapshot("archive"), 30, stack.log("archive")[-500:])
            load.write(300)
            wait_for(lambda: stack.total("archive_events_total") >= 300, 30, stack.log("archive")[-500:])
        except BaseException:
            stack.stop()
            raise
    try:
        with EmbeddedBroker(port, log_path=tmp_path / "b2.log"):
            load.write(300)
            wait_for(lambda: stack.total("archive_events_total") >= 600, 40, stack.log("archive")[-500:])
            time.sleep(1.0)
            stack.kill("archive", 15)
    finally:
        stack.stop()
    events, _, names = archived(stack.config)
    assert events.total() == names == load.events == 600


def test_commands_without_an_archive_say_what_to_do(tmp_path: Path) -> None:
    stack = Stack(Config(tenant="t", data_dir=str(tmp_path)))
    for arguments in (("archive", "check"), ("archive", "export"), ("archive", "sql", "SELECT 1")):
        done = command(stack, *arguments)
        assert (done.returncode, "exfilguard archive" in done.stderr) == (1, True), done.stderr
    done = command(stack, "audit", "verify")
    assert (done.returncode, "there is no ledger" in done.stderr) == (2, True), done.stderr
