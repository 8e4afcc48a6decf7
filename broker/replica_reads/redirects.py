"""The leader's memory of whom it sent away, so that nobody is sent in circles.

A reader that comes back where it was sent away from got nothing there: the other broker does not answer, or cannot read
what the leader can. It stays for a while. One that comes back soon, but further on, stays for a moment, in which it
reaches the tail, however fast the log grows. Pure: time is an argument, in seconds.
"""

from __future__ import annotations

from collections import OrderedDict

RETURNED_S = 60.0
"""Who is back within this time is kept ..."""
STAY_S = 10.0
"""... for so long if it came further,"""
STAY_IN_VAIN_S = 60.0
"""and for so long if not."""
ENTRIES_MAX = 4096
"""Redirects remembered; the oldest is forgotten first, and may then be repeated in vain."""

Reader = tuple[int, bytes, int]
"""Connection, topic id, partition."""


class Redirects:
    """One per broker."""

    __slots__ = ("_sent",)

    def __init__(self) -> None:
        self._sent: OrderedDict[Reader, tuple[int, float, float | None]] = OrderedDict()
        """Reader -> offset and time at which it was sent away, and how long it stays, once it is back."""

    def may_send(self, reader: Reader, offset: int, now_s: float) -> bool:
        """Whether the reader, who asks for `offset` here now, may be sent away; if so, that is noted as done."""
        sent_offset, sent_at, stays_until = self._sent.get(reader, (-1, float("-inf"), None))
        if stays_until is not None and now_s < stays_until:
            return False
        if stays_until is None and now_s - sent_at < RETURNED_S:
            stay_s = STAY_IN_VAIN_S if offset == sent_offset else STAY_S
            self._sent[reader] = (offset, sent_at, now_s + stay_s)
            return False
        self._sent[reader] = (offset, now_s, None)
        self._sent.move_to_end(reader)
        if len(self._sent) > ENTRIES_MAX:
            self._sent.popitem(last=False)
        return True
