"""The operator's commands as people type them, on a real broker: what stands afterwards, and what is on record."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from exfilguard.cli import decision
from exfilguard.cli.common import write_resolved
from exfilguard.cli.main import main
from exfilguard.config.schema import Config, DetectorConfig, ResponderConfig
from exfilguard.embedded.broker import EmbeddedBroker
from exfilguard.events.action import MASS_LOCK, Action
from exfilguard.events.chain import link_of
from exfilguard.events.codec import encode_action, encode_verdict
from exfilguard.events.topics import Topics
from exfilguard.events.verdict import Verdict
from exfilguard.runtime.clock import now_ms
from exfilguard.runtime.kafka import admin_client, ensure_topics, producer_of, send_now, whole_topic

from .stack import kafka_config, wait_for


class Desk:
    """An operator's terminal, and what lies on the topics."""

    def __init__(self, directory: Path, broker: EmbeddedBroker, capsys: Any, responder: ResponderConfig) -> None:
        policy = directory / "policy.toml"
        policy.write_text(
            'version="t"\nshared=["dpi"]\n[class.a]\nlimits=[{unit="rows",window="1m",alert=1}]\n', encoding="utf-8"
        )
        self.config = Config(
            tenant="clinic",
            data_dir=str(directory),
            kafka=kafka_config(broker, prefix=f"o{time.time_ns()}"),
            responder=responder,
            detector=DetectorConfig(policy=str(policy)),
        )
        self.path = directory / "resolved.toml"
        write_resolved(self.config, self.path)
        self.capsys = capsys
        with admin_client(self.config) as admin:
            wait_for(lambda: ensure_topics(admin, self.config))

    def run(self, *arguments: str, code: int = 0) -> Any:
        """The command's JSON."""
        assert main([*arguments, "--json", "--config", str(self.path)]) == code
        out = self.capsys.readouterr()
        return json.loads(out.out) if out.out.startswith(("{", "[")) else out.err

    def write(self, *records: Verdict | Action) -> None:
        topics = Topics(self.config.kafka.prefix)
        with producer_of(self.config) as producer:
            for record in records:
                if isinstance(record, Verdict):
                    send_now(producer, topics.verdicts, record.key.encode(), encode_verdict(record))
                else:
                    send_now(producer, topics.actions, record.key.encode(), encode_action(record))


@pytest.fixture
def desk(tmp_path: Path, tansu: EmbeddedBroker, capsys: pytest.CaptureFixture[str]) -> Desk:
    return Desk(tmp_path, tansu, capsys, ResponderConfig(two_person_unlock=True, request_ttl_ms=10_000))


@pytest.fixture
def who(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Log in as somebody else."""

    def log_in(name: str) -> None:
        monkeypatch.setattr(decision, "os_user", lambda: name)

    log_in("anna")
    return log_in


def detected(principal: str, level: Any = "lock", **changes: Any) -> Verdict:
    now = now_ms()
    made = Verdict(
        tenant="clinic", principal=principal, level=level, revision=now, issued_ms=now, reason="took 5,000 patients in 1m",
        issuer="detector:1", crossed_ms=now, expires_ms=now + 3_600_000,
    )  # fmt: skip
    return replace(made, **changes)


def test_who_when_from_where_and_why_is_on_record(desk: Desk, who: Any) -> None:
    said = desk.run("lock", "thief", "--reason", "seen at night", "--for", "1h", "--as", "on-call")
    assert said["verdict"]["level"] == "lock"
    assert said["verdict"]["expires_ms"] == said["verdict"]["issued_ms"] + 3_600_000
    (action,) = desk.run("actions", "thief")
    assert (action["operation"], action["outcome"], action["reason"]) == ("lock", "done", "seen at night")
    assert action["actor"] == "on-call as anna"
    assert action["host"]
    assert abs(action["started_ms"] - now_ms()) < 10_000
    # Verdict and action are one chain: neither can be taken away unseen.
    topics = Topics(desk.config.kafka.prefix)
    links = [link_of(v) for t in (topics.verdicts, topics.actions) for _, v in whole_topic(desk.config, t, 1.0)]
    assert [(link.seq, bool(link.prev)) for link in links if link is not None] == [(0, False), (1, True)]
    assert len({link.chain for link in links if link is not None}) == 1


def test_two_persons_lift_a_lock(desk: Desk, who: Any) -> None:
    desk.write(detected("dr.martin"))
    command = ("unlock", "dr.martin", "--reason")
    asked = desk.run(*command, "she is on call", code=1)
    assert (asked["done"], asked["action"]["outcome"]) == (False, "requested")
    # The same person, under whatever name, is no second one.
    desk.run(*command, "again", code=1)
    desk.run(*command, "again", "--as", "bruno", code=1)
    assert desk.run("verdicts")[0]["level"] == "lock"
    who("bruno")
    done = desk.run(*command, "I called her")
    assert done["verdict"]["level"] == "none"
    assert "asked for by anna: she is on call" in done["verdict"]["reason"]
    assert desk.run("verdicts") == []
    outcomes = [(a["actor"], a["outcome"]) for a in desk.run("actions", "dr.martin")]
    assert outcomes == [("anna", "requested"), ("bruno", "done")]


def test_one_person_cannot_let_a_lock_end_sooner(desk: Desk, who: Any) -> None:
    desk.write(detected("thief"))
    for command in ("extend", "lock"):
        assert "two persons" in desk.run(command, "thief", "--reason", "x", "--for", "1s", code=1)
    assert desk.run("actions") == []
    desk.run("extend", "thief", "--reason", "x", "--for", "2h")
    desk.run("ack", "thief", "--reason", "x")
    assert "two persons" in desk.run("lock", "thief", "--reason", "x", "--for", "1000h", code=1)
    desk.run("lock", "thief", "--reason", "x")
    desk.write(detected("other", "cut"))
    desk.run("extend", "other", "--reason", "x", "--for", "1s")


def test_a_request_is_for_one_lock_and_expires(desk: Desk, who: Any) -> None:
    desk.write(detected("dr.petit"))
    request = desk.run("unlock", "dr.petit", "--reason", "a", code=1)["action"]
    who("bruno")
    desk.write(detected("dr.petit", revision=request["verdict_revision"] + 1))  # locked again: another lock
    desk.run("unlock", "dr.petit", "--reason", "b", code=1)
    who("carla")
    assert desk.run("unlock", "dr.petit", "--reason", "c")["done"]
    now = now_ms()
    late = [action for action in decision.actions(desk.config) if action.outcome == "requested"]
    lock = detected("dr.petit", revision=late[-1].verdict_revision)
    assert decision.request_of(late, lock, now) is not None
    assert decision.request_of(late, lock, now + 20_000) is None


def test_what_is_below_a_lock_needs_one_person(desk: Desk, who: Any) -> None:
    desk.write(detected("svc", "cut"))
    assert desk.run("unlock", "svc", "--reason", "a batch")["verdict"]["level"] == "none"


def test_break_glass_needs_nobody_else(desk: Desk, who: Any) -> None:
    desk.write(detected("dr.bernard"))
    said = desk.run("break-glass", "dr.bernard", "--reason", "reanimation", "--for", "2h")
    assert said["verdict"]["level"] == "none"
    assert said["verdict"]["expires_ms"] - said["verdict"]["issued_ms"] == 7_200_000  # and free of verdicts until then
    assert desk.run("actions", "dr.bernard")[0]["operation"] == "break_glass"


def test_a_lock_lasts_longer_or_for_good_when_somebody_says_so(desk: Desk, who: Any) -> None:
    desk.write(detected("thief"), detected("nurse", "cut"), detected("looker", "alert"))
    extended = desk.run("extend", "thief", "--for", "8h", "--reason", "until the day shift")["verdict"]
    assert extended["expires_ms"] - extended["issued_ms"] == 8 * 3_600_000
    assert "took 5,000 patients" in extended["reason"]
    assert extended["issuer"] == "operator:anna"
    assert desk.run("ack", "thief", "--reason", "it is one")["verdict"]["expires_ms"] == 0
    # Below a lock the verdict stays the detector's: it may still step up.
    assert desk.run("extend", "nurse", "--for", "2h", "--reason", "x")["verdict"]["issuer"] == "detector:1"
    assert desk.run("ack", "looker", "--reason", "seen")["verdict"] is None
    assert {v["principal"]: v["level"] for v in desk.run("verdicts")} == {
        "thief": "lock",
        "nurse": "cut",
        "looker": "alert",
    }


def test_the_mass_lock_stop_is_overridden_by_a_person(desk: Desk, who: Any) -> None:
    first, second, other = detected("a"), detected("b"), detected("c")

    def held(verdict: Verdict, revision: int = 0) -> Action:
        return Action("clinic", verdict.principal, MASS_LOCK, "lock", "held", False, revision or verdict.revision, 1, 1)

    desk.write(first, second, other, held(first), held(second), held(other, 1))
    assert main(["break-glass", "--mass-lock", "--reason", "it is an attack", "--config", str(desk.path)]) == 0
    desk.capsys.readouterr()
    issuers = {v["principal"]: v["issuer"] for v in desk.run("verdicts")}
    assert issuers == {"a": "operator:anna", "b": "operator:anna", "c": "detector:1"}


def test_a_reason_in_another_encoding_is_no_reason_to_fail(desk: Desk, who: Any) -> None:
    desk.run("lock", "dpi_export", "--reason", "accord\udce9")
    assert [action["reason"] for action in desk.run("actions")] == ["accord?"]


@pytest.mark.parametrize(
    ("arguments", "code", "why"),
    [
        (["lock", "dpi", "--reason", "x"], 1, "shared account"),
        (["extend", "nobody", "--for", "1h", "--reason", "x"], 1, "no verdict is in force"),
        (["ack", "nobody", "--reason", "x"], 1, "no verdict is in force"),
        (["lock", "x", "--reason", "  "], 2, "--reason"),
        (["lock", "x", "--reason", "y", "--for", "soon"], 2, "--for"),
        (["lock", "x", "--reason", "y", "--as", "a b\n"], 2, "--as"),
        (["lock", "", "--reason", "y"], 2, "account is empty"),
        (["unlock", "", "--reason", "y"], 2, "account is empty"),
        (["lock", "x" * 1_001, "--reason", "y"], 2, "1000 characters"),
        (["lock", "\udce9", "--reason", "y"], 2, "not UTF-8"),
        (["break-glass", "--reason", "y"], 2, "name one account"),
        (["break-glass", "x", "--mass-lock", "--reason", "y"], 2, "name one account"),
    ],
)
def test_says_what_is_wrong_and_changes_nothing(
    desk: Desk, who: Any, arguments: list[str], code: int, why: str
) -> None:
    assert main([*arguments, "--config", str(desk.path)]) == code
    assert why in desk.capsys.readouterr().err
    assert desk.run("actions") == []


def test_a_reason_is_required(desk: Desk) -> None:
    for command in ("lock", "unlock", "ack", "break-glass"):
        with pytest.raises(SystemExit) as ended:
            main([command, "x", "--config", str(desk.path)])
        assert ended.value.code == 2
