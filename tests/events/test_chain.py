"""The link between two records of one writer."""

from __future__ import annotations

import pytest

from exfilguard.errors import CodecError
from exfilguard.events.chain import ChainWriter, Link, digest_of, link_of
from exfilguard.events.codec import decode_verdict, encode_verdict
from exfilguard.events.verdict import Verdict

VERDICT = Verdict("clinic", "o'brien \u00e9", "cut", 7, 5, "took 3,000 patients", "detector:1")


def test_entries_follow_each_other_and_still_decode() -> None:
    writer = ChainWriter("detector:1", "ab12")
    first, second = writer.seal(encode_verdict(VERDICT)), writer.seal(encode_verdict(VERDICT))
    assert link_of(first) == Link("detector:1@ab12", 0, "")
    assert link_of(second) == Link("detector:1@ab12", 1, digest_of(first))
    assert first != second
    assert decode_verdict(first) == decode_verdict(second) == VERDICT


def test_a_record_without_a_link_has_none() -> None:
    assert link_of(encode_verdict(VERDICT)) is None


@pytest.mark.parametrize("record", [b"", b"{}", b"[1]", b"text"])
def test_only_objects_are_sealed(record: bytes) -> None:
    with pytest.raises(ValueError, match="JSON object"):
        ChainWriter("w", "e").seal(record)


@pytest.mark.parametrize(
    "record",
    [b"{", b'{"chain":1}', b'{"chain":{"id":"a","seq":-1,"prev":""}}', b'{"chain":{"id":"a","seq":true,"prev":""}}'],
)
def test_a_broken_link_is_an_error(record: bytes) -> None:
    with pytest.raises(CodecError):
        link_of(record)
