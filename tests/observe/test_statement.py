"""Shapes without values."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exfilguard.events.query import Engine
from exfilguard.observe.lex import tokens
from exfilguard.observe.statement import normalise


@pytest.mark.parametrize(
    ("sql", "shape"),
    [
        ("SELECT * FROM t WHERE a='x''y' AND b=12.5e-3 -- Dupont", "select * from t where a = ? and b = ?"),
        ("select a in (1, 2,3), b = ($1)", "select a in ( ? ) , b = ( ? )"),
        ("insert into t values (1,'a'),(2,'b')", "insert into t values ( ? )"),
        ("select $$Dupont$$, $q$ it's $q$, x", "select ? , ? , x"),
        (r"select E'a\'b Dupont', B'01', x'ff', U&'d', N'd'", "select ? , ? , ? , ? , ?"),
        ('select "Nom", "Jean Dupont", "a""b"', 'select "Nom" , "?" , "?"'),
        ("/* Dupont /* nested */ still */ SELECT 1", "select ?"),
        ("select 'Dupont never closed", "select ?"),
        ("select $$ never closed", "select ?"),
        ("select 1 /* never closed Dupont", "select ?"),
        ("", ""),
    ],
)
def test_shape(sql: str, shape: str) -> None:
    assert normalise(sql)[1] == shape


def test_backslashes_end_strings_only_where_the_session_says_so() -> None:
    sql = r"select 'a\' , Dupont , 'b'"
    assert "dupont" in normalise(sql)[1]
    assert "dupont" not in normalise(sql, backslashes=True)[1]


def test_equal_shapes_have_equal_fingerprints() -> None:
    assert normalise("SELECT  nom FROM p WHERE id=1")[0] == normalise("select nom\nfrom p where id = 99")[0]
    assert normalise("select nom from p")[0] != normalise("select prenom from p")[0]


@given(
    st.text(alphabet="abZ9 _-%é", max_size=20),
    st.sampled_from(["'{}'", "E'{}'", "$$ {} $$", "$t$ {} $t$", "/* {} */", "-- {}"]),
)
def test_no_value_survives(value: str, form: str) -> None:
    marked = "Zq7" + value
    text = normalise("SELECT a FROM b WHERE c = " + form.format(marked))[1]
    assert "zq7" not in text.lower()


@given(st.text(max_size=80))
def test_any_text_has_a_shape(sql: str) -> None:
    fingerprint, text = normalise(sql)
    assert len(fingerprint) == 16
    assert len(text) <= 1000


@pytest.mark.parametrize("engine", ["postgresql", "mysql"])
def test_unterminated_names_and_strings_are_tokens_too(engine: Engine) -> None:
    for text in ("`", '"', 'U&"', "`abc", 'select "abc', "'", "'ab\\", "``", '""', "`a``", "@`", "/*", "$a$"):
        for token in tokens(text, engine):
            assert token.end <= len(text)
    assert [t.text for t in tokens("select `a``b", "mysql")] == ["select", "a`b"]
