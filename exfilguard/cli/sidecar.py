"""`exfilguard sidecar`: the relays and the shipper, supervised. `exfilguard restart`: all of them anew, and no query fails.

A rolling restart, on the installed program and the configuration as they are now:

    1. the configuration is read; a mistake in it changes nothing
    2. new relays start and take connections from the same sockets, which this process holds; one that does not start is the end of it,
       and the old relays go on
    3. the shipper is started anew; the spool keeps what is published meanwhile
    4. the old relays take no new connection; their sessions go on until they end, for `sidecar.handover` at most

A relay's number, with its spool and control socket, belongs to one process, so new ones have others: with two workers 0 and 1, then 2
and 3, then 0 and 1 again when those have ended. The same where a supervisor was killed and its relays still end their transactions when
the next one starts. At most three generations are there at once: one more restart ends the oldest
(SIGTERM: `sidecar.drain`).
"""

from __future__ import annotations

import argparse
import json
import logging
import select
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

from ..config.load import parse_address
from ..config.schema import Config, ListenerConfig
from ..errors import ConfigError, ExfilGuardError
from ..runtime.holding import hold, is_held
from ..runtime.process import Part, Supervisor, own_command, setup_logging, stop_on_signals
from ..runtime.stats import read_snapshot, run_dir, short_path
from ..sidecar.listening import BACKLOG, open_sockets
from ..sidecar.worker import lock_path
from .common import add_config_option, load, need_listener

log = logging.getLogger(__name__)

START_S = 30.0
POLL_S = 0.1
SHIPPER_STOP_S = 10.0
MARGIN_S = 5.0
"""Beyond `sidecar.drain`, before a process that does not end is killed."""
MAX_GENERATIONS = 3
CONTROL = "sidecar.sock"


def register(commands: Any) -> None:
    text = "the proxy in front of the database, with its shipper"
    parser = commands.add_parser("sidecar", help=text, description=text)
    add_config_option(parser)
    parser.set_defaults(run=run_sidecar)
    text = "replace the running sidecar's processes without a failed query: a new version, or a changed configuration"
    parser = commands.add_parser("restart", help=text, description=text)
    add_config_option(parser)
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.set_defaults(run=run_restart)


class RestartFailed(ExfilGuardError):
    """Nothing was changed: the old relays go on."""


def check_address(listener: ListenerConfig) -> str:
    """Why the address cannot be taken; empty when it can. Another program on it would share the port in silence otherwise."""
    host, port = parse_address(listener.listen)
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen(1)
    except OSError as error:
        return f"listener {listener.name}: {listener.listen}: {error.strerror}: choose another address or port"
    except UnicodeError:
        return f"listener {listener.name}: {listener.listen}: no host can have such a name"
    return ""


def _number(relay: Part) -> int:
    return int(relay.name.rpartition("-")[2])


class Sidecar:
    """The processes of one sidecar and the sockets they listen on. One thread."""

    def __init__(self, config_path: str, config: Config) -> None:
        self.config_path = config_path
        self.config = config
        self.supervisor = Supervisor()
        self._sockets: dict[str, list[list[socket.socket]]] = {}
        """Address -> one list for each relay."""
        self._generations: list[list[Part]] = []
        """Relays by restart, the newest last."""

    # -- parts ------------------------------------------------------------------------------------------------------

    def _take_addresses(self, config: Config) -> None:
        """Sockets for every relay; those that are there already stay. Raises ConfigError."""
        problems = []
        for listener in config.listener:
            held = self._sockets.get(listener.listen, [])
            if not held and (problem := check_address(listener)):
                problems.append(problem)
                continue
            try:
                while len(held) < config.sidecar.workers:
                    held.append(open_sockets(listener.listen))
                    for one in held[-1]:
                        one.listen(BACKLOG)
            except OSError as error:
                problems.append(f"listener {listener.name}: {listener.listen}: {error.strerror}")
            self._sockets[listener.listen] = held
        if problems:
            self._give_up_addresses(self.config)  # of what was got, nobody would take connections
            raise ConfigError(problems)

    def _give_up_addresses(self, config: Config) -> None:
        """What no relay listens on any more."""
        wanted = {listener.listen for listener in config.listener}
        for address, held in list(self._sockets.items()):
            kept = config.sidecar.workers if address in wanted else 0
            for one in (one for sockets in held[kept:] for one in sockets):
                one.close()
            del held[kept:]
            if not held:
                del self._sockets[address]

    def _relays(self, config: Config) -> list[Part]:
        taken = {_number(part) for generation in self._generations for part in generation}
        workers = config.sidecar.workers

        def free(n: int) -> bool:
            return n not in taken and not is_held(lock_path(config, n))

        first = next(n for n in count() if all(map(free, range(n, n + workers))))
        out = []
        for n in range(config.sidecar.workers):
            numbers = {
                listener.name: [one.fileno() for one in self._sockets[listener.listen][n]]
                for listener in config.listener
            }
            argv = own_command(
                "relay", "--config", self.config_path, "--worker", str(first + n), "--sockets", json.dumps(numbers)
            )
            held = [number for found in numbers.values() for number in found]
            out.append(Part(f"relay-{first + n}", argv, descriptors=held))
        return out

    def _ready(self, part: Part) -> bool:
        path = run_dir(self.config.data_dir) / f"{part.name}.stats"
        found = read_snapshot(path) if path.exists() else None
        return found is not None and found.details.get("pid") == part.pid

    def _end(self, parts: list[Part], seconds: float) -> None:
        """SIGTERM; returns when they have ended."""
        for part in parts:
            part.replaced = True
            if part.process is not None:
                part.process.terminate()
        self._wait(lambda: not any(part.alive for part in parts), seconds)
        for part in parts:
            if part.process is not None and part.alive:
                part.process.kill()
                part.process.wait()

    def _wait(self, done: Callable[[], bool], seconds: float) -> bool:
        """True when `done` in time; what ends by itself is started again meanwhile."""
        deadline = time.monotonic() + seconds
        while not (found := done()) and time.monotonic() < deadline:
            self.supervisor.check()
            time.sleep(0.02)
        return found

    # -- life -------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Raises ConfigError."""
        directory = run_dir(self.config.data_dir)
        for left in directory.glob("relay-*.stats"):
            number = left.stem.removeprefix("relay-")
            if number.isdecimal() and not is_held(lock_path(self.config, int(number))):
                left.unlink()  # of a sidecar that was killed
        self._take_addresses(self.config)
        shipper = Part("shipper", own_command("shipper", "--config", self.config_path))
        self._generations = [self._relays(self.config)]
        for part in self._generations[0]:
            with suppress(OSError):  # its relay says why
                # The shipper, which starts beside them, looks for spools once.
                spool = lock_path(self.config, _number(part)).parent
                spool.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.supervisor.parts = [shipper, *self._generations[0]]
        self.supervisor.start()

    def stop(self) -> None:
        for held in self._sockets.values():
            for one in (one for sockets in held for one in sockets):
                one.close()
        # All relays at once, then the shipper, which publishes what they leave.
        self.supervisor.signal("relay-", signal.SIGTERM)
        self.supervisor.stop(grace_s=self.config.sidecar.drain_ms / 1000 + MARGIN_S)

    def restart(self, config: Config, tell: Callable[[str], None]) -> dict[str, Any]:
        """See the module. Raises ConfigError, RestartFailed."""
        supervisor = self.supervisor
        drain_s = config.sidecar.drain_ms / 1000 + MARGIN_S
        # One that has died and waits for its next start has its number still.
        held = [[part for part in old if part.alive or not part.replaced] for old in self._generations]
        self._generations = [parts for parts in held if parts]
        while len(self._generations) >= MAX_GENERATIONS:
            tell("ending the oldest relays")
            self._end(self._generations.pop(0), drain_s)
        old = self._generations[-1] if self._generations else []
        self._take_addresses(config)
        new = self._relays(config)
        tell(f"starting {len(new)} relays")
        try:
            for part in new:
                part.start()
        except (OSError, subprocess.SubprocessError) as error:
            log.error("restart: a relay cannot be started: %s", error)
        self._wait(lambda: all(map(self._ready, new)) or not all(part.alive for part in new), START_S)
        if not all(map(self._ready, new)):
            for part in new:
                if part.process is not None:
                    part.process.kill()
                    part.process.wait()
            self._give_up_addresses(self.config)
            raise RestartFailed("a new relay does not start (its log says why): the old ones go on")
        supervisor.parts += new
        self._generations.append(new)
        self.config = config
        tell("starting the shipper anew")
        shipper = supervisor.parts[0]
        if shipper.process is not None and shipper.alive:
            shipper.process.terminate()
            try:
                shipper.process.wait(SHIPPER_STOP_S)
            except subprocess.TimeoutExpired:
                shipper.process.kill()
                shipper.process.wait()
        if not shipper.alive:
            supervisor.start_again(shipper)
        for part in old:
            part.replaced = True
            if part.process is not None and part.alive:
                part.process.send_signal(signal.SIGUSR1)
        self._give_up_addresses(config)
        return {"relays": [part.pid for part in new], "replaced": [part.pid for part in old]}


# -- the command ------------------------------------------------------------------------------------------------------


@contextmanager
def control_socket(config: Config) -> Iterator[socket.socket]:
    """Where `exfilguard restart` is heard; for this user only, as its directory is."""
    path = run_dir(config.data_dir) / CONTROL
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as control:
        with short_path(path) as address:
            control.bind(address)
        path.chmod(0o600)
        control.listen(4)
        try:
            yield control
        finally:
            path.unlink(missing_ok=True)


def _answer(sidecar: Sidecar, args: argparse.Namespace, peer: socket.socket) -> None:
    """One order: a line of progress each, as JSON, and how it ended."""

    def say(message: dict[str, Any]) -> None:
        with suppress(OSError):  # whoever asked has gone: the restart goes on
            peer.sendall(json.dumps(message).encode() + b"\n")

    peer.settimeout(1.0)
    try:
        order = peer.recv(64)
    except OSError:
        return
    if order != b"restart\n":
        return
    try:
        config = load(args)
        need_listener(config)
        if Path(config.data_dir).resolve() != Path(sidecar.config.data_dir).resolve():
            raise ConfigError(["data_dir: another one needs `exfilguard sidecar` to be stopped and started"])
        log.info("restart: asked for")
        done = sidecar.restart(config, lambda text: say({"progress": text}))
    except ConfigError as error:
        log.error("restart: the configuration has mistakes, nothing was changed: %s", "; ".join(error.problems))
        say({"ok": False, "errors": error.problems})
    except RestartFailed as error:
        log.error("restart: %s", error)
        say({"ok": False, "errors": [str(error)]})
    except Exception as error:  # whatever it is, the sessions of the relays that run are worth more
        log.exception("restart: failed")
        say(
            {
                "ok": False,
                "errors": [f"{type(error).__name__}, which is the guard's own mistake: see the sidecar's log"],
            }
        )
    else:
        log.info("restart: done")
        say({"ok": True, **done})


def run_sidecar(args: argparse.Namespace) -> int:
    config = load(args)
    need_listener(config)
    setup_logging("sidecar")
    sidecar = Sidecar(args.config, config)
    stop = stop_on_signals()
    # SIGHUP: the relays read their certificates again.
    signal.signal(signal.SIGHUP, lambda *_: sidecar.supervisor.signal("relay-", signal.SIGHUP))
    if hold(run_dir(config.data_dir) / "sidecar.lock") is None:
        raise ExfilGuardError(
            f"a sidecar already runs with data_dir {config.data_dir}: stop it first, or choose another data_dir"
        )
    with control_socket(config) as control:
        try:
            sidecar.start()
            while not stop.is_set():
                sidecar.supervisor.check()
                if select.select([control], [], [], POLL_S)[0]:
                    try:
                        peer, _ = control.accept()
                    except OSError:  # no descriptor is left at this moment
                        time.sleep(POLL_S)
                        continue
                    with peer:
                        _answer(sidecar, args, peer)
        finally:
            sidecar.stop()
    return 0


def run_restart(args: argparse.Namespace) -> int:
    config = load(args)
    path = run_dir(config.data_dir) / CONTROL
    final: dict[str, Any] = {}
    try:
        with socket.socket(socket.AF_UNIX) as client, short_path(path) as address:
            client.connect(address)
            client.sendall(b"restart\n")
            client.settimeout(START_S + SHIPPER_STOP_S + config.sidecar.drain_ms / 1000 + 2 * MARGIN_S)
            with client.makefile(encoding="utf-8") as lines:
                for line in lines:
                    final = json.loads(line)
                    if "progress" in final and not args.json:
                        print(final["progress"], flush=True)
    except (OSError, ValueError):
        final = {
            "ok": False,
            "errors": [f"no sidecar answers at {path}: is it running, as this user, with this data_dir?"],
        }
    if "ok" not in final:
        final = {"ok": False, "errors": ["the sidecar ended before it was done: see its log"]}
    if args.json:
        print(json.dumps(final))
    elif final["ok"]:
        handover = config.sidecar.handover_ms // 1000
        print(
            f"done: {len(final['relays'])} relays take all new connections; the sessions of the {len(final['replaced'])} old ones go "
            f"on until they end, for {handover} s at most (sidecar.handover)"
        )
    else:
        for problem in final["errors"]:
            print(f"error: {problem}")
    return 0 if final["ok"] else 1
