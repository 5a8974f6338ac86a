"""Commands in the documentation: every shell block with its mark, and every `exfilguard` line of the indented ones."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("deploy/*/README.md")])
FENCE = re.compile(r"^( *)```(?:sh|bash|console|shell)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
MARK = re.compile(r"<!-- (run: background|run|elsewhere)(?:: [^\n]*)? -->\n$")
PROGRAM = re.compile(r"^(?:    )?(?:\.venv/bin/)?(exfilguard\s.*)$")


@dataclass(frozen=True)
class Block:
    page: str
    line: int
    mark: str
    """`run`: executed on a real installation; `run: background`: the same, left running; `elsewhere`: needs root, another machine or
    minutes, so each line is held to the real parser or to its dry form; empty: nobody has said."""
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def fenced() -> list[Block]:
    out = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in FENCE.finditer(text):
            mark = MARK.search(text[: match.start()])
            line = text.count("\n", 0, match.start()) + 1
            out.append(Block(name_of(page), line, mark[1] if mark else "", match[2]))
    return out


def commands(text: str) -> list[str]:
    """Its lines, those that go on put together, without here-documents and remarks."""
    text = re.sub(r"<<'?(\w+)'?.*?^\1$", "", text, flags=re.MULTILINE | re.DOTALL).replace("\\\n", " ")
    return [line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith("#")]


def synopses() -> list[tuple[str, str]]:
    """(where, command) of every indented line that begins with the program's name."""
    out = []
    for page in PAGES:
        text = FENCE.sub("", page.read_text(encoding="utf-8")).replace("\\\n", " ")
        for number, line in enumerate(text.splitlines(), 1):
            if line.startswith("    ") and (match := PROGRAM.match(line)):
                out.append((f"{name_of(page)}:{number}", match[1]))
    return out


def arguments(command: str) -> list[str]:
    """A synopsis as somebody would type it: remarks away, optional parts in, the first of several alternatives."""
    command = re.split(r"\s{2,}(?=[^-\[\s])|\s#\s", command, maxsplit=1)[0]
    command = command.replace("[", "").replace("]", "").replace("…", "..")
    command = re.sub(r">\s*\S+|2>&1|\s\|\s.*$", "", command)
    words = shlex.split(command)[1:]
    return [word.split("|")[0] if re.fullmatch(r"[\w.-]+(\|[\w.-]+)+", word) else word for word in words]
