# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The windows' Python face: `WindowStore` (accounts and their sums) and `FrameCounter` (frames straight into stores).

The work is in the headers beside this file: `_store.h` (windows, limits), `_distinct.h` (patients), `_frame.h` (frames),
`_snapshot.h` (bytes). Nothing in them allocates a Python object.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcmp, memcpy, memset

from ..errors import SnapshotError
from .totals import MAX_WINDOW_MS, SLICES, Totals

cdef extern from "_distinct.h" nogil:
    ctypedef struct Place:
        uint64_t digest
        uint32_t time
    ctypedef struct Exact:
        Place *places
        uint32_t count, capacity
    ctypedef struct Sliding:
        uint8_t p
    void hll_registers(Sliding *h, int64_t newest, int64_t low_ms, uint8_t *out)
    int64_t hll_estimate(const uint8_t *registers, int p)
    void hll_place(uint64_t digest, int p, uint32_t *reg, uint8_t *rank)
    int64_t seen_at(uint32_t low, int64_t newest)

cdef extern from "_store.h" nogil:
    enum: MAX_WINDOWS, UNITS, CONTRIBUTORS, USED, DIRTY, OVER, MOVED
    ctypedef struct Contributors:
        uint32_t *account
        uint32_t *hash
        uint32_t *count
    ctypedef struct Account:
        uint64_t hash
        char *key
        uint32_t length, limits
        int64_t newest_ms, recheck_ms, applied, hour
        int64_t *room
        Exact exact
        Sliding *sliding
        Contributors *contributors
        uint8_t *profile
        uint32_t profile_length, segment, generation, pending, spare
        uint8_t flags
    ctypedef struct Limits:
        uint32_t uses
        int64_t *values
        uint32_t *starts
    ctypedef struct Store:
        int windows, slices, longest, precision
        int64_t *width
        uint32_t max_patients, max_accounts, accounts, next, dirty_count, limits_count, limits_capacity, generation
        uint64_t seed, late, refused
        uint32_t *dirty
        Limits *limits
        int failed
    int store_init(Store *s)
    void store_free(Store *s)
    Account *account_at(const Store *s, uint32_t i)
    uint64_t hash_bytes(const char *p, uint32_t length, uint64_t seed)
    uint32_t find_account(const Store *s, const char *key, uint32_t length, uint64_t hash)
    uint32_t make_account(Store *s, const char *key, uint32_t length, uint64_t hash)
    void drop_account(Store *s, uint32_t i)
    void mark_dirty(Store *s, Account *a, uint32_t i)
    int account_add(Store *s, Account *a, int64_t t, const int64_t *delta, const uint64_t *digests, uint32_t count)
    void window_totals(Store *s, Account *a, int w, int64_t now, int64_t *out, uint8_t *scratch)
    int check_limits(Store *s, Account *a, int64_t now, uint8_t *scratch)
    void limits_release(Store *s, uint32_t id)
    void clear_windows(Store *s, Account *a)
    int64_t low_ms(const Store *s, int window, int64_t head)
    int64_t *heads(Account *a)
    int64_t *sums_of(const Store *s, Account *a)

cdef extern from "_frame.h" nogil:
    enum: WHY_OVER, WHY_HONEYTOKEN, WHY_ASKED, WHY_FLAGS, WHY_FINDING, WHY_SOURCE, WHY_APPLICATION
    enum: K_QUERY, K_PROGRESS, K_FINDING, K_OTHER
    ctypedef struct Text:
        const char *at
        uint32_t length
    ctypedef struct Event:
        int64_t time_ms, rows, hidden, bytes, estimated
        Text principal, source, application, fingerprint
        uint32_t patients, patient_count, asked, asked_count
        const char *start
        uint32_t length
        uint8_t kind, flagged, visible
    ctypedef struct Frame:
        Text tenant, sidecar, epoch
        int64_t seq
        Event *events
        uint32_t count, capacity
        uint64_t *digests
        uint32_t digest_count, digest_capacity
    ctypedef struct Report:
        uint32_t account, event
        uint8_t why
    ctypedef struct Hour:
        uint32_t account
        int64_t hour
        int64_t *totals
    ctypedef struct Outcome:
        Report *reports
        Report *single
        uint32_t *fresh
        Hour *hours
        uint32_t report_count, single_count, fresh_count, hour_count
        uint64_t future, jumped, counted
    ctypedef struct SourceClock:
        int64_t newest_ms, shift_ms
    ctypedef struct Tokens:
        uint64_t *digests
        uint32_t mask
    ctypedef struct KeyBuffer:
        char *at
        size_t capacity
    ctypedef struct Followed:
        uint32_t *numbers
        uint32_t *due
        uint32_t count, due_count
        int fewest, most
        int64_t *floors
    ctypedef struct Run:
        uint32_t start "from", to, frames
        int64_t now
    ctypedef struct Counter:
        Store *accounts
        Store *sources
        Store *shapes
        Store *tenants
        KeyBuffer key
        uint64_t *hashes
        uint32_t *guesses
        Tokens tokens
        Outcome out
        uint8_t *scratch
        int64_t ahead_ms, back_ms
        uint32_t look_patients
        int64_t least_ms, look_ms
        Followed followed[2]
    int read_frame(Frame *f, const char *data, size_t length)
    int count_frame(Counter *c, Frame *f, int64_t offset, int64_t now, SourceClock *clock)
    int count_run(Counter *c, Frame *f, uint32_t start, int64_t span_ms, uint32_t most, int64_t until, int64_t offset, SourceClock *clock, Run *run)
    void look(Counter *c, Store *s, Followed *f, int64_t now, uint8_t *scratch)
    int looked(const Counter *c, Store *s, const Followed *f, Account *a, int64_t now, uint8_t *scratch)
    int room_for_digest(Frame *f)
    Event *next_event(Frame *f)
    uint64_t mix64(uint64_t x)

cdef extern from "_snapshot.h" nogil:
    ctypedef struct Out:
        uint8_t *at
        size_t length, capacity
        int failed
    ctypedef struct Shape:
        int windows, slices
        int64_t *width
    void dump_account(Store *s, Account *a, const Store *principals, Out *o)
    int load_body(Store *s, Account *a, Store *principals, const Shape *shape, const uint8_t *data, size_t length)

COMPILED = True
WHY = {
    WHY_OVER: "over",
    WHY_HONEYTOKEN: "honeytoken",
    WHY_ASKED: "honeytoken",
    WHY_FLAGS: "flag",
    WHY_FINDING: "finding",
    WHY_SOURCE: "new_source",
    WHY_APPLICATION: "new_application",
}
NOBODY = 0xFFFFFFFF


cdef class WindowStore:
    """Rolling totals of many accounts. Times are integer milliseconds since the Unix epoch, below 2^53.

    Args: `max_patients`: distinct patients counted exactly per account, beyond it a sliding HyperLogLog of 2^`precision`
    registers; `max_accounts`: further names are counted together as `TENANT/(others)` by FrameCounter.
    """

    cdef Store s
    cdef Out out
    cdef uint8_t *scratch
    cdef object _interned
    cdef readonly tuple windows_ms
    cdef readonly int slices
    cdef readonly int max_patients

    def __cinit__(self, windows_ms, int slices=SLICES, max_patients=65_536, int precision=15, max_accounts=4_000_000, seed=0):
        windows = tuple(windows_ms)
        if not windows or len(windows) > MAX_WINDOWS or min(windows) < 1 or not 1 <= slices <= 1000:
            raise ValueError(f"windows_ms (1 to {MAX_WINDOWS} of them) and slices (1 to 1000) must be positive")
        if max(windows) > MAX_WINDOW_MS:
            raise ValueError("a window is at most 35 days long")
        if not 4 <= precision <= 18 or not 0 <= max_patients < 1 << 30 or not 1 <= max_accounts < 1 << 31:
            raise ValueError("precision is 4 to 18, max_patients and max_accounts are below 2^30")
        self.windows_ms = windows
        self.slices = slices
        self.max_patients = max_patients
        self.s.windows = len(windows)
        self.s.slices = slices
        self.s.precision = precision
        self.s.max_patients = max_patients
        self.s.max_accounts = max_accounts
        self.s.seed = seed & 0xFFFFFFFFFFFFFFFF
        for i in range(len(windows)):
            self.s.width[i] = windows[i]
        self.scratch = <uint8_t *>malloc(<size_t>1 << precision)
        self._interned = {}
        if store_init(&self.s) or self.scratch == NULL:
            raise MemoryError

    def __dealloc__(self):
        store_free(&self.s)
        free(self.out.at)
        free(self.scratch)

    cdef int alive(self) except -1:
        if self.s.failed:
            raise MemoryError("the windows ran out of memory: give the detector more, or share the partitions")
        return 0

    cdef uint32_t find(self, str key):
        cdef bytes raw = key.encode()
        return find_account(&self.s, raw, <uint32_t>len(raw), hash_bytes(raw, <uint32_t>len(raw), self.s.seed))

    cdef uint32_t make(self, bytes raw):
        cdef uint64_t hash = hash_bytes(raw, <uint32_t>len(raw), self.s.seed)
        cdef uint32_t i = find_account(&self.s, raw, <uint32_t>len(raw), hash)
        return i if i != NOBODY else make_account(&self.s, raw, <uint32_t>len(raw), hash)

    cdef Account *of(self, uint32_t i) except NULL:
        if i >= self.s.next or not account_at(&self.s, i).flags & USED:
            raise KeyError(i)
        return account_at(&self.s, i)

    # -- accounts, by key or by number -------------------------------------------------------------------------------

    def __len__(self):
        return self.s.accounts

    def __contains__(self, key):
        return isinstance(key, str) and self.find(key) != NOBODY

    def __iter__(self):
        cdef uint32_t i = 0
        while i < self.s.next:
            if account_at(&self.s, i).flags & USED:
                yield self.key(i)
            i += 1

    def number(self, str key):
        """The account's number; a new account when the key is unknown."""
        i = self.make(key.encode())
        self.alive()
        return i

    def numbers(self):
        """Of all accounts."""
        cdef uint32_t i
        return [i for i in range(self.s.next) if account_at(&self.s, i).flags & USED]

    def key(self, uint32_t i):
        """`tenant/name` of a number. Raises KeyError."""
        cdef Account *a = self.of(i)
        return a.key[: a.length].decode()

    def newest_ms(self, str key):
        """Time of the account's newest event; 0 when unknown."""
        cdef uint32_t i = self.find(key)
        return account_at(&self.s, i).newest_ms if i != NOBODY else 0

    def saturated(self, str key):
        """True once the account showed more distinct patients than are kept exactly: from then on an estimate."""
        cdef uint32_t i = self.find(key)
        return i != NOBODY and account_at(&self.s, i).sliding != NULL

    @property
    def late_events(self):
        """Events older than the longest window at their account: in no window any more."""
        return self.s.late

    @property
    def refused_accounts(self):
        """Events of accounts beyond max_accounts, counted together as (others)."""
        return self.s.refused

    def drop(self, str key):
        """Forget one account."""
        cdef uint32_t i = self.find(key)
        if i != NOBODY:
            drop_account(&self.s, i)

    def evict(self, int64_t now_ms, uint32_t start=0, uint32_t most=NOBODY):
        """Forget the accounts that no window reaches any more, among the numbers from `start`, `most` of them.

        Returns (their keys, their segments, the number to go on from; 0 at the end)."""
        cdef uint32_t i, end = self.s.next if most >= self.s.next - min(start, self.s.next) else start + most
        cdef Account *a
        cdef int64_t width = self.s.width[self.s.longest]
        cdef int64_t low = now_ms * self.s.slices // width - self.s.slices
        keys, segments = [], []
        for i in range(start, end):
            a = account_at(&self.s, i)
            if a.flags & USED and a.newest_ms * self.s.slices // width < low:
                keys.append(self.key(i))
                segments.append(a.segment)
                drop_account(&self.s, i)
        return keys, segments, (0 if end >= self.s.next else end)

    # -- counting ----------------------------------------------------------------------------------------------------

    def add(self, str key, int64_t time_ms, rows, nbytes, queries, patients=(), estimated=0):
        """Count one event. `patients`: digests of 16 hex digits; `estimated`: further patients, each one new."""
        cdef int64_t[UNITS] delta
        cdef uint32_t i = self.make(key.encode()), n = 0
        cdef uint64_t *digests = <uint64_t *>malloc(max(1, len(patients)) * sizeof(uint64_t))
        self.alive()
        if digests == NULL:
            raise MemoryError
        try:
            for text in patients:
                digests[n] = int(text, 16)
                n += 1
            delta[0], delta[1], delta[2], delta[3] = rows, estimated, nbytes, queries
            account_add(&self.s, account_at(&self.s, i), time_ms, delta, digests, n)
            mark_dirty(&self.s, account_at(&self.s, i), i)
        finally:
            free(digests)
        self.alive()

    def add_many(self, const uint32_t[::1] accounts, const int64_t[::1] times_ms, const int64_t[::1] rows,
                 const int64_t[::1] nbytes, const uint64_t[::1] patients=None):
        """Count decoded events, one query each: numbers of accounts, times, rows, bytes, and one patient each if given."""
        cdef Py_ssize_t n, count = accounts.shape[0]
        cdef int64_t[UNITS] delta
        cdef const uint64_t *digest = &patients[0] if patients is not None and count else NULL
        if not (times_ms.shape[0] == rows.shape[0] == nbytes.shape[0] == count) or (patients is not None and patients.shape[0] != count):
            raise ValueError("the columns must be of one length")
        for n in range(count):
            self.of(accounts[n])
        with nogil:
            delta[1], delta[3] = 0, 1
            for n in range(count):
                delta[0] = rows[n]
                delta[2] = nbytes[n]
                account_add(&self.s, account_at(&self.s, accounts[n]), times_ms[n], delta, digest + n if digest != NULL else NULL, 1 if digest != NULL else 0)
        self.alive()

    def totals(self, str key, int64_t now_ms=0):
        """The windows at `now_ms`, or at the account's newest event if that is later. Changes nothing."""
        cdef uint32_t i = self.find(key)
        if i == NOBODY:
            return [Totals(0, 0, 0, 0)] * self.s.windows
        return self.totals_of(i, now_ms)

    def totals_of(self, uint32_t i, int64_t now_ms=0):
        """The same by number. Raises KeyError."""
        cdef Account *a = self.of(i)
        cdef int64_t[UNITS] out
        cdef int w
        found = []
        for w in range(self.s.windows):
            window_totals(&self.s, a, w, now_ms, out, self.scratch)
            found.append(Totals(out[0], out[1], out[2], out[3]))
        return found

    def beyond(self, int64_t patients):
        """The numbers whose longest window holds at least so many patients, as of their newest event (all beyond the exact bound
        are among them)."""
        cdef uint32_t i
        cdef Account *a
        found = []
        for i in range(self.s.next):
            a = account_at(&self.s, i)
            if a.flags & USED and (a.sliding != NULL or sums_of(&self.s, a)[self.s.longest * UNITS + 1] >= patients):
                found.append(i)
        return found

    def patients(self, uint32_t i):
        """Distinct patients in the longest window, as of the newest event. Raises KeyError."""
        cdef int64_t[UNITS] out
        window_totals(&self.s, self.of(i), self.s.longest, 0, out, self.scratch)
        return out[1]

    def registers(self, uint32_t i, int window, int64_t now_ms, int precision):
        """Plain HyperLogLog registers (one byte each) of an account's window, for adding up over workers. Raises KeyError.

        `precision` must be the store's for accounts beyond the exact bound."""
        cdef Account *a = self.of(i)
        cdef int64_t now = max(now_ms, a.newest_ms)
        cdef int64_t low = low_ms(&self.s, window, now * self.s.slices // self.s.width[window])
        cdef bytearray out = bytearray(<size_t>1 << precision)
        cdef uint8_t *at = out
        cdef uint32_t n, reg
        cdef uint8_t rank
        if a.sliding != NULL:
            if precision != self.s.precision:
                raise ValueError("another precision than the store's")
            hll_registers(a.sliding, a.newest_ms, low, at)
        else:
            for n in range(a.exact.capacity):
                if a.exact.places[n].digest and seen_at(a.exact.places[n].time, a.newest_ms) >= low:
                    hll_place(a.exact.places[n].digest, precision, &reg, &rank)
                    if rank > at[reg]:
                        at[reg] = rank
        return bytes(out)

    def contributors(self, uint32_t i, WindowStore principals):
        """[(account, its patients)] behind a source or shape, largest first, at most 32. Raises KeyError."""
        cdef Account *a = self.of(i)
        cdef Account *who
        cdef int n
        found = []
        if a.contributors != NULL:
            for n in range(CONTRIBUTORS):
                if a.contributors.count[n] and a.contributors.account[n] < principals.s.next:
                    who = account_at(&principals.s, a.contributors.account[n])
                    if who.flags & USED and <uint32_t>(who.hash >> 32) == a.contributors.hash[n]:
                        found.append((who.key[: who.length].decode(), a.contributors.count[n]))
        found.sort(key=lambda item: -item[1])
        return found

    # -- limits ------------------------------------------------------------------------------------------------------

    def set_limits(self, uint32_t i, thresholds, int64_t now_ms):
        """Give an account its ladder: per window, per unit, the totals (a tuple) beyond which it is
        reported, or one of them; 0 or () for none.

        Returns True when it is over one already. Raises KeyError, ValueError."""
        cdef Account *a = self.of(i)
        cdef uint32_t id = self.intern(thresholds)
        self.s.limits[id].uses += 1 if id else 0
        limits_release(&self.s, a.limits)
        a.limits = id
        a.generation = self.s.generation
        return bool(check_limits(&self.s, a, now_ms, self.scratch))

    cdef uint32_t intern(self, thresholds) except? 0xFFFFFFFE:
        cdef uint32_t id, k
        cdef Limits *grown
        found = self._interned.get(thresholds)
        if found is not None and self.s.limits[<uint32_t>found].values != NULL:
            return found
        ladders = []
        for row in thresholds:
            for steps in row:
                ladders.append(sorted(steps) if isinstance(steps, tuple) else [steps] if steps else [])
        if len(ladders) != self.s.windows * UNITS:
            raise ValueError("thresholds are one row of four units per window")
        if not any(ladders):
            return 0
        if len(self._interned) > 64 + 2 * self.s.accounts:
            self._interned = {t: n for t, n in self._interned.items() if self.s.limits[<uint32_t>n].values != NULL}
        id = 1
        free_ids = self._interned.pop(None, None) or []
        while free_ids:
            id = free_ids.pop()
            if self.s.limits[id].values == NULL:
                # Whoever had it before must be given another one.
                self._interned = {t: n for t, n in self._interned.items() if n != id}
                break
        else:
            id = self.s.limits_count
            if id == self.s.limits_capacity:
                grown = <Limits *>realloc(self.s.limits, 2 * self.s.limits_capacity * sizeof(Limits))
                if grown == NULL:
                    raise MemoryError
                self.s.limits = grown
                self.s.limits_capacity *= 2
                # Reuse what nobody points to any more before the table grows again.
                free_ids = [n for n in range(1, self.s.limits_count) if self.s.limits[<uint32_t>n].values == NULL]
            self.s.limits_count += 1
        if free_ids:
            self._interned[None] = free_ids
        values = [v for ladder in ladders for v in ladder]
        self.s.limits[id].uses = 0
        self.s.limits[id].values = <int64_t *>malloc(len(values) * sizeof(int64_t))
        self.s.limits[id].starts = <uint32_t *>malloc((len(ladders) + 1) * sizeof(uint32_t))
        if self.s.limits[id].values == NULL or self.s.limits[id].starts == NULL:
            raise MemoryError
        for k in range(<uint32_t>len(values)):
            self.s.limits[id].values[k] = min(values[k], 1 << 61)
        at = 0
        for k in range(<uint32_t>len(ladders)):
            self.s.limits[id].starts[k] = at
            at += len(ladders[k])
        self.s.limits[id].starts[len(ladders)] = at
        self._interned[thresholds] = id
        return id

    def forget_limits(self):
        """Every account's limits are asked for again at its next event."""
        self.s.generation += 1

    def over(self, uint32_t i):
        """True when the account was over a limit at its last check. Raises KeyError."""
        return bool(self.of(i).flags & OVER)

    # -- what the engine keeps with an account -----------------------------------------------------------------------

    def profile(self, uint32_t i):
        """The judge's bytes, or None. Raises KeyError."""
        cdef Account *a = self.of(i)
        return (<char *>a.profile)[: a.profile_length] if a.profile != NULL else None

    def set_profile(self, uint32_t i, bytes profile):
        cdef Account *a = self.of(i)
        cdef size_t length = len(profile)
        cdef uint8_t *made = <uint8_t *>malloc(length or 1)
        if made == NULL:
            raise MemoryError
        memcpy(made, <char *>profile, length)
        free(a.profile)
        a.profile = made
        a.profile_length = <uint32_t>length
        mark_dirty(&self.s, a, i)

    def applied(self, uint32_t i):
        return self.of(i).applied

    def set_applied(self, uint32_t i, int64_t offset):
        """Events of records below this offset are in the account already. Raises KeyError."""
        self.of(i).applied = offset

    def forget_applied(self):
        cdef uint32_t i
        for i in range(self.s.next):
            account_at(&self.s, i).applied = 0

    def mark(self, uint32_t i):
        """The account belongs to the next checkpoint. Raises KeyError."""
        mark_dirty(&self.s, self.of(i), i)

    def put_back(self, const uint8_t[::1] numbers):
        """What `take_dirty` gave and was not dumped."""
        cdef const uint32_t *at = <const uint32_t *>&numbers[0] if numbers.shape[0] else NULL
        cdef size_t n
        cdef Account *a
        for n in range(<size_t>numbers.shape[0] // sizeof(uint32_t)):
            if at[n] < self.s.next:
                a = account_at(&self.s, at[n])
                if a.flags & USED and a.flags & DIRTY:
                    a.flags &= ~DIRTY
                    mark_dirty(&self.s, a, at[n])

    def mark_all(self):
        """Every account belongs to the next checkpoint."""
        cdef uint32_t i
        for i in range(self.s.next):
            if account_at(&self.s, i).flags & USED:
                mark_dirty(&self.s, account_at(&self.s, i), i)

    def mark_segments(self, segments):
        """Every account last written to one of these segments belongs to the next checkpoint. Returns how many."""
        cdef uint32_t i, count = 0
        wanted = frozenset(segments)
        for i in range(self.s.next):
            if account_at(&self.s, i).flags & USED and account_at(&self.s, i).segment in wanted:
                mark_dirty(&self.s, account_at(&self.s, i), i)
                count += 1
        return count

    # -- snapshots ---------------------------------------------------------------------------------------------------

    @property
    def dirty(self):
        """Accounts that changed since they were written; some may be gone."""
        return self.s.dirty_count

    def take_dirty(self):
        """The numbers of the accounts that changed, as a buffer for `dump_some`; they stay dirty until dumped."""
        cdef bytes out = (<char *>self.s.dirty)[: self.s.dirty_count * sizeof(uint32_t)] if self.s.dirty_count else b""
        self.s.dirty_count = 0
        return out

    def dump_some(self, const uint8_t[::1] numbers, size_t start, uint32_t segment, size_t nbytes, WindowStore principals=None):
        """Accounts of `take_dirty` from position `start` on, as one record's entries of about `nbytes`.

        Returns (entries, their count, the segments they were in before, position to go on from). An account that is gone,
        or was written meanwhile, is left out."""
        cdef const uint32_t *at = <const uint32_t *>&numbers[0] if numbers.shape[0] else NULL
        cdef size_t end = <size_t>numbers.shape[0] // sizeof(uint32_t)
        cdef Account *a
        cdef uint32_t i, count = 0
        before = {}
        self.out.length = 0
        while start < end and self.out.length < nbytes:
            i = at[start]
            start += 1
            if i == NOBODY or i >= self.s.next:
                continue
            a = account_at(&self.s, i)
            if not a.flags & USED or not a.flags & DIRTY:
                continue
            a.flags &= ~DIRTY
            dump_account(&self.s, a, &principals.s if principals is not None else NULL, &self.out)
            if self.out.failed:
                raise MemoryError
            count += 1
            before[a.segment] = before.get(a.segment, 0) + 1
            a.segment = segment
        return (<char *>self.out.at)[: self.out.length] if count else b"", count, before, start

    def dump(self, str key):
        """One account's body (see _snapshot.h). Raises KeyError."""
        cdef uint32_t i = self.find(key)
        if i == NOBODY:
            raise KeyError(key)
        self.out.length = 0
        dump_account(&self.s, account_at(&self.s, i), NULL, &self.out)
        if self.out.failed:
            raise MemoryError
        # Behind the key and its length, and the body's length.
        at, length = 4 + account_at(&self.s, i).length, account_at(&self.s, i).length
        while length >= 0x80:
            length >>= 7
            at += 1
        return (<char *>self.out.at)[at + 1 : self.out.length]

    def load(self, str key, const uint8_t[::1] data, windows_ms=None, slices=0):
        """Replace one account by what `dump` wrote under these windows. Raises SnapshotError, and then changes nothing."""
        cdef bytes raw = key.encode()
        cdef Shape shape
        self.shape(&shape, windows_ms or self.windows_ms, slices or self.slices)
        self.load_one(raw, <uint32_t>len(raw), &data[0] if data.shape[0] else NULL, <size_t>data.shape[0], &shape, None, 0, 0)

    cdef int shape(self, Shape *shape, windows_ms, int slices) except -1:
        if not windows_ms or len(windows_ms) > MAX_WINDOWS or min(windows_ms) < 1 or max(windows_ms) > MAX_WINDOW_MS or not 1 <= slices <= 1000:
            raise SnapshotError("a snapshot of impossible windows")
        shape.windows = len(windows_ms)
        shape.slices = slices
        for i in range(shape.windows):
            shape.width[i] = windows_ms[i]
        return 0

    cdef int load_one(self, const char *key, uint32_t length, const uint8_t *data, size_t size, Shape *shape,
                      WindowStore principals, int64_t applied, uint32_t segment) except -1:
        cdef uint64_t hash = hash_bytes(key, length, self.s.seed)
        # A place of its own first: what is damaged must not harm the account that is there.
        cdef uint32_t old = find_account(&self.s, key, length, hash)
        cdef uint32_t made = make_account(&self.s, key, length, hash)
        cdef Account *a
        self.alive()
        a = account_at(&self.s, made)
        if load_body(&self.s, a, &principals.s if principals is not None else NULL, shape, data, size):
            drop_account(&self.s, made)
            self.alive()
            raise SnapshotError("the snapshot of an account is damaged")
        a.applied = applied
        a.segment = segment
        if old != NOBODY:
            drop_account(&self.s, old)
        return 0

    def load_many(self, const uint8_t[::1] data, size_t start, uint32_t count, windows_ms, int slices, int64_t applied,
                  uint32_t segment, WindowStore principals=None):
        """The entries of one record, from position `start` on. An account that is there already is left out: newest first.

        Returns (loaded, damaged). Raises SnapshotError when the record itself is cut short."""
        cdef const uint8_t *p = &data[0] if data.shape[0] else NULL
        cdef const uint8_t *end = p + data.shape[0]
        cdef Shape shape
        cdef uint32_t n, loaded = 0, damaged = 0, body
        cdef uint64_t length
        cdef int shift
        self.shape(&shape, windows_ms, slices)
        p += start
        for n in range(count):
            length = 0
            shift = 0
            while p < end and p[0] >= 0x80 and shift < 28:
                length |= <uint64_t>(p[0] & 0x7F) << shift
                shift += 7
                p += 1
            if p >= end:
                raise SnapshotError("a snapshot record is cut short")
            length |= <uint64_t>(p[0] & 0x7F) << shift
            p += 1
            if length + 4 > <uint64_t>(end - p):
                raise SnapshotError("a snapshot record is cut short")
            memcpy(&body, p + length, 4)
            if body > end - p - length - 4:
                raise SnapshotError("a snapshot record is cut short")
            if find_account(&self.s, <const char *>p, <uint32_t>length, hash_bytes(<const char *>p, <uint32_t>length, self.s.seed)) == NOBODY:
                try:
                    self.load_one(<const char *>p, <uint32_t>length, p + length + 4, body, &shape, principals, applied, segment)
                    loaded += 1
                except SnapshotError:
                    damaged += 1
            p += length + 4 + body
        return loaded, damaged


def estimate(registers):
    """Distinct digests by plain registers that were added up: for each register the largest. Raises ValueError."""
    cdef bytes first = bytes(registers[0])
    cdef bytearray most = bytearray(first)
    cdef uint8_t *at = most
    cdef const uint8_t *other
    cdef Py_ssize_t i, n = len(first)
    precision = n.bit_length() - 1
    if n != 1 << precision or any(len(r) != n for r in registers):
        raise ValueError("registers of different precisions")
    for r in registers[1:]:
        raw = bytes(r)
        other = raw
        for i in range(n):
            if other[i] > at[i]:
                at[i] = other[i]
    return hll_estimate(at, precision)


cdef totals_at(const int64_t *at, int windows):
    return [Totals(at[UNITS * w], at[UNITS * w + 1], at[UNITS * w + 2], at[UNITS * w + 3]) for w in range(windows)]


cdef class FrameCounter:
    """Reads frames and counts their events in a store of accounts and, if given, of sources, shapes and tenants."""

    cdef Counter c
    cdef Frame f
    cdef SourceClock clock
    cdef bytes data
    cdef list kept
    cdef readonly WindowStore accounts
    cdef readonly tuple dimensions

    def __cinit__(self, WindowStore accounts, WindowStore sources=None, WindowStore shapes=None, WindowStore tenants=None,
                  int64_t ahead_ms=300_000, int64_t back_ms=60_000):
        self.accounts = accounts
        self.dimensions = (sources, shapes, tenants)
        self.c.accounts = &accounts.s
        self.c.sources = &sources.s if sources is not None else NULL
        self.c.shapes = &shapes.s if shapes is not None else NULL
        self.c.tenants = &tenants.s if tenants is not None else NULL
        self.c.scratch = accounts.scratch
        self.c.ahead_ms = ahead_ms
        self.c.back_ms = back_ms

    def __dealloc__(self):
        free(self.f.events)
        free(self.f.digests)
        free(self.c.key.at)
        free(self.c.tokens.digests)
        free(self.c.hashes)
        free(self.c.guesses)
        for k in range(2):
            free(self.c.followed[k].numbers)
            free(self.c.followed[k].due)
        free(self.c.out.reports)
        free(self.c.out.single)
        free(self.c.out.fresh)
        free(self.c.out.hours)

    @property
    def future_events(self):
        """Events dated further ahead than is believed, counted as of their arrival."""
        return self.c.out.future

    @property
    def clock_jumps(self):
        """Times that a sidecar's clock was set back."""
        return self.c.out.jumped

    @property
    def counted(self):
        """Events added to the windows."""
        return self.c.out.counted

    def set_honeytokens(self, digests):
        """The digests whose reads are reported at once."""
        cdef uint32_t capacity = 4, at
        cdef uint64_t digest
        tokens = set(digests)
        while capacity < 2 * len(tokens):
            capacity *= 2
        free(self.c.tokens.digests)
        self.c.tokens.mask = 0
        self.c.tokens.digests = <uint64_t *>calloc(capacity, sizeof(uint64_t))
        if self.c.tokens.digests == NULL:
            raise MemoryError
        for token in tokens:
            digest = int(token, 16) or 0x9E3779B97F4A7C15
            at = <uint32_t>mix64(digest) & (capacity - 1)
            while self.c.tokens.digests[at]:
                at = (at + 1) & (capacity - 1)
            self.c.tokens.digests[at] = digest
        self.c.tokens.mask = capacity - 1 if tokens else 0

    def follow_sums(self, uint32_t patients, int64_t least_ms, int64_t look_ms, rules):
        """From now on `due` says which sources and shapes are to be looked at. `rules`: for each of the two (floors, fewest, most),
        or None. A look is due after so many patients more, or after `look_ms` when there were any, but not within `least_ms`.

        Left out are sums that can say nothing: those beyond none of `floors`, a total per window and unit (0: none), or with fewer
        accounts behind them than `fewest`, or with more than `most`. Raises ValueError."""
        cdef int k, n
        for k in range(2):
            floors, fewest, most = rules[k] or ((0,) * (self.accounts.s.windows * UNITS), 0, 0)
            if len(floors) != self.accounts.s.windows * UNITS:
                raise ValueError("floors are four units per window")
            for n in range(self.accounts.s.windows * UNITS):
                self.c.followed[k].floors[n] = floors[n]
            self.c.followed[k].fewest = fewest
            self.c.followed[k].most = most
        self.c.least_ms = least_ms
        self.c.look_ms = look_ms
        self.c.look_patients = patients

    def look(self, int64_t now_ms):
        """After a frame: look at the sums that are due, of those that patients came to since the last call. True when `due` has any."""
        cdef int k
        cdef WindowStore store
        for k in range(2):
            if self.c.followed[k].count:
                store = self.dimensions[k]
                look(&self.c, &store.s, self.c.followed + k, now_ms, store.scratch)
        return self.c.followed[0].due_count + self.c.followed[1].due_count > 0

    def due(self, int dimension):
        """Numbers of the sources (0) or shapes (1) that the last `look` or `run` found. A look that was due is done with it, whether
        it can say something or not."""
        cdef Followed *followed = self.c.followed + dimension
        cdef uint32_t n
        out = [followed.due[n] for n in range(followed.due_count)]
        followed.due_count = 0
        return out

    def all_due(self, int dimension, int64_t now_ms):
        """The same of all that patients came to since their last look, however few, however lately."""
        cdef WindowStore store = self.dimensions[dimension]
        cdef Account *a
        cdef uint32_t i
        found = []
        for i in range(store.s.next):
            a = account_at(&store.s, i)
            if a.flags & USED and a.pending and looked(&self.c, &store.s, self.c.followed + dimension, a, now_ms, store.scratch):
                found.append(i)
        return found

    def read(self, bytes value):
        """Read one frame. False when it is not of the plain form: decode it with events/codec.py, then `take` it."""
        self.data = value
        self.kept = None
        if read_frame(&self.f, value, len(value)):
            self.f.count = 0
            return False
        return True

    def take(self, str tenant, str sidecar, str epoch, int64_t seq, list events):
        """A frame that was decoded and checked elsewhere: events as dictionaries."""
        cdef Event *e
        self.data = None
        self.kept = [events]
        self.f.count = self.f.digest_count = 0
        self.f.seq = seq
        self.text(&self.f.tenant, tenant)
        self.text(&self.f.sidecar, sidecar)
        self.text(&self.f.epoch, epoch)
        for event in events:
            e = next_event(&self.f)
            if e == NULL:
                raise MemoryError
            memset(e, 0, sizeof(Event))
            e.time_ms = event["time_ms"]
            kind = event["kind"]
            e.kind = K_QUERY if kind == "query" else K_PROGRESS if kind == "progress" else K_FINDING if kind == "finding" else K_OTHER
            e.rows = event.get("rows", 0)
            e.hidden = event.get("hidden_rows", 0)
            e.bytes = event.get("bytes", 0)
            e.estimated = event.get("patients_estimated", 0)
            e.flagged = bool(event.get("flags"))
            e.visible = event.get("patients_by", "")[:1] not in ("", "e")
            self.text(&e.principal, event["principal"])
            self.text(&e.source, event.get("source", ""))
            self.text(&e.application, event.get("application", ""))
            self.text(&e.fingerprint, event.get("fingerprint", ""))
            e.patients = self.f.digest_count
            self.digests(event.get("patients", ()))
            e.patient_count = self.f.digest_count - e.patients
            e.asked = self.f.digest_count
            self.digests(event.get("asked", ()))
            e.asked_count = self.f.digest_count - e.asked
            self.f.count += 1

    cdef int text(self, Text *out, str value) except -1:
        cdef bytes raw = value.encode()
        self.kept.append(raw)
        out.at = raw
        out.length = <uint32_t>len(raw)
        return 0

    cdef int digests(self, values) except -1:
        for value in values:
            if room_for_digest(&self.f):
                raise MemoryError
            self.f.digests[self.f.digest_count] = int(value, 16)
            self.f.digest_count += 1
        return 0

    @property
    def tenant(self):
        return self.f.tenant.at[: self.f.tenant.length].decode()

    @property
    def sidecar(self):
        return self.f.sidecar.at[: self.f.sidecar.length].decode()

    @property
    def epoch(self):
        return self.f.epoch.at[: self.f.epoch.length].decode()

    @property
    def seq(self):
        return self.f.seq

    @property
    def events(self):
        """How many events the frame holds."""
        return self.f.count

    def event(self, uint32_t n):
        """Event `n` as JSON, or as the dictionary that was taken."""
        if n >= self.f.count:
            raise IndexError(n)
        if self.data is None:
            return self.kept[0][n]
        return self.f.events[n].start[: self.f.events[n].length]

    def principal(self, uint32_t n):
        if n >= self.f.count:
            raise IndexError(n)
        return self.f.events[n].principal.at[: self.f.events[n].principal.length].decode()

    def time_ms(self, uint32_t n):
        if n >= self.f.count:
            raise IndexError(n)
        return self.f.events[n].time_ms

    def summary(self):
        """What was read, plainly: for comparing with the decoder."""
        cdef Event *e
        out = []
        for n in range(self.f.count):
            e = self.f.events + <size_t>n
            out.append((
                e.time_ms, e.kind, e.principal.at[: e.principal.length] if e.principal.length else b"",
                e.source.at[: e.source.length] if e.source.length else b"",
                e.application.at[: e.application.length] if e.application.length else b"",
                e.fingerprint.at[: e.fingerprint.length] if e.fingerprint.length else b"",
                e.rows, e.hidden, e.bytes, e.estimated, bool(e.flagged),
                [self.f.digests[e.patients + i] for i in range(e.patient_count)],
                [self.f.digests[e.asked + i] for i in range(e.asked_count)],
            ))
        return out

    def count(self, int64_t offset, int64_t now_ms, int64_t newest_ms=0, int64_t shift_ms=0):
        """Count the frame that was read or taken. `newest_ms`, `shift_ms`: the clock of its source as it was left.

        Returns (newest_ms, shift_ms, accounts whose limits must be set, closed hours [(account, hour, [Totals])],
        accounts over a limit [(account, event)], single events [(account or None, event, why bits)])."""
        cdef SourceClock clock
        cdef int failed
        clock.newest_ms = newest_ms
        clock.shift_ms = shift_ms
        with nogil:
            failed = count_frame(&self.c, &self.f, offset, now_ms, &clock)
        if failed:
            raise MemoryError("the windows ran out of memory: give the detector more, or share the partitions")
        return self.outcome(&clock, 0)

    def run(self, int64_t offset, uint32_t start, int64_t span_ms, uint32_t most, int64_t until_ms, int64_t newest_ms=0, int64_t shift_ms=0):
        """Count events of what was read, from number `start` on, as frames of their own: of at most `most` events and less than
        `span_ms` each, where now is the time of the last one. Stops behind the frame in which something came up, that reached
        `until_ms`, or moved a sum that is to be looked at (`due`).

        Returns (the number to go on from, frames, now of the last one, what `count` returns of it)."""
        cdef SourceClock clock
        cdef Run run
        cdef int failed
        clock.newest_ms = newest_ms
        clock.shift_ms = shift_ms
        with nogil:
            failed = count_run(&self.c, &self.f, start, span_ms, most, until_ms, offset, &clock, &run)
        if failed:
            raise MemoryError("the windows ran out of memory: give the detector more, or share the partitions")
        return run.to, run.frames, run.now, self.outcome(&clock, run.start)

    cdef tuple outcome(self, SourceClock *clock, uint32_t first):
        """What came up; events are numbered from `first` on."""
        cdef Outcome *o = &self.c.out
        cdef uint32_t i
        if not (o.fresh_count or o.hour_count or o.report_count or o.single_count):
            return clock.newest_ms, clock.shift_ms, (), (), (), ()
        return (
            clock.newest_ms,
            clock.shift_ms,
            [o.fresh[i] for i in range(o.fresh_count)],
            [
                (o.hours[i].account, o.hours[i].hour, totals_at(o.hours[i].totals, self.c.accounts.windows))
                for i in range(o.hour_count)
            ],
            [(o.reports[i].account, first + o.reports[i].event) for i in range(o.report_count)],
            [(None if o.single[i].account == NOBODY else o.single[i].account, first + o.single[i].event, o.single[i].why) for i in range(o.single_count)],
        )
