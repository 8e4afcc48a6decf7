"""Who reads where. Pure: time is an argument.

A consumer that says in which rack it is (`client.rack`) is sent to a broker there, if the leader is elsewhere and what
it reads is old: committed, and not of the last seconds. At the tail everybody reads from the leader, which alone has it
in memory. A reader comes back when it has read all that is committed, which is newer than what it would be sent away
for; so nobody goes to and fro.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Sequence

from s3stream.api import RangeInfo
from s3stream.catalog.api import BrokerInfo

SETTLED_MS = 10_000
"""Records of this age are old; uploads and metadata are much younger when everybody knows of them."""
AHEAD_SIZE_MIN = 1 << 20
"""Committed bytes that a reader must have before it to be sent away: fewer are not worth a connection."""
AHEAD_COUNT_MAX = 64
"""Ranges looked at; so many objects are worth it, however small they are."""


def preferred_replica(
    leader: int, replicas: Collection[int], rack: str, receivers: Sequence[BrokerInfo], partition: int
) -> int | None:
    """The node that a consumer in `rack` is to read from; None: from the leader.

    `receivers` are the brokers that are there and stay, by node id. Only listed replicas are chosen: clients do not
    accept others. `partition` spreads partitions over the brokers of one rack, so that each has its own in its cache.
    """
    found = []
    for broker in receivers:
        if broker.rack == rack and broker.node_id in replicas:
            if broker.node_id == leader:
                return None
            found.append(broker.node_id)
    return found[partition % len(found)] if found else None


def is_catching_up(ranges: Sequence[RangeInfo], offset: int, now_ms: int) -> bool:
    """Whether who reads at `offset` has old records before it, and enough of them. `ranges`: what is committed."""
    position = bisect_right(ranges, offset, key=_start_of) - 1
    if position < 0 or offset >= ranges[position].end_offset:
        return False
    first = ranges[position]
    if first.max_timestamp > now_ms - SETTLED_MS:
        return False
    ahead = first.size * (first.end_offset - offset) // (first.end_offset - first.start_offset)
    stop = min(len(ranges), position + AHEAD_COUNT_MAX)
    while ahead < AHEAD_SIZE_MIN:
        position += 1
        if position >= stop:
            return stop < len(ranges)
        ahead += ranges[position].size
    return True


def _start_of(found: RangeInfo) -> int:
    return found.start_offset
