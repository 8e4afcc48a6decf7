"""Where a group commit is written: by the writing thread, or by the event loop itself.

On a fast disk, handing a commit to a thread and hearing back from it costs more than the write: two wake-ups of a
sleeping thread, two fights for the interpreter's lock, and commits that are half as large. There the loop writes by
itself, and what arrives meanwhile is the next commit. A slow disk is left to the thread: now and then a commit is
written on the loop as a probe. A busy machine makes most writes look slow, whoever does them, so that one fast write in
four is enough for a fast disk; a stall ends it at once, and after a probe that stalls it takes long until the next.

Pure: durations come in.
"""

from __future__ import annotations

SIZE_MAX = 2 << 20
"""Larger commits always go to the thread."""
FAST_S = 0.0004
"""A commit is fast if it takes no longer than this, and a second for `FAST_RATE` bytes of it ..."""
FAST_RATE = 1_000_000_000
STALL_S = 0.020
"""... and a stall from here on."""
PROBE_INTERVAL = 32
"""Commits from one probe to the next."""
PROBE_INTERVAL_AFTER_STALL = 2048
_FAST_WEIGHS = 3
_SLOW_WEIGHS = 1
_ON_LOOP_FROM = 4 * _FAST_WEIGHS
_BALANCE_MAX = 24


class Placement:
    """Ask `on_loop` for each commit, and `took` for each that was written there."""

    __slots__ = ("_balance", "_is_fast", "_until_probe")

    def __init__(self) -> None:
        self._is_fast = False
        self._balance = 0
        self._until_probe = PROBE_INTERVAL

    def on_loop(self, size: int) -> bool:
        """Whether the loop writes the next commit, of `size` bytes."""
        if size > SIZE_MAX:
            return False
        if self._is_fast:
            return True
        self._until_probe -= 1
        if self._until_probe:
            return False
        self._until_probe = PROBE_INTERVAL
        return True

    def took(self, size: int, seconds: float) -> None:
        """The loop has written and synced a commit of `size` bytes."""
        if seconds <= FAST_S + size / FAST_RATE:
            if self._balance < _BALANCE_MAX:
                self._balance += _FAST_WEIGHS
                if self._balance >= _ON_LOOP_FROM:
                    self._is_fast = True
            return
        self._balance -= _SLOW_WEIGHS
        if seconds >= STALL_S:
            self._balance = 0
            if not self._is_fast:
                self._until_probe = PROBE_INTERVAL_AFTER_STALL
        if self._balance <= 0:
            self._balance = 0
            self._is_fast = False
