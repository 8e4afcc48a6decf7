"""The leader's memory of whom it sent to which place of the log, so that nobody is sent in circles.

A reader that comes back where it was sent away from got nothing there: the other broker does not answer, or cannot read
what the leader can. It stays for a while then. Pure: time is an argument, in seconds.
"""

from __future__ import annotations

from collections import OrderedDict

RETURNED_S = 60.0
"""Who is back at the same offset within this time was sent away in vain."""
STAY_S = 60.0
ENTRIES_MAX = 4096
"""Redirects remembered; the oldest is forgotten first, and may then be repeated in vain."""

Reader = tuple[int, bytes, int]
"""Connection, topic id, partition."""


class Redirects:
    """One per broker."""

    __slots__ = ("_sent",)

    def __init__(self) -> None:
        self._sent: OrderedDict[Reader, tuple[int, float, float]] = OrderedDict()

    def may_send(self, reader: Reader, offset: int, now_s: float) -> bool:
        """Whether the reader, who is at `offset` now, may be sent away; if so, that is noted as done."""
        sent_offset, sent_at, stays_until = self._sent.get(reader, (-1, 0.0, 0.0))
        if now_s < stays_until:
            return False
        in_vain = sent_offset == offset and now_s - sent_at < RETURNED_S
        self._sent[reader] = (offset, now_s, now_s + STAY_S if in_vain else 0.0)
        self._sent.move_to_end(reader)
        if len(self._sent) > ENTRIES_MAX:
            self._sent.popitem(last=False)
        return not in_vain
