"""What detectors on several hosts say of their accounts, as the console keeps it."""

from __future__ import annotations

import orjson
import pytest

from exfilguard.console.standings import FRESH_S, MAX_WORKERS, Standings

QUIET = [[1, 1, 10, 1]] * 7


def word(worker: str, **accounts: list[list[int]]) -> bytes:
    found = [[f"clinic/{name}", windows] for name, windows in accounts.items()]
    return orjson.dumps({"v": 1, "worker": worker, "accounts": found})


def test_every_detector_is_heard_and_its_newest_word_counts() -> None:
    standings = Standings()
    assert standings.detectors(0.0) == 0
    assert standings.learn(word("1@ward", martin=QUIET, petit=QUIET), 100.0)
    assert standings.learn(word("1@lab", robert=QUIET), 101.0)
    assert standings.accounts(101.0).keys() == {"clinic/martin", "clinic/petit", "clinic/robert"}
    standings.learn(word("1@ward", petit=QUIET), 102.0)
    assert standings.accounts(102.0).keys() == {"clinic/petit", "clinic/robert"}
    assert standings.detectors(102.0) == 2


def test_an_account_that_moved_is_shown_as_its_new_detector_has_it() -> None:
    standings = Standings()
    standings.learn(word("1@lab", martin=[[9, 9, 9, 9]] * 7), 100.0)
    standings.learn(word("1@ward", martin=QUIET), 101.0)
    assert standings.accounts(101.0) == {"clinic/martin": QUIET}
    standings.learn(word("1@lab", martin=[[7, 7, 7, 7]] * 7), 102.0)
    assert standings.accounts(102.0)["clinic/martin"][0] == [7, 7, 7, 7]


def test_a_detector_that_has_gone_is_not_believed_any_longer() -> None:
    standings = Standings()
    standings.learn(word("1@ward", martin=QUIET), 100.0)
    assert standings.detectors(100.0 + FRESH_S) == 1
    assert standings.detectors(100.1 + FRESH_S) == 0
    assert standings.accounts(100.1 + FRESH_S) == {}


@pytest.mark.parametrize(
    "rubbish",
    [
        b"", b"[]", b"{}", b'{"v":2,"worker":"1","accounts":[]}', b'{"v":1,"worker":"1","accounts":[["a"]]}',
        b'{"v":1,"worker":"1","accounts":[["a",[[1,2,3]]]]}', b'{"v":1,"worker":"1","accounts":[["a",[["x",2,3,4]]]]}',
        b'{"v":1,"worker":"1","accounts":7}',
    ],
)  # fmt: skip
def test_what_cannot_be_read_changes_nothing(rubbish: bytes) -> None:
    standings = Standings()
    standings.learn(word("1", martin=QUIET), 100.0)
    assert not standings.learn(rubbish, 101.0)
    assert standings.accounts(101.0) == {"clinic/martin": QUIET}


def test_workers_are_bounded() -> None:
    standings = Standings()
    for n in range(MAX_WORKERS + 5):
        standings.learn(word(f"w{n}"), 100.0)
    assert standings.detectors(100.0) == MAX_WORKERS
