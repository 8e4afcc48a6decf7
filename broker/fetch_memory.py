"""The account of bytes that fetch responses hold: being read from objects, or waiting for clients to take them.

Records that come from the log cache are in memory anyway while they are read; they count from the time at which a
client did not take them at once, because from then on they outlive their eviction. What one fetch is granted is a share
of what is left, so that clients which never read cannot use up the memory: each gets less than the one before, in the
end one batch. The bound is `size_max` and one grant of the smallest size, or one batch, for each connection beyond it.
"""

from __future__ import annotations

GRANT_MIN = 65_536
"""Granted whatever the account says. Responses of this size are copied when they are sent, so that they pin nothing."""
_SHARE = 4


class FetchMemory:
    __slots__ = ("size", "size_max")

    def __init__(self, size_max: int) -> None:
        self.size = 0
        self.size_max = size_max

    def grant(self, wanted: int) -> int:
        """How many of `wanted` bytes one response may have."""
        return min(wanted, max(GRANT_MIN, (self.size_max - self.size) // _SHARE))

    @property
    def is_short(self) -> bool:
        """Grants are small because of what others hold."""
        return self.size * 2 > self.size_max

    def charge(self, size: int) -> None:
        self.size += size

    def release(self, size: int) -> None:
        self.size -= size
