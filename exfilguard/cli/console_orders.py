"""A click in the console is the operator's command of the same name: one way to decide, one set of rules."""

from __future__ import annotations

import contextlib
import io
import threading

import orjson

from ..console.operations import Deed, Order
from ..console.state import ConsoleState
from ..errors import BrokerError
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
_WITH_DURATION = ("allow", "extend", "lock", "break_glass")


class CommandOperations:
    """Carries orders out by the commands. The person is the one who logged in to the console, not the process's own user."""

    def __init__(self, config_path: str) -> None:
        self._config_path = config_path
        self._one_at_a_time = threading.Lock()  # what a command prints is caught

    def carry_out(self, order: Order) -> str:
        from .main import build_parser

        argv = [_COMMANDS[order.deed], f"--config={self._config_path}", f"--reason={order.reason}"]
        if order.deed in _WITH_DURATION:
            argv.append(f"--for={order.lasts_ms // 1000}s")
        args = build_parser().parse_args([*argv, "--", order.principal])
        args.person = Person(order.by, order.by, f"console from {order.source}")
        out, err = io.StringIO(), io.StringIO()
        with self._one_at_a_time, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = args.run(args)
        told = (out.getvalue() or err.getvalue()).strip().partition("\n")[0]
        if status:
            raise BrokerError(told)
        return told


class StateDossiers:
    """What the console itself knows of an incident: its verdicts and actions, as JSON."""

    def __init__(self, state: ConsoleState) -> None:
        self._state = state

    def make(self, tenant: str, principal: str, opened_ms: int, until_ms: int, language: str) -> tuple[bytes, str, str]:
        key = f"{tenant}/{principal}"
        steps = [s for i in self._state.of_account(key) if i.opened_ms == opened_ms for s in i.steps()]
        lines = [encode_verdict(s.verdict) for s in steps if s.verdict] + [
            encode_action(s.action) for s in steps if s.action
        ]
        content = b'{"account":%b,"steps":[%b]}' % (orjson.dumps(key), b",\n".join(lines))
        return content, "application/json", f"incident-{principal}.json"
