"""The cluster demo's machines where namespaces cannot be made: loopback, and a sentence that says why and what would help."""

from __future__ import annotations

import os
import shutil

import pytest

from deploy.cluster import network
from exfilguard.errors import EmbeddedError

NAMES = ["one", "two"]


def on_loopback(found: network.Network) -> bool:
    return (
        not found.separate and found.here == "127.0.0.1" and {h.address for h in found.hosts.values()} == {"127.0.0.1"}
    )


def test_who_is_not_root_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with network.Network(NAMES) as found:
        assert on_loopback(found)
        assert "sudo" in found.why_not


def test_a_machine_without_ip_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with network.Network(NAMES) as found:
        assert on_loopback(found)
        assert "apt install iproute2" in found.why_not


def test_root_in_a_container_that_may_not_is_told_which_right_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*arguments: str) -> None:
        raise EmbeddedError(f"ip {' '.join(arguments)}: Operation not permitted")

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(shutil, "which", lambda name: f"/sbin/{name}")
    monkeypatch.setattr(network, "_ip", refused)
    with network.Network(NAMES) as found:
        assert on_loopback(found)
        assert "Operation not permitted" in found.why_not
        assert "CAP_NET_ADMIN" in found.why_not


def test_here_the_machines_are_separate_or_it_is_said_why_not() -> None:
    with network.Network(NAMES) as found:
        assert found.separate == (found.why_not == "")
        if found.separate:
            assert len({host.address for host in found.hosts.values()}) == len(NAMES)
        else:
            assert on_loopback(found)
