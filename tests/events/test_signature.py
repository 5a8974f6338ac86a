"""Signed frames: good for one partition, one sidecar, one tenant, to the byte."""

from __future__ import annotations

import pytest

from exfilguard.events.signature import HEADER, REASONS, FrameKeys, sign, signature_of

EAST, OLD, WEST = b"e" * 32, b"o" * 32, b"w" * 32
FRAME = b'{"v":1,"tenant":"c","sidecar":"ward-east-0","epoch":"1","seq":0,"events":[]}'


def keys(**choices: bool) -> FrameKeys:
    return FrameKeys({("c", "ward-east"): [EAST, OLD], ("c", "west"): [WEST]}, **choices)


def test_a_frame_that_its_sidecar_signed_is_good_whichever_relay_and_whichever_of_its_keys() -> None:
    found = keys()
    for sidecar in ("ward-east-0", "ward-east-17"):
        for key in (EAST, OLD):
            assert found.refusal(3, "c", sidecar, FRAME, sign(key, 3, FRAME)) == ""
    assert found.refused == dict.fromkeys(REASONS, 0)


@pytest.mark.parametrize(
    ("partition", "tenant", "sidecar", "value", "signature", "reason"),
    [
        pytest.param(0, "c", "ward-east-0", FRAME, sign(WEST, 0, FRAME), "forged", id="another's key"),
        pytest.param(1, "c", "ward-east-0", FRAME, sign(EAST, 0, FRAME), "forged", id="another partition"),
        pytest.param(0, "c", "ward-east-0", FRAME + b" ", sign(EAST, 0, FRAME), "forged", id="another byte"),
        pytest.param(0, "c", "ward-east-0", FRAME, sign(EAST, 0, FRAME)[:31], "forged", id="cut short"),
        pytest.param(0, "d", "ward-east-0", FRAME, sign(EAST, 0, FRAME), "unknown", id="another tenant"),
        pytest.param(0, "c", "ward-east", FRAME, sign(EAST, 0, FRAME), "unknown", id="no relay's number"),
        pytest.param(0, "c", "nobody-0", FRAME, sign(EAST, 0, FRAME), "unknown", id="no such sidecar"),
        pytest.param(0, "c", "ward-east-0", FRAME, b"", "unsigned", id="no signature"),
    ],
)
def test_what_is_not_its_sidecars_is_refused_and_counted(
    partition: int, tenant: str, sidecar: str, value: bytes, signature: bytes, reason: str
) -> None:
    found = keys()
    assert found.refusal(partition, tenant, sidecar, value, signature).startswith("frame: is ")
    assert found.refused == dict.fromkeys(REASONS, 0) | {reason: 1}


def test_while_sidecars_are_given_keys_an_unsigned_frame_is_good_and_a_wrong_signature_is_not() -> None:
    found = keys(accept_unsigned=True)
    assert found.refusal(0, "c", "ward-east-0", FRAME, b"") == ""
    assert found.refusal(0, "c", "ward-east-0", FRAME, sign(WEST, 0, FRAME)) != ""


def test_a_name_that_a_stranger_chose_does_not_break_the_log_line() -> None:
    said = keys().refusal(0, "c", "x\n" * 500 + "-0", FRAME, b"")
    assert "\n" not in said
    assert len(said) < 250


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (None, b""),
        ([], b""),
        ([("other", b"1"), (HEADER, b"2")], b"2"),
        (((HEADER, None),), b""),
        ({HEADER: b"3"}, b"3"),
    ],
)
def test_headers_come_in_three_forms(headers: object, expected: bytes) -> None:
    assert signature_of(headers) == expected
