"""Topic names and the partition of a principal: one place for both ends of Kafka."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Topics:
    """The topics of one installation, all under `prefix`."""

    prefix: str = "exfilguard"

    @property
    def queries(self) -> str:
        """Frames of QueryEvents, partitioned by principal."""
        return f"{self.prefix}.queries"

    @property
    def verdicts(self) -> str:
        """Standing verdicts, compacted, key tenant/principal."""
        return f"{self.prefix}.verdicts"

    @property
    def actions(self) -> str:
        """Hook attempts, key tenant/principal."""
        return f"{self.prefix}.actions"

    @property
    def snapshots(self) -> str:
        """Window state with its source position, compacted; as many partitions as `queries`."""
        return f"{self.prefix}.snapshots"

    @property
    def sums(self) -> str:
        """Each partition's part of the sums over accounts (source, query shape, tenant), compacted."""
        return f"{self.prefix}.sums"

    @property
    def standings(self) -> str:
        """Each detector's accounts nearest to a limit, for the console; kept for minutes only."""
        return f"{self.prefix}.standings"

    @property
    def deadletter(self) -> str:
        """Records that could not be decoded, with the reason in a header."""
        return f"{self.prefix}.deadletter"


def murmur2(data: bytes) -> int:
    """Kafka's own key hash (org.apache.kafka.common.utils.Utils.murmur2), unsigned 32 bit."""
    length = len(data)
    m = 0x5BD1E995
    h = 0x9747B28C ^ length
    for i in range(0, length - 3, 4):
        k = int.from_bytes(data[i : i + 4], "little")
        k = (k * m) & 0xFFFFFFFF
        k ^= k >> 24
        k = (k * m) & 0xFFFFFFFF
        h = ((h * m) & 0xFFFFFFFF) ^ k
    tail = length & 3
    base = length & ~3
    if tail >= 3:
        h ^= data[base + 2] << 16
    if tail >= 2:
        h ^= data[base + 1] << 8
    if tail >= 1:
        h = ((h ^ data[base]) * m) & 0xFFFFFFFF
    h ^= h >> 13
    h = (h * m) & 0xFFFFFFFF
    return h ^ (h >> 15)


def principal_hash(tenant: str, principal: str) -> int:
    """Hash that chooses a principal's partition: `principal_hash(..) % partitions`.

    Equals what every Kafka client's default partitioner does with the key `tenant/principal`, so the keyed topics and
    the queries topic agree on a principal's partition number. 31 bits.
    """
    return murmur2(f"{tenant}/{principal}".encode()) & 0x7FFFFFFF
