"""The engine and forged frames: they count nothing, take no frame's place, and leave no gap behind."""

from __future__ import annotations

import random
from functools import partial

from exfilguard.detect.judge import Judge
from exfilguard.events.signature import FrameKeys, sign
from exfilguard.stream.engine import GAP_GRACE_MS, Engine

from .test_engine import NOW, POLICY, checked, event, frame, some_frames

EAST, WEST = b"e" * 32, b"w" * 32
PARTITION = 3


def guarded() -> tuple[Engine, FrameKeys]:
    keys = FrameKeys({("t", "s"): [EAST], ("t", "west"): [WEST]})
    engine = Engine(
        lambda tenant: Judge(POLICY, tenant, "detector:test"), {}, 1_000_000, refusal=partial(keys.refusal, PARTITION)
    )
    return engine, keys


def test_a_stolen_credential_of_one_sidecar_does_nothing_in_the_name_of_another() -> None:
    engine, keys = guarded()
    frames = [value.replace(b'"sidecar":"s"', b'"sidecar":"s-0"') for value in some_frames(20, random.Random(5))]
    offset = 0
    for seq, value in enumerate(frames):
        # First the thief, with the number that the real frame is about to have and with one far ahead.
        for number in (seq, seq + 1_000):
            forged = frame(number, event("victim", 750_000), sidecar="s-0")
            fed = engine.feed(offset, forged, NOW, signature=sign(WEST, PARTITION, forged))
            assert fed.reason == "frame: is not signed with a key of its sidecar ('s-0')"
            assert not fed.verdicts
            offset += 1
        fed = engine.feed(offset, value, NOW, signature=sign(EAST, PARTITION, value))
        assert not fed.reason
        assert not fed.duplicate
        offset += 1
    engine.keep(NOW + GAP_GRACE_MS + 1)
    checked(engine, frames)
    assert (engine.gaps, engine.duplicates, engine.frames) == (0, 0, 20)
    assert keys.refused == {"unsigned": 0, "unknown": 0, "forged": 40}
    assert engine.next_offset == offset


def test_an_unsigned_frame_is_refused_and_a_good_one_elsewhere_too() -> None:
    engine, keys = guarded()
    value = frame(0, event("p", 1), sidecar="s-0")
    assert engine.feed(0, value, NOW).reason
    assert engine.feed(1, value, NOW, signature=sign(EAST, PARTITION + 1, value)).reason
    assert keys.refused == {"unsigned": 1, "unknown": 0, "forged": 1}
    assert len(engine.store) == 0


def test_a_frame_of_an_unusual_form_is_asked_for_its_signature_too() -> None:
    engine, _ = guarded()
    usual = frame(0, event("p", 1), sidecar="s-0")
    spaced = usual.replace(b'{"v":1,', b'{ "v" : 1 , ')
    assert engine.feed(0, spaced, NOW, signature=sign(EAST, PARTITION, usual)).reason
    assert not engine.feed(1, spaced, NOW, signature=sign(EAST, PARTITION, spaced)).reason
    assert engine.frames == 1
