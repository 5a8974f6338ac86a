"""docs/POLICIES.md is a cook-book: every block in it, pasted into a copy of the built-in policy, loads and has an effect."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from exfilguard.cli.main import main
from exfilguard.detect.policy import DEFAULT_POLICY, default_policy, load_policy

PAGE = (Path(__file__).parents[2] / "docs" / "POLICIES.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```toml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
_TABLE = re.compile(r"^(?=\[)", re.MULTILINE)


def sections(text: str) -> tuple[str, dict[str, str]]:
    """What stands before the first table, and each table's text by its heading (numbered where a list has several)."""
    top, *tables = _TABLE.split(text)
    out: dict[str, str] = {}
    for table in tables:
        heading = table.split("]", 1)[0]
        out[heading if heading not in out else f"{heading} {len(out)}"] = table
    return top, out


def pasted(block: str) -> str:
    """The built-in policy with this block in it: settings and tables of the same name are replaced."""
    top, tables = sections(DEFAULT_POLICY.read_text(encoding="utf-8"))
    block_top, block_tables = sections(block)
    for key in tomllib.loads(block_top):
        top = re.sub(rf"^{key} = .*\n", "", top, flags=re.MULTILINE)
    return "\n".join([top, block_top, *(tables | block_tables).values()])


def test_there_are_recipes() -> None:
    assert len(BLOCKS) >= 14


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.split("\n", 1)[0][:40])
def test_a_recipe_loads_and_changes_something(block: str, tmp_path: Path) -> None:
    text = pasted(block)
    policy = load_policy(text, "policy.toml")
    assert policy != default_policy()
    (tmp_path / "policy.toml").write_text(text, encoding="utf-8")
    (tmp_path / "exfilguard.toml").write_text('tenant = "clinic"\n[detector]\npolicy = "policy.toml"\n')
    assert main(["check-config", str(tmp_path / "exfilguard.toml")]) == 0


def test_settings_named_on_the_page_exist() -> None:
    known = DEFAULT_POLICY.read_text(encoding="utf-8") + "".join(BLOCKS)
    for name in re.findall(r"`([a-z]+_[a-z_]+)`", PAGE):
        assert name in known or name in ("policy_refused_total", "budget_patients"), name
