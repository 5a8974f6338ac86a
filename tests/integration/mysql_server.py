"""A server that speaks MySQL 8's login: caching_sha2_password with its fast and its full path, over TLS or by RSA. Written from the
protocol's documentation, for what MariaDB does not have. Answers every query with one row."""

from __future__ import annotations

import hashlib
import socket
import ssl
import threading
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from tests.wire import mysql_build as b

NONCE = b"12345678abcdefghijkl"
AGAIN = b"lkjihgfedcba87654321"
_OAEP = padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), None)


class Mysql8:
    """`secure`: `context` given, so that clients may use TLS."""

    def __init__(self, password: bytes, context: ssl.SSLContext | None = None) -> None:
        self.password, self.context = password, context
        self.key = rsa.generate_private_key(65537, 2048)
        self.cached = False
        """After one full authentication the fast path is taken."""
        self.paths: list[str] = []
        self.capabilities: list[int] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._socket.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._session, args=(client,), daemon=True).start()

    def _session(self, client: socket.socket) -> None:
        try:
            _Session(self, client).run()
        except (OSError, EOFError, ssl.SSLError):
            client.close()


class _Session:
    def __init__(self, server: Mysql8, client: socket.socket) -> None:
        self.server, self.client = server, client
        self.secure = self.deprecate = False
        self.next = 0

    def exactly(self, size: int) -> bytes:
        out = b""
        while len(out) < size:
            part = self.client.recv(size - len(out))
            if not part:
                raise EOFError
            out += part
        return out

    def read(self) -> bytes:
        head = self.exactly(4)
        assert head[3] == self.next, "packets out of order"
        self.next = (head[3] + 1) & 0xFF
        return self.exactly(int.from_bytes(head[:3], "little"))

    def write(self, payload: bytes) -> None:
        self.client.sendall(b.numbered(payload, first=self.next))
        self.next += 1

    def run(self) -> None:
        server = self.server
        capabilities = b.DEPRECATE | (1 << 11 if server.context is not None else 0)
        self.write(b.greeting(capabilities, "caching_sha2_password"))
        response = self.read()
        if len(response) == 32:
            assert server.context is not None
            self.client = server.context.wrap_socket(self.client, server_side=True)
            self.secure = True
            response = self.read()
        server.capabilities.append(int.from_bytes(response[:4], "little"))
        self.deprecate = bool(server.capabilities[-1] & 1 << 24)
        user = response[32 : response.index(0, 32)]
        at = 32 + len(user) + 1
        proof = response[at + 1 : at + 1 + response[at]]
        if not self.authenticate(proof):
            self.write(b.err("28000"))
            self.client.close()
            return
        self.write(b.ok())
        while True:
            self.next = 0
            command = self.read()
            if command[0] == 1:
                self.client.close()
                return
            if command[0] == 0x11:
                # A new nonce, and by it the whole way again.
                server.cached = False
                self.write(b"\xfecaching_sha2_password\0" + AGAIN + b"\0")
                if self.authenticate(self.read(), AGAIN):
                    self.write(b.ok())
                else:
                    self.write(b.err("28000"))
                continue
            if command[0] == 3 and b"SELECT" in command:
                self.client.sendall(b.result([b.column("id", "patient")], [b.row("7")], deprecate=self.deprecate))
            else:
                self.write(b.ok())

    def authenticate(self, proof: bytes, nonce: bytes = NONCE) -> bool:
        server = self.server
        digest = hashlib.sha256(server.password).digest()
        double = hashlib.sha256(hashlib.sha256(digest).digest() + nonce).digest()
        if server.cached:
            server.paths.append("fast")
            if bytes(x ^ y for x, y in zip(digest, double, strict=True)) != proof:
                return False
            self.write(b"\1\3")
            return True
        self.write(b"\1\4")
        answer = self.read()
        if self.secure:
            server.paths.append("full, TLS")
            given = answer
        else:
            server.paths.append("full, RSA")
            if answer == b"\2":
                key: Any = self.server.key.public_key()
                self.write(
                    b"\1"
                    + key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
                )
                answer = self.read()
            plain = server.key.decrypt(answer, _OAEP)
            given = bytes(byte ^ nonce[i % 20] for i, byte in enumerate(plain))
        server.cached = given == server.password + b"\0"
        return server.cached
