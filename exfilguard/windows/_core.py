"""The rolling windows. One source: compiled by Cython when it can be, else run as it stands.

Strategy: time is cut into slices of exactly W/n (slice number = time * n // W, integers only). A window at `now` is the
slice that holds `now` and the n slices before it:

    time     ──┬─────┬─────┬─────┬─────┬──►      n = 4
    slices     │  3  │  4  │  5  │  6  │ 7 now
    window     └──────────────────────────┘       covers more than W and at most W + W/n

so it may count a slice too much, never too little. Each window keeps its slices sparse (idle accounts cost little) and a
running sum; a slice that leaves is subtracted once. An event goes to the slice of its own time, whenever it arrives; one
older than the window's reach is not in that window any more, and one older than the longest window is counted as late.

Distinct patients: one dictionary, digest -> time last seen. A window's count is the number of digests last seen inside it:
per slice the number of digests last seen there, moved when a digest is seen again. Exact up to `max_patients` digests per
account; beyond, a digest that is not in the dictionary counts anew each time: too many, never too few. Estimated patients
(no identifier was visible) are added to their slice and never recognised again.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ..errors import SnapshotError

try:
    import cython
except ImportError:  # interpreted, without Cython installed: annotations are never evaluated
    COMPILED = False
else:
    COMPILED = bool(cython.compiled)

_VERSION = 1
_HEAD = struct.Struct("<BBHQQQ")  # version, windows, slices, newest_ms, saturated, patients
_WINDOW = struct.Struct("<QqI")  # window_ms, head slice, slices that follow
_SLICE = struct.Struct("<qQQQQ")  # slice number, rows, patients, bytes, queries
_PATIENT = struct.Struct("<QQ")  # digest, last seen ms

ROWS, PATIENTS, BYTES, QUERIES = 0, 1, 2, 3


class Totals(NamedTuple):
    """One window's sums: records, distinct patients, bytes of result data, statements."""

    rows: int
    patients: int
    bytes: int
    queries: int


class _Window:
    """One account's one window."""

    __slots__ = ("head", "slices", "sums")

    def __init__(self) -> None:
        self.head = -1  # newest slice number
        self.slices: dict[int, list[int]] = {}  # slice number -> [rows, patients, bytes, queries]
        self.sums = [0, 0, 0, 0]


class _Account:
    """One account's windows and patients."""

    __slots__ = ("newest_ms", "patients", "saturated", "swept", "windows")

    def __init__(self, windows: int) -> None:
        self.newest_ms = 0
        self.windows = [_Window() for _ in range(windows)]
        self.patients: dict[int, int] = {}
        self.saturated = 0  # sightings that could not be remembered
        self.swept = 0  # slice of the longest window at the last removal of old digests


class WindowStore:
    """Rolling totals of many accounts. Times are integer milliseconds since the Unix epoch."""

    def __init__(self, windows_ms: Sequence[int], slices: int = 60, max_patients: int = 1_000_000) -> None:
        if not windows_ms or min(windows_ms) < 1 or len(windows_ms) > 255 or not 1 <= slices < 1 << 16:
            raise ValueError("windows_ms and slices must be positive")
        self.windows_ms = tuple(windows_ms)
        self.slices = slices
        self.max_patients = max_patients
        self.late_events = 0
        """Events older than the longest window at their account: in no window any more."""
        self._longest = max(range(len(windows_ms)), key=lambda i: windows_ms[i])
        self._accounts: dict[str, _Account] = {}

    def __len__(self) -> int:
        return len(self._accounts)

    def __contains__(self, key: object) -> bool:
        return key in self._accounts

    def __iter__(self) -> Iterator[str]:
        return iter(self._accounts)

    def newest_ms(self, key: str) -> int:
        """Time of the account's newest event; 0 when unknown."""
        account = self._accounts.get(key)
        return account.newest_ms if account is not None else 0

    def saturated(self, key: str) -> bool:
        """True once the account showed more distinct patients than are kept exactly: from then on an upper bound."""
        account = self._accounts.get(key)
        return account is not None and account.saturated > 0

    def add(
        self,
        key: str,
        time_ms: int,
        rows: int,
        nbytes: int,
        queries: int,
        patients: Sequence[str] = (),
        estimated: int = 0,
    ) -> None:
        """Count one event. `patients`: digests of 16 hex digits; `estimated`: further patients, each one new."""
        account = self._accounts.get(key)
        if account is None:
            account = self._accounts[key] = _Account(len(self.windows_ms))
        t: cython.longlong = time_ms
        n: cython.longlong = self.slices
        number: cython.longlong
        longest: cython.longlong = self._longest
        i: cython.Py_ssize_t
        if t > account.newest_ms:
            account.newest_ms = time_ms
        for i, width in enumerate(self.windows_ms):
            window = account.windows[i]
            number = t * n // width
            if number > window.head:
                self._advance(window, number)
            if number >= window.head - n:
                found = window.slices.get(number)
                if found is None:
                    found = window.slices[number] = [0, 0, 0, 0]
                sums = window.sums
                if rows:
                    found[0] += rows
                    sums[0] += rows
                if estimated:
                    found[1] += estimated
                    sums[1] += estimated
                if nbytes:
                    found[2] += nbytes
                    sums[2] += nbytes
                if queries:
                    found[3] += queries
                    sums[3] += queries
            elif i == longest:
                self.late_events += 1
        if patients:
            self._see(account, time_ms, patients)

    def _advance(self, window: _Window, number: int) -> None:
        """Move the head; slices that fall out are subtracted."""
        n = self.slices
        slices, sums = window.slices, window.sums
        low = number - n
        if window.head < 0 or low > window.head:
            slices.clear()
            sums[:] = [0, 0, 0, 0]
        else:
            for gone in range(window.head - n, low):
                old = slices.pop(gone, None)
                if old is not None:
                    sums[0] -= old[0]
                    sums[1] -= old[1]
                    sums[2] -= old[2]
                    sums[3] -= old[3]
        window.head = number

    def _see(self, account: _Account, time_ms: int, digests: Sequence[str]) -> None:
        t: cython.longlong = time_ms
        n: cython.longlong = self.slices
        known = account.patients
        self._sweep(account)
        for text in digests:
            digest = int(text, 16)
            before = known.get(digest, -1)
            if before >= t:
                continue  # seen later already: this sighting changes no window
            if before < 0 and len(known) >= self.max_patients:
                account.saturated += 1
            else:
                known[digest] = time_ms
            for window, width in zip(account.windows, self.windows_ms, strict=True):
                low = window.head - n
                new = t * n // width
                old = before * n // width if before >= 0 else -1
                if old == new:
                    continue
                if old >= 0 and old >= low:
                    window.slices[old][1] -= 1
                    window.sums[1] -= 1
                if new >= low:
                    window.slices[new][1] += 1
                    window.sums[1] += 1

    def _sweep(self, account: _Account) -> None:
        """Forget digests that the longest window no longer reaches, a few times per window at most."""
        head = account.windows[self._longest].head
        if head - account.swept < max(1, self.slices // 8):
            return
        account.swept = head
        width = self.windows_ms[self._longest]
        low_ms = -(-(head - self.slices) * width // self.slices)
        old = [digest for digest, seen in account.patients.items() if seen < low_ms]
        for digest in old:
            del account.patients[digest]

    def totals(self, key: str, now_ms: int = 0) -> list[Totals]:
        """The windows at `now_ms`, or at the account's newest event if that is later. Changes nothing."""
        account = self._accounts.get(key)
        if account is None:
            return [Totals(0, 0, 0, 0)] * len(self.windows_ms)
        out = []
        now = max(now_ms, account.newest_ms)
        for window, width in zip(account.windows, self.windows_ms, strict=True):
            number = now * self.slices // width
            if number <= window.head:
                sums = window.sums
            else:
                low = number - self.slices
                sums = [0, 0, 0, 0]
                for at, values in window.slices.items():
                    if at >= low:
                        sums = [a + b for a, b in zip(sums, values, strict=True)]
            out.append(Totals(sums[0], sums[1], sums[2], sums[3]))
        return out

    def evict(self, now_ms: int) -> list[str]:
        """Forget the accounts that no window reaches any more; returns their keys."""
        width = self.windows_ms[self._longest]
        low = now_ms * self.slices // width - self.slices
        gone = [key for key, a in self._accounts.items() if a.newest_ms * self.slices // width < low]
        for key in gone:
            del self._accounts[key]
        return gone

    def drop(self, key: str) -> None:
        """Forget one account."""
        self._accounts.pop(key, None)

    # -- snapshots --------------------------------------------------------------------------------------------------

    def dump(self, key: str) -> bytes:
        """One account as bytes, little endian: head, windows with their non-empty slices, patients. Raises KeyError."""
        account = self._accounts[key]
        parts = [
            _HEAD.pack(
                _VERSION, len(self.windows_ms), self.slices, account.newest_ms, account.saturated, len(account.patients)
            )
        ]
        for window, width in zip(account.windows, self.windows_ms, strict=True):
            kept = [(at, v) for at, v in window.slices.items() if v[0] or v[1] or v[2] or v[3]]
            parts.append(_WINDOW.pack(width, window.head, len(kept)))
            parts += [_SLICE.pack(at, v[0], v[1], v[2], v[3]) for at, v in kept]
        parts += [_PATIENT.pack(digest, seen) for digest, seen in account.patients.items()]
        return b"".join(parts)

    def load(self, key: str, data: bytes) -> None:
        """Replace one account by what `dump` wrote. Raises SnapshotError, and then changes nothing."""
        try:
            self._accounts[key] = self._read(data)
        except (struct.error, OverflowError):
            raise SnapshotError("the snapshot of an account is cut short") from None

    def _read(self, data: bytes) -> _Account:
        version, windows, slices, newest_ms, saturated, patients = _HEAD.unpack_from(data)
        if version != _VERSION:
            raise SnapshotError(f"a snapshot of version {version}: this release reads {_VERSION}")
        if windows != len(self.windows_ms) or slices != self.slices:
            raise SnapshotError("a snapshot of other windows")
        account = _Account(windows)
        account.newest_ms = newest_ms
        account.saturated = saturated
        pos = _HEAD.size
        for window, expected in zip(account.windows, self.windows_ms, strict=True):
            width, head, count = _WINDOW.unpack_from(data, pos)
            pos += _WINDOW.size
            if width != expected:
                raise SnapshotError("a snapshot of other windows")
            if count > self.slices + 1:
                raise SnapshotError("a snapshot with too many slices")
            window.head = head
            for _ in range(count):
                at, *values = _SLICE.unpack_from(data, pos)
                pos += _SLICE.size
                if not head - self.slices <= at <= head or at in window.slices:
                    raise SnapshotError("a snapshot with a slice outside its window")
                window.slices[at] = values
                window.sums = [a + b for a, b in zip(window.sums, values, strict=True)]
        if len(data) - pos != patients * _PATIENT.size:
            raise SnapshotError("a snapshot whose patients are cut short")
        account.patients = dict(_PATIENT.iter_unpack(data[pos:]))
        for window, width in zip(account.windows, self.windows_ms, strict=True):
            # A digest's last sighting must find its slice when it moves on.
            low = window.head - self.slices
            for seen in account.patients.values():
                at = seen * self.slices // width
                if low <= at and at not in window.slices:
                    raise SnapshotError("a snapshot whose patients are in no slice")
        return account
