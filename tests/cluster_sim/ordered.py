"""A `set` that is iterated in the order of adding, so that a history does not depend on addresses in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any


class OrderedSet(set):  # type: ignore[type-arg]
    """What the product's modules get for `set`. Operators give unordered sets, as they are of values mostly."""

    __slots__ = ("_order",)

    def __init__(self, items: Iterable[Any] = ()) -> None:
        super().__init__()
        self._order: dict[Any, None] = {}
        self.update(items)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._order)

    def add(self, item: Any) -> None:
        super().add(item)
        self._order[item] = None

    def discard(self, item: Any) -> None:
        super().discard(item)
        self._order.pop(item, None)

    def remove(self, item: Any) -> None:
        super().remove(item)
        del self._order[item]

    def pop(self) -> Any:
        item = next(iter(self._order))
        self.remove(item)
        return item

    def clear(self) -> None:
        super().clear()
        self._order.clear()

    def update(self, *others: Iterable[Any]) -> None:
        for items in others:
            for item in items:
                self.add(item)

    def difference_update(self, *others: Iterable[Any]) -> None:
        for items in others:
            for item in list(items):
                self.discard(item)

    def __ior__(self, other: Any) -> OrderedSet:
        self.update(other)
        return self

    def __isub__(self, other: Any) -> OrderedSet:
        self.difference_update(other)
        return self
