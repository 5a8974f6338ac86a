"""The bill of materials and the audit: what their checks accept, refuse and say. `make sbom` itself runs in CI."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from deploy import supply_chain
from deploy.supply_chain import audit, audit_outcome, main, requirement_name, sbom_problems, shipped


def bom(**changes: Any) -> dict[str, Any]:
    made: dict[str, Any] = {
        "bomFormat": "CycloneDX",
        "metadata": {"component": {"name": "exfilguard", "bom-ref": "root"}},
        "components": [
            {
                "name": requirement_name(r),
                "version": "1.0",
                "purl": f"pkg:pypi/{requirement_name(r)}@1.0",
                "licenses": [{"license": {"id": "MIT"}}],
            }
            for r in shipped()
        ],
        "dependencies": [{"ref": "root", "dependsOn": ["orjson==1.0"]}],
    }
    return made | changes


def test_a_whole_bill_is_accepted() -> None:
    assert {"kafka-python", "aiomysql", "orjson"} <= {requirement_name(r) for r in shipped()}
    assert sbom_problems(bom(), shipped()) == []


@pytest.mark.parametrize(
    ("licences", "usable"),
    [
        (["AGPL-3.0-only"], False),
        (["GPL-3.0-or-later"], False),
        (["License :: OSI Approved :: GNU Affero General Public License v3"], False),
        (["GPL-2.0-or-later", "MPL-1.1"], True),
        (["LGPL-3.0-only"], True),
        (["License :: OSI Approved :: GNU Lesser General Public License v2 or later (LGPLv2+)"], True),
        (["Apache-2.0 OR BSD-3-Clause"], True),
        ([], False),
    ],
)
def test_a_licence_that_cannot_be_shipped_is_named(licences: list[str], usable: bool) -> None:
    made = bom()
    made["components"][0]["licenses"] = [{"license": {"name": text}} for text in licences]
    assert (sbom_problems(made, shipped()) == []) is usable


def test_what_is_missing_is_named() -> None:
    made = bom(dependencies=[])
    gone = made["components"].pop()
    made["components"][0]["version"] = ""
    problems = "\n".join(sbom_problems(made, shipped()))
    assert f"{gone['name']} is missing" in problems
    assert "has no version" in problems
    assert "does not say what exfilguard depends on" in problems
    assert sbom_problems({"bomFormat": "SPDX"}, [])[0] == "it is not CycloneDX"


def test_not_asked_is_not_nothing_found() -> None:
    report = {
        "dependencies": [
            {"name": "good", "version": "1", "vulns": []},
            {"name": "bad", "version": "1", "vulns": [{"id": "PYSEC-1", "fix_versions": ["2"]}]},
            {"name": "unknown", "skip_reason": "not found"},
        ]
    }
    assert audit_outcome(report) == (["bad 1: PYSEC-1; mended in 2"], ["unknown"])


@pytest.mark.parametrize(
    ("says", "code", "words"),
    [
        ('{"dependencies": [{"name": "a", "version": "1", "vulns": []}]}', 0, "no known vulnerability"),
        ('{"dependencies": [{"name": "a", "skip_reason": "x"}]}', 2, "did not answer for 1 of 1 packages (a)"),
        ('{"dependencies": [{"name": "a", "version": "1", "vulns": [{"id": "X", "fix_versions": []}]}]}', 1, "a 1: X"),
        ("", 2, "nothing is known about them"),
    ],
)
def test_the_audit_exits_by_what_it_learned(
    says: str,
    code: int,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A stand-in for pip-audit: what the real one prints depends on what is known today."""
    program = tmp_path / "pip-audit"
    program.write_text(f"#!/bin/sh\necho '{says}'\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setattr(supply_chain.sys, "executable", str(tmp_path / "python"))
    assert audit("/nowhere", []) == code
    told = capsys.readouterr()
    assert words in told.out + told.err


def test_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "Exit codes" in capsys.readouterr().err
