from ._quick import QuickObserver
from .mysql.session import MysqlObserver

class Shortcut: ...

class PostgresShortcut(Shortcut):
    def __init__(self, observer: QuickObserver) -> None: ...

class MysqlShortcut(Shortcut):
    def __init__(self, observer: MysqlObserver) -> None: ...
