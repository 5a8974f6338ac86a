"""MkDocs: a link to a file of the repository outside docs/ becomes its path, as text. One to nowhere stops the build."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"\[([^\]\n]+)\]\(((?:\.\./)+[^)#\s]*)(#[^)\s]*)?\)")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Raises FileNotFoundError for a link to a file that is not there."""
    here = (ROOT / "docs" / page.file.src_uri).parent

    def replaced(match: re.Match[str]) -> str:
        target = (here / match[2]).resolve()
        if not target.exists():
            raise FileNotFoundError(f"docs/{page.file.src_uri}: {match[2]} is not there")
        if target.is_relative_to(ROOT / "docs"):
            return match[0]
        path = str(target.relative_to(ROOT))
        return f"`{path}`" if match[1] in (path, f"`{path}`") else f"{match[1]} (`{path}`)"

    return LINK.sub(replaced, markdown)
