"""The ledger, and whoever tries to change it: any change is found, and where it is."""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from exfilguard.errors import EvidenceError
from exfilguard.events.chain import ChainWriter, digest_of
from exfilguard.events.codec import encode_verdict
from exfilguard.events.verdict import Verdict
from exfilguard.evidence import ledger as ledger_module
from exfilguard.evidence.ledger import ANCHOR, CHECKPOINTS, Ledger, checkpoint_from, files_of
from exfilguard.evidence.signing import signer_at, signer_from, verifier_at
from exfilguard.evidence.verify import Verification, verify

NOW = 1_764_000_000_000
TOPIC = "exfilguard.verdicts"
EXAMPLES = int(os.environ.get("EXFILGUARD_EXAMPLES", "300"))


def record(writer: ChainWriter, n: int) -> bytes:
    return writer.seal(encode_verdict(Verdict("clinic", f"acc{n % 5}", "cut", n, NOW + n, f"took {n}", writer.chain)))


def entry(data: bytes, offset: int, partition: int = 0) -> dict[str, Any]:
    return {"type": "verdict", "from": [TOPIC, partition, offset, "id1"], "record": data.decode()}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 entries of two writers, a checkpoint after every 10, the last one after the last entry."""
    directory = tmp_path_factory.mktemp("original")
    signer = signer_at(directory / "audit.key")
    made = Ledger(directory / "ledger", signer, NOW)
    writers = [ChainWriter("detector:1", "aa"), ChainWriter("responder", "bb")]
    for n in range(1, 40):
        made.append([entry(record(writers[n % 2], n), n)], NOW + n)
        if n % 10 == 9:
            made.checkpoint(NOW + n)
    assert made.entries == 40
    return directory


def check(directory: Path, original: Path) -> Verification:
    """With the public key and the checkpoints that were kept elsewhere."""
    verifier = verifier_at(original / "ledger" / "public-key.pem")
    kept = (original / "ledger" / CHECKPOINTS).read_bytes().splitlines()
    return verify(directory / "ledger", verifier, kept)


@pytest.fixture
def copy(original: Path, tmp_path: Path) -> Path:
    shutil.copytree(original / "ledger", tmp_path / "ledger")
    return tmp_path


def lines(directory: Path) -> list[bytes]:
    (path,) = files_of(directory / "ledger")
    return path.read_bytes().splitlines(keepends=True)


def write(directory: Path, data: list[bytes]) -> None:
    (path,) = files_of(directory / "ledger")
    path.write_bytes(b"".join(data))


def test_untouched_verifies(original: Path, copy: Path) -> None:
    found = check(copy, original)
    assert (found.ok, found.entries, found.checkpoints, found.covered, found.writers) == (True, 40, 4, 39, 2)
    assert found.notes == []


Change = tuple[str, int, int]
CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["delete", "edit", "swap", "truncate", "insert", "forge", "cut"]),
        st.integers(0, 10_000),
        st.integers(0, 1_000_000),
    ),
    min_size=1,
    max_size=4,
)


def changed(data: list[bytes], change: Change) -> list[bytes]:
    what, a, b = change
    data = list(data)
    if not data:
        return data
    i, j = a % len(data), b % len(data)
    if what == "delete":
        del data[i]
    elif what == "edit" and data[i]:  # an earlier cut may have left an empty line
        at = b % (len(data[i]) - 1) if len(data[i]) > 1 else 0
        data[i] = data[i][:at] + bytes([data[i][at] ^ (1 + b % 127)]) + data[i][at + 1 :]
    elif what == "swap":
        data[i], data[j] = data[j], data[i]
    elif what == "truncate":
        del data[i:]
    elif what == "insert":
        data.insert(i, data[j])
    elif what == "forge":
        prev = digest_of(data[i - 1].rstrip(b"\n")) if i else ""
        data.insert(i, orjson.dumps({"n": i, "prev": prev, "time_ms": NOW, "type": "verdict", "record": "{}"}) + b"\n")
    elif what == "cut":
        data[-1] = data[-1][: b % max(1, len(data[-1]))]
    return data


@example(changes=[("edit", 0, 0), ("forge", 0, 0)])
@example(changes=[("edit", 0, 300), ("truncate", 1, 0)])  # another name, and every entry after it gone
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=CHANGES)
def test_any_change_is_found_and_located(original: Path, tmp_path: Path, changes: list[Change]) -> None:
    before = lines(original)
    after = before
    for change in changes:
        after = changed(after, change)
    joined = b"".join(after)
    whole = b"".join(before)
    target = tmp_path / "ledger"
    target.mkdir(exist_ok=True)
    (target / files_of(original / "ledger")[0].name).write_bytes(joined)
    shutil.copy(original / "ledger" / CHECKPOINTS, target)
    found = check(tmp_path, original)
    if joined == whole:
        assert found.ok
        return
    assert not found.ok
    split = joined.splitlines(keepends=True)
    first = next(
        (n for n, (x, y) in enumerate(zip(before, split, strict=False)) if x != y), min(len(before), len(split))
    )
    assert any(f.first <= first <= f.last for f in found.findings), (first, found.findings[:4])
    assert all(f.where and f.text for f in found.findings)


def test_a_ledger_that_was_put_in_anothers_place_is_found(original: Path, tmp_path: Path) -> None:
    """A new, whole ledger under the same key: only the checkpoints that were kept elsewhere know of the old one."""
    Ledger(tmp_path / "ledger", signer_at(original / "audit.key"), NOW).append([], NOW)
    found = check(tmp_path, original)
    assert {f.kind for f in found.findings} == {"altered"}
    assert all("put in its place" in f.text for f in found.findings)


def test_a_kept_checkpoint_of_a_second_ledger_is_only_told(original: Path, copy: Path, tmp_path: Path) -> None:
    """One place may keep the checkpoints of several installations."""
    second = Ledger(tmp_path / "second", signer_at(original / "audit.key"), NOW)
    second.checkpoint(NOW)
    kept = (tmp_path / "second" / CHECKPOINTS).read_bytes().splitlines()
    found = verify(copy / "ledger", verifier_at(original / "ledger" / "public-key.pem"), kept)
    assert found.ok
    assert any("another ledger" in note for note in found.notes)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 39), drop=st.booleans())
def test_a_chain_that_was_computed_anew_is_found_by_the_checkpoints(
    original: Path, tmp_path: Path, at: int, drop: bool
) -> None:
    """Somebody who knows the format, and does not have the key: the range between two checkpoints is named."""
    bodies = [orjson.loads(line) for line in lines(original)]
    if drop:
        del bodies[at]
    elif "record" in bodies[at]:
        bodies[at]["record"] = bodies[at]["record"].replace("cut", "none")
    else:
        bodies[at]["time_ms"] += 1
    out, prev = [], ""
    for n, body in enumerate(bodies):
        line = orjson.dumps({**body, "n": n, "prev": prev})
        out.append(line + b"\n")
        prev = digest_of(line)
    target = tmp_path / "ledger"
    target.mkdir(exist_ok=True)
    (target / files_of(original / "ledger")[0].name).write_bytes(b"".join(out))
    found = check(tmp_path, original)
    kinds = {f.kind for f in found.findings if f.first <= at <= f.last}
    assert kinds & {"rewritten", "truncated"}, found.findings
    rewritten = [f for f in found.findings if f.kind == "rewritten"]
    assert not rewritten or rewritten[0].last - rewritten[0].first < 10


def test_an_older_copy_put_back_is_shorter_than_the_checkpoint(original: Path, copy: Path) -> None:
    write(copy, lines(copy)[:20])
    kept = copy / "ledger" / CHECKPOINTS
    kept.write_bytes(b"".join(kept.read_bytes().splitlines(keepends=True)[:2]))
    found = check(copy, original)
    assert [(f.kind, f.first, f.last) for f in found.findings if f.kind == "truncated"] == [("truncated", 20, 39)]


def test_entries_that_no_checkpoint_covers_are_said_to_be_so(original: Path, copy: Path) -> None:
    signer = signer_at(original / "audit.key")
    made = Ledger(copy / "ledger", signer, NOW)
    made.append([{"type": "archive"}], NOW)
    found = check(copy, original)
    assert found.ok
    assert "covered by no checkpoint" in found.notes[0]


def test_a_checkpoint_that_was_signed_by_somebody_else_is_no_proof(original: Path, copy: Path, tmp_path: Path) -> None:
    stranger = signer_at(tmp_path / "stranger.key")
    path = copy / "ledger" / CHECKPOINTS
    good = checkpoint_from(path.read_bytes().splitlines()[-1])
    assert good is not None
    forged = {**asdict(good), "hash": "0" * 64, "number": 4}
    forged["signature"] = stranger.sign(orjson.dumps({k: v for k, v in forged.items() if k != "signature"}))
    with path.open("ab") as file:
        file.write(orjson.dumps(forged) + b"\nrubbish\n")
    found = check(copy, original)
    assert sorted(f.kind for f in found.findings) == ["checkpoint", "signature"]


def test_a_record_that_never_came_from_the_topic_shows_in_its_writers_chain(tmp_path: Path) -> None:
    signer = signer_at(tmp_path / "k")
    made = Ledger(tmp_path / "ledger", signer, NOW)
    writer = ChainWriter("detector:1", "aa")
    records = [record(writer, n) for n in range(5)]
    made.append([entry(records[n], n) for n in (0, 1, 3, 4)], NOW)
    made.checkpoint(NOW)
    found = verify(tmp_path / "ledger", signer.verifier)
    assert [(f.kind, f.first, f.last) for f in found.findings] == [("writer", 2, 3)]
    assert "record 2 of writer detector:1@aa never reached the ledger" in found.findings[0].text


def test_records_of_one_writer_may_arrive_in_another_order(tmp_path: Path) -> None:
    signer = signer_at(tmp_path / "k")
    made = Ledger(tmp_path / "ledger", signer, NOW)
    writer = ChainWriter("detector:1", "aa")
    records = [record(writer, n) for n in range(4)]
    made.append([entry(records[n], n) for n in (2, 0, 3, 1)], NOW)
    assert verify(tmp_path / "ledger", signer.verifier).ok


def test_it_goes_on_where_it_was_and_knows_what_it_has(tmp_path: Path) -> None:
    signer = signer_at(tmp_path / "k")
    writer = ChainWriter("detector:1", "aa")
    first = record(writer, 1)
    made = Ledger(tmp_path / "ledger", signer, NOW)
    made.append([entry(first, 17, 3)], NOW)
    again = Ledger(tmp_path / "ledger", signer, NOW)
    assert (again.entries, again.head, again.id) == (made.entries, made.head, made.id)
    assert again.positions == {(TOPIC, 3): ("id1", 18)}
    assert again.revisions == {"clinic/acc1": 1}
    assert again.knows(first)
    assert not again.knows(record(writer, 2))
    assert again.checkpoint(NOW) is not None
    assert again.checkpoint(NOW) is None, "nothing new to sign"


def test_a_line_torn_by_a_crash_is_dropped_and_the_ledger_says_so(tmp_path: Path) -> None:
    signer = signer_at(tmp_path / "k")
    Ledger(tmp_path / "ledger", signer, NOW)
    (path,) = files_of(tmp_path / "ledger")
    with path.open("ab") as file:
        file.write(b'{"n":1,"prev":"ab')
    assert [f.kind for f in verify(tmp_path / "ledger", signer.verifier).findings] == ["torn"]
    again = Ledger(tmp_path / "ledger", signer, NOW)
    assert again.entries == 2
    assert orjson.loads(path.read_bytes().splitlines()[-1])["dropped_bytes"] == 17
    assert verify(tmp_path / "ledger", signer.verifier).ok


def test_a_full_disk_leaves_the_ledger_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    signer = signer_at(tmp_path / "k")
    made = Ledger(tmp_path / "ledger", signer, NOW)
    written = ledger_module.os.write

    def half(descriptor: int, data: memoryview) -> int:
        written(descriptor, data[:5])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ledger_module.os, "write", half)
    with pytest.raises(OSError, match="No space"):
        made.append([{"type": "archive"}], NOW)
    monkeypatch.undo()
    made.append([{"type": "archive"}], NOW)
    assert made.entries == 2
    assert verify(tmp_path / "ledger", signer.verifier).ok


def test_old_files_go_and_a_signed_anchor_stands_for_them(tmp_path: Path) -> None:
    signer = signer_at(tmp_path / "k")
    made = Ledger(tmp_path / "ledger", signer, NOW)
    month_ms = 31 * 86_400_000
    writer = ChainWriter("detector:1", "aa")
    for month in range(4):
        made.append([entry(record(writer, month), month)], NOW + month * month_ms)
        made.checkpoint(NOW + month * month_ms)
    assert len(files_of(tmp_path / "ledger")) == 4
    assert made.prune(NOW + 2 * month_ms, NOW + 3 * month_ms) == 2
    found = verify(tmp_path / "ledger", signer.verifier)
    assert (found.ok, found.first_entry) == (True, 3), found.findings
    files_of(tmp_path / "ledger")[0].unlink()
    assert next((f.kind, f.first) for f in verify(tmp_path / "ledger", signer.verifier).findings) == ("removed", 3)
    (tmp_path / "ledger" / ANCHOR).unlink()
    assert next((f.kind, f.first) for f in verify(tmp_path / "ledger", signer.verifier).findings) == ("removed", 0)


@pytest.mark.parametrize("text", ["", "secret", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_a_key_that_is_none_is_refused_with_what_to_do(text: str) -> None:
    with pytest.raises(EvidenceError, match="openssl genpkey"):
        signer_from(text)


def test_the_key_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    signer_at(tmp_path / "k")
    assert (tmp_path / "k").stat().st_mode & 0o777 == 0o600
