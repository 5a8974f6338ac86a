"""What should be (the newest verdict of an account) and what was done (the actions on record), brought together.

    verdict ──► due(hook)? ──► before ──► record `started` + undo ──► lock ──► record how it ended
                                                                       └── failed: again, with back-off

Each hook of each account is a task of its own: one whose server hangs delays no other. `record` returns when the action is
safe; `started` is safe before a hook changes anything, so a crash at any point is made good from the record alone.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import orjson

from ..config.responder import ResponderConfig
from ..errors import HookError, HookRefused
from ..events.action import MASS_LOCK, Action, Operation, Outcome
from ..events.verdict import Verdict, severity
from ..runtime.clock import now_ms
from ..runtime.stats import Histogram
from ..runtime.tasks import spawn
from .bounded import bounded
from .hook import Hook, HookResult, Order
from .masslock import Admission, MassLockStop

log = logging.getLogger(__name__)

LOCKOUT_BOUNDS_S = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 30.0)
BACKOFF_S = 0.2
MAX_BACKOFF_S = 5.0
AGAIN_S = 60.0
"""An account that could not be suspended is tried again this often while its verdict stands."""
GRACE_S = 5.0
"""A hook of another package that does not keep its own time limit is abandoned this much later."""

MAX_UNDO_BYTES = 64 << 10

T = TypeVar("T")
Record = Callable[[Action], Coroutine[Any, Any, None]]


@dataclass(slots=True)
class HookState:
    """One hook and one account."""

    locked: bool = False
    """Suspended by this hook; of one that tells people: they have been told."""
    undo: dict[str, Any] = field(default_factory=dict)
    started: bool = False
    """A lock was begun and its end is not on record: it may have taken effect."""
    settled: int = 0
    """Revision of the verdict that this hook has dealt with for good."""
    working: bool = False
    not_before: float = 0.0
    """time.monotonic()"""
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None


@dataclass(slots=True)
class Account:
    """What should be and what was done."""

    verdict: Verdict | None = None
    hooks: dict[str, HookState] = field(default_factory=lambda: defaultdict(HookState))
    held: int = 0
    """Revision of the verdict that the mass-lock stop holds back; 0: none."""
    ready: bool = False
    """All that is on record has been read: before that, what a lock had changed is not known, and nothing may be begun."""
    gone: bool = False
    """Another process has taken it over."""


class Reconciler:
    """All accounts of one process. Everything runs on its one event loop."""

    def __init__(
        self, hooks: Sequence[Hook], config: ResponderConfig, record: Record, mass_lock: Admission | None = None
    ) -> None:
        """`mass_lock`: where several processes share the bound."""
        self.hooks = hooks
        self.accounts: dict[str, Account] = {}
        self.attempts: dict[tuple[Operation, str, Outcome], int] = defaultdict(int)
        self.stops = 0
        self.lockout = Histogram(LOCKOUT_BOUNDS_S)
        self.mass_lock: Admission = mass_lock or MassLockStop(config.mass_lock_accounts, config.mass_lock_window_ms)
        self._bound = f"already {config.mass_lock_accounts} accounts in {config.mass_lock_window_ms / 60_000:g} minutes"
        self._retries = config.retries
        self._record = record
        self._turns = {hook.name: asyncio.Semaphore(max(1, config.concurrency)) for hook in hooks}
        self._suspends = {hook.name for hook in hooks if hook.suspends}

    # -- what was done --------------------------------------------------------------------------------------------------

    def remember(self, action: Action) -> None:
        """An action from the record, in its order."""
        account = self.accounts.setdefault(action.key, Account())
        if action.hook == MASS_LOCK:
            if action.outcome == "held":
                account.held = action.verdict_revision
            return
        if action.operation not in ("lock", "unlock") or action.hook not in self._turns:
            return
        state = account.hooks[action.hook]
        if action.operation == "lock":
            if action.outcome == "started":
                state.started, state.undo = True, action.undo
                if action.hook in self._suspends and not action.actor.startswith("operator:"):
                    self.mass_lock.remember(action.key, action.started_ms, now_ms())
            elif action.outcome in ("done", "already"):
                state.locked, state.started, state.settled = True, False, action.verdict_revision
            elif action.outcome in ("refused", "dry_run"):
                state.started, state.settled = False, action.verdict_revision
        elif action.outcome in ("done", "already", "refused", "dry_run"):
            state.locked = state.started = False
            state.settled = action.verdict_revision

    # -- what should be -------------------------------------------------------------------------------------------------

    def learn(self, verdict: Verdict, *, begin: bool = True) -> None:
        """A verdict, newer or not."""
        account = self.accounts.setdefault(verdict.key, Account())
        if account.verdict is not None and account.verdict.revision >= verdict.revision:
            return
        account.verdict = verdict
        for state in account.hooks.values():
            state.not_before = 0.0
            state.wake.set()
        if begin:
            self.begin(verdict.key)

    def begin(self, key: str) -> None:
        """Start what is due for this account and is not running. All that is on record of it has been read."""
        account = self.accounts[key]
        account.ready = True
        due = [hook for hook in self.hooks if self._due(account, hook) is not None]
        for hook in due:
            state = account.hooks[hook.name]
            if not state.working and time.monotonic() >= state.not_before:
                state.working = True
                state.task = spawn(self._work(account, hook, state), f"hook {hook.name}")

    def tick(self) -> None:
        """Every second or so: locks that have expired, and hooks that are due again."""
        for key, account in list(self.accounts.items()):
            if account.ready:
                self.begin(key)

    def drop(self, keys: Iterable[str]) -> None:
        """Another process takes these over. Nothing new is begun, and what is under way is broken off: it must not come to an
        account that its new owner has given back already. What was `started` is on record there."""
        for key in keys:
            account = self.accounts.pop(key, None)
            if account is not None:
                account.gone = True
                for state in account.hooks.values():
                    if state.task is not None:
                        state.task.cancel()

    @property
    def locked_accounts(self) -> int:
        return sum(
            any(state.locked for name, state in list(account.hooks.items()) if name in self._suspends)
            for account in list(self.accounts.values())
        )

    @property
    def held_accounts(self) -> int:
        """Accounts whose suspension waits for a human."""
        return sum(
            account.verdict is not None and account.held == account.verdict.revision and _stands(account.verdict)
            for account in list(self.accounts.values())
        )

    # -- what is done ---------------------------------------------------------------------------------------------------

    def _due(self, account: Account, hook: Hook) -> Operation | None:
        """What this hook must do now; None when its state is what it should be."""
        verdict, state = account.verdict, account.hooks[hook.name]
        if verdict is None or account.gone:
            return None
        concerns = severity(verdict.level) >= severity(hook.min_level)
        if hook.suspends and verdict.scope != "principal":
            concerns = False
        if not (_stands(verdict) and concerns):
            return "unlock" if state.locked or state.started else None
        if hook.suspends and state.locked:
            return None
        if state.settled >= verdict.revision:
            return None
        if hook.suspends and state.started:
            return "lock"
        # People are told whether the account was suspended, so both wait until it is known whether it may be.
        admitted = self._admitted(account, verdict) if hook.suspends or self._suspendable(verdict) else True
        return "lock" if admitted or (admitted is False and not hook.suspends) else None

    def _suspendable(self, verdict: Verdict) -> bool:
        return verdict.scope == "principal" and any(
            hook.suspends and severity(verdict.level) >= severity(hook.min_level) for hook in self.hooks
        )

    def _admitted(self, account: Account, verdict: Verdict) -> bool | None:
        """False when the mass-lock stop holds this verdict back. Once held, a verdict stays held until a human speaks. None: not
        known yet."""
        if account.held == verdict.revision:
            return False
        if (admitted := self.mass_lock.admits(verdict, now_ms())) is not False:
            return admitted
        account.held = verdict.revision
        self.stops += 1
        log.error("%s: %s", verdict.key, self._held_note())
        action = _action(MASS_LOCK, "lock", verdict, now_ms(), HookResult("held", False, self._held_note()), {})
        spawn(self._record(action), "record of the mass-lock stop")
        return False

    def _held_note(self) -> str:
        return (
            f"not suspended where it lives: {self._bound}; it is cut at the sidecar. If this is an attack: "
            "exfilguard ack ACCOUNT, or exfilguard break-glass --mass-lock for all"
        )

    async def _work(self, account: Account, hook: Hook, state: HookState) -> None:
        failures = 0
        try:
            while (operation := self._due(account, hook)) is not None and account.verdict is not None:
                verdict = account.verdict
                async with self._turns[hook.name]:
                    worked = await self._attempt(account, hook, state, operation, verdict)
                if worked:
                    failures = 0
                    continue
                failures += 1
                if failures > self._retries:
                    state.not_before = time.monotonic() + AGAIN_S
                    log.error(
                        "%s: %s by %s failed %d times; again in %.0f s",
                        verdict.key,
                        operation,
                        hook.name,
                        failures,
                        AGAIN_S,
                    )
                    return
                state.wake.clear()
                if account.verdict is verdict:
                    await _sleep(state.wake, min(MAX_BACKOFF_S, BACKOFF_S * 2**failures))
        finally:
            state.working = False

    async def _attempt(
        self, account: Account, hook: Hook, state: HookState, operation: Operation, verdict: Verdict
    ) -> bool:
        """True when this hook has dealt with the verdict, for good or by refusing."""
        began_ms = now_ms()
        order = Order(verdict, self._held_note() if account.held == verdict.revision else "")
        try:
            result = await self._call(hook, state, operation, order, began_ms)
        except HookRefused as error:
            result = HookResult("refused", verified=False, detail=str(error))
        except HookError as error:
            result = HookResult("failed", verified=False, detail=str(error))
        except Exception as error:  # of a hook of another package: its text may hold anything
            result = HookResult("failed", verified=False, detail=f"{type(error).__name__}: a mistake in this hook")
        self.attempts[(operation, hook.name, result.outcome)] += 1
        if result.outcome in ("done", "already"):
            state.locked = operation == "lock"
            if operation == "lock" and hook.suspends:
                self.lockout.observe(max(0, now_ms() - verdict.crossed_ms) / 1000)
        if result.outcome != "failed":
            state.started, state.settled = False, verdict.revision
            if operation == "unlock":
                state.locked = False
        if result.outcome == "refused" and hook.suspends and self._nobody_knows(account, verdict):
            self.mass_lock.forget(verdict.key)
        level = logging.ERROR if result.outcome == "failed" else logging.WARNING
        log.log(level, "%s %s by %s: %s: %s", operation, verdict.key, hook.name, result.outcome, result.detail)
        await self._record(_action(hook.name, operation, verdict, began_ms, result, state.undo))
        return result.outcome != "failed"

    def _nobody_knows(self, account: Account, verdict: Verdict) -> bool:
        """Every hook that suspends has refused this account, or has nothing to do with the verdict."""
        return all(
            state.settled >= verdict.revision and not (state.locked or state.started)
            for hook in self.hooks
            if hook.suspends and severity(verdict.level) >= severity(hook.min_level)
            for state in (account.hooks[hook.name],)
        )

    async def _call(
        self, hook: Hook, state: HookState, operation: Operation, order: Order, began_ms: int
    ) -> HookResult:
        limit_s = hook_limit_s(hook)
        if operation == "unlock":
            return await _within(limit_s, hook.unlock(order, state.undo))
        if not state.started and not state.locked:
            undo: dict[str, Any] = await _within(limit_s, hook.before(order))
            _check(undo)
            state.undo = undo
            await self._record(
                _action(hook.name, operation, order.verdict, began_ms, HookResult("started", verified=False), undo)
            )
            state.started = True
        return await _within(limit_s, hook.lock(order))


def _check(undo: dict[str, Any]) -> None:
    """Raises HookError for what a broker would refuse, again and again, while everybody else's actions wait to be recorded."""
    try:
        size = len(orjson.dumps(undo))
    except TypeError:
        raise HookError(
            "what must be restored cannot be recorded: only texts, numbers of 64 bits and booleans"
        ) from None
    if size > MAX_UNDO_BYTES:
        raise HookError(f"what must be restored has {size} bytes, more than {MAX_UNDO_BYTES}: have the hook note less")


def hook_limit_s(hook: Hook) -> float:
    """After this a hook is given up, whatever it does."""
    settings = getattr(hook, "settings", None)
    return float(getattr(settings, "timeout_ms", 10_000)) / 1000 + GRACE_S


async def _within(limit_s: float, work: Coroutine[Any, Any, T]) -> T:
    try:
        return await bounded(work, limit_s)
    except TimeoutError:
        raise HookError(f"the hook did not return within {limit_s:g} s and was abandoned") from None


async def _sleep(wake: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await wake.wait()
    except TimeoutError:
        return


def _stands(verdict: Verdict) -> bool:
    return verdict.in_force(now_ms())


def _action(
    hook: str, operation: Operation, verdict: Verdict, began_ms: int, result: HookResult, undo: dict[str, Any]
) -> Action:
    return Action(
        tenant=verdict.tenant,
        principal=verdict.principal,
        hook=hook,
        operation=operation,
        outcome=result.outcome,
        verified=result.verified,
        verdict_revision=verdict.revision,
        started_ms=began_ms,
        ended_ms=now_ms(),
        detail=result.detail,
        undo=undo,
        actor=verdict.issuer,
    )
