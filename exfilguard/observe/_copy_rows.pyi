from ._digests import DigestSet, Hmac
from .copy_rows import CopyForm

def passed(
    data: bytes, pos: int, most: int, said: CopyForm, key: Hmac, found: DigestSet
) -> tuple[int, int, int]: ...
