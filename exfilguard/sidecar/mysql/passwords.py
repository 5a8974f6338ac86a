"""Passwords of `caching_sha2_password` between a side with TLS and a side without: RSA-OAEP with SHA-1, as MySQL has it.

https://dev.mysql.com/doc/dev/mysql-server/latest/page_caching_sha2_authentication_exchanges.html
"""

from __future__ import annotations

import asyncio

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from ...errors import ProtocolError

KEY_BITS = 2048

_OAEP = padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), None)  # noqa: S303 the protocol says so
_own: list[rsa.RSAPrivateKey] = []
"""This process's key, made when the first client needs it."""


def encrypt(public_key: bytes, text: bytes) -> bytes:
    """`text` for the owner of the key (PEM). Raises ProtocolError."""
    try:
        key = serialization.load_pem_public_key(public_key)
        if not isinstance(key, rsa.RSAPublicKey):
            raise ProtocolError("the server's key is not an RSA key")
        return key.encrypt(text, _OAEP)
    except ValueError:
        raise ProtocolError("the server's public key cannot be used") from None


async def public_key() -> bytes:
    """This process's public key (PEM)."""
    if not _own:
        made = await asyncio.to_thread(rsa.generate_private_key, 65537, KEY_BITS)
        if not _own:
            _own.append(made)
    return (
        _own[0].public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )


def decrypt(text: bytes) -> bytes:
    """What a client encrypted for `public_key`. Raises ProtocolError."""
    try:
        return _own[0].decrypt(text, _OAEP)
    except (ValueError, IndexError):
        raise ProtocolError("the password cannot be decrypted") from None
