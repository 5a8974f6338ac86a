"""One laboratory a hook: the real server, its hook with the grants of deploy/, and accounts whose truth is asked of the server
itself, by logging in and by using an old session, never of the hook."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import exfilguard.embedded.mariadb
import exfilguard.embedded.maven
import exfilguard.embedded.mysql
from exfilguard.embedded.child import is_root

from .application import GnuHealthLab, MediboardLab
from .command import CommandLab
from .keycloak import KeycloakLab
from .lab import HOOK_PASSWORD, Lab
from .ldap import LdapLab
from .mysql import MariadbLab, MysqlLab
from .postgres import PostgresLab
from .scim import ScimLab

__all__ = ["HOOK_PASSWORD", "LABS", "Lab", "enterable", "missing"]

LABS: dict[str, Callable[[Path], Any]] = {
    "postgres": PostgresLab,
    "mysql": MariadbLab,
    "oracle-mysql": MysqlLab,
    "ldap": LdapLab,
    "active-directory": lambda directory: LdapLab(directory, "active-directory"),
    "gnuhealth": GnuHealthLab,
    "mediboard": MediboardLab,
    "scim": ScimLab,
    "scim-pathless": lambda directory: ScimLab(directory, "pathless"),
    "command": CommandLab,
    "keycloak": KeycloakLab,
}


def missing(name: str) -> str:
    """What must be installed first for this laboratory; empty when nothing is missing."""
    if name in ("mysql", "mediboard"):
        return exfilguard.embedded.mariadb.missing_programs()
    if name == "oracle-mysql":
        return exfilguard.embedded.mysql.missing_programs()
    if name in ("ldap", "active-directory"):
        import importlib.util

        if not Path("/usr/sbin/slapd").is_file():
            return "slapd (apt install slapd)"
        if importlib.util.find_spec("ldap") is None:
            return "python-ldap (apt install libldap2-dev libsasl2-dev; pip install 'exfilguard[ldap]')"
    if name == "keycloak":
        return exfilguard.embedded.maven.missing_programs()
    return ""


def enterable(directory: Path) -> Path:
    """Servers that do not run as root must be able to enter it."""
    if is_root():
        directory.chmod(0o711)
    return directory
