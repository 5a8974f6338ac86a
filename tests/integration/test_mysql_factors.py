"""Two factors: of Oracle's own server (password, then the operating system's account by its socket), and of a written one."""

from __future__ import annotations

import getpass
import os
import socket
import subprocess
import threading
from pathlib import Path

import pytest

from exfilguard.embedded import mysql as oracle
from exfilguard.embedded.mysql import EmbeddedMysql
from exfilguard.wire.mysql.messages import packet
from tests.wire import mysql_build as b

from .conftest import enterable_directory
from .mysql import GuardedMysql
from .stack import PASSWORD, wait_for


def test_two_factors_of_oracles_server_pass_through(tmp_path: Path) -> None:
    """The guard is who comes by the socket; the client's password takes the full path, translated since the socket is secure."""
    if missing := oracle.missing_programs():
        pytest.skip(f"MySQL needs {missing}")
    with enterable_directory() as directory, EmbeddedMysql(directory / "server") as server:
        with server.connect() as connection, connection.cursor() as cursor:
            cursor.execute("INSTALL PLUGIN auth_socket SONAME 'auth_socket.so'")
            cursor.execute("CREATE DATABASE clinic")
            for account, system in (("twofold", getpass.getuser()), ("onefold", "nobody_at_all")):
                cursor.execute(
                    f"CREATE USER {account}@localhost IDENTIFIED WITH caching_sha2_password BY '{PASSWORD}' "
                    f"AND IDENTIFIED WITH auth_socket AS '{system}'"
                )
                cursor.execute(f"GRANT SELECT ON clinic.* TO {account}@localhost")
        guarded = GuardedMysql(
            tmp_path / "data", f"unix:{server.socket_path}", engine="mysql", patient_columns=["patient.id"]
        )
        try:

            def said(account: str, password: str) -> str:
                done = subprocess.run(
                    [*oracle.client(), "-h127.0.0.1", f"-P{guarded.port}", f"-u{account}", "--get-server-public-key",
                     "--ssl-mode=DISABLED", "--batch", "--skip-column-names", "-e", "SELECT CURRENT_USER()"],
                    capture_output=True, text=True, check=False, env={**os.environ, "MYSQL_PWD": password}, timeout=60,
                )  # fmt: skip
                return (done.stdout + done.stderr).strip()

            assert said("twofold", PASSWORD) == "twofold@localhost"
            assert said("twofold", PASSWORD) == "twofold@localhost", "the fast path"
            assert "ERROR 1045" in said("twofold", "wrong")
            assert "ERROR 1698" in said("onefold", PASSWORD), "the second factor is another's"
            wait_for(lambda: [e["kind"] for e in guarded.events()].count("login_failed") == 2)
            assert [e["principal"] for e in guarded.events() if e["kind"] == "login"] == ["twofold"] * 2
        finally:
            guarded.stop()


def test_a_further_factors_words_are_not_taken_for_the_firsts(tmp_path: Path) -> None:
    """A further plugin may say the very bytes that are caching_sha2_password's wish for the password in full: they are its own, and so is
    the answer, although the way to the server is secure and the client's is not."""
    said: list[bytes] = []

    def serve() -> None:
        peer, _ = server.accept()
        with peer:
            peer.sendall(packet(0, b.greeting(b.NATIVE | 1 << 28, "caching_sha2_password")))
            said.append(peer.recv(4096)[4:])
            peer.sendall(packet(2, b"\x01\x03") + packet(3, b"\x02dialog\0" + b"who are you?"))
            said.append(peer.recv(4096)[4:])
            peer.sendall(packet(5, b"\x01\x04"))
            said.append(peer.recv(4096)[4:])
            peer.sendall(packet(7, b.ok()))
            peer.recv(4096)

    with enterable_directory() as directory, socket.socket(socket.AF_UNIX) as server:
        address = str(directory / "server.sock")  # short enough for one
        server.bind(address)
        server.listen()
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        guarded = GuardedMysql(tmp_path / "data", f"unix:{address}", engine="mysql")
        try:
            with socket.create_connection(("127.0.0.1", guarded.port), timeout=10) as client:
                heard = [client.recv(4096)]
                client.sendall(packet(1, b.login(plugin="caching_sha2_password", capabilities=b.NATIVE | 1 << 28)))
                while not heard[-1].endswith(b"who are you?"):
                    heard.append(client.recv(4096))
                client.sendall(packet(4, b"the second password"))
                assert client.recv(4096) == packet(5, b"\x01\x04")
                client.sendall(packet(6, b"and more of it"))
                assert client.recv(4096) == packet(7, b.ok())
            thread.join(10)
            assert said[1:] == [b"the second password", b"and more of it"]
        finally:
            guarded.stop()
