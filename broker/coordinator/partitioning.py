"""Which partition of an internal topic a coordinator key belongs to, as Kafka computes it."""

from __future__ import annotations

from functools import lru_cache


@lru_cache(maxsize=16384)
def partition_for(key: str, partition_count: int) -> int:
    """`Utils.abs(key.hashCode()) % partition_count`: Java's hash over UTF-16 units, without its sign."""
    value = 0
    units = key.encode("utf-16-le", "surrogatepass")
    for position in range(0, len(units), 2):
        value = (value * 31 + units[position] + (units[position + 1] << 8)) & 0xFFFFFFFF
    if value & 0x80000000:
        value = -value & 0x7FFFFFFF
    return value % partition_count
