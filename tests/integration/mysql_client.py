"""MySQL's own client library, for what its programs have no command for: COM_CHANGE_USER in a compressed session. Runs by itself, since a
process has room for one library of this kind:

    python -m tests.integration.mysql_client LIBRARY PORT ALGORITHM SSL_MODE USER.. (the password of all in MYSQL_PWD)

Connects as the first account, changes to each of the others, and prints after each step what the server says of the session; a refused
change is printed as its error number.
"""

from __future__ import annotations

import ctypes
import os
import sys

SSL_MODE, GET_SERVER_PUBLIC_KEY, COMPRESSION_ALGORITHMS = 35, 36, 41
"""Of enum mysql_option in mysql.h."""
SSL_MODES = {"disabled": 1, "required": 3}
SQL = b"SHOW SESSION STATUS LIKE 'Compression_algorithm'; SELECT CURRENT_USER(), MIN(id), REPEAT('x', 3000) FROM clinic.patient"


def main(library: str, port: str, algorithm: str, ssl_mode: str, *accounts: str) -> None:
    lib = ctypes.CDLL(library)
    lib.mysql_init.restype = lib.mysql_real_connect.restype = lib.mysql_store_result.restype = ctypes.c_void_p
    lib.mysql_fetch_row.restype = ctypes.POINTER(ctypes.c_char_p)
    lib.mysql_error.restype = ctypes.c_char_p
    link = ctypes.c_void_p(lib.mysql_init(None))
    mode = ctypes.c_uint(SSL_MODES[ssl_mode])
    lib.mysql_options(link, SSL_MODE, ctypes.byref(mode))
    lib.mysql_options(link, GET_SERVER_PUBLIC_KEY, ctypes.byref(ctypes.c_bool(True)))
    lib.mysql_options(link, COMPRESSION_ALGORITHMS, algorithm.encode())
    password = os.environ["MYSQL_PWD"].encode()
    if not lib.mysql_real_connect(link, b"127.0.0.1", accounts[0].encode(), password, b"clinic", int(port), None, 0):
        raise SystemExit(lib.mysql_error(link).decode())
    tell(lib, link)
    for account in accounts[1:]:
        name, _, own = account.partition(":")
        if lib.mysql_change_user(link, name.encode(), own.encode() or password, b"clinic"):
            print(lib.mysql_errno(link))
        else:
            tell(lib, link)
    lib.mysql_close(link)


def tell(lib: ctypes.CDLL, link: ctypes.c_void_p) -> None:
    said = []
    for sql in SQL.split(b"; "):
        if lib.mysql_query(link, sql):
            raise SystemExit(lib.mysql_error(link).decode())
        result = ctypes.c_void_p(lib.mysql_store_result(link))
        row = lib.mysql_fetch_row(result)
        said += [row[i].decode()[:30] for i in range(lib.mysql_num_fields(result))]
        lib.mysql_free_result(result)
    print(*said)


if __name__ == "__main__":
    main(*sys.argv[1:])
