"""A byte-bounded cache of data blocks, in units of what was read at once.

Blocks that came with one GET share its buffer, so they are kept and evicted together: otherwise one block left behind
would keep a buffer of many alive, and the bound would not hold.

What was read ahead for a sequential reader, and lies behind it, is **spent**: it goes before everything else. So a
reader that catches up with days of data takes room for its window only, and leaves the blocks of others where they are.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from s3stream.object.reader import Block

BlockKey = tuple[str, int]
"""(object key, position)."""


class BlockGroup:
    """Blocks that share a buffer. `unread` counts those that were read ahead and not asked for yet."""

    __slots__ = ("blocks", "owner", "size", "unread")

    def __init__(self, blocks: dict[BlockKey, Block], owner: object | None) -> None:
        self.blocks = blocks
        self.owner = owner
        self.size = sum(block.size for block in blocks.values())
        self.unread = set(blocks) if owner is not None else set()


class BlockLru:
    """Spent groups go first, then the least recently used. `on_unread` gets the owner of one that is evicted unread."""

    def __init__(self, size_max: int, on_unread: Callable[[object], None]) -> None:
        self._size_max = size_max
        self._on_unread = on_unread
        self._groups: OrderedDict[int, BlockGroup] = OrderedDict()
        self._spent: OrderedDict[int, BlockGroup] = OrderedDict()
        self._at: dict[object, BlockGroup] = {}
        """Owner -> the group that it reads."""
        self._by_key: dict[BlockKey, BlockGroup] = {}
        self.size = 0

    def __contains__(self, key: BlockKey) -> bool:
        return key in self._by_key

    def get(self, key: BlockKey) -> Block | None:
        """Counts as use."""
        group = self._by_key.get(key)
        if group is None:
            return None
        if group.owner is not None:
            self._read_by_owner(group, key)
        (self._spent if id(group) in self._spent else self._groups).move_to_end(id(group))
        return group.blocks[key]

    def _read_by_owner(self, group: BlockGroup, key: BlockKey) -> None:
        """Its owner, or somebody who reads the same a little later."""
        if key in group.unread:
            group.unread.discard(key)
            former = self._at.get(group.owner)
            self._at[group.owner] = group
            if former is not None and former is not group and not former.unread and id(former) in self._groups:
                self._spent[id(former)] = self._groups.pop(id(former))

    def put(self, group: BlockGroup) -> None:
        for key in group.blocks:
            if key in self._by_key:
                self._remove(self._by_key[key])
            self._by_key[key] = group
        self._groups[id(group)] = group
        self.size += group.size
        while self.size > self._size_max and (self._spent or self._groups):
            oldest = next(iter((self._spent or self._groups).values()))
            self._remove(oldest)
            if oldest.unread and oldest.owner is not None:
                self._on_unread(oldest.owner)

    def forget(self, object_key: str) -> None:
        groups = (*self._groups.values(), *self._spent.values())
        for group in [group for group in groups if next(iter(group.blocks))[0] == object_key]:
            self._remove(group)

    def _remove(self, group: BlockGroup) -> None:
        if self._groups.pop(id(group), None) is None:
            del self._spent[id(group)]
        if self._at.get(group.owner) is group:
            del self._at[group.owner]
        self.size -= group.size
        for key in group.blocks:
            if self._by_key.get(key) is group:
                del self._by_key[key]
