"""People who work on the MariaDB: an application's statements, counted from their own side."""

from __future__ import annotations

import random
import threading
import time

import pymysql

from .topology import WEST_ACCOUNT


class West(threading.Thread):
    """One application with one connection, until stopped."""

    def __init__(self, host: str, port: int, password: str, seed: int, think_s: float = 0.05) -> None:
        super().__init__(name="west", daemon=True)
        self._where = {"host": host, "port": port, "user": WEST_ACCOUNT, "password": password, "database": "dpi"}
        self._rng = random.Random(seed)
        self._think_s = think_s
        self._end = threading.Event()
        self.queries = 0
        self.rows = 0
        self.refused = 0
        self.errors: list[str] = []

    def run(self) -> None:
        connection = None
        while not self._end.is_set():
            try:
                if connection is None:
                    connection = pymysql.connect(**self._where, autocommit=True, connect_timeout=5, read_timeout=30)
                with connection.cursor() as cursor:
                    first = self._rng.randrange(40)
                    cursor.execute("SELECT id, nom FROM patient WHERE id BETWEEN %s AND %s", (first, first + 4))
                    self.rows += len(cursor.fetchall())
                    self.queries += 1
            except (pymysql.MySQLError, OSError) as error:
                self.refused += 1
                if len(self.errors) < 10:
                    self.errors.append(f"{time.strftime('%H:%M:%S')} {type(error).__name__} {error.args[:1]}")
                connection = None
                self._end.wait(0.2)
            self._end.wait(self._think_s)
        if connection is not None:
            connection.close()

    def stop(self) -> None:
        self._end.set()
        self.join(20)
