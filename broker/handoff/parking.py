"""`Parking`: requests that wait for a partition on its way here or away.

Invariants
----------
* Who is parked is called exactly once, in the order of parking per partition: when the partition has arrived or has
  gone, after `WAIT_MAX_S`, or when the broker stops. It looks for itself what became of the partition. Who leaves
  before is not called, and nothing of it is kept.
* How many wait for one partition is bounded; what their requests hold is counted by their connections.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

import structlog

log = structlog.get_logger()

WAIT_MAX_S = 3.0
"""After it a client is told to look for the leader: it has more patience than that, but may know better by then."""
PARKED_MAX = 1000
"""Requests for one partition; those of a client are a few."""

Key = tuple[str, int]
"""Topic and partition index."""
Parked = Callable[[], None]


class _Place:
    __slots__ = ("expiry", "waiting")

    def __init__(self, expiry: asyncio.TimerHandle) -> None:
        self.expiry = expiry
        self.waiting: dict[Parked, None] = {}


class Parking:
    def __init__(self) -> None:
        self._places: dict[Key, _Place] = {}
        self._closed = False

    def __bool__(self) -> bool:
        return bool(self._places)

    def places(self) -> Iterable[Key]:
        return list(self._places)

    def park(self, key: Key, parked: Parked) -> bool:
        """False: there is no room, or nothing to wait for any more. Each `parked` of a partition is another one."""
        if self._closed:
            return False
        place = self._places.get(key)
        if place is None:
            expiry = asyncio.get_running_loop().call_later(WAIT_MAX_S, self._expire, key)
            place = self._places[key] = _Place(expiry)
        if len(place.waiting) >= PARKED_MAX:
            return False
        place.waiting[parked] = None
        return True

    def leave(self, key: Key, parked: Parked) -> None:
        """Wait no more. Nothing happens if it was called already."""
        place = self._places.get(key)
        if place is None:
            return
        place.waiting.pop(parked, None)
        if not place.waiting:
            place.expiry.cancel()
            del self._places[key]

    def release(self, key: Key) -> None:
        """Call whoever waits for this partition."""
        place = self._places.pop(key, None)
        if place is None:
            return
        place.expiry.cancel()
        for parked in place.waiting:
            try:
                parked()
            except Exception:
                # the others must not wait for ever
                log.exception("a parked request has a defect", topic=key[0], partition=key[1])

    def close(self) -> None:
        """Nobody waits any more."""
        self._closed = True
        for key in self.places():
            self.release(key)

    def _expire(self, key: Key) -> None:
        log.info("requests do not wait any longer for a partition on its way", topic=key[0], partition=key[1])
        self.release(key)
