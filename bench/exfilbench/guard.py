"""The detector under test: the real Engine with the real Judge, fed with frames as Kafka would deliver them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from exfilguard.detect.judge import Judge
from exfilguard.detect.policy import Policy
from exfilguard.events.codec import encode_frame, frame_head
from exfilguard.events.verdict import Verdict
from exfilguard.stream.engine import Engine

TENANT = "exfilbench"
VERDICT_MS = 60
"""From an event's time to its verdict, through spool, Kafka and detector, and on to the sidecar's cut: `make bench-attack` measures
a p99 of 52 to 58 ms from the crossing to the cut, on two shared cores."""
MAX_PATIENTS = 65_536


class Guard:
    """One partition's engine and what stands. Frames must be fed in order."""

    def __init__(self, policy: Policy) -> None:
        self.standing: dict[str, Verdict] = {}
        self.judge = Judge(policy, TENANT, "detector:bench")
        self.engine = Engine(lambda tenant: self.judge, self.standing, MAX_PATIENTS)
        self._looked: dict[tuple[str, str], tuple[int, int]] = {}
        """(dimension, value) -> when it was looked at, patients since."""
        self._hour = 0
        self._offset = 0
        self._sidecars: dict[str, list[Any]] = {}
        """Listener -> [head of its frames, the next one's number]: a listener is a sidecar of its own."""

    def feed(self, events: Sequence[dict[str, Any]]) -> list[Verdict]:
        """One frame of each sidecar. The detector's clock is the last event's time."""
        by_listener: dict[str, list[dict[str, Any]]] = {}
        for event in events:
            by_listener.setdefault(event["listener"], []).append(event)
        out: list[Verdict] = []
        for listener, part in by_listener.items():
            sidecar = self._sidecars.setdefault(listener, [frame_head(TENANT, f"sidecar-{listener}", "1"), 0])
            frame = encode_frame(sidecar[0], sidecar[1], [orjson.dumps(e) for e in part])
            fed = self.engine.feed(self._offset, frame, events[-1]["time_ms"] + VERDICT_MS // 2)
            self._offset += 1
            sidecar[1] += 1
            if fed.reason:
                raise RuntimeError(f"the engine refused a frame: {fed.reason}")
            for verdict in fed.verdicts:
                self.standing[verdict.key] = verdict
            out += fed.verdicts
        return out + self._crossed(events)

    def _crossed(self, events: Sequence[dict[str, Any]]) -> list[Verdict]:
        """The sums over accounts that this frame moved, as the detector looks at them every second."""
        now = events[-1]["time_ms"] + VERDICT_MS // 2
        out: list[Verdict] = []
        for dimension, name in (("source", "source"), ("shape", "fingerprint")):
            store = self.engine.dimensions[dimension]
            least = self.judge.cross_from(dimension)
            rule = self.judge.policy.cross.get(dimension)
            moved: dict[str, int] = {}
            for event in events:
                count = len(event.get("patients", ())) + event.get("patients_estimated", 0)
                if count:
                    moved[event[name]] = moved.get(event[name], 0) + count
            for value, count in moved.items():
                last, pending = self._looked.get((dimension, value), (0, 0))
                pending += count
                if not least or rule is None or now - last < 1_000 or (pending < 50 and now - last < 300_000):
                    self._looked[dimension, value] = (last, pending)
                    continue
                self._looked[dimension, value] = (now, 0)
                number = store.number(f"{TENANT}/{value}")
                people = store.contributors(number, self.engine.store)
                if not rule.min_accounts <= len(people) <= rule.max_accounts:
                    continue
                totals = store.totals_of(number)
                if max(t.patients for t in totals) <= least:
                    continue
                whole = sum(count for _, count in people) or 1
                shares = [(account.partition("/")[2], count / whole) for account, count in people]
                for verdict in self.judge.cross(dimension, value, totals, shares, now, self.standing):
                    self.standing[verdict.key] = verdict
                    out.append(verdict)
        hour = now // 3_600_000
        if hour > self._hour:
            store = self.engine.dimensions["tenant"]
            for number in store.numbers():
                if self._hour:
                    totals = store.totals_of(number, hour * 3_600_000 - 1)
                    profile, _ = self.judge.hour(f"tenant:{TENANT}", store.profile(number), hour - 1, totals, now, None)
                    store.set_profile(number, profile)
            self._hour = hour
        return out
