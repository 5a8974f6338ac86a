"""What several commands share: the --config option, loading, the resolved file that child processes read."""

from __future__ import annotations

import argparse
import os
import tomllib
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from ..config.load import load_config, setting_name
from ..config.schema import Config
from ..errors import ConfigError

DEFAULT_CONFIG = "exfilguard.toml"
RESOLVED = "resolved.toml"
"""Below the data directory: the configuration as it runs, with the embedded broker's address."""

_PATHS = {
    "kafka": ("ca_file", "cert_file", "key_file"),
    "detector": ("policy",),
    "archive": ("dir", "checkpoint_dir"),
    "siem": ("ca_file",),
    "console": ("tls_cert", "tls_key", "oidc_ca_file"),
    "listener": ("tls_cert", "tls_key", "upstream_ca"),
}


def add_config_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", "-c", default=DEFAULT_CONFIG, metavar="FILE", help="default: %(default)s")


def load(args: argparse.Namespace) -> Config:
    """The configuration named on the command line. Raises ConfigError.

    With the embedded broker, what `up` or `demo` has resolved is read instead: only there is the broker's address.
    """
    config = load_config(args.config)
    resolved = Path(config.data_dir) / RESOLVED
    if config.kafka.bootstrap == "embedded" and resolved.is_file():
        return load_config(resolved)
    return with_absolute_paths(config, Path(args.config).parent)


def with_absolute_paths(config: Config, base: Path) -> Config:
    """Files are named relative to the configuration; processes started elsewhere must find them too."""

    def absolute(section: Any, names: tuple[str, ...]) -> Any:
        found = {name: str((base / getattr(section, name)).resolve()) for name in names if getattr(section, name)}
        return replace(section, **found)

    def with_ca(value: Any) -> Any:
        """A hook's section, or a list of them; anything else as it is."""
        if isinstance(value, list):
            return [with_ca(item) for item in value]
        return absolute(value, ("tls_ca",)) if hasattr(value, "tls_ca") else value

    responder = {f.name: with_ca(getattr(config.responder, f.name)) for f in fields(config.responder)}
    return replace(
        config,
        responder=replace(config.responder, **responder),
        kafka=absolute(config.kafka, _PATHS["kafka"]),
        detector=absolute(config.detector, _PATHS["detector"]),
        archive=absolute(config.archive, _PATHS["archive"]),
        siem=absolute(config.siem, _PATHS["siem"]),
        console=absolute(config.console, _PATHS["console"]),
        listener=[absolute(listener, _PATHS["listener"]) for listener in config.listener],
    )


def write_resolved(config: Config, path: Path) -> None:
    """The configuration as TOML, readable by its owner only: child processes read this file, so that no secret is ever
    in a process's arguments or environment."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    text = "\n".join(_section(config, "")) + "\n"
    tomllib.loads(text)  # a mistake here must not wait until a child reads it
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)


def _section(section: Any, path: str) -> list[str]:
    lines, nested = [], []
    for f in fields(section):
        value = getattr(section, f.name)
        name = setting_name(f)
        if is_dataclass(value):
            child = f"{path}.{name}" if path else name
            nested += ["", f"[{child}]", *_section(value, child)]
        elif isinstance(value, list) and value and is_dataclass(value[0]):
            for item in value:
                child = f"{path}.{name}" if path else name
                nested += ["", f"[[{child}]]", *_section(item, child)]
        elif isinstance(value, list) and not value and "doc" in f.metadata and not f.metadata["doc"]:
            continue  # a list of sections that is empty
        else:
            lines.append(f"{name} = {_toml(value, f.metadata.get('unit', ''))}")
    return lines + nested


def _toml(value: object, unit: str) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if unit == "duration_ms":
        return f'"{value}ms"'
    if isinstance(value, int):
        return str(value)
    if isinstance(value, list):
        return "[" + ", ".join(_toml(item, "") for item in value) + "]"
    escaped = str(value).replace("\\", "\\\\").replace('"', '\\"')
    escaped = "".join(c if c >= " " and c != "\x7f" else f"\\u{ord(c):04x}" for c in escaped)
    return f'"{escaped}"'


def need_listener(config: Config) -> None:
    """Raises ConfigError when there is nothing to guard."""
    if not config.listener:
        raise ConfigError(["listener: none is configured: add a [[listener]] with name, listen and upstream"])
