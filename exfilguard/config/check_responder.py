"""What a type cannot say about the hooks' settings. Every mistake is reported, none is quoted."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from .responder import ResponderConfig

Problem = Callable[[str, str], None]

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
RESERVED = ("postgres", "mysql", "ldap", "keycloak", "scim", "mail", "operator", "mass-lock")


def check_responder(responder: ResponderConfig, problem: Problem, base: Path) -> None:
    """Reports through `problem(path, text)`. `base`: where relative paths begin."""
    if responder.concurrency < 1:
        problem("responder.concurrency", "must be at least 1")
    if responder.mass_lock_window_ms < 1_000:
        problem("responder.mass_lock_window", 'must be at least "1s"')
    if responder.two_person_unlock and responder.request_ttl_ms < 10_000:
        problem("responder.request_ttl", 'must be at least "10s": the second operator needs time')
    _check_single(responder, problem)
    names: set[str] = set()
    for path, hook in responder.named():
        if not _NAME.fullmatch(hook.name):
            problem(f"{path}.name", "use 1 to 64 letters, digits, dots, dashes: it becomes a metric label")
        if hook.name in RESERVED:
            problem(f"{path}.name", "is the name of a built-in hook: choose another")
        if hook.name in names:
            problem(f"{path}.name", "is used twice: give each hook its own name")
        names.add(hook.name)
        path_of = f"{path}."
        if path.startswith("responder.application"):
            _check_application(hook, path_of, problem)
        elif path.startswith("responder.command"):
            if not hook.argv or not hook.argv[0]:
                problem(f"{path_of}argv", 'is empty: write the program and its arguments, ["/usr/local/bin/lock"]')
        elif path.startswith("responder.plugin"):
            for item in hook.settings:
                if "=" not in item:
                    problem(f"{path_of}settings", 'write each as "name=value"')
        else:
            _check_webhook(hook, path_of, problem)
    for path, hook in everything(responder):
        if hook.timeout_ms < 100:
            problem(f"{path}.timeout", 'must be at least "100ms"')
        if getattr(hook, "tls_ca", "") and not (base / hook.tls_ca).is_file():
            problem(f"{path}.tls_ca", "no such file: write its path relative to this configuration")


def everything(responder: ResponderConfig) -> list[tuple[str, Any]]:
    """(path, settings) of every hook's section, whether in use or not."""
    single = ("postgres", "mysql", "ldap", "keycloak", "scim", "mail")
    found = [(f"responder.{name}", getattr(responder, name)) for name in single]
    return [(path, hook) for path, hook in found if hook is not None] + list(responder.named())


def _check_single(responder: ResponderConfig, problem: Problem) -> None:
    mysql, ldap, keycloak, scim, mail = (
        responder.mysql, responder.ldap, responder.keycloak, responder.scim, responder.mail
    )  # fmt: skip
    if mysql is not None and mysql.address:
        _address("responder.mysql.address", mysql.address, problem)
        _needed("responder.mysql.", mysql, ("user", "password"), problem)
    if ldap is not None and ldap.url:
        _url("responder.ldap.url", ldap.url, ("ldap", "ldaps", "ldapi"), problem)
        _needed("responder.ldap.", ldap, ("bind_dn", "password", "base_dn"), problem)
        if "{account}" not in ldap.filter or ldap.filter.count("(") != ldap.filter.count(")"):
            problem("responder.ldap.filter", "must be an LDAP filter in parentheses that holds {account}")
        if ldap.starttls and ldap.url.startswith("ldaps:"):
            problem("responder.ldap.starttls", "ldaps:// is TLS already: leave one of the two out")
    if keycloak is not None and keycloak.url:
        _url("responder.keycloak.url", keycloak.url, ("http", "https"), problem)
        _needed("responder.keycloak.", keycloak, ("realm", "client_id", "client_secret"), problem)
    if scim is not None and scim.url:
        _url("responder.scim.url", scim.url, ("http", "https"), problem)
        _needed("responder.scim.", scim, ("token",), problem)
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9._:$-]*", scim.filter_attribute):
            problem("responder.scim.filter_attribute", "is not a SCIM attribute's name")
    if mail is not None and mail.address:
        _address("responder.mail.address", mail.address, problem)
        _needed("responder.mail.", mail, ("sender", "recipients"), problem)
        if mail.user and mail.tls == "none":
            problem("responder.mail.tls", "a password in clear: use starttls or tls, or leave user out")


def _check_application(hook: Any, path: str, problem: Problem) -> None:
    if hook.engine == "postgres":
        _needed(path, hook, ("dsn",), problem)
    else:
        _needed(path, hook, ("address", "user", "password", "database"), problem)
        if hook.address:
            _address(f"{path}address", hook.address, problem)
    for name in ("lock", "unlock"):
        if not getattr(hook, name):
            problem(f"{path}{name}", "is empty: write at least one statement")
    if "%(account)s" not in hook.state:
        problem(f"{path}state", "must name the account as %(account)s: it is a parameter, never put into the text")
    for name in ("state", "locked"):
        if not re.match(r"\s*(select|with)\b", getattr(hook, name), re.IGNORECASE):
            problem(f"{path}{name}", "must be a SELECT")


def _check_webhook(hook: Any, path: str, problem: Problem) -> None:
    _url(f"{path}url", hook.url, ("http", "https"), problem)
    if hook.secret and len(hook.secret) < 16:
        problem(f"{path}secret", "is too short: use at least 16 characters, for example `openssl rand -hex 32`")
    if hook.template == "generic" and not hook.secret:
        problem(f"{path}secret", "is missing: the receiver checks the signature with it; add secret_file")
    needed = {"pagerduty": ("token",), "glpi": ("token", "app_token"), "servicenow": ("user", "password")}
    _needed(path, hook, needed.get(hook.template, ()), problem)


def _needed(path: str, hook: Any, names: tuple[str, ...], problem: Problem) -> None:
    for name in names:
        if not getattr(hook, name):
            problem(f"{path}{name}", "is missing: add it")


def _url(path: str, text: str, schemes: tuple[str, ...], problem: Problem) -> None:
    try:
        parts = urlsplit(text)
        usable = parts.scheme in schemes and (bool(parts.hostname) or parts.scheme == "ldapi")
        named = bool(parts.username or parts.password)
    except ValueError:
        usable, named = False, False
    if not usable:
        problem(path, f"is not an address that begins with {' or '.join(f'{scheme}://' for scheme in schemes)}")
    if named:
        problem(path, "holds a user or password: use the settings for them")


def _address(path: str, text: str, problem: Problem) -> None:
    from .load import parse_address

    if text.startswith("unix:/"):
        return
    try:
        parse_address(text)
    except ValueError as error:
        problem(path, str(error))
