"""Passwords, sessions, roles and the brake."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from exfilguard.config.schema import CONSOLE_ROLES
from exfilguard.console import auth
from exfilguard.console.auth import Brake, LocalUsers, Sessions, first_admin, may
from exfilguard.errors import ConfigError

from .conftest import PASSWORD


def test_roles_allow_what_they_say() -> None:
    assert {
        role: {what for what in ("read", "act", "dossier", "audit") if may((role,), what)} for role in CONSOLE_ROLES
    } == {
        "viewer": {"read"},
        "operator": {"read", "act"},
        "dpo": {"read", "dossier"},
        "admin": {"read", "act", "dossier", "audit"},
    }
    assert may(("operator", "dpo"), "act")
    assert may(("operator", "dpo"), "dossier")
    assert not may((), "read")


def test_passwords_are_kept_hashed_and_for_their_owner_only(users_file: Path) -> None:
    users = LocalUsers(users_file)
    assert PASSWORD not in users_file.read_text()
    assert stat.S_IMODE(users_file.stat().st_mode) == 0o600
    assert users.check("oscar", PASSWORD) == "operator"
    assert users.check("oscar", PASSWORD + "x") is None
    assert users.check("nobody", PASSWORD) is None


def test_a_short_password_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="shorter than 12"):
        LocalUsers(tmp_path / "u.json").set("x", "viewer", "short")
    assert not (tmp_path / "u.json").exists()


def test_a_damaged_file_is_an_error_and_no_open_door(tmp_path: Path) -> None:
    (tmp_path / "u.json").write_text("{")
    with pytest.raises(ConfigError, match="restore it"):
        LocalUsers(tmp_path / "u.json").check("admin", PASSWORD)


def test_the_first_admin_is_made_once(tmp_path: Path) -> None:
    users, path = LocalUsers(tmp_path / "u.json"), tmp_path / "password"
    assert first_admin(users, path)
    password = path.read_text().strip()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert users.check("admin", password) == "admin"
    assert not first_admin(users, path)
    assert path.read_text().strip() == password


def test_sessions_end_idle_old_and_when_told() -> None:
    sessions = Sessions(idle_s=10, longest_s=100)
    token = sessions.begin("anna", ("viewer",), "10.0.0.1", 1_000)
    assert sessions.find(token, 1_009) is not None
    assert sessions.find(token, 1_018) is not None, "a click keeps it alive"
    assert sessions.find(token, 1_029) is None
    token = sessions.begin("anna", ("viewer",), "10.0.0.1", 1_000)
    for now in range(1_005, 1_100, 5):
        assert sessions.find(token, now)
    assert sessions.find(token, 1_101) is None, "not for ever"
    token = sessions.begin("anna", ("viewer",), "10.0.0.1", 1_000)
    sessions.end(token)
    assert sessions.find(token, 1_000) is None
    assert sessions.find("", 1_000) is None


def test_sessions_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "MAX_SESSIONS", 3)
    sessions = Sessions(10, 100)
    tokens = [sessions.begin("anna", (), "", 0) for _ in range(5)]
    assert [sessions.find(token, 1) is not None for token in tokens] == [False, False, True, True, True]


def test_the_brake_holds_and_lets_go() -> None:
    brake = Brake(tries=3, window_s=60)
    for now in range(3):
        assert not brake.holds(("name anna", "source a"), now)
        brake.failed(("name anna", "source a"), now)
    assert brake.holds(("name anna", "source b"), 3)
    assert brake.holds(("name otto", "source a"), 3)
    assert not brake.holds(("name otto", "source b"), 3)
    assert not brake.holds(("name anna",), 63)
    brake.worked("name anna")
    assert not brake.holds(("name anna",), 3)
