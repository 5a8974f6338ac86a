"""`exfilguard audit verify`: was anything in the ledger removed, altered, reordered or cut off, and where.

Three things are checked against each other:
1. the ledger's own chain: numbers without a gap, each line's `prev` the hash of the line before;
2. signed checkpoints, best those that were kept elsewhere: whoever rewrote the whole chain cannot sign, and a ledger that is
   shorter than a checkpoint has lost its end (an older copy put back looks just so);
3. the chains of the writers (events/chain.py) inside the records: what was taken from the topic before it was archived.

A finding names the first and the last entry it may concern. Where one entry was altered, its neighbours' hashes tell which.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson

from ..errors import CodecError
from ..events.chain import digest_of, link_of
from .ledger import ANCHOR, CHECKPOINTS, Checkpoint, Line, checkpoint_from, lines_of
from .signing import Verifier

MAX_FINDINGS = 1_000


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it was written. Entries are the ledger's numbers, both included."""

    kind: str
    """`removed`, `altered`, `reordered`, `truncated`, `rewritten`, `torn`, `signature`, `checkpoint`, `writer`."""
    first: int
    last: int
    where: str
    text: str


@dataclass(slots=True)
class Verification:
    """What was found. `ok`: nothing wrong."""

    entries: int = 0
    first_entry: int = 0
    head: str = ""
    checkpoints: int = 0
    """Good ones, each counted once."""
    newest_checkpoint_ms: int = 0
    covered: int = -1
    """The last entry that a good checkpoint covers."""
    writers: int = 0
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.findings

    def add(self, kind: str, first: int, last: int, where: str, text: str) -> None:
        if len(self.findings) < MAX_FINDINGS:
            self.findings.append(Finding(kind, first, last, where, text))


@dataclass(slots=True)
class _Seen:
    """A line and what it says of itself."""

    line: Line
    n: int | None
    prev: str
    hash: str
    time_ms: int
    record: bytes | None
    gap: str = ""
    """The topic, when the line is a gap entry."""

    @property
    def where(self) -> str:
        return f"{self.line.file}:{self.line.number}"


def verify(directory: Path, verifier: Verifier, kept: Iterable[bytes] = ()) -> Verification:
    """Check a ledger's directory. `kept`: lines of checkpoints that were stored elsewhere. Raises OSError."""
    result = Verification()
    seen = [_seen(line) for line in lines_of(directory)]
    ledger_id = _ledger_id(seen)
    local = directory / CHECKPOINTS
    own = local.read_bytes().splitlines() if local.is_file() else []
    checkpoints = _checkpoints(result, [*own, *kept], own, verifier, ledger_id)
    start, prev = _anchor(result, directory, verifier)
    result.first_entry = start
    vouched = {one.prev for one in seen if one.n is not None} | {checkpoint.hash for checkpoint in checkpoints}
    _chain(result, seen, start, prev, vouched)
    _against(result, seen, checkpoints, start)
    _writers(result, seen, pruned=start > 0)
    whole = [s for s in seen if s.line.whole]
    result.entries = len(whole)
    result.head = whole[-1].hash if whole else ""
    if not whole and not result.findings:
        result.add("removed", 0, 0, str(directory), "there is no ledger here")
    if not checkpoints:
        result.notes.append("no good checkpoint: nothing shows whether the ledger's end is missing")
    elif result.covered < start + len(whole) - 1:
        result.notes.append(
            f"entries after {result.covered} are covered by no checkpoint yet: that the newest are missing would not show"
        )
    result.findings.sort(key=lambda f: (f.first, f.last))
    return result


def _seen(line: Line) -> _Seen:
    n, prev, time_ms, record, gap = None, "", 0, None, ""
    try:
        body = orjson.loads(line.data)
        if isinstance(body, dict) and line.whole:
            n = body["n"] if type(body.get("n")) is int else None
            prev = body["prev"] if isinstance(body.get("prev"), str) else ""
            time_ms = body["time_ms"] if type(body.get("time_ms")) is int else 0
            gap = str(body["from"][0]) if body.get("type") == "gap" else ""
            record = body["record"].encode() if isinstance(body.get("record"), str) else None
    except (orjson.JSONDecodeError, UnicodeEncodeError, LookupError, TypeError):
        n = None
    return _Seen(line, n, prev, digest_of(line.data), time_ms, record, gap)


def _ledger_id(seen: Sequence[_Seen]) -> str:
    if not seen or seen[0].n != 0:
        return ""
    body: dict[str, Any] = orjson.loads(seen[0].line.data)
    return str(body.get("ledger", ""))


def _checkpoints(
    result: Verification, lines: Sequence[bytes], own: Sequence[bytes], verifier: Verifier, ledger_id: str
) -> list[Checkpoint]:
    good: dict[tuple[int, str], Checkpoint] = {}
    foreign: list[tuple[str, bool, Checkpoint]] = []
    for at, data in enumerate(lines, 1):
        if not data.strip():
            continue
        where = f"{CHECKPOINTS}:{at}" if at <= len(own) else f"kept checkpoint {at - len(own)}"
        found = checkpoint_from(data)
        if found is None:
            result.add("checkpoint", 0, 0, where, "this line is no checkpoint: it was altered, or a crash tore it")
        elif not verifier.good(found.signature, found.signed_bytes()):
            text = f"checkpoint {found.number}: the signature does not fit the public key {verifier.key_id}"
            result.add("signature", found.n, found.n, where, text)
        elif ledger_id and found.ledger != ledger_id:
            foreign.append((where, at <= len(own), found))
        else:
            good[(found.number, found.hash)] = found
    for where, local, found in foreign:
        if (
            local or not good
        ):  # the only witness of an entry 0 that was changed, or of a ledger that was put in this one's place
            text = (
                f"checkpoint {found.number} is of ledger {found.ledger}, and this ledger calls itself {ledger_id}: its first "
                "entry was altered, or another ledger was put in its place"
            )
            result.add("altered", 0, found.n, where, text)
        else:
            result.notes.append(f"{where}: is of another ledger ({found.ledger}) and was left out")
    numbers = sorted({number for number, _ in good})
    for before, after in pairwise(numbers):
        if after != before + 1:
            text = f"checkpoints {before + 1} to {after - 1} are in none of the files"
            result.add("checkpoint", 0, 0, CHECKPOINTS, text)
    found_all = sorted(good.values(), key=lambda c: (c.n, c.number))
    result.checkpoints = len(found_all)
    result.newest_checkpoint_ms = max((c.time_ms for c in found_all), default=0)
    return found_all


def _anchor(result: Verification, directory: Path, verifier: Verifier) -> tuple[int, str]:
    """(first entry that must be there, hash before it): after what the retention has deleted, by a signed statement."""
    path = directory / ANCHOR
    if not path.is_file():
        return 0, ""
    found = checkpoint_from(path.read_bytes())
    if found is None or not verifier.good(found.signature, found.signed_bytes()):
        result.add("signature", 0, 0, ANCHOR, "the anchor of the deleted beginning is not signed by this key")
        return 0, ""
    return found.n + 1, found.hash


def _chain(result: Verification, seen: Sequence[_Seen], start: int, prev: str, vouched: Container[str]) -> None:
    expected, before = start, prev
    hashes = {prev, *(one.hash for one in seen)}
    for i, one in enumerate(seen):
        where = one.where
        # Nobody holds the hash of the line before a break: that line may be the altered one.
        doubtful = i > 0 and seen[i - 1].n is not None and seen[i - 1].hash not in vouched
        from_here = expected - 1 if doubtful else expected
        if not one.line.whole:
            text = "the last line has no end: a crash while writing, or it was cut"
            result.add("torn", from_here, expected, where, text)
            continue
        if one.n is None:
            result.add("altered", from_here, expected, where, f"entry {expected} cannot be read")
            expected, before = expected + 1, one.hash
            continue
        if one.n > expected:
            last = one.n - 1
            text = f"entries {expected} to {last} are missing" if last > expected else f"entry {expected} is missing"
            result.add("removed", from_here, last, where, text)
        elif one.n < expected:
            text = f"entry {one.n} stands where entry {expected} should be: reordered, inserted or repeated"
            # What it holds as the hash of its neighbour is not here: then the neighbour was changed as well.
            lost = one.n > start and one.prev not in hashes
            result.add("reordered", min(one.n - lost, from_here), expected, where, text)
        elif one.prev != before:
            first, last = _blame(seen, i, expected)
            which = f"entry {first} was altered" if first == last else f"entry {first} or {last} was altered"
            result.add("altered", max(first, start), last, where, f"{which}: entry {expected} holds another hash")
        expected, before = one.n + 1, one.hash


def _blame(seen: Sequence[_Seen], i: int, n: int) -> tuple[int, int]:
    """Which side of the broken link between entry n-1 and n was altered, as far as the next link tells."""
    if i == 0:
        return n, n
    following = seen[i + 1] if i + 1 < len(seen) else None
    if following is not None and following.n == n + 1 and following.prev == seen[i].hash:
        return n - 1, n - 1  # entry n is as it was written: its neighbour holds its hash
    return n - 1, n


def _against(result: Verification, seen: Sequence[_Seen], checkpoints: Sequence[Checkpoint], start: int) -> None:
    """The signed statements against the lines."""
    by_number = {one.n: one for one in seen if one.n is not None}
    highest = max(by_number, default=start - 1)
    good_until = start - 1
    missing = [c for c in checkpoints if c.n > highest and c.n >= start]
    for checkpoint in checkpoints:
        if checkpoint.n < start:
            continue
        one = by_number.get(checkpoint.n)
        if one is None:
            continue
        if one.hash == checkpoint.hash:
            good_until = max(good_until, checkpoint.n)
            continue
        broken = [f for f in result.findings if good_until < f.last and f.first <= checkpoint.n]
        if not broken:
            first = good_until + 1
            text = f"entries {first} to {checkpoint.n} were rewritten: checkpoint {checkpoint.number} says otherwise"
            if first == checkpoint.n:
                text = f"entry {first} was altered: checkpoint {checkpoint.number} says otherwise"
            result.add("rewritten", first, checkpoint.n, one.where, text)
    if missing:
        newest = max(c.n for c in missing)
        text = (
            f"entries {highest + 1} to {newest} are missing: checkpoint {missing[0].number} covers entry {missing[0].n}; the "
            "ledger's end was cut off, or an older copy was put back"
        )
        if good_until < highest:
            text += f"; nothing vouches for entries {good_until + 1} to {highest} any more"
        result.add("truncated", min(good_until, highest) + 1, newest, CHECKPOINTS, text)
    result.covered = good_until


def _writers(result: Verification, seen: Sequence[_Seen], *, pruned: bool) -> None:
    """The writers' own chains: entries may come in another order (several partitions), but none is left out."""
    chains: dict[str, dict[int, tuple[str, str, int]]] = {}
    for one in seen:
        if one.record is None or one.n is None:
            continue
        try:
            link = link_of(one.record)
        except CodecError as error:
            result.add("writer", one.n, one.n, one.where, f"entry {one.n}: {error}")
            continue
        if link is None:
            continue
        chain = chains.setdefault(link.chain, {})
        known = chain.get(link.seq)
        found = digest_of(one.record)
        if known is not None and known[1] != found:
            text = f"entries {known[2]} and {one.n} are both record {link.seq} of writer {link.chain}"
            result.add("writer", one.n, one.n, one.where, text)
        chain[link.seq] = (link.prev, found, one.n)
    result.writers = len(chains)
    gaps = [one.n for one in seen if one.gap and one.n is not None]
    for one in seen:
        if one.gap.endswith(".actions") and one.n is not None:  # a topic that is neither compacted nor expired
            result.add(
                "removed",
                one.n,
                one.n,
                one.where,
                f"entry {one.n}: actions were gone from their topic before they were read",
            )
        elif one.gap:
            result.notes.append(
                f"entry {one.n}: verdicts were gone from their topic before they were read (compaction)"
            )
    for name, chain in chains.items():
        order = sorted(chain)
        previous = -1 if not pruned else order[0] - 1
        for seq in order:
            prev, _, n = chain[seq]
            if seq > previous + 1:
                missing = f"{previous + 1}" if seq == previous + 2 else f"{previous + 1} to {seq - 1}"
                near = chain[previous][2] if previous in chain else n
                text = f"record {missing} of writer {name} never reached the ledger: removed from the topic before, or lost"
                if any((near if previous in chain else 0) <= gap <= n for gap in gaps):
                    result.notes.append(text)
                else:
                    result.add("writer", min(near, n), max(near, n), f"entry {n}", text)
            elif previous >= 0 and previous in chain and prev != chain[previous][1]:
                text = f"record {previous} or {seq} of writer {name} is not what was written"
                result.add("writer", min(chain[previous][2], n), max(chain[previous][2], n), f"entry {n}", text)
            previous = seq
