"""HAProxy in TCP mode: what stands before or behind a guard where there are several of something."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from exfilguard.embedded.child import free_port, port_is_taken

from .stack import wait_for


@contextmanager
def haproxy(directory: Path, *upstreams: int, accept: bool = False, send: bool = False) -> Iterator[int]:
    """Before `upstreams`, in turns; yields its port. With `accept` it wants a PROXY header, with `send` it sends one."""
    if shutil.which("haproxy") is None:
        pytest.skip("needs haproxy")
    port = free_port()
    log = directory / f"haproxy-{port}.log"
    config = directory / f"haproxy-{port}.cfg"
    servers = "".join(
        f"  server s{n} 127.0.0.1:{upstream}{' send-proxy-v2' if send else ''}\n"
        for n, upstream in enumerate(upstreams)
    )
    config.write_text(
        "global\n  log stdout format raw local0\n"
        "defaults\n  mode tcp\n  log global\n  log-format client=%ci\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n"
        f"frontend f\n  bind 127.0.0.1:{port}{' accept-proxy' if accept else ''}\n  default_backend b\n"
        f"backend b\n  balance roundrobin\n{servers}",
        "utf-8",
    )
    with log.open("wb") as out:
        process = subprocess.Popen(["haproxy", "-f", str(config), "-db"], stdout=out, stderr=out)
        try:
            wait_for(lambda: port_is_taken(port))
            yield port
        finally:
            process.terminate()
            process.wait(10)
