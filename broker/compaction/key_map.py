"""Key -> offset of its last record, of the dirty part of a log. Bounded. Pure."""

from __future__ import annotations

from hashlib import blake2b

ENTRY_SIZE = 190
"""Bytes of memory of an entry besides the key: slot of the dictionary, both objects (measured)."""
_DIGEST_SIZE = 33
"""Keys that are longer are known by a digest of this size, so no short key equals a digest."""


class KeyMap:
    """`end_offset`: below it every record since the map's beginning is in it."""

    def __init__(self, size_max: int) -> None:
        self._offsets: dict[bytes, int] = {}
        self._size = 0
        self._size_max = size_max
        self.end_offset = -1

    def __len__(self) -> int:
        return len(self._offsets)

    def put(self, key: bytes, offset: int) -> bool:
        """False, and nothing changed, if there is no room for another key."""
        if len(key) >= _DIGEST_SIZE:
            key = blake2b(key, digest_size=_DIGEST_SIZE).digest()
        offsets = self._offsets
        if key not in offsets:
            if self._size >= self._size_max and offsets:
                return False
            self._size += ENTRY_SIZE + len(key)
        offsets[key] = offset
        return True

    def last_offset(self, key: bytes) -> int:
        """-1 for a key that is not here."""
        if len(key) >= _DIGEST_SIZE:
            key = blake2b(key, digest_size=_DIGEST_SIZE).digest()
        return self._offsets.get(key, -1)
