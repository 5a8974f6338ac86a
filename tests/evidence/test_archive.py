"""The archive: each frame exactly once, whatever is delivered, killed or damaged."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exfilguard.errors import EvidenceError
from exfilguard.events.codec import Frame
from exfilguard.evidence import archive as archive_module
from exfilguard.evidence import manifest as manifests
from exfilguard.evidence.archive import DAY_MS, ArchiveWriter, day_of, day_start_ms
from exfilguard.evidence.manifest import GARBAGE_MS
from exfilguard.evidence.reader import ArchiveReader
from exfilguard.evidence.sequences import Sequences

NOW = 1_764_000_000_000
YEAR_MS = 365 * DAY_MS
COLUMNS = ("rows", "patients", "sidecar", "epoch", "seq", "item", "fingerprint")


def event(principal: str, time_ms: int = NOW, **values: Any) -> dict[str, Any]:
    return {"time_ms": time_ms, "kind": "query", "listener": "dpi", "session": "s", "principal": principal, **values}


def frame(seq: int, events: list[dict[str, Any]], epoch: str = "e1", tenant: str = "clinic") -> Frame:
    return Frame(tenant, "host-0", epoch, seq, events)


def made(root: Path, **values: Any) -> ArchiveWriter:
    writer = ArchiveWriter(root, YEAR_MS, **values)
    writer.begin("topic-1")
    return writer


def keys(root: Path, principal: str = "thief") -> list[tuple[str, int, int]]:
    table = ArchiveReader(root).account("clinic", principal, 0, NOW * 2, COLUMNS)
    return sorted((r["epoch"], r["seq"], r["item"]) for r in table.to_pylist())


def test_what_goes_in_comes_out(tmp_path: Path) -> None:
    writer = made(tmp_path)
    digests = [f"{n:016x}" for n in (1, 2**63, 2**64 - 1)]
    full = event(
        "thief", rows=7, hidden_rows=2, bytes=2**40, patients=digests, asked=digests[:1], flags=["copy", "packed"],
        fingerprint="ab" * 8, query="select * from patient", columns=["id", "nom"], engine="mysql", error="57014",
        patients_by="origin", source="10.0.0.9", application="a\x00b", database="\udcff",
    )  # fmt: skip
    writer.add(0, 0, frame(0, [full, event("other")]))
    assert writer.commit(NOW) == 2
    reader = ArchiveReader(tmp_path)
    (row,) = reader.account("clinic", "thief", NOW, NOW + 1, archive_module.EVENTS.names).to_pylist()
    assert (row["rows"], row["hidden_rows"], row["bytes"], row["flags"]) == (7, 2, 2**40, ["copy", "packed"])
    assert [d.hex() for d in row["patients"]] == digests
    assert [d.hex() for d in row["asked"]] == digests[:1]
    assert (row["engine"], row["evidence"], row["application"], row["database"]) == ("mysql", "login", "a\x00b", "?")
    assert reader.shapes("clinic").to_pylist() == [
        {"fingerprint": "ab" * 8, "engine": "mysql", "query": "select * from patient", "columns": ["id", "nom"], "first_ms": NOW}
    ]  # fmt: skip
    assert reader.account("clinic", "thief", NOW + 1, NOW + 2, COLUMNS).num_rows == 0
    assert reader.account("elsewhere", "thief", 0, NOW * 2, COLUMNS).num_rows == 0
    assert reader.skipped == {}
    count = reader.scan("clinic", 0, NOW * 2).execute("SELECT count(*), sum(rows) FROM events").fetchone()
    assert count == (2, 7)


def test_a_frame_that_comes_again_is_in_once_also_after_a_restart(tmp_path: Path) -> None:
    writer = made(tmp_path)
    assert writer.add(0, 0, frame(0, [event("thief")]))
    assert not writer.add(0, 1, frame(0, [event("thief")]))
    writer.commit(NOW)
    writer.close()
    again = made(tmp_path)
    assert again.offsets == {0: 2}
    assert not again.add(0, 1, frame(0, [event("thief")]))
    assert again.add(0, 2, frame(2, [event("thief")]))
    assert again.missing_frames == 1
    assert again.add(0, 3, frame(1, [event("thief")])), "late, not lost"
    assert again.add(1, 0, frame(0, [event("thief")])), "another partition counts by itself"
    again.commit(NOW)
    assert keys(tmp_path) == [("e1", 0, 0), ("e1", 0, 0), ("e1", 1, 0), ("e1", 2, 0)]
    assert (again.missing_frames, again.manifest.duplicates) == (0, 2)


class Killed(BaseException):
    """As `kill -9`: nothing that follows is run."""


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 1 << 30))
def test_killed_anywhere_each_frame_is_in_exactly_once(seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A log that is delivered at least once; the writer dies at a random file operation, again and again."""
    rng = random.Random(seed)
    root = tmp_path_factory.mktemp("killed")
    days = [NOW - DAY_MS * 2, NOW]
    log = [
        frame(n, [event(rng.choice(["thief", "nurse"]), rng.choice(days), rows=n) for _ in range(rng.randrange(1, 4))])
        for n in range(25)
    ]
    with pytest.MonkeyPatch.context() as patch:
        fuse = [rng.randrange(1, 12)]

        def burning(function: Any) -> Any:
            def call(*arguments: Any, **named: Any) -> Any:
                fuse[0] -= 1
                if fuse[0] == 0:
                    raise Killed
                result = function(*arguments, **named)
                if fuse[0] == 1 and rng.random() < 0.5:
                    raise Killed  # done, and nobody was told
                return result

            return call

        patch.setattr(manifests, "replace_file", burning(manifests.replace_file))
        patch.setattr(archive_module.parquet, "write", burning(archive_module.parquet.write))
        deaths = 0
        while True:
            writer = None
            try:
                writer = ArchiveWriter(root, YEAR_MS, file_rows=200)
                writer.begin("topic-1")
                at = writer.offsets.get(0, 0)
                at = max(0, at - rng.randrange(3))
                while at < len(log):
                    for offset in range(at, min(len(log), at + rng.randrange(1, 6))):
                        writer.add(0, offset, log[offset])
                        at = offset + 1
                    writer.commit(NOW)
                    while writer.compact(NOW):
                        pass
                break
            except Killed:
                deaths += 1
                fuse[0] = rng.randrange(1, 30)
            finally:
                if writer is not None:
                    writer.close()
    assert deaths
    reader = ArchiveReader(root)
    found = sorted(
        (row["seq"], row["item"], row["principal"], row["rows"], row["time_ms"])
        for name in ("thief", "nurse")
        for row in reader.account("clinic", name, 0, NOW * 2, COLUMNS).to_pylist()
    )
    wanted = sorted((f.seq, i, e["principal"], e["rows"], e["time_ms"]) for f in log for i, e in enumerate(f.events))
    assert found == wanted
    assert reader.skipped == {}
    on_disk = {str(p.relative_to(root)) for p in root.rglob("*.parquet")}
    assert on_disk == reader.manifest.files.keys() | reader.manifest.garbage.keys()


def test_another_topic_is_read_from_its_beginning(tmp_path: Path) -> None:
    writer = made(tmp_path)
    writer.add(0, 41, frame(0, [event("thief")]))
    writer.commit(NOW)
    writer.begin("topic-2")
    assert writer.offsets == {}
    assert not writer.add(0, 0, frame(0, [event("thief")])), "published again by the spool: in already"
    writer.commit(NOW)
    assert writer.manifest.offsets == {0: 1}


def test_small_files_become_large_ones_and_are_deleted_later(tmp_path: Path) -> None:
    writer = made(tmp_path, file_rows=1_000)
    yesterday = NOW - DAY_MS
    for n in range(20):
        writer.add(0, n, frame(n, [event(f"a{i % 7}", yesterday + i, rows=1) for i in range(30)]))
        writer.commit(NOW)
    before = len(writer.manifest.files)
    said = writer.compact(NOW)
    assert "20 files became one of 600 rows" in said
    assert len(writer.manifest.files) == before - 19
    assert len(list(tmp_path.rglob("events/**/*.parquet"))) == 21, "a report may be reading them"
    assert writer.compact(NOW) == ""
    writer.add(0, 99, frame(20, [event("a1", NOW)]))
    writer.commit(NOW + GARBAGE_MS + 1)
    assert len(list(tmp_path.rglob("events/**/*.parquet"))) == 2
    assert ArchiveReader(tmp_path).account("clinic", "a3", 0, NOW * 2, ("rows",)).num_rows == 80


def test_days_beyond_the_retention_go(tmp_path: Path) -> None:
    writer = ArchiveWriter(tmp_path, 183 * DAY_MS)
    for n, age in enumerate((0, 100, 182, 186)):
        writer.add(0, n, frame(n, [event("thief", NOW - age * DAY_MS)]))
        writer.commit(NOW - age * DAY_MS)
    assert len(writer.expire(NOW)) == 1
    assert writer.expire(NOW) == []
    assert len(keys(tmp_path)) == 3


def test_a_clock_that_jumped_does_not_delete_or_hide_its_events(tmp_path: Path) -> None:
    writer = made(tmp_path)
    writer.add(0, 0, frame(0, [event("thief", 0), event("thief", NOW * 100), event("thief", NOW)]))
    writer.commit(NOW)
    assert {entry.day for entry in writer.manifest.files.values()} == {day_of(NOW)}
    assert writer.expire(NOW) == []
    assert len(ArchiveReader(tmp_path).account("clinic", "thief", 0, NOW * 1000, ("rows",))) == 3
    assert day_start_ms(day_of(NOW)) <= NOW < day_start_ms(day_of(NOW)) + DAY_MS


@pytest.mark.parametrize("how", ["page", "footer", "short", "gone", "empty"])
def test_a_damaged_file_is_named_left_out_and_counted(tmp_path: Path, how: str) -> None:
    writer = made(tmp_path)
    for n in range(3):
        writer.add(0, n, frame(n, [event("thief", NOW + n, patients=[f"{n:016x}" for n in range(500)])]))
        writer.commit(NOW)
    name = sorted(n for n in writer.manifest.files if n.startswith("events"))[1]
    path = tmp_path / name
    data = bytearray(path.read_bytes())
    if how == "page":
        data[len(data) // 3] ^= 4
    elif how == "footer":
        data[-20] ^= 1
    elif how == "short":
        del data[-100:]
    path.write_bytes(b"" if how == "empty" else bytes(data))
    if how == "gone":
        path.unlink()
    reader = ArchiveReader(tmp_path)
    assert reader.account("clinic", "thief", 0, NOW * 2, ("patients",)).num_rows == 2
    assert list(reader.skipped) == [name]
    assert reader.skipped[name]
    scan = ArchiveReader(tmp_path)
    assert scan.scan("clinic", 0, NOW * 2).execute("SELECT count(*) FROM events").fetchone() == (2,)
    assert list(scan.skipped) == [name]
    everything = ArchiveReader(tmp_path)
    assert everything.check() == 2
    assert list(everything.skipped) == [name]
    # A compaction leaves it as it is, and says so ever after.
    assert "2 files became one" in writer.compact(NOW + 10 * DAY_MS)
    assert list(ArchiveReader(tmp_path).skipped) == [name]
    if how != "gone":
        assert path.exists()


def test_a_damaged_manifest_gives_way_to_the_one_before(tmp_path: Path) -> None:
    writer = made(tmp_path)
    for n in range(3):
        writer.add(0, n, frame(n, [event("thief", NOW + n)]))
        writer.commit(NOW)
    writer.close()
    path = tmp_path / manifests.NAME
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    reader = ArchiveReader(tmp_path)
    assert reader.account("clinic", "thief", 0, NOW * 2, ("rows",)).num_rows == 2
    assert list(reader.skipped) == [manifests.NAME]
    again = made(tmp_path)
    assert again.trouble
    assert again.offsets == {0: 2}
    assert again.add(0, 2, frame(2, [event("thief", NOW + 2)]))
    again.commit(NOW)
    assert len(keys(tmp_path)) == 3
    (tmp_path / manifests.BEFORE).write_bytes(b"")
    path.write_bytes(b"")
    with pytest.raises(EvidenceError, match="backup"):
        ArchiveReader(tmp_path)


@pytest.mark.parametrize("tenant", ["../../../x", "a/b", "..", "é", "x" * 300, "a'b"])
def test_no_tenants_name_leaves_the_archives_directory(tmp_path: Path, tenant: str) -> None:
    root = tmp_path / "deep" / "archive"
    writer = ArchiveWriter(root, YEAR_MS, file_rows=10)
    shape = {"fingerprint": "a", "query": "q"}
    for n in range(20):
        writer.add(0, n, frame(n, [event("thief", **shape)], tenant=tenant))
        writer.commit(NOW)
    while writer.compact(NOW + 2 * DAY_MS):
        pass
    assert not [p for p in tmp_path.rglob("*.parquet") if root not in p.resolve().parents]
    reader = ArchiveReader(root)
    assert reader.account(tenant, "thief", 0, NOW * 2, ("rows",)).num_rows == 20
    assert reader.shapes(tenant).num_rows == 1
    assert reader.skipped == {}


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    writer = made(tmp_path)
    with pytest.raises(EvidenceError, match="another process"):
        made(tmp_path)
    writer.close()
    made(tmp_path).close()


def test_no_archive_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(EvidenceError, match="exfilguard archive"):
        ArchiveReader(tmp_path / "nothing")


@settings(max_examples=200, deadline=None)
@given(seqs=st.lists(st.integers(0, 30), max_size=60))
def test_sequences_equal_a_set(seqs: list[int]) -> None:
    """The naive oracle: a set of what was seen."""
    fast, seen = Sequences(), set()
    for n, seq in enumerate(seqs):
        assert fast.accept(0, "s", "e", seq) == (seq not in seen)
        seen.add(seq)
        if n % 7 == 3:
            fast = Sequences(fast.saved())
    assert fast.missing() == (max(seen) + 1 - len(seen) if seen else 0)
