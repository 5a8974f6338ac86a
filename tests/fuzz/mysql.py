"""MySQL: the login's packets and the observer with its readers, from the recorded conversations, mutated; plain and compressed."""

from __future__ import annotations

import dataclasses
import functools
import random
import zlib

from exfilguard.errors import ProtocolError
from exfilguard.observe import outlet as outlets
from exfilguard.observe.asked import AskedColumns
from exfilguard.observe.mysql import commands, session
from exfilguard.observe.mysql.patients import OriginColumns
from exfilguard.observe.mysql.session import MysqlObserver
from exfilguard.observe.patients import Digester
from exfilguard.observe.tally import Setting
from exfilguard.wire.mysql import backend, frontend, messages, startup
from tests.fuzz import mutate
from tests.fuzz.checked import Checked
from tests.fuzz.target import Input
from tests.wire import mysql_build, transcript
from tests.wire.transcript import Step

CAPABILITIES = tuple(
    base | more
    for base in (mysql_build.NATIVE, mysql_build.DEPRECATE)
    for more in (0, messages.CLIENT_QUERY_ATTRIBUTES, 0xFFF << 32)
)


def split(side: str, data: bytes) -> list[Step]:
    """Into packets; the rest as it is."""
    out: list[Step] = []
    pos = 0
    while pos < len(data):
        end = pos + 4 + int.from_bytes(data[pos : pos + 3], "little") if pos + 4 <= len(data) else len(data)
        out.append((side, data[pos:end]))
        pos = end
    return out


class Mysql:
    """See target.Target."""

    name = "mysql"

    def __init__(self) -> None:
        self.asked = AskedColumns(["patient.id", "sejour.patient_id"], "mysql")
        self.setting = Setting("dpi", Digester(b"0123456789abcdef"), 1000, 50)
        loaded = [transcript.load(path) for path in sorted((transcript.FOLDER / "mysql").glob("*.txt"))]
        self.logins = [data for steps in loaded for _, data in steps[:4]] + [b"GET / HTTP/1.1\r\n\r\n"]
        self.messages = [[packet for side, data in steps[3:] for packet in split(side, data)] for steps in loaded]
        self.messages = [steps for steps in self.messages if steps]

    def make(self, rng: random.Random) -> Input:
        if rng.random() < 0.1:
            return Input((("!", mutate.bytes_of(rng, rng.choice(self.logins))),))
        packets = rng.choice(self.messages)
        start = rng.randrange(len(packets))
        steps = packets[start : start + rng.choice((2, 4, 8, 16, 32, 64))]
        if rng.random() < 0.1:
            other = rng.choice(self.messages)
            at = rng.randrange(len(other))
            steps = steps + other[at : at + rng.choice((2, 4, 8))]
        if rng.random() < 0.4:
            steps = mutate.order(rng, steps)
        mutate.damaged(rng, steps, rng.choice((0, 1, 1, 2)))
        # How the session was agreed on comes first: it decides how everything else is read.
        shape = rng.randrange(len(CAPABILITIES) * 2)
        if shape >= len(CAPABILITIES) and rng.random() < 0.8:
            steps = [(side, squeezed(data)) for side, data in steps]
            if steps and rng.random() < 0.5:
                at = rng.randrange(len(steps))
                steps[at] = (steps[at][0], mutate.bytes_of(rng, steps[at][1]))
        rows = rng.choice((None, None, 0, 1, 5, 1000))
        patients = rng.choice((None, None, None, 0, 1, 5, 1000))
        return Input((("=", bytes((shape,))), *mutate.cut(rng, steps)), rows, patients)

    def run(self, given: Input) -> None:
        if given.steps and given.steps[0][0] == "!":
            self.run_login(given.steps[0][1])
        else:
            self.run_session(given)

    @staticmethod
    def run_login(data: bytes) -> None:
        for read in (
            startup.split,
            startup.greeting,
            startup.login,
            lambda body: startup.change_user(body, mysql_build.NATIVE),
            lambda body: startup.greeting(startup.offer(body, tls=True)),
            lambda body: startup.answer(body, tls=False),
        ):
            for body in (data, data[4:]):
                try:
                    read(body)
                except ProtocolError:
                    continue

    def run_session(self, given: Input) -> None:
        shape, steps = 0, given.steps
        if steps and steps[0][0] == "=":
            shape, steps = steps[0][1][0] % (2 * len(CAPABILITIES)), steps[1:]
        compressed = shape >= len(CAPABILITIES)
        columns = OriginColumns(["patient.id", "sejour.patient_id"])
        # Every other one as in the relay: statements become bytes in C, and each of them must be an event.
        outlet = Checked() if outlets.COMPILED and len(steps) % 2 else None
        setting = dataclasses.replace(self.setting, outlet=outlet) if outlet is not None else self.setting
        seen = MysqlObserver(setting, "s", "10.0.0.9", columns, asked=self.asked)
        seen.startup(startup.Login(0, "app", "clinic", "", {"program_name": "fuzz"}))
        seen.login_succeeded(CAPABILITIES[shape % len(CAPABILITIES)], "zlib" if compressed else "", 1)
        rows_left, patients_left = given.allowed_rows, given.allowed_patients
        if compressed:  # such a session has an allowance only when it is being ended
            rows_left, patients_left = (None if rows_left is None else 0), None
        held, counted = b"", 0
        known: dict[str, int] = {}
        # As `observe` reads: the bytes have passed already.
        passed = rows_left is None and patients_left is None and len(steps) % 3 > 0
        for now, (side, data) in enumerate(steps, 1):
            if side == ">":
                events = seen.client_data(data, now)
            elif passed:
                events = seen.observed(data, now)
                assert seen.portion_rows >= 0
            else:
                data, held = held + data, b""
                result = seen.server_data(
                    data, now, allowed_rows=rows_left, allowed_patients=patients_left, known_patients=known
                )
                events = result.events
                assert result.rows >= 0
                for offset in (result.cut_at, result.hold_at):
                    assert offset is None or 0 <= offset <= len(data)
                if rows_left is not None and not compressed:
                    # One row more only where it had begun before the allowance was asked for.
                    assert result.rows <= rows_left + 1
                if rows_left is not None:
                    rows_left = max(0, rows_left - result.rows)
                if patients_left is not None:
                    known |= dict.fromkeys(result.new_patients, now)
                    patients_left = max(0, patients_left - len(result.new_patients) - result.estimated)
                if result.hold_at is not None:
                    held = data[result.hold_at :]
                if result.cut_at is not None:
                    break
            counted += sum(event.rows for event in events)
            assert seen.at_boundary in (True, False)
            assert 0 <= seen.next_sequence <= 255
        counted += sum(event.rows for event in seen.close(1000))
        counted += outlet.rows if outlet is not None else 0
        assert counted >= 0
        assert len(seen._pending) <= session.MAX_PENDING
        assert len(seen._statements) <= session.MAX_STATEMENTS
        assert 0 <= seen._held_bytes <= commands.MAX_HELD_BYTES
        assert len(seen._frontend._carry) <= frontend.MAX_KEPT_BYTES + 4
        assert len(seen._backend._carry) <= backend.MAX_KEPT_BYTES + 4


@functools.lru_cache(4_096)
def squeezed(data: bytes) -> bytes:
    """In an envelope."""
    inside = zlib.compress(data, 1)
    return len(inside).to_bytes(3, "little") + b"\0" + len(data).to_bytes(3, "little") + inside
