"""Connection strings of MySQL: whatever is in a name or a password comes out as it went in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exfilguard.runtime import mysql

TEXT = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=20)


@given(
    user=TEXT, password=TEXT, database=TEXT.filter(lambda name: name.strip("/") == name), port=st.integers(1, 65_535)
)
def test_parts_survive(user: str, password: str, database: str, port: int) -> None:
    dsn = mysql.changed(
        "mysql://u:p@[::1]/x?ssl_ca=/etc/ca%20file.pem", user=user, password=password, database=database, port=port
    )
    assert mysql.is_mysql(dsn)
    found = mysql.arguments(dsn)
    assert (found["user"], found["password"], found["database"], found["port"]) == (user, password, database, port)
    assert (found["host"], found["ssl"]) == ("::1", {"ca": "/etc/ca file.pem"})


def test_what_is_left_out_has_a_default() -> None:
    found = mysql.arguments("mysql://anna@db.example")
    assert (found["host"], found["port"], found["user"], found["password"]) == ("db.example", 3306, "anna", "")
    assert "database" not in found
    assert not mysql.is_mysql("host=db user=anna")
    with pytest.raises(ValueError, match=r"[Pp]ort"):
        mysql.arguments("mysql://anna@db.example:x/")
