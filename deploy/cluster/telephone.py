"""Alertmanager's webhook: what the on-call person was told, and when."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer


class Telephone:
    """(seconds since the epoch, alert's name, status), as it rang."""

    def __init__(self) -> None:
        self.rang: list[tuple[float, str, str]] = []
        telephone = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                now = time.time()
                telephone.rang += [(now, alert["labels"]["alertname"], alert["status"]) for alert in body["alerts"]]
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                return

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/"
        threading.Thread(target=self._server.serve_forever, name="telephone", daemon=True).start()

    def since(self, moment: float) -> dict[str, float]:
        """Alert -> seconds after `moment` at which it first rang."""
        out: dict[str, float] = {}
        for at, name, status in self.rang:
            if at >= moment and status == "firing":
                out.setdefault(name, at - moment)
        return out

    def ringing(self) -> set[str]:
        """Alerts that have rung and were not taken back."""
        last = {name: status for _, name, status in self.rang}
        return {name for name, status in last.items() if status == "firing"}

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
