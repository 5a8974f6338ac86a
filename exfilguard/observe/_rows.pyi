from ._digests import DigestSet, Hmac

def column(
    data: bytes,
    pos: int,
    kind: int,
    most: int,
    position: int,
    type_oid: int,
    binary: bool,
    key: Hmac,
    found: DigestSet,
) -> tuple[int, int, int]: ...
def estimated(
    data: bytes,
    pos: int,
    kind: int,
    most: int,
    columns: int,
    expressions: bool,
    key: Hmac,
    found: DigestSet,
) -> tuple[int, int, int, int]: ...
