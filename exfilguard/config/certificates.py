"""Certificate files: whether they can be used, and until when."""

from __future__ import annotations

import ssl
import time
from pathlib import Path

from cryptography import x509


def expires_at(path: Path) -> int:
    """Unix time, seconds, at which the first certificate of a PEM chain expires. Raises OSError, ValueError."""
    found = x509.load_pem_x509_certificates(path.read_bytes())
    return min(int(certificate.not_valid_after_utc.timestamp()) for certificate in found)


def problem_of(certificate: Path, key: Path) -> str:
    """Why a certificate and its key cannot be used, and what to do; empty when they can."""
    for path, what in ((certificate, "certificate"), (key, "key")):
        if not path.is_file():
            return f"the {what} {path} does not exist: correct the path"
    try:
        until = expires_at(certificate)
    except (OSError, ValueError):
        return f"{certificate} holds no certificate that can be read: it must be PEM, the server's own first"
    try:
        # A password callback of its own: OpenSSL would ask for one on the terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password=lambda: "")
    except (OSError, ssl.SSLError):
        return (
            f"{key} is not the key of {certificate}, is encrypted, or may not be read: compare "
            "`openssl x509 -noout -pubkey -in CERT` with `openssl pkey -pubout -in KEY`"
        )
    if until <= time.time():
        day = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(until))
        return f"{certificate} expired on {day}: renew it; a running sidecar takes the new one on SIGHUP"
    return ""
