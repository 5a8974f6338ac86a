"""Live messages to the SIEM: a thread with a bounded queue. Best effort: what does not fit while the collector is away is
dropped and counted, and `exfilguard archive export` gives it from the archive. Nothing else ever waits for it."""

from __future__ import annotations

import contextlib
import logging
import queue
import socket
import ssl
import threading
from typing import Any

import orjson

from .. import __version__
from ..config.load import parse_address
from ..config.schema import Config, SiemConfig
from ..events.action import Action
from ..events.codec import Frame
from ..events.verdict import Verdict, severity
from ..evidence import cef, fhir, ocsf, syslog
from ..runtime.kafka import RepeatedError

log = logging.getLogger(__name__)

MAX_QUEUED = 20_000
RETRY_S = 1.0
TIMEOUT_S = 10.0
LEVELS = (6, 4, 4, 3, 1)
"""Syslog severities of a verdict: informational, warning, warning, error, alert."""
READ = 6


class SiemSender:
    """`sent` and `dropped` count messages."""

    def __init__(self, config: SiemConfig, host: str) -> None:
        self._config = config
        self._host = host
        self._queue: queue.Queue[bytes | None] = queue.Queue(MAX_QUEUED)
        self._socket: socket.socket | None = None
        self._stop = threading.Event()
        self._trouble = RepeatedError(f"the SIEM at {config.address} is not reached", "messages are kept, then dropped")
        self.sent = 0
        self.dropped = 0
        self._thread = threading.Thread(target=self._run, name="siem", daemon=True)
        self._thread.start()

    # -- what is said -----------------------------------------------------------------------------------------------

    def frame(self, frame: Frame) -> None:
        """Statements that returned patients, when `what` is `all`."""
        if self._config.what != "all":
            return
        for event in frame.events:
            if event["kind"] in ("query", "progress") and (event.get("patients") or event.get("patients_estimated")):
                self._put(event["time_ms"], READ, "read", self._read(event, frame.tenant))

    def _read(self, event: dict[str, Any], tenant: str) -> str | dict[str, Any]:
        if self._config.format == "cef":
            return cef.query(event, tenant, __version__)
        if self._config.format == "fhir":
            return fhir.query(event, tenant, __version__)
        return ocsf.datastore_activity(event, tenant, __version__)

    def verdict(self, verdict: Verdict) -> None:
        body: str | dict[str, Any]
        if self._config.format == "cef":
            body = cef.verdict(verdict, __version__)
        elif self._config.format == "fhir":
            body = fhir.verdict(verdict, __version__)
        else:
            body = ocsf.detection_finding(verdict, __version__)
        self._put(verdict.issued_ms, LEVELS[severity(verdict.level)], "verdict", body)

    def action(self, action: Action) -> None:
        body: str | dict[str, Any]
        if self._config.format == "cef":
            body = cef.action(action, __version__)
        elif self._config.format == "fhir":
            body = fhir.action(action, __version__)
        else:
            body = ocsf.account_change(action, __version__)
        self._put(action.ended_ms, 4, "action", body)

    def _put(self, time_ms: int, level: int, msgid: str, body: str | dict[str, Any]) -> None:
        text = body if isinstance(body, str) else orjson.dumps(body).decode()
        try:
            self._queue.put_nowait(syslog.message(time_ms, self._host, level, msgid, text))
        except queue.Full:
            self.dropped += 1

    # -- the connection ---------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while (message := self._queue.get()) is not None:
            while not self._stop.is_set():
                try:
                    self._send(message)
                    self.sent += 1
                    self._trouble.worked()
                    break
                except OSError as error:
                    self._trouble.failed(error)
                    self._disconnect()
                    self._stop.wait(RETRY_S)
            else:
                self.dropped += 1

    def _send(self, message: bytes) -> None:
        connection = self._socket or self._connect()
        if self._config.transport == "udp":
            connection.send(message[: syslog.MAX_UDP_BYTES])
            return
        # A peer that has closed is noticed when it is written to: not to lose the message that is, look first.
        connection.setblocking(False)
        try:
            if connection.recv(1) == b"":
                raise ConnectionResetError
        except (BlockingIOError, ssl.SSLWantReadError):
            pass
        finally:
            connection.settimeout(TIMEOUT_S)
        connection.sendall(syslog.counted(message))

    def _connect(self) -> socket.socket:
        host, port = parse_address(self._config.address)
        if self._config.transport == "udp":
            family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
            self._socket = socket.socket(family, kind, protocol)
            self._socket.connect(address)
            return self._socket
        made = socket.create_connection((host, port), TIMEOUT_S)
        if self._config.transport == "tls":
            context = ssl.create_default_context(cafile=self._config.ca_file or None)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            made = context.wrap_socket(made, server_hostname=host)
        self._socket = made
        return made

    def _disconnect(self) -> None:
        made, self._socket = self._socket, None
        if made is not None:
            with contextlib.suppress(OSError):
                made.close()

    def close(self, grace_s: float = 2.0) -> None:
        """What is queued has this long to go out."""
        with contextlib.suppress(queue.Full):
            self._queue.put_nowait(None)
        self._thread.join(grace_s)
        self._stop.set()
        self._thread.join(TIMEOUT_S)
        self._disconnect()


def sender_of(config: Config) -> SiemSender | None:
    """None when no SIEM is configured."""
    return SiemSender(config.siem, socket.gethostname()) if config.siem.address else None
