from .words import PlainWords

def shape(sql: bytes) -> tuple[str, bool] | None: ...
def may_be_list(cell: bytes) -> bool: ...
def skeleton(
    sql: bytes,
    mysql: bool = False,
    escapes: bool = False,
    words: PlainWords | None = None,
    doubted: PlainWords | None = None,
) -> tuple[bytes, list[bytes], int] | None: ...
