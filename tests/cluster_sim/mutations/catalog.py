"""The checks of the catalog's transactions."""

from __future__ import annotations

from typing import Any

from sqlalchemy import bindparam, false, update

import s3stream.catalog.brokers
import s3stream.catalog.leaders
import s3stream.catalog.objects
import s3stream.catalog.streams
from s3stream.catalog.schema import STREAM_CLOSED, NowMs, brokers, partitions, streams
from tests.cluster_sim import schedules
from tests.cluster_sim.mutations.registry import SHARED, ZOMBIES, Change, mutation, nothing
from tests.cluster_sim.world import Focus


@mutation(
    "broker-epoch-not-checked", "a fenced broker may write to the catalog", SHARED, schedules.opening_after_the_end
)
def _broker_epoch_not_checked() -> list[Change]:
    modules = (
        s3stream.catalog.objects,
        s3stream.catalog.streams,
        s3stream.catalog.brokers,
        s3stream.catalog.leaders,
    )
    return [(module, "require_broker", nothing) for module in modules if hasattr(module, "require_broker")]


@mutation("stream-epoch-not-checked", "a commit to streams that somebody else has opened since", ZOMBIES)
def _stream_epoch_not_checked() -> list[Change]:
    return [(s3stream.catalog.objects, "_check_epochs", nothing)]


@mutation("offsets-not-continuous", "a commit need not begin at the stream's end", ZOMBIES)
def _offsets_not_continuous() -> list[Change]:
    def advance(ordered: Any, present: Any) -> dict[int, int]:
        return {r.stream_id: r.end_offset for r in ordered if r.stream_id in present}

    return [(s3stream.catalog.objects, "_advance", advance)]


@mutation(
    "no-epoch-and-no-continuity",
    "neither stream epochs nor offsets of a commit are checked",
    Focus(wal_kinds=("shared",), lease_ms=1000),
    schedules.recovery_overtaken,
)
def commits_unchecked() -> list[Change]:
    return _stream_epoch_not_checked() + _offsets_not_continuous()


@mutation(
    "neither-epoch-checked",
    "neither the epoch of a broker nor those of streams are checked",
    SHARED,
    schedules.opening_after_the_end,
)
def _neither_epoch_checked() -> list[Change]:
    return _broker_epoch_not_checked() + _stream_epoch_not_checked()


@mutation(
    "open-stream-taken",
    "streams are opened although another broker has them open and is not recovered",
    Focus(wal_kinds=("private",), lease_ms=1000),
    schedules.opening_of_what_was_claimed,
)
def _open_stream_taken() -> list[Change]:
    original = s3stream.catalog.streams.open_streams

    def open_streams(tx: Any, node_id: int, broker_epoch: int, stream_ids: Any) -> Any:
        tx.execute(update(streams).where(streams.c.stream_id.in_(list(stream_ids))).values(state=STREAM_CLOSED))
        return original(tx, node_id, broker_epoch, stream_ids)

    return [(s3stream.catalog.streams, "open_streams", open_streams)]


@mutation(
    "left-open-claimed",
    "partitions are claimed although their streams are open at a broker that is not recovered",
    SHARED,
    schedules.claimed_before_recovered,
)
def _left_open_claimed() -> list[Change]:
    return [(s3stream.catalog.leaders, "_has_stream_in", lambda stream_ids: false())]


@mutation(
    "left-open-claimed-and-taken",
    "partitions are claimed, and their streams opened, although a broker that is not recovered has them open",
    SHARED,
    schedules.claimed_before_recovered,
)
def _left_open_claimed_and_taken() -> list[Change]:
    return _left_open_claimed() + _open_stream_taken()


@mutation("fenced-may-renew", "a broker that was fenced may renew its lease", SHARED, schedules.resumed_without_news)
def _fenced_may_renew() -> list[Change]:
    def renew(tx: Any, node_id: int, epoch: int, lease_ms: int) -> bool:
        its = (brokers.c.node_id == node_id, brokers.c.epoch == epoch)
        tx.execute(update(brokers).where(*its).values(lease_end_ms=NowMs() + lease_ms))
        return True

    return [(s3stream.catalog.brokers, "renew", renew)]


@mutation("leader-epoch-kept", "a new leader leads under the former one's epoch", Focus(("move", "kill")))
def _leader_epoch_kept() -> list[Change]:
    kept = (
        update(partitions)
        .where(partitions.c.topic_id == bindparam("topic"), partitions.c.partition_index == bindparam("index"))
        .values(leader=bindparam("new_leader"), target=None)
    )
    return [(s3stream.catalog.leaders, "_SET_LEADER", kept)]
