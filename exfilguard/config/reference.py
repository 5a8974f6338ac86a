"""docs/CONFIGURATION.md, written from the schema: `python -m exfilguard.config.reference > docs/CONFIGURATION.md`."""

from __future__ import annotations

import typing
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any, Literal, get_args, get_origin

from .load import setting_name
from .schema import Config

HEAD = """# Configuration reference

Generated from `exfilguard/config/schema.py`; do not edit. `exfilguard check-config FILE` reports every mistake at once.

Every setting can be overridden by an environment variable: `EXFILGUARD_`, the section, two underscores, the name, in
capitals: `EXFILGUARD_KAFKA__BOOTSTRAP=kafka1:9092`, `EXFILGUARD_LISTENER__0__MODE=enforce`. Every text setting can be read
from a file: `<name>_file = "path"`, relative to the configuration file; do so for secrets. Durations are written `500ms`,
`10s`, `5m`, `24h`, `7d`; sizes `64MB`, `1GiB`.
"""


def _default(f: Field[Any]) -> str:
    value = f.default if f.default is not MISSING else None
    if f.default is MISSING:
        if f.default_factory is MISSING:
            return "required"
        value = f.default_factory()
        return "`[" + ", ".join(f'"{item}"' for item in value) + "]`" if isinstance(value, list) else "`[]`"
    if f.metadata.get("unit") == "duration_ms":
        return f"`{_duration(typing.cast('int', value))}`"
    if f.metadata.get("unit") == "size_bytes":
        return f"`{typing.cast('int', value) >> 20}MiB`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f'`"{value}"`' if isinstance(value, str) else f"`{value}`"


def _duration(ms: int) -> str:
    for unit, size in (("h", 3_600_000), ("m", 60_000), ("s", 1_000)):
        if ms and ms % size == 0:
            return f"{ms // size}{unit}"
    return f"{ms}ms"


def _type(hint: Any, f: Field[Any]) -> str:
    unit = f.metadata.get("unit")
    if unit:
        return "duration" if unit == "duration_ms" else "size"
    if get_origin(hint) is Literal:
        return " / ".join(f"`{choice}`" for choice in get_args(hint))
    if get_origin(hint) is list:
        return "list of text"
    return {bool: "true/false", int: "whole number", str: "text"}[hint]


def render() -> str:
    """The whole page, Markdown."""
    out = [HEAD]
    _section(Config, "", out)
    return "\n".join(out)


def _section(cls: type[Any], path: str, out: list[str]) -> None:
    hints = typing.get_type_hints(cls)
    rows, nested = [], []
    for f in fields(cls):
        hint = hints[f.name]
        inner = get_args(hint)[0] if get_origin(hint) is list else hint
        if is_dataclass(inner):
            nested.append((f.name, typing.cast("type[Any]", inner)))
            continue
        rows.append(f"| `{setting_name(f)}` | {_type(hint, f)} | {_default(f)} | {f.metadata['doc']} |")
    doc = (cls.__doc__ or "").strip().split(": ", 1)
    title = doc[0] if path else "Top level"
    out.append(f"\n## {title}\n\n{doc[1][:1].upper() + doc[1][1:] if len(doc) > 1 else doc[0]}\n")
    if rows:
        out.append("| setting | type | default | meaning |\n| --- | --- | --- | --- |")
        out.extend(rows)
    for name, inner in nested:
        _section(inner, f"{path}.{name}", out)


if __name__ == "__main__":
    print(render())
