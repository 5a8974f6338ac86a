from .._digests import DigestSet, Hmac

def column(
    data: bytes, pos: int, most: int, position: int, sizes: bytes, kind: int, key: Hmac, found: DigestSet
) -> tuple[int, int, int]: ...
def estimated(
    data: bytes, pos: int, most: int, fields: int, sizes: bytes, expressions: bool, key: Hmac, found: DigestSet
) -> tuple[int, int, int, int]: ...
