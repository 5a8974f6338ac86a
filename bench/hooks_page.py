"""What `make bench-hooks` has done so far, run by run, and the page made of it: docs/benchmarks/hooks.md.

A soak of 1,000 cycles against a real server takes up to an hour: it is done in parts, each with a fresh server, another seed and
a chain of its own. `python -m bench.hooks_page` writes the page again.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .report import RESULTS, percentile

KEPT = RESULTS / "hooks"
PAGE = Path(__file__).parents[1] / "docs" / "benchmarks" / "hooks.md"
SERVERS = {
    "postgres": "PostgreSQL: `NOLOGIN`, sessions terminated",
    "mysql": "MariaDB: `ACCOUNT LOCK`, `KILL`",
    "oracle-mysql": "MySQL 9.7: `ACCOUNT LOCK`, `KILL`",
    "ldap": "OpenLDAP with ppolicy: `pwdAccountLockedTime`",
    "active-directory": "`userAccountControl`, on OpenLDAP with Active Directory's attribute",
    "gnuhealth": "application template on PostgreSQL: GNU Health's tables",
    "mediboard": "application template on MariaDB: a PHP application's tables",
    "scim": "SCIM 2.0 PATCH, `path` form (the tests' own server)",
    "scim-pathless": "SCIM 2.0 PATCH, pathless form (the tests' own server)",
    "command": "a program that keeps its users in a file",
    "keycloak": "Keycloak: user disabled, sessions and offline tokens ended",
}


def runs_of(name: str) -> list[dict[str, Any]]:
    """What was done with this hook before."""
    path = KEPT / f"{name}.json"
    return list(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else []


def keep(name: str, runs: list[dict[str, Any]]) -> None:
    KEPT.mkdir(parents=True, exist_ok=True)
    (KEPT / f"{name}.json").write_text(json.dumps(runs) + "\n", encoding="utf-8")


def total(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """All runs of one hook together."""
    lock_ms = [float(ms) for run in runs for ms in run["lock_ms"]]
    added = {
        key: sum(run[key] for run in runs)
        for key in ("cycles", "server_kills", "responder_crashes", "actions", "chain_broken")
    }
    return {
        **added,
        "runs": len(runs),
        "seconds": round(sum(run["seconds"] for run in runs)),
        "wrong_states": sum(len(run["wrong"]) for run in runs),
        "wrong": [text for run in runs for text in run["wrong"]][:10],
        "lock_verified_p50_ms": percentile(lock_ms, 0.5) if lock_ms else None,
        "lock_verified_p99_ms": percentile(lock_ms, 0.99) if lock_ms else None,
        "first": min((run["when"] for run in runs), default=""),
        "last": max((run["when"] for run in runs), default=""),
    }


def write() -> None:
    """The page, of all that is kept."""
    totals = {name: total(runs) for name in SERVERS if (runs := runs_of(name))}
    if not totals:
        return
    lines = [
        "# Hooks: lock and unlock, with servers and the responder killed",
        "",
        "Made by `make bench-hooks`; do not edit. Each cycle locks an account that has an open session, and gives it back. In one",
        "step of eight (Keycloak, which takes ten seconds and more to start: of a hundred) the server gets SIGKILL within the first",
        "30 ms and is started again; in one of five the responder is thrown away and made again from what is on record. After",
        "each step the server itself is asked: a fresh login, the old session. One account in ten was disabled before, and must be",
        "afterwards. The actions are sealed as the responder seals them; the chain is checked at the end. The times are of a busy",
        "machine with two cores: from the order to the verified lock, without the cycles whose server was killed.",
        "",
        "| hook | what | cycles | server killed | responder killed | wrong end states | broken links | lock p50 ms | p99 ms | runs |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, found in totals.items():
        lines.append(
            f"| `{name}` | {SERVERS[name]} | {found['cycles']:,} | {found['server_kills']} | {found['responder_crashes']} "
            f"| {found['wrong_states']} | {found['chain_broken']} | {found['lock_verified_p50_ms']:g} "
            f"| {found['lock_verified_p99_ms']:g} | {found['runs']} |"
        )
    first, last = min(t["first"] for t in totals.values()), max(t["last"] for t in totals.values())
    lines += ["", f"Run between {first} and {last}."]
    if wrong := [f"{name}: {text}" for name, found in totals.items() for text in found["wrong"]]:
        lines += ["", "Wrong:", "", *[f"- {text}" for text in wrong]]
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write()
