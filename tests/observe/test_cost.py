"""What a text or a cell costs the relay grows with its length and no faster, whatever stands in it: all sessions share one processor."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from exfilguard.observe.asked import AskedColumns
from exfilguard.observe.classify import Classifier
from exfilguard.observe.completed import hidden_rows
from exfilguard.observe.effects import returns_nothing
from exfilguard.observe.estimate import patients_in
from exfilguard.observe.mysql.moved import made
from exfilguard.observe.mysql.patients import subqueries
from exfilguard.observe.mysql.session import _READS
from exfilguard.observe.templates import _OF_TRANSACTIONS

from .test_mysql_session import observer, wrapped

SIZE = 60_000
COLUMNS = ["patient.id"]


def asked(engine: str, sql: bytes) -> None:
    AskedColumns(COLUMNS, engine).plan(sql)  # type: ignore[arg-type]


def words(engine: str, sql: bytes) -> None:
    Classifier(engine, ["own_*", "lo_export"]).words(sql)  # type: ignore[arg-type]


def doubted(sql: bytes) -> None:
    Classifier("mysql", ["own_*"]).flags("", sql, lambda _: False)


def copied(sql: bytes) -> None:
    made(b"patient " + sql, "patient " + sql.decode())


COSTLY: dict[str, Callable[[], object]] = {
    "nearly a list": lambda: patients_in([b"1  " * (SIZE // 3) + b"x"], expressions=True),
    "a list that ends in spaces": lambda: patients_in([b"1,2,3" + b" " * SIZE + b"x"], expressions=True),
    "IN ( and spaces": lambda: asked("postgresql", b"select 1 from patient where id in (" + b" " * SIZE),
    "= ANY (ARRAY [ and spaces": lambda: asked("mysql", b"from patient where id = any ( array [ " + b" " * SIZE),
    "open comments": lambda: asked("mysql", b"from patient where id = ? " + b"/*" * (SIZE // 2)),
    "escaped quotes": lambda: asked("mysql", b"from patient where id = ? '" + b"\\'" * (SIZE // 2)),
    "COPY far behind": lambda: words("postgresql", b"copy" + b"\n" * SIZE + b"copied"),
    "names in front of open comments": lambda: doubted("é ".encode() + b"own_/*" * (SIZE // 6)),
    "COPY from from": lambda: hidden_rows(
        "COPY 1", b"copy (select 1 /*" + b" from" * (SIZE // 5) + b" to */) to stdout"
    ),
    "BEGIN and spaces": lambda: returns_nothing(b"begin" + b" " * SIZE + b"("),
    "BEGIN, spaces, and more": lambda: _OF_TRANSACTIONS.fullmatch(b"begin" + b" " * SIZE + b";x"),
    "comments in front of CALL": lambda: _READS.match(b"/**/" * (SIZE // 4) + b"call p()"),
    "a word of 60 kB": lambda: subqueries("select " + "a" * SIZE + " b", ["patient"], certain=True),
    "many marks": lambda: asked("mysql", b"from patient where " + b"id=? or " * (SIZE // 8)),
    "many aliases": lambda: asked(
        "postgresql", b"from " + b"patient a," * (SIZE // 10) + b" x where " + b"id=1 or " * (SIZE // 8)
    ),
    "comments behind quotes": lambda: Classifier("postgresql").flags("", b"select " + b"'--" * SIZE, lambda _: False),
    "CREATE CREATE": lambda: copied(b"create " * (SIZE // 7)),
    "RENAME TABLE RENAME TABLE": lambda: copied(b"rename table " * (SIZE // 13)),
}


@pytest.mark.parametrize("what", COSTLY)
def test_no_text_and_no_cell_costs_more_than_its_length(what: str) -> None:
    began = time.process_time()
    COSTLY[what]()
    assert time.process_time() - began < 1.0


def test_a_compressed_read_holds_no_more_requests_than_another() -> None:
    """16 kB of it would be three million."""
    seen = observer(compression="zlib")
    began = time.process_time()
    seen.screen(wrapped(b"\1\0\0\0\x0e" * 3_000_000), 1, lambda *_, **__: "")
    assert seen.forbidden
    assert time.process_time() - began < 1.0
