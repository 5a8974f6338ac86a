from typing import Any

def frames(
    data: Any,
    at: int,
    until: int,
    most: int,
    most_bytes: int,
    partitions: int,
    most_events: int,
    frame_bytes: int,
    prefix: bytes,
    seqs: list[int],
) -> tuple[int, int, bool, int, list[tuple[int, bytes, int]]]: ...
