"""A PgBouncer between the application and the guard."""

from __future__ import annotations

import os
import pwd
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from exfilguard.embedded.child import Child, free_port, port_is_taken

from .stack import DATABASE, PASSWORD, wait_for

CONFIG = """
[databases]
{database} = host=127.0.0.1 port={upstream} dbname={database} user={user} password='{password}'
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = {mode}
default_pool_size = 1
server_reset_query = DISCARD ALL
ignore_startup_parameters = extra_float_digits
"""


@contextmanager
def pgbouncer(directory: Path, upstream: int, mode: str, user: str) -> Iterator[int]:
    """Its port. One server connection for everybody, as `user`. `directory`: one that other users may enter."""
    program = shutil.which("pgbouncer")
    if program is None:
        pytest.skip("needs pgbouncer (apt install pgbouncer)")
    port = free_port()
    path = directory / f"pgbouncer-{mode}.ini"
    path.write_text(
        CONFIG.format(database=DATABASE, upstream=upstream, user=user, password=PASSWORD, port=port, mode=mode),
        encoding="ascii",
    )
    who = pwd.getpwnam("nobody") if os.geteuid() == 0 else None  # it refuses to run as root
    child = Child("pgbouncer", directory / f"pgbouncer-{mode}.log")
    child.start([program, str(path)], user=who.pw_uid if who else None, group=who.pw_gid if who else None)
    try:
        wait_for(lambda: port_is_taken(port), message="pgbouncer listens")
        yield port
    finally:
        child.stop()
