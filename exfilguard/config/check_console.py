"""What a type cannot say about `[console]`: settings that would not be safe, or cannot work together."""

from __future__ import annotations

from collections.abc import Callable

from .schema import CONSOLE_ROLES, ConsoleConfig


def check_console(console: ConsoleConfig, problem: Callable[[str, str], None]) -> None:
    """Report every mistake through `problem(key, text)`."""
    host = console.listen.rpartition(":")[0].strip("[]")
    if (
        host not in ("127.0.0.1", "::1", "localhost")
        and not console.tls_cert
        and not console.public_url.startswith("https://")
    ):
        problem(
            "console.listen",
            "other machines would send passwords in clear: set console.tls_cert and tls_key, or a public_url with https "
            "behind a proxy that terminates TLS",
        )
    if bool(console.tls_cert) != bool(console.tls_key):
        problem("console.tls_cert", "needs tls_key, and the other way round")
    if console.oidc_issuer and not (console.oidc_client_id and console.public_url and console.oidc_roles):
        problem("console.oidc_issuer", "needs oidc_client_id, oidc_roles and public_url as well")
    for entry in console.oidc_roles:
        value, _, role = entry.rpartition("=")
        if not value or role not in CONSOLE_ROLES:
            problem("console.oidc_roles", f"write claim-value=role, the role one of {', '.join(CONSOLE_ROLES)}")
