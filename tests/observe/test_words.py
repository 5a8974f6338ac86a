"""The words of a text, in one pass: what a search for each of them finds."""

from __future__ import annotations

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exfilguard.observe import words
from exfilguard.observe.words import PlainWords

if os.environ.get("EXFILGUARD_REQUIRE_COMPILED") == "1":
    assert words.CompiledWords is not None

FEW = st.text("abAé1_", max_size=5)
GAPS = st.sampled_from(["\0", "\xff", "B", " ", "=", "."])


@pytest.mark.skipif(words.CompiledWords is None, reason="no compiled form was built")
@given(st.lists(FEW, max_size=8), st.lists(FEW | GAPS, max_size=12).map("".join))
@settings(max_examples=1_000)
def test_one_pass_finds_what_each_search_does(names: list[str], text: str) -> None:
    assert words.CompiledWords is not None
    data = text.encode()
    compiled, plain = words.CompiledWords(names), PlainWords(names)
    assert compiled.found(data) == plain.found(data)
    assert compiled.has_any(data) == plain.has_any(data)


def test_words_are_found_within_others_and_in_capitals() -> None:
    for kind in (PlainWords, words.word_set):
        assert kind(["he", "she", "hers", "x"]).found(b"uSHErs") == {"he", "she", "hers"}
        assert kind([]).found(b"a") == set()


def test_a_word_of_its_own() -> None:
    for kind in (PlainWords, words.word_set):
        names = kind(["id", "patient_id"])
        for text in (b"id", b"x.ID=5", b"(patient_id)", "éidé".encode(), b"avoid id"):
            assert names.has_any(text), text
        for text in (b"", b"David", b"patient_ids", b"id_", b"1id", b"xpatient_id"):
            assert not names.has_any(text), text
        assert not kind([]).has_any(b"a")
