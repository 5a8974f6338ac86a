"""From the configuration to the hooks: the one place that knows them all, and the entry points of other packages.

Libraries that only one hook needs are imported when that hook is configured; a missing one is a configuration error with
its remedy, not a crash of the responder.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from ..config.responder import PluginHookConfig, ResponderConfig
from ..errors import ConfigError
from .hook import Hook, Settings
from .postgres import PostgresHook

GROUP = "exfilguard.hooks"
"""Entry-point group. The object is called with (name, settings: dict[str, str], secret: str, common: Settings) and returns
a Hook."""

Factory = Callable[[str, dict[str, str], str, Settings], Hook]

_BUILT_IN = {
    "mysql": ("mysql", "MySQLHook", "address"),
    "ldap": ("ldap", "LDAPHook", "url"),
    "keycloak": ("keycloak", "KeycloakHook", "url"),
    "scim": ("scim", "SCIMHook", "url"),
    "mail": ("mail", "MailHook", "address"),
}
_NAMED = {
    "application": ("application", "ApplicationHook"),
    "command": ("command", "CommandHook"),
    "webhook": ("webhook", "Webhook"),
}


def build_hooks(config: ResponderConfig, protected: Container[str]) -> list[Hook]:
    """The configured hooks, those that suspend accounts first. Raises ConfigError with every problem found.

    `protected`: accounts that are never suspended.
    """
    problems: list[str] = []
    hooks: list[Hook] = []

    def add(path: str, make: Callable[[], Hook]) -> None:
        try:
            hooks.append(make())
        except ModuleNotFoundError as error:
            problems.append(f"{path}: needs the package {error.name}: pip install 'exfilguard[hooks,ldap]'")
        except (ConfigError, ValueError) as error:
            problems.append(f"{path}: {error}")

    if config.postgres.dsn:
        add("responder.postgres", lambda: PostgresHook(config.postgres, common(config.postgres, protected)))
    for name, (module, cls, switch) in _BUILT_IN.items():
        section = getattr(config, name)
        if getattr(section, switch):
            add(f"responder.{name}", lambda m=module, c=cls, s=section: _load(m, c)(s, common(s, protected)))  # type: ignore[misc]
    for kind, (module, cls) in _NAMED.items():
        for i, section in enumerate(getattr(config, kind)):
            add(f"responder.{kind}[{i}]", lambda m=module, c=cls, s=section: _load(m, c)(s, common(s, protected)))  # type: ignore[misc]
    for i, plugin in enumerate(config.plugin):
        add(f"responder.plugin[{i}]", lambda p=plugin: _plugin(p, common(p, protected)))  # type: ignore[misc]
    if problems:
        raise ConfigError(problems)
    return sorted(hooks, key=lambda hook: not hook.suspends)


def common(section: Any, protected: Container[str]) -> Settings:
    """What every hook's section has."""
    return Settings(section.timeout_ms, section.dry_run, tuple(section.accounts), protected)


def _load(module: str, cls: str) -> Any:
    return getattr(import_module(f"{__package__}.{module}"), cls)


def _plugin(config: PluginHookConfig, settings: Settings) -> Hook:
    found = entry_points(group=GROUP, name=config.hook)
    if not found:
        known = sorted({entry.name for entry in entry_points(group=GROUP)})
        raise ConfigError(
            [f"no installed package offers the hook {config.hook} ({GROUP}); there are: {', '.join(known) or 'none'}"]
        )
    factory: Factory = next(iter(found)).load()
    values = dict(item.split("=", 1) for item in config.settings)
    hook = factory(config.name, values, config.secret, settings)
    missing = [
        name for name in ("name", "min_level", "suspends", "before", "lock", "unlock") if not hasattr(hook, name)
    ]
    if missing:
        raise ConfigError([f"the hook {config.hook} is no hook: it has no {', '.join(missing)}"])
    return hook
