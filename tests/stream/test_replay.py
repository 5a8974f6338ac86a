"""Recorded events against policies: files, partitions, duplicates, two policies, the picture."""

from __future__ import annotations

import gzip
import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import orjson
import pytest

from exfilguard.cli import recordings
from exfilguard.cli.main import main
from exfilguard.cli.recordings import ArchiveRecording
from exfilguard.detect.policy import load_policy
from exfilguard.errors import ExfilGuardError
from exfilguard.events.codec import decode_frame, encode_frame, frame_head
from exfilguard.evidence.archive import ArchiveWriter
from exfilguard.stream.recorded import FRAME_MS, Block, FileRecording, in_order, last_time, save
from exfilguard.stream.replay import MAX_BINS, Rate, Replay, compare, replay

NOW = 1_767_600_000_000
STRICT = """
version = "strict"
default_class = "c"
[class.c]
limits = [ { unit = "patients", window = "1h", alert = 50, cut = 100 } ]
"""
LOOSE = STRICT.replace("strict", "loose").replace("cut = 100", "cut = 100_000")


def event(n: int, principal: str = "thief", at: int = 0) -> dict[str, object]:
    return {
        "time_ms": at or NOW + n * 1_000, "kind": "query", "listener": "dpi", "session": "s", "principal": principal,
        "rows": 1, "patients": [f"{n:016x}"], "source": "10.0.0.1",
    }  # fmt: skip


def frames(count: int, sidecar: str = "one", principal: str = "thief", start: int = 0) -> list[bytes]:
    head = frame_head("clinic", sidecar, "1")
    return [
        encode_frame(head, seq, [orjson.dumps(event(start + seq * 10 + i, principal)) for i in range(10)])
        for seq in range(count)
    ]


def test_what_a_policy_would_have_said(tmp_path: Path) -> None:
    path = tmp_path / "recording"
    path.write_bytes(b"\n".join(frames(20)) + b"\n")
    out = replay(in_order(FileRecording(str(path))), load_policy(STRICT, "p"), 1_000)
    (account,) = out.accounts.values()
    assert (out.events, out.unread, account.principal, account.level) == (200, 0, "thief", "cut")
    assert [v.level for v in out.verdicts] == ["alert", "cut"]
    # The recorded clock is the detector's: the cut comes with the frame that holds the 101st patient.
    assert account.cut_ms == NOW + 109_000
    assert out.as_dict()["verdicts"] == {"alert": 1, "cut": 1}


def together(tmp_path: Path, count: int, **cross: int) -> Replay:
    """Six accounts of one address, six new patients and six seconds a frame."""
    head = frame_head("clinic", "one", "1")
    names = [f"dr.{n}" for n in range(6)]
    path = tmp_path / "recording"
    path.write_bytes(
        b"\n".join(
            encode_frame(head, seq, [orjson.dumps(event(seq * 6 + i, name)) for i, name in enumerate(names)])
            for seq in range(count)
        )
    )
    steps = ", ".join(f"{level} = {value}" for level, value in cross.items())
    policy = (
        STRICT.replace("alert = 50, cut = 100", "alert = 900")
        + f"""
[cross.source]
limits = [ {{ unit = "patients", window = "1h", {steps} }} ]
"""
    )
    return replay(in_order(FileRecording(str(path))), load_policy(policy, "p"), 10_000)


def test_accounts_that_act_together_are_seen(tmp_path: Path) -> None:
    out = together(tmp_path, 120, alert=200, cut=500)
    names = {f"dr.{n}" for n in range(6)}
    assert {a.principal for a in out.accounts.values() if a.level == "cut"} == names
    assert out.detectors == {"cross": 12}
    for account in out.accounts.values():
        # Each step within a minute (a look) and the frame that was read then of the 201st and the 501st patient.
        assert NOW + 200_000 < account.first_ms <= NOW + 270_000
        assert NOW + 500_000 < account.cut_ms <= NOW + 570_000


def test_a_recording_that_ends_between_two_looks_is_looked_at_to_its_end(tmp_path: Path) -> None:
    # 60 patients; the limit is passed after the first look, and the recording ends before the second is due.
    out = together(tmp_path, 10, cut=54)
    assert len(out.reached("cut")) == 6


def test_partitions_have_sequences_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "recording.gz"
    lines = [b"0\t" + f for f in frames(10)] + [b"1\t" + f for f in frames(10, principal="other", start=1_000)]
    path.write_bytes(gzip.compress(b"\n".join([*lines, lines[0]])))
    out = replay(in_order(FileRecording(str(path))), load_policy(STRICT, "p"), 1_000)
    assert out.events == 200  # the frame that came twice was counted once
    assert set(out.accounts) == {"clinic/thief", "clinic/other"}


def test_frames_are_replayed_in_the_order_of_their_times(tmp_path: Path) -> None:
    late, early = frames(3, start=5_000), frames(3, principal="other")
    path = tmp_path / "recording"
    path.write_bytes(b"".join(b"0\t" + f + b"\n" for f in late) + b"".join(b"1\t" + f + b"\n" for f in early))
    times = [last_time(f) for f in in_order(FileRecording(str(path)))]
    assert times == sorted(times)


def test_events_without_a_frame_and_rubbish(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    rows = [json.dumps(event(n), separators=(",", ":")) for n in range(150)]
    path.write_text("\n".join([*rows, "", '{"v":9,"events":[]}']), encoding="utf-8")
    out = replay(in_order(FileRecording(str(path), "clinic")), load_policy(STRICT, "p"), 1_000)
    assert (out.events, out.unread) == (150, 1)
    assert "clinic/thief" in out.accounts


def test_a_file_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ExfilGuardError, match="cannot be read"):
        list(FileRecording(str(tmp_path / "missing")).frames())


def test_a_recording_survives_saving(tmp_path: Path) -> None:
    path, copy = tmp_path / "a", tmp_path / "b"
    path.write_bytes(b"\n".join(b"3\t" + f for f in frames(5)))
    assert save(FileRecording(str(path)).frames(), str(copy)) == 5
    assert list(FileRecording(str(copy)).frames()) == list(FileRecording(str(path)).frames())


def test_the_command_compares_two_policies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recording, strict, loose = tmp_path / "r", tmp_path / "strict.toml", tmp_path / "loose.toml"
    recording.write_bytes(b"\n".join(frames(20)))
    strict.write_text(STRICT, encoding="utf-8")
    loose.write_text(LOOSE, encoding="utf-8")
    picture = tmp_path / "p.svg"
    arguments = ["replay", str(recording), "-p", str(strict), "-p", str(loose), "--plot", str(picture)]
    assert main([*arguments, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [p["policy"] for p in told["policies"]] == ["strict", "loose"]
    assert told["differences"] == [{"account": "clinic/thief", "strict": "cut", "loose": "alert"}]
    assert told["policies"][0]["accounts"][0]["reasons"][-1].startswith("thief took 1")
    root = ElementTree.fromstring(picture.read_text(encoding="utf-8"))
    assert len(root.findall("{http://www.w3.org/2000/svg}circle")) >= 4
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert "strict against loose: 1 accounts differ" in text
    assert "the cut limit of class c is 100" in text


SEEN = ("time_ms", "kind", "listener", "session", "principal", "source", "application", "fingerprint", "detail", "patients_by",
        "rows", "hidden_rows", "bytes", "patients_estimated", "patients", "asked", "flags")  # fmt: skip
"""What a detector looks at."""


def archived(tmp_path: Path) -> tuple[Path, list[dict[str, Any]]]:
    """Three days of odd events and of a thief, in an archive, and the events themselves."""
    names = ["thief", "dr.é", 'o"quote', "back\\slash", "tab\there", "名"]
    events: list[dict[str, Any]] = []
    for n in range(300):
        made = event(n, names[n % len(names)] if n % 2 else "thief", NOW + n * 400_000)
        made |= {"login": "x", "fingerprint": f"{n:016x}", "bytes": n, "application": names[n % len(names)]}
        if n % 3 == 0:
            made |= {"asked": [f"{n:016x}", "00000000000000ff"], "flags": ["copy", "packed"], "patients_by": "origin"}
        if n % 5 == 0:
            made |= {"patients": [], "patients_estimated": 7, "hidden_rows": 9, "patients_by": "estimate", "rows": 0}
        if n % 50 == 7:
            made = {key: made[key] for key in ("time_ms", "listener", "session", "principal")} | {
                "kind": "finding",
                "detail": "forged context",
            }
        events.append(made)
    writer = ArchiveWriter(tmp_path / "archive", 3 * 365 * 86_400_000)
    writer.begin("t")
    for seq in range(30):
        part = [orjson.dumps(e) for e in events[seq * 10 : seq * 10 + 10]]
        writer.add(0, seq, decode_frame(encode_frame(frame_head("clinic", "one", "1"), seq, part)))
        if seq % 7 == 6:
            writer.commit(NOW)
    writer.commit(NOW)
    writer.close()
    return tmp_path / "archive", events


@pytest.mark.parametrize("portion", [40, 500_000])
def test_an_archive_gives_back_what_a_detector_looks_at(
    tmp_path: Path, portion: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recordings, "PORTION", portion)
    root, events = archived(tmp_path)
    blocks = in_order(ArchiveRecording(root, "", 0, 1 << 52))
    found = [e for block in blocks if isinstance(block, Block) for e in orjson.loads(block.frame)["events"]]
    plain = [{key: value for key in SEEN if (value := e.get(key)) not in (None, "", 0, [])} for e in events]
    assert found == plain
    framed = ArchiveRecording(root, "clinic", 0, 1 << 52).frames()
    assert [e for _, frame in framed for e in orjson.loads(frame)["events"]] == plain
    span = list(ArchiveRecording(root, "clinic", NOW + 400_000, NOW + 800_000).frames())
    assert [e["time_ms"] for _, frame in span for e in orjson.loads(frame)["events"]] == [NOW + 400_000]


def test_an_archive_and_the_frames_it_was_made_of_are_judged_alike(tmp_path: Path) -> None:
    root, events = archived(tmp_path)
    path = tmp_path / "events"
    path.write_bytes(b"\n".join(orjson.dumps(e) for e in events))
    policy = load_policy(STRICT.replace('"1h"', '"7d"'), "p")
    one = replay(in_order(ArchiveRecording(root, "", 0, 1 << 52)), policy, 1_000)
    other = replay(in_order(FileRecording(str(path), "clinic")), policy, 1_000)
    assert (one.events, one.frames, one.unread, one.levels) == (other.events, other.frames, other.unread, other.levels)
    assert {key: a.level for key, a in one.accounts.items()} == {key: a.level for key, a in other.accounts.items()}
    assert one.accounts["clinic/thief"].level == "cut"


def test_a_frame_of_an_archive_is_no_longer_than_seconds(tmp_path: Path) -> None:
    root, _ = archived(tmp_path)
    for _, frame in ArchiveRecording(root, "", 0, 1 << 52).frames():
        times = [e["time_ms"] for e in orjson.loads(frame)["events"]]
        assert max(times) - min(times) < FRAME_MS


def test_the_rate_is_bounded_and_loses_nothing() -> None:
    rate = Rate()
    for n in range(20_000):
        rate.add(NOW + n * 60_000, 3)
    assert len(rate.bins) <= MAX_BINS
    assert sum(rate.bins.values()) == 60_000
    assert min(rate.bins) * rate.step_ms <= NOW < (min(rate.bins) + 1) * rate.step_ms


def test_two_policies_are_judged_in_one_reading(tmp_path: Path) -> None:
    path = tmp_path / "recording"
    path.write_bytes(b"\n".join(frames(20)) + b"\n")
    once = in_order(FileRecording(str(path)))
    strict, loose = compare(once, [load_policy(STRICT, "p"), load_policy(LOOSE, "p")], 1_000)
    assert (strict.accounts["clinic/thief"].level, loose.accounts["clinic/thief"].level) == ("cut", "alert")
    alone = replay(in_order(FileRecording(str(path))), load_policy(STRICT, "p"), 1_000)
    assert strict.as_dict() == alone.as_dict()


@pytest.mark.parametrize("arguments", [["/nowhere"], ["kafka"]])
def test_a_source_that_is_not_there(
    arguments: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["replay", *arguments]) == 1
    assert capsys.readouterr().err.startswith("error: ")


def test_a_policy_with_a_mistake_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recording, bad = tmp_path / "r", tmp_path / "bad.toml"
    recording.write_bytes(b"\n".join(frames(1)))
    bad.write_text(STRICT.replace("cut = 100", "cut = 10"), encoding="utf-8")
    assert main(["replay", str(recording), "-p", str(bad)]) == 2
    assert "the ladder only goes up" in capsys.readouterr().err


def test_digests_are_the_sidecars(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from exfilguard.observe.patients import Digester, canonical

    monkeypatch.chdir(tmp_path)
    key = "0123456789abcdef"
    Path("exfilguard.toml").write_text(f'tenant = "t"\n[sidecar]\ndigest_key = "{key}"\n', encoding="utf-8")
    assert main(["digest", "42", " 43 "]) == 0
    digester = Digester(key.encode())
    assert capsys.readouterr().out.split() == [digester.digest(b"42"), digester.digest(b"43")]
    uuid = "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11"
    assert main(["digest", "--uuid", "--toml", uuid]) == 0
    assert digester.digest(canonical(uuid.encode(), 2950, False)) in capsys.readouterr().out
