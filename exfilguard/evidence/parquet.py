"""Parquet files of the archive: written once, synced, with a checksum on each page; read with every byte checked."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from .manifest import FileEntry

ROW_GROUP = 32_768
CHUNK = 1 << 20


def write(path: Path, table: pa.Table) -> tuple[int, str, str]:
    """(bytes, SHA-256, SHA-256 of the footer), on disk when this returns. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    texts = [f.name for f in table.schema if pa.types.is_string(f.type) and f.name != "session"]
    pq.write_table(
        table,
        path,
        row_group_size=ROW_GROUP,
        compression="zstd",
        use_dictionary=[*texts, "flags.list.element"],
        write_page_checksum=True,
        store_schema=False,
        data_page_size=1 << 18,
    )
    os.chmod(path, 0o600)
    with path.open("rb+") as file:
        os.fsync(file.fileno())
    size = path.stat().st_size
    return size, sha256_of(path), footer_hash(path)


def sha256_of(path: Path) -> str:
    """Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def footer_hash(path: Path) -> str:
    """SHA-256 of the footer: everything behind the last row group. Raises OSError, ValueError."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        if size < 12:
            raise ValueError("it is too short")
        file.seek(size - 8)
        tail = file.read(8)
        length = int.from_bytes(tail[:4], "little")
        if tail[4:] != b"PAR1" or length > size - 12:
            raise ValueError("it does not end as a Parquet file does")
        file.seek(size - 8 - length)
        return hashlib.sha256(file.read(length)).hexdigest()


def opened(path: Path, entry: FileEntry) -> pq.ParquetFile:
    """The file, when its size and footer are as they were written. Raises OSError, ValueError."""
    size = path.stat().st_size
    if size != entry.nbytes:
        raise ValueError(f"it has {size:,} bytes instead of {entry.nbytes:,}")
    if footer_hash(path) != entry.footer:
        raise ValueError("its footer was altered")
    return pq.ParquetFile(path, page_checksum_verification=True)


def damage(path: Path, entry: FileEntry) -> str:
    """What is wrong with a file, every byte looked at; empty when nothing is."""
    try:
        if path.stat().st_size != entry.nbytes:
            return f"it has {path.stat().st_size:,} bytes instead of {entry.nbytes:,}"
        return "" if sha256_of(path) == entry.sha256 else "its content was altered"
    except FileNotFoundError:
        return "it is not there"
    except OSError as error:
        return f"it cannot be read: {error.strerror}"


Wanted = Callable[[Any], bool]


def read(path: Path, entry: FileEntry, columns: Sequence[str] | None, wanted: Wanted | None = None) -> pa.Table:
    """The row groups whose statistics are `wanted`. Raises OSError, ValueError (ArrowInvalid is one)."""
    with opened(path, entry) as file:
        metadata = file.metadata
        groups = [n for n in range(metadata.num_row_groups) if wanted is None or wanted(metadata.row_group(n))]
        if not groups:
            return file.schema_arrow.empty_table().select(
                list(columns) if columns is not None else file.schema_arrow.names
            )
        return file.read_row_groups(groups, columns=list(columns) if columns is not None else None, use_threads=False)
