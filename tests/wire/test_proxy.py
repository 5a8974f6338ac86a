"""The PROXY protocol's headers, both versions: read, written, cut anywhere, and refused."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exfilguard.errors import ProtocolError
from exfilguard.wire import proxy
from exfilguard.wire.proxy import Header

V4 = Header("192.0.2.1", 56324, "10.0.0.9", 5432)
V6 = Header("2001:db8::1", 1, "2001:db8::2", 65535)


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("header", [V4, V6, Header()])
def test_what_is_written_reads_back_however_it_is_cut(version: str, header: Header) -> None:
    data = proxy.build(version, header)  # type: ignore[arg-type]
    for size in range(1, len(data)):
        assert proxy.parse(data[:size]) == (None, 0)
    assert proxy.parse(data + b"\0\0\0\x08rest") == (header, len(data))


def test_the_examples_of_the_specification() -> None:
    assert proxy.parse(b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n")[0] == Header(
        "255.255.255.255", 65535, "255.255.255.255", 65535
    )
    assert proxy.parse(b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n")[0] == Header()
    assert proxy.build("v1", V4) == b"PROXY TCP4 192.0.2.1 10.0.0.9 56324 5432\r\n"


def test_tlvs_behind_the_addresses_are_passed_over() -> None:
    data = bytearray(proxy.build("v2", V4))
    data[14:16] = struct.pack("!H", 12 + 7)
    assert proxy.parse(bytes(data) + b"\x04\0\x04abcd" + b"Q")[0] == V4


def test_addresses_of_two_families_name_nobody() -> None:
    mixed = Header("192.0.2.1", 1, "2001:db8::2", 2)
    assert proxy.parse(proxy.build("v1", mixed))[0] == proxy.parse(proxy.build("v2", mixed))[0] == Header()


@pytest.mark.parametrize(
    "data",
    [
        b"Q",
        b"GET / HTTP/1.1",
        b"\0\0\0\x08\x04\xd2\x16\x2f",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 1 99999\r\n",
        b"PROXY TCP6 1.2.3.4 1.2.3.4 1 2\r\n",
        b"PROXY TCP4 host 1.2.3.4 1 2\r\n",
        b"PROXY " + b"x" * 200,
        proxy.SIGNATURE + b"\x11\x11\0\x0c" + b"\0" * 12,
        proxy.SIGNATURE + b"\x2f\x11\0\x0c" + b"\0" * 12,
        proxy.SIGNATURE + b"\x21\x11\0\x04" + b"\0" * 4,
        proxy.SIGNATURE + b"\x21\x11\xff\xff",
    ],
)
def test_what_is_no_header_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        proxy.parse(data)


@given(
    st.one_of(
        st.binary(max_size=150),
        st.binary(max_size=60).map(lambda tail: proxy.SIGNATURE + tail),
        st.binary(max_size=60).map(lambda tail: b"PROXY " + tail),
    )
)
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        header, used = proxy.parse(data)
    except ProtocolError:
        return
    assert (header is None) == (used == 0)
    assert used <= len(data)
