"""Leases: what keeps a broker that was replaced from acknowledging."""

from __future__ import annotations

from typing import Any

import broker.lease
from broker.failover import Failover
from broker.lease import Lease
from s3stream.append_log import AppendLog
from s3stream.stream import S3Stream
from tests.cluster_sim import schedules
from tests.cluster_sim.mutations.registry import CUT_OFF, ZOMBIES, Change, mutation
from tests.cluster_sim.world import Focus

LONG_LEASE = Focus(wal_kinds=("shared", "volume"), lease_ms=2000)


@mutation("lease-not-checked", "a broker acknowledges without looking at its lease", ZOMBIES)
def _lease_not_checked() -> list[Change]:
    return [(Lease, "is_held", lambda self: True)]


@mutation(
    "lease-checked-before-flush",
    "the lease is looked at when a batch is appended, not after the flush",
    Focus(wal_kinds=("shared", "volume"), lease_ms=1000),
    schedules.flush_after_the_lease,
)
def _lease_checked_before_flush() -> list[Change]:
    append, on_durable = S3Stream.append, AppendLog.on_durable
    held_up_to: dict[int, int] = {}

    def ask_and_append(self: S3Stream, data: Any, count: int, max_timestamp: int) -> int:
        base_offset = append(self, data, count, max_timestamp)
        if self._append_log._may_confirm():
            held_up_to[id(self._append_log)] = self._append_log.pending[-1][0]
        return base_offset

    def confirm_if_it_was_held(self: AppendLog, position: int) -> None:
        asked = self._may_confirm
        if position <= held_up_to.get(id(self), -1):
            self._may_confirm = lambda: True
        try:
            on_durable(self, position)
        finally:
            self._may_confirm = asked

    return [(AppendLog, "on_durable", confirm_if_it_was_held), (S3Stream, "append", ask_and_append)]


@mutation(
    "lease-from-the-answer",
    "the lease counts from the answer of a renewal, not from when it was sent",
    LONG_LEASE,
    schedules.cut_off_from_the_catalog,
)
def _lease_from_the_answer() -> list[Change]:
    async def renew(self: Lease) -> None:
        await self._catalog.renew_lease(self._node_id, self._broker_epoch, self._lease_ms)
        self._held_until = self._clock() + self._usable_s

    return [(Lease, "renew", renew)]


@mutation(
    "lease-used-too-long",
    "the lease is used a little longer than it lasts",
    LONG_LEASE,
    schedules.cut_off_from_the_catalog,
)
def _lease_used_too_long() -> list[Change]:
    return [(broker.lease, "MARGIN", -0.2)]


@mutation("living-broker-fenced", "brokers are fenced although their leases go on and their logs are locked", CUT_OFF)
def _living_broker_fenced() -> list[Change]:
    async def has_lost_its_lease(self: Failover, info: Any) -> bool:
        return await self._catalog.fence_broker(info.node_id, info.epoch)

    return [(Failover, "_has_lost_its_lease", has_lost_its_lease)]
