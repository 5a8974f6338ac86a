"""A short seeded part of `make fuzz`, and that a failure is a failure."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from tests.fuzz import atheris_run, child, page, run
from tests.fuzz.child import outlived
from tests.fuzz.target import Input


@pytest.mark.parametrize("name", run.TARGETS)
def test_the_first_inputs_find_nothing(name: str) -> None:
    campaign = run.Campaign(run.TARGETS[name](), None)
    campaign.run(2_000 if "quick" in name else 15_000, 60)  # two sessions, step by step, take ten times as long
    assert campaign.next >= 2_000
    assert not campaign.failures, campaign.failures[0]


class Brittle:
    """Fails on some inputs, hangs on one."""

    name = "brittle"

    def make(self, rng: object) -> Input:
        self.made = getattr(self, "made", -1) + 1
        return Input(())

    def run(self, given: Input) -> None:
        if self.made == 3:
            raise KeyError("a bug")
        while self.made == 5:
            pass


def test_a_crash_and_a_hang_are_found_and_a_run_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "BATCH_CPU_S", 0.2)
    state = tmp_path / "not there yet" / "state.json"
    campaign = run.Campaign(Brittle(), state)
    campaign.run(10, 60)
    assert [(f["number"], f["error"]) for f in campaign.failures] == [(3, "KeyError"), (5, "Hang")]
    assert campaign.failed
    assert json.loads(state.read_text(encoding="utf-8"))["next"] == 10
    monkeypatch.setattr(Brittle, "run", lambda self, given: None)
    again = run.Campaign(Brittle(), state)
    assert (again.next, again.failures, [f["number"] for f in again.mended]) == (10, [], [3, 5])


def test_a_failure_that_is_not_mended_stays(tmp_path: Path) -> None:
    class Worse(Brittle):
        def run(self, given: Input) -> None:
            raise KeyError("a bug")

    state = tmp_path / "state.json"
    run.Campaign(Worse(), state).run(3, 60)
    again = run.Campaign(Worse(), state)
    assert ([f["number"] for f in again.failures], again.mended) == ([0, 1, 2], [])


@pytest.mark.parametrize(("end", "found"), [("kill -SEGV", ["SIGSEGV"]), ("stopped", [])])
def test_a_run_that_did_not_come_to_its_end_was_stopped_or_has_found_something(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str, found: list[str]
) -> None:
    class Ending(Brittle):
        def run(self, given: Input) -> None:
            if self.made == 3 and found:
                os.kill(os.getpid(), signal.SIGSEGV)
            if self.made == 3 and first:
                os.kill(os.getpid(), signal.SIGKILL)

    # An input is its number, as with the targets of the run.
    monkeypatch.setattr(run, "rng_of", lambda number: number)
    monkeypatch.setattr(Ending, "make", lambda self, number: (setattr(self, "made", number), Input(()))[1])
    first, state = True, tmp_path / "state.json"
    assert outlived(lambda: run.Campaign(Ending(), state).run(6, 60))
    first = False
    again = run.Campaign(Ending(), state)
    assert [f["error"] for f in again.failures] == found
    again.run(6, 60)
    assert ([f["error"] for f in again.failures], again.next) == (found, 6)
    third = run.Campaign(Ending(), state)
    assert [f["error"] for f in third.failures] == found
    found = []
    fourth = run.Campaign(Ending(), state)
    assert (fourth.failures, len(fourth.mended)) == ([], len(third.failures))


def test_what_takes_too_long_in_a_process_of_its_own_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "CPU_S", 1)

    def endless() -> None:
        while True:
            pass

    assert outlived(endless) == "SIGXCPU"
    assert outlived(lambda: None) == ""
    assert outlived(lambda: 1 / 0) == "Exception"


def test_what_ended_a_guided_run_is_counted_by_the_next(tmp_path: Path) -> None:
    class Guided:
        def one_input(self, data: bytes) -> None:
            if data == b"bad":
                os.kill(os.getpid(), signal.SIGSEGV)

        def seeds(self) -> list[bytes]:
            return []

    endings = tmp_path / "endings"
    endings.mkdir()
    for name, data in (("crash-1", b"bad"), ("oom-2", b"good")):
        (endings / name).write_bytes(data)
    counted = atheris_run.Counted(Guided(), tmp_path / "state.json", endings)
    assert [f["error"] for f in counted.failures] == ["SIGSEGV"]
    assert [f["file"] for f in counted.mended] == ["oom-2"]


@pytest.mark.parametrize("name", atheris_run.TARGETS)
def test_the_first_inputs_of_a_guided_run_are_read_as_they_were_written(name: str) -> None:
    target = atheris_run.TARGETS[name][0]()
    seeds = target.seeds()
    assert len(seeds) > 50
    for data in seeds:
        target.one_input(data)
    steps = [("<", b"x" * 70), (">", b"")]
    assert atheris_run.pieces(atheris_run.written(steps)) == steps


def test_an_input_is_made_from_its_number_alone() -> None:
    target = run.TARGETS["postgres"]()
    assert target.make(run.rng_of(12345)) == run.TARGETS["postgres"]().make(run.rng_of(12345))


def test_the_page_tells_what_the_runs_have_left() -> None:
    one = {"next": 3_000_000, "seconds": 300.0, "failures": [], "growth_kib": 12, "peak_kib": 90 << 10}
    told = page.text({"postgres": one, "mysql": {**one, "failures": [{"number": 7}]}, "edges": one}, "2026-01-02")
    assert "| 3,000,000 | 300 | 10,000 | 0 | 0 | 12 | 90 |" in told
    assert "6,000,000 mutated inputs of the two engines, 9,000,000 in all, 1 failures; last run 2026-01-02." in told
