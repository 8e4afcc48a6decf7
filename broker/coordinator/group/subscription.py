"""Reading the topics out of the embedded consumer protocol's subscription.

    int16 version | [ string topic ] | ...

Clients own these bytes; brokers only look at the topics, to know which committed offsets are in use.
"""

from __future__ import annotations

from struct import Struct, error

CONSUMER_PROTOCOL_TYPE = "consumer"

_HEAD = Struct(">hi")
_INT16 = Struct(">h")


def subscribed_topics(metadata: bytes) -> list[str] | None:
    """None if these are not a subscription's bytes."""
    try:
        version, count = _HEAD.unpack_from(metadata)
        if version < 0 or count < 0:
            return None
        position = _HEAD.size
        topics = []
        for _ in range(count):
            size = _INT16.unpack_from(metadata, position)[0]
            position += 2
            end = position + size
            if size < 0 or end > len(metadata):
                return None
            topics.append(metadata[position:end].decode())
            position = end
    except (error, UnicodeDecodeError):
        return None
    return topics
