"""TOML + `EXFILGUARD_*` overrides + secret files -> one validated, frozen Config.

Every mistake is collected and reported at once, each with its line (when it stands in the file), key and remedy.
Overrides: `EXFILGUARD_KAFKA__BOOTSTRAP=..` sets `kafka.bootstrap`; `EXFILGUARD_TENANT=..` sets `tenant`; list sections
(`[[listener]]`) by index: `EXFILGUARD_LISTENER__0__MODE=..`. `<key>_file = "path"` reads any text setting from a file.
"""

from __future__ import annotations

import ipaddress
import os
import re
import tomllib
import typing
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from ..errors import ConfigError
from ..events.signature import MIN_KEY_CHARACTERS
from ..observe.asked import parse_column
from .certificates import problem_of
from .check_console import check_console
from .check_responder import check_responder
from .evidence import check_evidence
from .schema import DENIABLE, Config, ListenerConfig

ENV_PREFIX = "EXFILGUARD_"
NOT_SETTINGS = {"EXFILGUARD_LOG_LEVEL", "EXFILGUARD_REQUIRE_COMPILED", "EXFILGUARD_KAFKA_LIBS"}

_DURATION = re.compile(r"^(\d+)\s*(ms|s|m|h|d)$")
_DURATION_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_SIZE = re.compile(r"^(\d+)\s*(B|KB|MB|GB|TB|KiB|MiB|GiB|TiB)$")
_SIZE_BYTES = {
    "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40,
}  # fmt: skip


def parse_duration_ms(value: object) -> int:
    """Milliseconds from "10s", "5m", "24h" or a whole number of milliseconds. Raises ValueError."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    match = _DURATION.match(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError('write a duration such as "500ms", "10s", "5m", "24h" or "7d"')
    return int(match[1]) * _DURATION_MS[match[2]]


def parse_size_bytes(value: object) -> int:
    """Bytes from "64MB", "1GiB" or a whole number of bytes. Raises ValueError."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    match = _SIZE.match(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError('write a size such as "64MB" or "1GiB"')
    return int(match[1]) * _SIZE_BYTES[match[2]]


def _is_number(text: str) -> bool:
    """For int(): not what only looks like a digit, nor more of them than any setting has."""
    return text.isascii() and text.isdigit() and len(text) < 20


def parse_address(text: str) -> tuple[str, int]:
    """`host:port` or `[v6]:port`. Raises ValueError."""
    host, colon, port = text.rpartition(":")
    host = host.strip("[]")
    if not colon or not host or not _is_number(port) or not 0 < int(port) < 65536:
        raise ValueError("write it as host:port, with a port between 1 and 65535")
    return host, int(port)


class _Reader:
    """Walks the schema and the document side by side, collecting problems."""

    def __init__(self, lines: Mapping[str, int], source: str, base: Path) -> None:
        self.lines = lines
        self.source = source
        self.base = base
        self.problems: list[str] = []

    def problem(self, path: str, text: str) -> None:
        where = f"{self.source}:{self.lines[path]}" if path in self.lines else self.source
        self.problems.append(f"{where}: {path}: {text}")

    def section(self, cls: type[Any], raw: object, path: str) -> Any:
        if not isinstance(raw, dict):
            self.problem(path, "is a section: write it as a TOML table")
            raw = {}
        hints = typing.get_type_hints(cls)
        known: dict[str, Field[Any]] = {
            f.name.removesuffix("_ms") if _is_duration(f) else f.name: f for f in fields(cls)
        }
        values: dict[str, Any] = {}
        for key, value in raw.items():
            here = f"{path}.{key}" if path else key
            name = key
            if key not in known and key.removesuffix("_file") in known and key.endswith("_file"):
                name = key.removesuffix("_file")
                if name in raw:
                    self.problem(here, f"both {name} and {key} are set: keep one")
                value = self.secret_file(here, value)
                if value is None:
                    continue
            if name not in known:
                near = get_close_matches(key, known, 1)
                self.problem(here, f"unknown setting{f'; did you mean {near[0]}?' if near else '; remove it'}")
                continue
            f = known[name]
            ok, converted = self.value(hints[f.name], value, here, f.metadata.get("unit", ""))
            if ok:
                values[f.name] = converted
        for name, f in known.items():
            here = f"{path}.{name}" if path else name
            if f.name not in values and f.default is MISSING and f.default_factory is MISSING and name not in raw:
                self.lines = {**self.lines, here: self.lines.get(path, 0)} if path in self.lines else self.lines
                self.problem(here, "is missing: add it")
        try:
            return cls(**values)
        except TypeError:
            return None  # a required value is missing or wrong; it is already in the list

    def secret_file(self, path: str, value: object) -> str | None:
        if not isinstance(value, str):
            self.problem(path, "is the path of a file: write it as text")
            return None
        if "\0" in value:
            self.problem(path, "has a NUL character: no file has such a name")
            return None
        try:
            return (self.base / value).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
            self.problem(path, f"cannot be read ({reason}): check the path and its permissions")
            return None

    def value(self, hint: Any, value: object, path: str, unit: str) -> tuple[bool, Any]:
        if is_dataclass(hint):
            return True, self.section(typing.cast("type[Any]", hint), value, path)
        origin = get_origin(hint)
        if origin is list:
            (inner,) = get_args(hint)
            if not isinstance(value, list):
                self.problem(path, "is a list: write it with [ ] (or as [[ ]] sections)")
                return False, None
            out = []
            for i, item in enumerate(value):
                ok, converted = self.value(inner, item, f"{path}[{i}]" if is_dataclass(inner) else path, "")
                if ok:
                    out.append(converted)
            return True, out
        if origin is Literal:
            if value in get_args(hint):
                return True, value
            self.problem(path, f"must be one of {', '.join(map(str, get_args(hint)))}")
            return False, None
        if unit:
            try:
                return True, (parse_duration_ms if unit == "duration_ms" else parse_size_bytes)(value)
            except ValueError as error:
                self.problem(path, str(error))
                return False, None
        if hint is bool and isinstance(value, bool):
            return True, value
        if hint is int and isinstance(value, int) and not isinstance(value, bool):
            if value < 0:
                self.problem(path, "must not be negative")
                return False, None
            return True, value
        if hint is str and isinstance(value, str):
            if "\0" in value:
                self.problem(path, "has a NUL character: write it without")
                return False, None
            return True, value
        expected = {bool: "true or false", int: "a whole number", str: "text in quotes"}.get(hint, "another type")
        self.problem(path, f"must be {expected}")
        return False, None


def _is_duration(f: Field[Any]) -> bool:
    return f.metadata.get("unit") == "duration_ms"


def setting_name(f: Field[Any]) -> str:
    """The name in the file: durations drop their `_ms`, since the value carries its unit."""
    return f.name.removesuffix("_ms") if _is_duration(f) else f.name


_HEADER = re.compile(r"^\s*(\[\[?)\s*([A-Za-z0-9_.\-]+)\s*\]\]?")
_KEY = re.compile(r"^\s*([A-Za-z0-9_\-]+(?:\.[A-Za-z0-9_\-]+)*)\s*=")


def _line_numbers(text: str) -> dict[str, int]:
    """Line of every header and key, by its path. Good for the plain TOML people write; a miss only loses the line."""
    out: dict[str, int] = {}
    counts: dict[str, int] = {}
    prefix = ""
    for number, line in enumerate(text.splitlines(), 1):
        if header := _HEADER.match(line):
            name = header[2]
            if header[1] == "[[":
                i = counts.get(name, 0)
                counts[name] = i + 1
                name = f"{name}[{i}]"
            prefix = name
            out.setdefault(name, number)
        elif key := _KEY.match(line):
            out.setdefault(f"{prefix}.{key[1]}" if prefix else key[1], number)
    return out


def _apply_environment(document: dict[str, Any], environ: Mapping[str, str], problems: list[str]) -> None:
    for variable in sorted(environ):
        if not variable.startswith(ENV_PREFIX) or variable in NOT_SETTINGS:
            continue
        parts = variable.removeprefix(ENV_PREFIX).lower().split("__")
        target: Any = document
        try:
            for i, part in enumerate(parts[:-1]):
                following_is_index = parts[i + 1].isdigit()
                if part.isdigit():
                    target = target[int(part)]
                else:
                    target = target.setdefault(part, [{}] if following_is_index else {})
            target[parts[-1]] = _environment_value(environ[variable])
        except (IndexError, TypeError, AttributeError, ValueError):
            problems.append(f"environment: {variable}: names no setting; see docs/CONFIGURATION.md")


def _environment_value(text: str) -> object:
    if text in ("true", "false"):
        return text == "true"
    if _is_number(text):
        return int(text)
    if text.startswith("[") and text.endswith("]"):
        try:
            return tomllib.loads(f"v = {text}")["v"]
        except (ValueError, RecursionError):
            return text
    return text


def load_config(path: str | os.PathLike[str], environ: Mapping[str, str] | None = None) -> Config:
    """Read, override, validate. Raises ConfigError with every problem found."""
    source = Path(path)
    try:
        text = source.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError([f"{source}: cannot be read: {reason}"]) from None
    return parse_config(text, str(source), source.parent, os.environ if environ is None else environ)


def parse_config(text: str, source: str, base: Path, environ: Mapping[str, str]) -> Config:
    """`load_config` on text already read; relative secret files are looked up below `base`."""
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # its own, numbers of thousands of digits, lists in lists in lists
        raise ConfigError([f"{source}: not valid TOML: {error}"]) from None
    reader = _Reader(_line_numbers(text), source, base)
    _apply_environment(document, environ, reader.problems)
    config: Config | None = reader.section(Config, document, "")
    if config is not None:
        _check(config, reader)
    if reader.problems or config is None:
        raise ConfigError(reader.problems)
    kafka = config.kafka
    if kafka.frame_keys_dir:
        kafka = replace(kafka, frame_keys_dir=str(base.absolute() / kafka.frame_keys_dir))
    return replace(config, kafka=kafka, listener=[_anchored(listener, base) for listener in config.listener])


def _check(config: Config, reader: _Reader) -> None:
    """What a type cannot say: ranges, addresses, and settings that contradict each other."""
    problem = reader.problem
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", config.tenant):
        problem("tenant", "use 1 to 64 letters, digits, dots, dashes: it becomes part of topic keys and labels")
    kafka = config.kafka
    if kafka.bootstrap != "embedded":
        for server in kafka.bootstrap.split(","):
            _address(problem, "kafka.bootstrap", server.strip())
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,100}", kafka.prefix):
        problem("kafka.prefix", "use letters, digits, dots and dashes: topic names allow nothing else")
    for name in ("partitions", "replication", "frame_events"):
        if getattr(kafka, name) < 1:
            problem(f"kafka.{name}", "must be at least 1")
    if "SASL" in kafka.security_protocol and not (kafka.username and kafka.password):
        problem("kafka.username", f"{kafka.security_protocol} needs username and password_file")
    if kafka.ca_file and not (reader.base / kafka.ca_file).is_file():
        problem("kafka.ca_file", f"{reader.base / kafka.ca_file} does not exist: correct the path")
    if kafka.cert_file or kafka.key_file:
        if "SSL" not in kafka.security_protocol:
            problem("kafka.cert_file", "has no effect without TLS: set security_protocol to SSL or SASL_SSL")
        _check_pair(kafka, "kafka", "cert_file", "key_file", "is needed with the other", reader)
    if kafka.frame_key and len(kafka.frame_key) < MIN_KEY_CHARACTERS:
        problem("kafka.frame_key", "is too short: `openssl rand -hex 32`")
    if kafka.frame_keys_dir and not (reader.base / kafka.frame_keys_dir).is_dir():
        problem("kafka.frame_keys_dir", f"{reader.base / kafka.frame_keys_dir} is no directory: correct the path")
    if config.spool.segment_bytes < 1 << 16:
        problem("spool.segment_bytes", 'must be at least "64KiB"')
    if config.spool.max_bytes < 2 * config.spool.segment_bytes:
        problem("spool.max_bytes", "must hold at least two segments: raise it or lower spool.segment_bytes")
    if config.sidecar.workers < 1:
        problem("sidecar.workers", "must be at least 1")
    if config.sidecar.digest_key and len(config.sidecar.digest_key) < 16:
        problem("sidecar.digest_key", "is too short: use at least 16 characters, for example `openssl rand -hex 32`")
    try:
        identity_keys(config.identity.keys)
    except ValueError as error:
        problem("identity.keys", str(error))
    if config.identity.nonces < 1_000:
        problem("identity.nonces", "must be at least 1000")
    if config.detector.policy and not (reader.base / config.detector.policy).is_file():
        problem("detector.policy", "no such file: write its path relative to this configuration, or leave it out")
    if config.responder is not None:
        check_responder(config.responder, problem, reader.base)
    _address(problem, "exporter.listen", config.exporter.listen)
    _address(problem, "console.listen", config.console.listen)
    check_console(config.console, problem)
    check_evidence(config.archive, config.siem, config.report, problem)
    names: set[str] = set()
    addresses: set[str] = set()
    for i, listener in enumerate(config.listener):
        if listener is None:
            continue
        _check_listener(listener, f"listener[{i}]", config, reader)
        if listener.name in names:
            problem(f"listener[{i}].name", "is used twice: give each listener its own name")
        if listener.listen in addresses:
            problem(f"listener[{i}].listen", "is used twice: give each listener its own port")
        names.add(listener.name)
        addresses.add(listener.listen)


def identity_keys(text: str) -> dict[str, bytes]:
    """Key id -> secret from `identity.keys`. Raises ValueError."""
    keys: dict[str, bytes] = {}
    for entry in text.split():
        key_id, colon, secret = entry.partition(":")
        if not colon or not re.fullmatch(r"[A-Za-z0-9_-]{1,32}", key_id):
            raise ValueError("write each key as id:secret, the id of letters, digits, - or _")
        if len(secret) < 16:
            raise ValueError("a secret is too short: use at least 16 characters, for example `openssl rand -hex 32`")
        if key_id in keys:
            raise ValueError("a key id is used twice: give each key its own")
        keys[key_id] = secret.encode()
    return keys


def _address(problem: Any, path: str, text: str) -> None:
    try:
        parse_address(text)
    except ValueError as error:
        problem(path, str(error))


def _check_listener(listener: Any, path: str, config: Config, reader: _Reader) -> None:
    problem = reader.problem
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", listener.name):
        problem(f"{path}.name", "use 1 to 64 letters, digits, dots, dashes: it becomes a metric label")
    _address(problem, f"{path}.listen", listener.listen)
    if not listener.upstream.startswith("unix:"):
        _address(problem, f"{path}.upstream", listener.upstream)
    if listener.listen == listener.upstream:
        problem(f"{path}.upstream", "is the listener itself: queries would run in a circle")
    if listener.mode == "enforce":
        if config.sidecar.workers != 1:
            problem(f"{path}.mode", "enforce counts exactly only in one process: set sidecar.workers = 1")
        if not listener.budget_rows and not listener.budget_patients:
            problem(f"{path}.mode", "enforce needs budget_rows or budget_patients")
    if listener.budget_window_ms < 1_000:
        problem(f"{path}.budget_window", 'must be at least "1s"')
    for column in listener.patient_columns:
        if not 2 <= len(column.split(".")) <= 3:
            problem(f"{path}.patient_columns", "write each column as table.column or schema.table.column")
    if listener.application_name_pattern:
        try:
            if "principal" not in re.compile(listener.application_name_pattern).groupindex:
                problem(f"{path}.application_name_pattern", "needs a group named principal: (?P<principal>...)")
        except re.error as error:
            problem(f"{path}.application_name_pattern", f"is not a regular expression: {error}")
        if not listener.trusted_sources:
            problem(
                f"{path}.application_name_pattern", "anybody can set application_name: name trusted_sources as well"
            )
    for source in listener.trusted_sources:
        if source not in ("*", "unix"):
            try:
                ipaddress.ip_network(source, strict=False)
            except ValueError:
                problem(f"{path}.trusted_sources", 'write an address, a network such as "10.0.0.0/24", "unix" or "*"')
    for column in listener.asked_columns:
        try:
            parse_column(column)
        except ValueError as error:
            problem(f"{path}.asked_columns", str(error))
    for flag in listener.deny:
        if flag not in DENIABLE:
            problem(f"{path}.deny", f"{flag} is no flag: use {', '.join(DENIABLE)}")
    for allowance in listener.deny_except:
        if allowance.rpartition(":")[2] not in DENIABLE[1:] or not allowance.rpartition(":")[0]:
            problem(f"{path}.deny_except", f"write account:flag, the flag one of {', '.join(DENIABLE[1:])}")
    if listener.large_value_bytes < 256 << 10:
        problem(f"{path}.large_value_bytes", 'must be at least "256KiB"')
    for variable in listener.identity_variables:
        if not variable.startswith("@"):
            problem(f"{path}.identity_variables", "a user variable begins with @")
    if listener.tls == "terminate":
        _check_pair(listener, path, "tls_cert", "tls_key", 'is needed with tls = "terminate"', reader)
    elif listener.tls_client_ca:
        problem(f"{path}.tls_client_ca", 'has no effect without tls = "terminate"')
    if listener.upstream_cert or listener.upstream_key:
        _check_pair(listener, path, "upstream_cert", "upstream_key", "is needed with the other", reader)
    for network in listener.proxy_protocol_in:
        try:
            ipaddress.ip_network(network)
        except ValueError:
            problem(f"{path}.proxy_protocol_in", f"{network!r} is no address or network: write 10.0.0.5 or 10.0.0.0/24")
    _check_engine(listener, path, problem)
    if listener.upstream_tls != "disable" and listener.upstream.startswith("unix:"):
        problem(f"{path}.upstream_tls", "a Unix socket has no TLS: set it to disable")
    for name in ("upstream_ca", "tls_client_ca"):
        if getattr(listener, name) and not (reader.base / getattr(listener, name)).is_file():
            problem(f"{path}.{name}", "no such file")


def _check_engine(listener: Any, path: str, problem: Any) -> None:
    """Settings that only one engine has."""
    if listener.protocol == "mysql":
        if listener.catalog_dsn:
            problem(f"{path}.catalog_dsn", "MySQL names a column's origin in each result: leave it out")
        if listener.kill_dsn and not re.fullmatch(r"mysql://[^\s/@:]+(:[^\s@]*)?@[^\s/@]+/?", listener.kill_dsn):
            problem(f"{path}.kill_dsn", "write it as mysql://user:password@host:port")
    elif listener.kill_dsn:
        problem(f"{path}.kill_dsn", "PostgreSQL is cancelled by its own protocol: leave it out")


def _check_pair(section: Any, path: str, cert: str, key: str, why: str, reader: _Reader) -> None:
    """A certificate and its key: there, matching, and not expired."""
    for name in (cert, key):
        if not getattr(section, name):
            reader.problem(f"{path}.{name}", why)
            return
    if problem := problem_of(reader.base / getattr(section, cert), reader.base / getattr(section, key)):
        reader.problem(f"{path}.{cert}", problem)


_FILES = ("tls_cert", "tls_key", "tls_client_ca", "upstream_ca", "upstream_cert", "upstream_key")


def _anchored(listener: ListenerConfig, base: Path) -> ListenerConfig:
    """Its files as absolute paths: a configuration means the same wherever a part is started."""
    changes: dict[str, Any] = {n: str(base.absolute() / path) for n in _FILES if (path := getattr(listener, n))}
    return replace(listener, **changes)
