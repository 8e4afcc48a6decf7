"""What the partitions of a soak hold. Every partition is written by one producer, in a known order.

A record is known by its number within its partition, which is in its key or value and from which everything else of it
follows; without transactions it is its offset, too. So a reader needs no more than the model to prove what it reads:
bytes, order, and that what it does not see has a reason (retention, compaction by key, an aborted transaction).
"""

from __future__ import annotations

import zlib
from array import array
from dataclasses import dataclass, field

Place = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Topic:
    """`rate` is the topic's records a second; `keys` of each partition, 0: records have none."""

    name: str
    partitions: int
    rate: float
    config: dict[str, str]
    keys: int = 0
    transactional: bool = False
    value_size_max: int = 300

    @property
    def compacts(self) -> bool:
        return "compact" in self.config["cleanup.policy"]

    @property
    def retention_ms(self) -> int:
        return int(self.config.get("retention.ms", -1)) if "delete" in self.config["cleanup.policy"] else -1


class Violation(AssertionError):
    """What a client saw is not what was written."""


@dataclass(slots=True)
class Partition:
    """Columns by number. `sent` of them exist; `low` is the highest log start that anybody was told."""

    topic: Topic
    index: int
    keys: array[int] = field(default_factory=lambda: array("H"))
    times: array[int] = field(default_factory=lambda: array("q"))
    is_aborted: bytearray = field(default_factory=bytearray)
    is_tombstone: bytearray = field(default_factory=bytearray)
    last_of_key: dict[int, int] = field(default_factory=dict)
    acknowledged: int = 0
    low: int = 0
    asked_low: int = 0
    """DeleteRecords was told to go so far."""

    @property
    def name(self) -> str:
        return f"{self.topic.name}-{self.index}"

    @property
    def sent(self) -> int:
        return len(self.times)

    # -- producing ---------------------------------------------------------------------------------------------------

    def next_record(self, time_ms: int, key: int, *, is_tombstone: bool) -> tuple[bytes, bytes | None]:
        """Key and value of the next record, which exists from now on."""
        number = self.sent
        self.keys.append(key)
        self.is_aborted.append(0)
        self.is_tombstone.append(is_tombstone)
        if not self.topic.transactional:
            self.last_of_key[key] = number
        self.times.append(time_ms)
        return self.key_of(number), None if is_tombstone else self.value_of(number)

    def key_of(self, number: int) -> bytes:
        return b"k%d" % self.keys[number] if self.topic.keys else b"n%d" % number

    def value_of(self, number: int) -> bytes:
        head = b"%s/%d|" % (self.name.encode(), number)
        checksum = zlib.crc32(head)
        return head + checksum.to_bytes(4, "big") * (checksum % (self.topic.value_size_max // 4))

    def ended(self, numbers: range, *, committed: bool) -> None:
        """A transaction is over."""
        for number in numbers:
            if committed:
                self.last_of_key[self.keys[number]] = number
            else:
                self.is_aborted[number] = 1

    # -- reading -----------------------------------------------------------------------------------------------------

    def number_in(self, offset: int, key: bytes | None, value: bytes | None) -> int:
        """Which record this is; every byte of it is as it was sent. Raises Violation."""
        if not self.topic.transactional:
            number = offset
        elif value is not None:
            number = int(value.partition(b"|")[0].rpartition(b"/")[2])
        else:
            raise Violation(f"{self.name} at {offset}: a record without a value, which nobody sent")
        if number >= self.sent:
            raise Violation(f"{self.name} at {offset}: record {number}, of {self.sent} that were sent")
        expected = None if self.is_tombstone[number] else self.value_of(number)
        if key != self.key_of(number) or value != expected:
            raise Violation(f"{self.name} at {offset}: record {number} has other bytes than were sent: {key!r}")
        if self.is_aborted[number]:
            raise Violation(f"{self.name} at {offset}: record {number} is of an aborted transaction")
        return number

    def check_skipped(self, first: int, stop: int, now_ms: int) -> None:
        """Records that a reader did not see between two that it saw, or before the end. Raises Violation."""
        for number in range(first, stop):
            if self.is_aborted[number]:
                continue
            if self.topic.compacts:
                if self.last_of_key.get(self.keys[number], -1) > number:
                    continue
                kept_ms = int(self.topic.config["delete.retention.ms"])
                if self.is_tombstone[number] and now_ms - self.times[number] >= kept_ms:
                    continue
            retention_ms = self.topic.retention_ms
            if "retention.bytes" in self.topic.config or number < self.asked_low:
                continue
            if retention_ms >= 0 and now_ms - self.times[number] > retention_ms:
                continue
            raise Violation(
                f"{self.name}: record {number} (key {self.keys[number]}, {now_ms - self.times[number]} ms old) "
                f"is missing between {first} and {stop} of {self.sent}"
            )
