"""A click in the console is the operator's command of the same name: one way to decide, one set of rules."""

from __future__ import annotations

import contextlib
import datetime as dt
import io
import tempfile
import threading
import zipfile
from pathlib import Path

import orjson

from ..console.operations import Deed, Order
from ..console.state import ConsoleState
from ..errors import BrokerError, ExfilGuardError
from ..events.codec import encode_action, encode_verdict
from .decision import Person

_COMMANDS: dict[Deed, str] = {
    "ack": "ack",
    "unlock": "unlock",
    "allow": "unlock",
    "extend": "extend",
    "lock": "lock",
    "break_glass": "break-glass",
}
BEFORE_MS = 3_600_000
"""A dossier begins this long before the first step: the thief was at work already."""

_ONE_AT_A_TIME = threading.Lock()
"""What a command prints is caught, and there is one standard output."""

_WITH_DURATION = ("allow", "extend", "lock", "break_glass")


def run_command(argv: list[str], who: Person | None = None) -> str:
    """The first line of what the command says. Raises ExfilGuardError, with its own words, when it failed."""
    from .main import build_parser

    args = build_parser().parse_args(argv)
    args.person = who
    out, err = io.StringIO(), io.StringIO()
    with _ONE_AT_A_TIME, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = args.run(args)
    told = (out.getvalue() or err.getvalue()).strip().partition("\n")[0]
    if status:
        raise BrokerError(told)
    return told


class CommandOperations:
    """Carries orders out by the commands. The person is the one who logged in to the console, not the process's own user."""

    def __init__(self, config_path: str) -> None:
        self._config_path = config_path

    def carry_out(self, order: Order) -> str:
        argv = [_COMMANDS[order.deed], f"--config={self._config_path}", f"--reason={order.reason}"]
        if order.deed in _WITH_DURATION:
            argv.append(f"--for={order.lasts_ms // 1000}s")
        who = Person(order.by, order.by, f"console from {order.source}")
        return run_command([*argv, "--", order.principal], who)


class ReportDossiers:
    """A ZIP file: what the console itself knows of the incident, and the incident and exposure reports from the archive, as
    `exfilguard report` makes them. Without an archive only the first, and a note that says so."""

    def __init__(self, config_path: str, archive_dir: Path, state: ConsoleState) -> None:
        self._config_path = config_path
        self._archive_dir = archive_dir
        self._state = state

    def make(self, tenant: str, principal: str, opened_ms: int, until_ms: int, language: str) -> tuple[bytes, str, str]:
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as bundle:
            bundle.writestr("timeline.json", self._timeline(f"{tenant}/{principal}", opened_ms))
            if self._archive_dir.is_dir():
                with tempfile.TemporaryDirectory(prefix="exfilguard-dossier-") as directory:
                    for kind in ("incident", "exposure"):
                        try:
                            self._report(kind, principal, opened_ms - BEFORE_MS, until_ms, language, directory)
                        except ExfilGuardError as error:  # nothing archived yet, or a damaged file was left out
                            bundle.writestr(f"NOTE-{kind}.txt", f"{error}\n")
                    for path in sorted(Path(directory).iterdir()):
                        bundle.write(path, path.name)
            else:
                bundle.writestr("NOTE.txt", "No archive is kept (archive.enabled): there are no reports.\n")
        return out.getvalue(), "application/zip", f"incident-{principal}.zip"

    def _timeline(self, key: str, opened_ms: int) -> bytes:
        steps = [s for i in self._state.of_account(key) if i.opened_ms == opened_ms for s in i.steps()]
        lines = [encode_verdict(s.verdict) for s in steps if s.verdict] + [
            encode_action(s.action) for s in steps if s.action
        ]
        return b'{"account":%b,"steps":[%b]}' % (orjson.dumps(key), b",\n".join(lines))

    def _report(self, kind: str, principal: str, from_ms: int, to_ms: int, language: str, directory: str) -> None:
        run_command([
            "report", kind, f"--config={self._config_path}", f"--lang={language}", f"--out={directory}",
            f"--from={_moment(from_ms)}", f"--to={_moment(to_ms + 60_000)}", "--", principal,
        ])  # fmt: skip


def _moment(ms: int) -> str:
    return dt.datetime.fromtimestamp(ms / 1000, dt.UTC).isoformat(timespec="seconds")
