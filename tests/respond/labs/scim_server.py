"""scim2-server, the library, with its users in a file: a server that can be killed and started again.

python scim_server.py PORT TOKEN_FILE STATE_FILE
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from scim2_models import ScimProvider
from scim2_server.memory import InMemoryStorage
from scim2_server.testserver.application import BearerTokenApplication
from scim2_server.utils import (
    load_default_resource_types,
    load_default_schemas,
    load_default_service_provider_config,
)


class FileStorage(InMemoryStorage):
    """Written whole after every change, before it is answered."""

    path: Path

    def _save(self) -> None:
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps([r.model_dump(mode="json", by_alias=True) for r in self.resources]), encoding="utf-8")
        os.replace(new, self.path)

    def create(self, *arguments: Any, **named: Any) -> Any:
        found = super().create(*arguments, **named)
        self._save()
        return found

    def update(self, *arguments: Any, **named: Any) -> Any:
        found = super().update(*arguments, **named)
        self._save()
        return found


class Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    request_queue_size = 64


class Quiet(WSGIRequestHandler):
    def log_message(self, *_: Any) -> None:
        return


def main() -> None:
    port, token_file, state_file = int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
    provider = ScimProvider.from_discovery(
        load_default_schemas().values(),
        load_default_resource_types().values(),
        config=load_default_service_provider_config(),
    )
    storage = FileStorage()
    storage.path = state_file
    storage.versions = itertools.count(time.time_ns())
    if state_file.is_file():
        user = provider.model_for_endpoint("/Users")
        storage.resources = [user.model_validate(raw) for raw in json.loads(state_file.read_bytes())]
    application = BearerTokenApplication(storage, provider, bearer_tokens=[token_file.read_text().strip()])
    with make_server("127.0.0.1", port, application, server_class=Server, handler_class=Quiet) as server:
        server.serve_forever()


if __name__ == "__main__":
    main()
