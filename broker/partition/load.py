"""What passes through one partition: counters that the hot path adds to, and rates over the last while.

The counters only grow. `sample` is called now and then (`broker.balance.load`) and turns what was added since into
rates per second, averaged over about `WINDOW_S`; a younger partition over its life.
"""

from __future__ import annotations

WINDOW_S = 15.0


class PartitionLoad:
    """Bytes are those of record batches. A request is a batch appended, or this partition in an answer to a fetch."""

    __slots__ = (
        "_seen_bytes_in",
        "_seen_bytes_out",
        "_seen_requests",
        "bytes_in",
        "bytes_in_rate",
        "bytes_out",
        "bytes_out_rate",
        "request_rate",
        "requests",
        "sampled_s",
    )

    def __init__(self) -> None:
        self.bytes_in = 0
        self.bytes_out = 0
        self.requests = 0
        self.bytes_in_rate = 0.0
        self.bytes_out_rate = 0.0
        self.request_rate = 0.0
        self.sampled_s = 0.0
        """How long it has been sampled for, WINDOW_S at most."""
        self._seen_bytes_in = 0
        self._seen_bytes_out = 0
        self._seen_requests = 0

    def sample(self, elapsed_s: float) -> None:
        """`elapsed_s` since it was sampled last."""
        requests = self.requests - self._seen_requests
        self.sampled_s = min(self.sampled_s + elapsed_s, WINDOW_S)
        if not requests and self.request_rate < 1e-3:
            self.bytes_in_rate = self.bytes_out_rate = self.request_rate = 0.0
            return
        weight = min(1.0, elapsed_s / self.sampled_s)
        self.request_rate += weight * (requests / elapsed_s - self.request_rate)
        self.bytes_in_rate += weight * ((self.bytes_in - self._seen_bytes_in) / elapsed_s - self.bytes_in_rate)
        self.bytes_out_rate += weight * ((self.bytes_out - self._seen_bytes_out) / elapsed_s - self.bytes_out_rate)
        self._seen_requests = self.requests
        self._seen_bytes_in = self.bytes_in
        self._seen_bytes_out = self.bytes_out
