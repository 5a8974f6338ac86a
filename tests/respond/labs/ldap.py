"""OpenLDAP with its password policy, and with Active Directory's attribute."""

from __future__ import annotations

import contextlib
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from exfilguard.config.responder import (
    LDAPHookConfig,
)
from exfilguard.embedded.child import Child, free_port
from exfilguard.respond.hook import Settings, SuspendHook

from .lab import DEPLOY, HOOK_PASSWORD, PASSWORD, OldSession

SUFFIX = "dc=clinic,dc=example"
_SLAPD = """
include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/inetorgperson.schema
attributetype ( 1.2.840.113556.1.4.8 NAME 'userAccountControl' EQUALITY integerMatch
  SYNTAX 1.3.6.1.4.1.1466.115.121.1.27 SINGLE-VALUE )
objectclass ( 1.3.6.1.4.1.4203.666.1 NAME 'adUser' SUP top AUXILIARY MAY userAccountControl )
modulepath /usr/lib/ldap
moduleload back_mdb
moduleload ppolicy
pidfile {directory}/pid
database mdb
suffix "{suffix}"
rootdn "cn=admin,{suffix}"
rootpw {password}
directory {directory}/db
dbnosync
maxsize 268435456
overlay ppolicy
ppolicy_default "cn=default,ou=policies,{suffix}"
{access}
# As a domain controller does: who is disabled cannot log on (LDAP_MATCHING_RULE_BIT_AND).
access to filter="(userAccountControl:1.2.840.113556.1.4.803:=2)" attrs=userPassword by * none
access to attrs=userPassword by anonymous auth by * none
access to * by * none
"""
_ENTRIES = """
dn: {suffix}
objectClass: domain
dc: clinic

dn: ou=people,{suffix}
objectClass: organizationalUnit
ou: people

dn: ou=services,{suffix}
objectClass: organizationalUnit
ou: services

dn: ou=policies,{suffix}
objectClass: organizationalUnit
ou: policies

dn: cn=default,ou=policies,{suffix}
objectClass: pwdPolicy
objectClass: organizationalRole
cn: default
pwdAttribute: userPassword
pwdLockout: TRUE

dn: cn=exfilguard,ou=services,{suffix}
objectClass: organizationalRole
objectClass: simpleSecurityObject
cn: exfilguard
userPassword: {hook_password}
"""


class LdapLab:
    """`method`: ppolicy or active-directory."""

    sessions = False
    max_name_bytes = 200

    def __init__(self, directory: Path, method: str = "ppolicy") -> None:
        self.name = "ldap" if method == "ppolicy" else "active-directory"
        self.method = method
        self.directory = directory / f"slapd-{method}"
        self.port = free_port()
        self.password = secrets.token_urlsafe(12)
        self._child = Child("slapd", self.directory / "slapd.log")

    def start(self) -> None:
        (self.directory / "db").mkdir(parents=True)
        access = "\n".join(
            "access " + re.sub(r"^\{\d+\}", "", rule) for rule in _olc_access(DEPLOY / "ldap" / "openldap-acl.ldif")
        )
        if self.method == "active-directory":
            access = access.replace("attrs=pwdAccountLockedTime", "attrs=userAccountControl")
        text = _SLAPD.format(directory=self.directory, suffix=SUFFIX, password=self.password, access=access)
        (self.directory / "slapd.conf").write_text(text, encoding="utf-8")
        self.again()
        with self.admin() as admin:
            import io

            import ldif

            parser = ldif.LDIFRecordList(
                io.StringIO(_ENTRIES.format(suffix=SUFFIX, hook_password=HOOK_PASSWORD).lstrip())
            )
            parser.parse()
            for dn, attributes in parser.all_records:
                admin.add_s(dn, list(attributes.items()))

    def again(self) -> None:
        self._child.start(
            [
                "/usr/sbin/slapd",
                "-d",
                "0",
                "-f",
                str(self.directory / "slapd.conf"),
                "-h",
                f"ldap://127.0.0.1:{self.port}",
            ]
        )
        self._child.wait_until(self._ready, 20.0)

    def _ready(self) -> bool:
        import ldap

        try:
            with self.admin():
                return True
        except ldap.LDAPError:
            return False

    @contextlib.contextmanager
    def admin(self) -> Iterator[Any]:
        connection = self._bind(f"cn=admin,{SUFFIX}", self.password)
        try:
            yield connection
        finally:
            connection.unbind_s()

    def _bind(self, dn: str, password: str) -> Any:
        import ldap

        connection = ldap.initialize(f"ldap://127.0.0.1:{self.port}")
        connection.set_option(ldap.OPT_NETWORK_TIMEOUT, 5)
        connection.simple_bind_s(dn, password)
        return connection

    def stop(self) -> None:
        self._child.stop()

    def kill(self) -> None:
        self._child.kill()

    def hook(self, **settings: Any) -> SuspendHook[Any]:
        return self.at(self.port, **settings)

    def at(self, port: int, **settings: Any) -> SuspendHook[Any]:
        from exfilguard.respond.ldap import LDAPHook

        config = LDAPHookConfig(
            url=f"ldap://127.0.0.1:{port}",
            method=self.method,  # type: ignore[arg-type]
            bind_dn=f"cn=exfilguard,ou=services,{SUFFIX}",
            password=settings.pop("password", HOOK_PASSWORD),
            base_dn=f"ou=people,{SUFFIX}",
        )
        return LDAPHook(config, Settings(**settings))

    def dn(self, account: str) -> str:
        from ldap.dn import escape_dn_chars

        return f"uid={escape_dn_chars(account)},ou=people,{SUFFIX}"

    def create(self, account: str) -> None:
        attributes = {
            "objectClass": [b"inetOrgPerson", b"adUser"], "uid": [account.encode()], "cn": [b"x"], "sn": [b"x"],
            "userPassword": [PASSWORD.encode()], "userAccountControl": [b"66048"],  # a normal account, DONT_EXPIRE_PASSWORD
        }  # fmt: skip
        with self.admin() as admin:
            admin.add_s(self.dn(account), list(attributes.items()))

    def disable(self, account: str) -> None:
        import ldap

        name, value = (
            ("pwdAccountLockedTime", b"000001010000Z") if self.method == "ppolicy" else ("userAccountControl", b"66050")
        )
        with self.admin() as admin:
            admin.modify_s(self.dn(account), [(ldap.MOD_REPLACE, name, [value])])

    def enable(self, account: str) -> None:
        import ldap

        name, value = ("pwdAccountLockedTime", None) if self.method == "ppolicy" else ("userAccountControl", [b"66048"])
        with self.admin() as admin:
            admin.modify_s(self.dn(account), [(ldap.MOD_REPLACE, name, value)])

    def login(self, account: str) -> OldSession | None:
        import ldap

        try:
            return _Bound(self._bind(self.dn(account), PASSWORD))
        except ldap.INVALID_CREDENTIALS:
            return None


class _Bound:
    def __init__(self, connection: Any) -> None:
        self.connection = connection

    def alive(self) -> bool:
        return bool(self.connection.whoami_s())


def _olc_access(path: Path) -> list[str]:
    """The rules of an LDIF file, unfolded."""
    text = re.sub(r"\n ", "", path.read_text(encoding="utf-8"))
    return re.findall(r"^olcAccess: (.*)$", text, re.MULTILINE)
