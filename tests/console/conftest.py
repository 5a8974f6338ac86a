"""A console without Kafka: its state is filled by hand, what it orders is written down."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from exfilguard.config.schema import Config, ConsoleConfig, ConsoleRole
from exfilguard.console.app import Console, Parts
from exfilguard.console.auth import LocalUsers
from exfilguard.console.operations import Order
from exfilguard.console.state import ConsoleState
from exfilguard.detect.policy import default_policy
from exfilguard.errors import BrokerError
from exfilguard.events.action import Action
from exfilguard.events.verdict import Verdict
from exfilguard.runtime.clock import now_ms
from exfilguard.runtime.stats import Snapshot

PASSWORD = "a long enough password"
USERS: dict[str, ConsoleRole] = {"vera": "viewer", "oscar": "operator", "dora": "dpo", "ada": "admin"}
T0 = 1_760_000_000_000


def verdict(principal: str = "dpi_export", level: str = "lock", revision: int = T0, **changes: Any) -> Verdict:
    made = Verdict(
        tenant="clinic", principal=principal, level=level, revision=revision, issued_ms=revision,  # type: ignore[arg-type]
        reason=f"{principal} took 3,214 patients in 1m; the lock limit of class application is 3,000",
        issuer="detector:1", unit="patients", window_ms=60_000, total=3_214, limit=3_000, crossed_ms=revision,
        expires_ms=revision + 3_600_000,
    )  # fmt: skip
    return replace(made, **changes)


def action(principal: str = "dpi_export", revision: int = T0, **changes: Any) -> Action:
    made = Action(
        tenant="clinic", principal=principal, hook="postgres", operation="lock", outcome="done", verified=True,
        verdict_revision=revision, started_ms=revision + 20, ended_ms=revision + 60, detail="NOLOGIN, 2 sessions ended",
    )  # fmt: skip
    return replace(made, **changes)


@dataclass
class Notebook:
    """Stands for the operator's commands and the reports."""

    orders: list[Order] = field(default_factory=list)
    broken: bool = False

    def carry_out(self, order: Order) -> str:
        if self.broken:
            raise BrokerError("Kafka did not answer: nothing has changed, try again")
        self.orders.append(order)
        return f"{order.deed} of {order.principal}"

    def make(self, tenant: str, principal: str, opened_ms: int, until_ms: int, language: str) -> tuple[bytes, str, str]:
        return f"{tenant} {principal} {language}".encode(), "text/plain", f"dossier é {principal}.txt"


@dataclass
class Site:
    """A console and what stands behind it."""

    console: Console
    state: ConsoleState
    notebook: Notebook
    feed: Any
    snapshots: dict[str, Snapshot | None]
    users: LocalUsers

    def client(self) -> TestClient:
        return TestClient(self.console.app(), base_url="http://guard.test", follow_redirects=False)

    def logged_in(self, name: str) -> TestClient:
        """Without the slow hash of a password: tests of the login itself go through the page."""
        client = self.client()
        token = self.console.sessions.begin(name, (USERS[name],), "testclient", time.time())
        client.cookies.set("exfilguard_session", token)
        return client


@dataclass
class FakeFeed:
    """Stands for the topics: what was read of them."""

    reading: bool = True
    detectors: int | None = 2
    accounts: dict[str, list[list[int]]] = field(
        default_factory=lambda: {
            "clinic/dr.martin": [[60, 40, 100, 9]] * 7,
            "clinic/dpi_export": [[900, 800, 5_000, 12]] * 7,
        }
    )

    def near(self) -> dict[str, list[list[int]]]:
        return self.accounts


@pytest.fixture(scope="session")
def users_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Hashing is slow by design: once."""
    users = LocalUsers(tmp_path_factory.mktemp("console") / "users.json")
    for name in ("vera", "oscar"):
        users.set(name, USERS[name], PASSWORD)
    return users.path


@pytest.fixture
def site(users_file: Path) -> Site:
    state, notebook, users = ConsoleState(), Notebook(), LocalUsers(users_file)
    feed = FakeFeed()
    relay = Snapshot("relay", "0", values=[("queries_total", {}, 1_234), ("sessions", {}, 7)])
    snapshots: dict[str, Snapshot | None] = {
        "relay-0": relay,
        "detector-1": Snapshot("detector", "1", details={"ready": True}),
    }
    config = Config(tenant="clinic", console=ConsoleConfig())
    policy = default_policy()
    parts = Parts(
        config, state, feed, users, notebook, notebook, lambda: policy, lambda: snapshots,  # type: ignore[arg-type]
    )  # fmt: skip
    return Site(Console(parts), state, notebook, feed, snapshots, users)


def standing_now(**changes: Any) -> Verdict:
    """A verdict in force at this moment."""
    return verdict(revision=now_ms() - 5_000, **changes)
