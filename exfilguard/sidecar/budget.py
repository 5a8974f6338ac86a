"""The local budget: what one principal may take through this process in a rolling window, Kafka or no Kafka.

Sliced in 60: a window of W counts at least W and at most W + W/60, so it may count a slice too much, never too little. A clock that is
set back goes on from where it stood: what was taken leaves the window when it would have.
Pure: time is an argument, in milliseconds.
"""

from __future__ import annotations

from collections import OrderedDict, deque

SLICES = 60
MAX_ACCOUNTS = 100_000
"""Names of one window that have a budget each; what further ones do is counted together, as in the detector: a session that may say
whose it is can say it anew with each statement."""
OTHERS = "(others)"
NOBODY: OrderedDict[str, int] = OrderedDict()
"""Never changed."""


class Account:
    """What one principal has taken in the window."""

    __slots__ = ("estimated", "looked_at", "patients", "rows", "slices")

    def __init__(self) -> None:
        self.looked_at = -1
        """The slice in which what is too old was taken out last: once in each is enough."""
        self.rows = 0
        self.estimated = 0
        self.slices: deque[list[int]] = deque()  # [slice number, rows, estimated patients], oldest first
        self.patients: OrderedDict[str, int] = OrderedDict()  # digest -> slice last seen, oldest first


class LocalBudget:
    """Rows and distinct patients per principal. 0 for a limit means no limit."""

    def __init__(self, rows: int, patients: int, window_ms: int) -> None:
        self.rows_limit = rows
        self.patients_limit = patients
        self.window_ms = window_ms
        self._slice_ms = max(1, window_ms // SLICES)
        self._accounts: dict[str, Account] = {}
        self._swept = 0
        self._latest = 0
        self._set_back = 0
        """Slices by which the clock was set back."""

    def _slice(self, now_ms: int) -> int:
        number = now_ms // self._slice_ms + self._set_back
        if number < self._latest:
            if number < self._latest - 1:  # else two readings of one clock on both sides of a slice's end
                self._set_back += self._latest - number
            return self._latest
        self._latest = number
        return number

    def _found(self, principal: str, now_ms: int) -> Account | None:
        """What is charged to this principal; None while that is nothing."""
        number = self._slice(now_ms)
        if number > self._swept + SLICES:
            self._swept = number
            for name in [
                n for n, a in self._accounts.items() if self._expire(a, number) and not a.slices and not a.patients
            ]:
                del self._accounts[name]
        account = self._accounts.get(principal)
        if account is None and len(self._accounts) >= MAX_ACCOUNTS:
            account = self._accounts.get(OTHERS)
        if account is not None and account.looked_at < number:
            self._expire(account, number)
        return account

    def _expire(self, account: Account, number: int) -> bool:
        account.looked_at = number
        oldest = number - SLICES
        while account.slices and account.slices[0][0] < oldest:
            _, rows, estimated = account.slices.popleft()
            account.rows -= rows
            account.estimated -= estimated
        while account.patients:
            digest, seen = next(iter(account.patients.items()))
            if seen >= oldest:
                break
            del account.patients[digest]
        return True

    def rows_left(self, principal: str, now_ms: int) -> int | None:
        """Rows that may still pass; None without a limit."""
        if not self.rows_limit:
            return None
        account = self._found(principal, now_ms)
        return self.rows_limit if account is None else max(0, self.rows_limit - account.rows)

    def patients_left(self, principal: str, now_ms: int) -> int | None:
        """Further distinct patients that may still pass; None without a limit."""
        if not self.patients_limit:
            return None
        account = self._found(principal, now_ms)
        if account is None:
            return self.patients_limit
        return max(0, self.patients_limit - len(account.patients) - account.estimated)

    def forgive(self, principal: str) -> None:
        """Its window begins anew: a person has looked at it."""
        self._accounts.pop(principal, None)

    def known_patients(self, principal: str, now_ms: int) -> OrderedDict[str, int]:
        """Digests already charged in the window: seeing them again costs nothing."""
        account = self._found(principal, now_ms)
        return NOBODY if account is None else account.patients

    def charge(self, principal: str, rows: int, patients: tuple[str, ...], estimated: int, now_ms: int) -> None:
        """Record what was forwarded. A name that takes nothing, such as one that only tries to log in, has no place here."""
        if not (rows or estimated or patients):
            return
        account = self._found(principal, now_ms)
        number = self._latest
        if account is None:
            name = principal if len(self._accounts) < MAX_ACCOUNTS else OTHERS
            account = self._accounts[name] = Account()
            account.looked_at = number
        if rows or estimated:
            account.rows += rows
            account.estimated += estimated
            if not account.slices or account.slices[-1][0] < number:
                account.slices.append([number, 0, 0])
            account.slices[-1][1] += rows
            account.slices[-1][2] += estimated
        for digest in patients:
            account.patients[digest] = number
            account.patients.move_to_end(digest)
