"""When not to ask again: a budget of retries, and a circuit that opens when nothing is answered. Pure: time comes in.

A store in trouble gets more requests from every client that retries, just when it can take the least. The **budget**
bounds that: each request that is answered earns a part of a retry, each retry costs one. The **circuit** counts
failures in a row: after `FAILURES_MAX` of them requests fail at once, without being sent, but for one each
`PROBE_INTERVAL_S` that finds out whether it is over. Who waits for the store (uploads) goes on waiting, with its own
pauses; who answers a client (reads) can say at once that it has to come again.
"""

from __future__ import annotations

BUDGET_MAX = 50.0
EARNED = 0.5
"""Retries per answered request, in the long run."""
FAILURES_MAX = 20
PROBE_INTERVAL_S = 1.0


class RetryBudget:
    __slots__ = ("_tokens",)

    def __init__(self) -> None:
        self._tokens = BUDGET_MAX

    def answered(self) -> None:
        self._tokens = min(BUDGET_MAX, self._tokens + EARNED)

    def take(self) -> bool:
        """Whether a retry may be made now."""
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True


class Circuit:
    """Closed: all requests pass. Open: one each `PROBE_INTERVAL_S`."""

    __slots__ = ("_failures", "_probed_at")

    def __init__(self) -> None:
        self._failures = 0
        self._probed_at = 0.0

    @property
    def is_open(self) -> bool:
        return self._failures >= FAILURES_MAX

    def may_pass(self, now: float) -> bool:
        if self._failures < FAILURES_MAX:
            return True
        if now - self._probed_at < PROBE_INTERVAL_S:
            return False
        self._probed_at = now
        return True

    def answered(self) -> None:
        self._failures = 0

    def failed(self, now: float) -> None:
        self._failures += 1
        if self._failures == FAILURES_MAX:
            self._probed_at = now
