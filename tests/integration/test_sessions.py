"""Hundreds of real sessions at once, what one more is told, and a limit of descriptors that is too low."""

from __future__ import annotations

import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from bench.sessions import measure, measure_mysql
from exfilguard.cli.check_config import warnings
from exfilguard.config.schema import Config, KafkaConfig
from exfilguard.embedded.mariadb import missing_programs
from exfilguard.sidecar.descriptors import RESERVED_DESCRIPTORS, descriptor_limit, descriptor_problem

from .conftest import Hospital, enterable_directory
from .guarded import Guarded
from .stack import Stack, connect, listener, wait_for


def test_five_hundred_sessions_are_served_each_with_its_own_answers() -> None:
    """`make bench-sessions` does it with 5,000."""
    with enterable_directory() as directory:
        found = measure(directory, 500, 50, 0.5, ways=("sidecar",))["sidecar"]
    assert found.sessions == 500
    assert found.answers > 600
    assert found.kib_per_session < 20
    assert "C53300" in found.refused
    assert "max_sessions" in found.refused


def test_hundreds_of_sessions_of_mariadb() -> None:
    if missing := missing_programs():
        pytest.skip(f"MariaDB needs {missing}")
    with enterable_directory() as directory:
        found = measure_mysql(directory, 250, 50, 0.5, ways=("sidecar",))["sidecar"]
    assert found.sessions == 250
    assert found.answers > 300
    assert found.kib_per_session < 20
    assert "#08004" in found.refused
    assert "max_sessions" in found.refused


def configured(**changes: Any) -> Config:
    return Config(listener=[listener("127.0.0.1:1", **changes)])


def test_the_limit_of_descriptors_is_a_limit_of_sessions() -> None:
    assert descriptor_problem(configured(max_sessions=100), 200 + RESERVED_DESCRIPTORS) == ""
    said = descriptor_problem(configured(max_sessions=5_000), 4_096)
    for words in ("4096", "5000 sessions", "10192", "LimitNOFILE", "ulimit", "max_sessions"):
        assert words in said
    many = configured(max_sessions=100_000_000)
    assert any("file descriptors" in note for note in warnings(many))
    assert descriptor_limit() == resource.getrlimit(resource.RLIMIT_NOFILE)[1]


@pytest.fixture
def cramped(tmp_path: Path, hospital: Hospital) -> Iterator[Guarded]:
    """A relay that may open 224 descriptors: 16 clients."""
    config = Config(
        tenant="clinic", data_dir=str(tmp_path / "data"), kafka=KafkaConfig(bootstrap="127.0.0.1:9"),
        listener=[listener(hospital.upstream)],
    )  # fmt: skip
    stack = Stack(config)
    limited = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (224, 224)); import sys, exfilguard.cli.main as m; sys.exit(m.main())"
    log = (stack.data_dir / "relay.log").open("wb")
    argv = [sys.executable, "-c", limited, "relay", "--config", str(stack.path)]
    process = subprocess.Popen(argv, stdout=log, stderr=log)
    try:
        stack.relay_ready()
        yield Guarded(stack, hospital)
    finally:
        process.terminate()
        process.wait(20)


def test_too_few_descriptors_are_said_at_the_start_and_nobody_hangs(cramped: Guarded) -> None:
    """The relay starts, says what to do, and refuses what does not fit instead of leaving it in the kernel's queue."""
    said = (cramped.stack.data_dir / "relay.log").read_text(encoding="utf-8")
    assert "file descriptors: this process may open 224" in said
    assert "LimitNOFILE=10192" in said
    sessions = [connect(cramped.dsn()) for _ in range(16)]
    for _ in range(30):
        with pytest.raises(psycopg.OperationalError, match="max_sessions"):
            connect(cramped.dsn())
    assert sessions[0].execute("SELECT 1").fetchone() == (1,)
    for one in sessions:
        one.close()
    wait_for(lambda: cramped.stack.total("sessions") == 0)
    with connect(cramped.dsn()) as again:
        assert again.execute("SELECT 1").fetchone() == (1,)


def test_clients_that_never_log_in_are_bounded_too(cramped: Guarded) -> None:
    silent = [socket.create_connection(("127.0.0.1", cramped.port), timeout=10) for _ in range(16)]
    with pytest.raises(psycopg.OperationalError, match="max_sessions"):
        connect(cramped.dsn())
    for one in silent:
        one.close()

    def served() -> bool:
        try:
            with connect(cramped.dsn()) as session:
                return session.execute("SELECT 1").fetchone() == (1,)
        except psycopg.OperationalError:
            return False

    wait_for(served)
