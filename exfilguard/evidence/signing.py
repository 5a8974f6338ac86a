"""Ed25519 keys of the ledger's checkpoints (RFC 8032), as PEM: the private one signs here, the public one is handed out."""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from ..errors import EvidenceError

MAKE_ONE = "make one with `openssl genpkey -algorithm ed25519 -out audit.key`"


class Signer:
    """Signs checkpoints."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.verifier = Verifier(key.public_key())

    def sign(self, data: bytes) -> str:
        """64 bytes as 128 hex digits."""
        return self._key.sign(data).hex()


class Verifier:
    """Checks signatures. `key_id`: the first 16 hex digits of the SHA-256 of the raw public key."""

    def __init__(self, key: Ed25519PublicKey) -> None:
        self._key = key
        raw = key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        self.key_id = hashlib.sha256(raw).hexdigest()[:16]

    def pem(self) -> bytes:
        return self._key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)

    def good(self, signature: str, data: bytes) -> bool:
        try:
            self._key.verify(bytes.fromhex(signature), data)
        except (InvalidSignature, ValueError):
            return False
        return True


def signer_from(pem: str) -> Signer:
    """Raises EvidenceError when the text is no Ed25519 private key."""
    try:
        key = serialization.load_pem_private_key(pem.encode(), password=None)
    except (ValueError, TypeError):
        raise EvidenceError(f"the signing key is not an unencrypted private key in PEM: {MAKE_ONE}") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise EvidenceError(f"the signing key is not an Ed25519 key: {MAKE_ONE}")
    return Signer(key)


def signer_at(path: Path) -> Signer:
    """The key in this file; made once, readable by its owner only, when it is not there. Raises EvidenceError."""
    with contextlib.suppress(FileExistsError):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(
                Ed25519PrivateKey.generate().private_bytes(
                    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
                )
            )
    try:
        return signer_from(path.read_text(encoding="ascii"))
    except (OSError, UnicodeDecodeError) as error:
        raise EvidenceError(f"{path}: cannot be read ({type(error).__name__}): {MAKE_ONE}") from None


def verifier_at(path: Path) -> Verifier:
    """The public key in this PEM file. Raises EvidenceError."""
    try:
        key = serialization.load_pem_public_key(path.read_bytes())
    except OSError as error:
        raise EvidenceError(f"{path}: cannot be read: {error.strerror}: name the file of the public key") from None
    except ValueError:
        raise EvidenceError(f"{path}: is not a public key in PEM") from None
    if not isinstance(key, Ed25519PublicKey):
        raise EvidenceError(f"{path}: is not an Ed25519 public key")
    return Verifier(key)
