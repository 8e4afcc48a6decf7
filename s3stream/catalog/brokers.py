"""Transactions on registrations of brokers: who may write, whose lease runs, what waits for recovery."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import ColumnElement, Connection, Row, Select, and_, delete, exists, func, insert, select, update

from s3stream.catalog.api import (
    BrokerAlreadyRegistered,
    BrokerFenced,
    BrokerInfo,
    BrokerNotStopped,
    CatalogError,
    UnknownBroker,
)
from s3stream.catalog.locks import begin_change, record_changes, require_broker, take
from s3stream.catalog.schema import (
    ACTIVE,
    BROKER_CHANGED,
    BROKER_EPOCH,
    CLOSED,
    CONFIG_CHANGED,
    FENCED,
    RECOVERED,
    STREAM_CLOSED,
    NowMs,
    brokers,
    configs,
    streams,
)

BROKER = "broker"
"""The resource type of broker configs."""

_COLUMNS = (
    brokers.c.node_id,
    brokers.c.epoch,
    brokers.c.host,
    brokers.c.port,
    brokers.c.rack,
    brokers.c.wal_url,
    brokers.c.state,
    (brokers.c.lease_end_ms > NowMs()).label("leased"),
    brokers.c.leaving,
)


def register(
    tx: Connection,
    node_id: int,
    host: str,
    port: int,
    rack: str | None,
    wal_url: str,
    lease_ms: int,
    incarnation: UUID,
) -> BrokerInfo:
    seq = begin_change(tx)
    address = {"host": host, "port": port, "rack": rack, "wal_url": wal_url, "lease_end_ms": NowMs() + lease_ms}
    former = tx.execute(
        select(*_COLUMNS, brokers.c.incarnation)
        .where(brokers.c.node_id == node_id)
        .order_by(brokers.c.epoch.desc())
        .limit(1)
        .with_for_update()
    ).one_or_none()
    if former is not None and former.state == ACTIVE and former.incarnation == incarnation:
        epoch = former.epoch
        tx.execute(update(brokers).where(_is(node_id, epoch)).values(**address))
    else:
        if former is not None:
            if former.state == ACTIVE and former.leased:
                raise BrokerAlreadyRegistered(
                    f"node id {node_id} is in use by the broker at {former.host}:{former.port} (epoch {former.epoch})"
                )
            _supersede(tx, former)
        epoch = take(tx, BROKER_EPOCH)
        tx.execute(
            insert(brokers).values(node_id=node_id, epoch=epoch, incarnation=incarnation, state=ACTIVE, **address)
        )
    record_changes(tx, seq, BROKER_CHANGED, [str(node_id)])
    return _info(tx.execute(select(*_COLUMNS).where(_is(node_id, epoch))).one())


def fence(tx: Connection, node_id: int, epoch: int, only_expired: bool, only_idle: bool) -> bool:
    seq = begin_change(tx)
    row = tx.execute(select(*_COLUMNS).where(_is(node_id, epoch)).with_for_update()).one_or_none()
    if row is None or row.state != ACTIVE:
        return True
    has_open_streams = _has_open_streams(tx, epoch)
    if (only_expired and row.leased) or (only_idle and has_open_streams):
        return False
    state = FENCED if has_open_streams else RECOVERED
    tx.execute(update(brokers).where(_is(node_id, epoch)).values(state=state, lease_end_ms=0))
    record_changes(tx, seq, BROKER_CHANGED, [str(node_id)])
    return True


def renew(tx: Connection, node_id: int, epoch: int, lease_ms: int) -> bool:
    """False if the lease had run out: then the broker has to be told of again, by `revive`."""
    renewed = tx.execute(
        update(brokers)
        .where(_is(node_id, epoch), brokers.c.state == ACTIVE, brokers.c.lease_end_ms > NowMs())
        .values(lease_end_ms=NowMs() + lease_ms)
    )
    return renewed.rowcount == 1


def revive(tx: Connection, node_id: int, epoch: int, lease_ms: int) -> None:
    seq = begin_change(tx)
    renewed = tx.execute(
        update(brokers).where(_is(node_id, epoch), brokers.c.state == ACTIVE).values(lease_end_ms=NowMs() + lease_ms)
    )
    if renewed.rowcount != 1:
        raise BrokerFenced(f"broker {node_id} with epoch {epoch} is not registered any more")
    record_changes(tx, seq, BROKER_CHANGED, [str(node_id)])


def leave(tx: Connection, node_id: int, epoch: int) -> None:
    seq = begin_change(tx)
    require_broker(tx, node_id, epoch)
    tx.execute(update(brokers).where(_is(node_id, epoch)).values(leaving=True))
    record_changes(tx, seq, BROKER_CHANGED, [str(node_id)])


def close(tx: Connection, node_id: int, epoch: int) -> None:
    seq = begin_change(tx)
    state = tx.execute(select(brokers.c.state).where(_is(node_id, epoch)).with_for_update()).scalar()
    if state == CLOSED:
        return
    if state != ACTIVE:
        raise BrokerFenced(f"broker {node_id} with epoch {epoch} is not registered any more")
    if _has_open_streams(tx, epoch):
        raise CatalogError(f"broker {node_id} with epoch {epoch} still has open streams")
    tx.execute(update(brokers).where(_is(node_id, epoch)).values(state=CLOSED, lease_end_ms=0))
    record_changes(tx, seq, BROKER_CHANGED, [str(node_id)])


def recovered(tx: Connection, node_id: int, epoch: int, by_node_id: int, by_broker_epoch: int) -> None:
    seq = begin_change(tx)
    require_broker(tx, by_node_id, by_broker_epoch)
    state = tx.execute(select(brokers.c.state).where(_is(node_id, epoch)).with_for_update()).scalar()
    if state == ACTIVE:
        raise CatalogError(f"broker {node_id} with epoch {epoch} was not fenced, so its WAL can not be recovered yet")
    if state == FENCED:
        end_recovery(tx, node_id, epoch)
        record_changes(tx, seq, BROKER_CHANGED, [str(node_id)])


def end_recovery(tx: Connection, node_id: int, epoch: int) -> None:
    """Close its streams where their objects end; its row stays only if it is the latest of the node."""
    tx.execute(
        update(streams)
        .where(streams.c.broker_epoch == epoch)
        .values(state=STREAM_CLOSED, node_id=None, broker_epoch=None)
    )
    latest = tx.execute(select(func.max(brokers.c.epoch)).where(brokers.c.node_id == node_id)).scalar()
    if epoch == latest:
        tx.execute(update(brokers).where(_is(node_id, epoch)).values(state=RECOVERED, lease_end_ms=0))
    else:
        tx.execute(delete(brokers).where(_is(node_id, epoch)))


def unregister(tx: Connection, node_id: int) -> None:
    seq = begin_change(tx)
    states = tx.execute(select(brokers.c.state).where(brokers.c.node_id == node_id).with_for_update()).scalars().all()
    if not states:
        raise UnknownBroker(f"there is no broker {node_id}")
    if ACTIVE in states:
        raise BrokerNotStopped(f"broker {node_id} runs, or nobody has taken over from it yet: stop it first")
    if FENCED in states:
        raise BrokerNotStopped(f"the write-ahead log of broker {node_id} is not recovered yet")
    its_configs = and_(configs.c.resource_type == BROKER, configs.c.resource_name == str(node_id))
    tx.execute(delete(brokers).where(brokers.c.node_id == node_id))
    tx.execute(delete(configs).where(its_configs))
    record_changes(tx, seq, BROKER_CHANGED, [str(node_id)])
    record_changes(tx, seq, CONFIG_CHANGED, [f"{BROKER}:{node_id}"])


def claim_recovery(tx: Connection, node_id: int, epoch: int, by_node_id: int, by_broker_epoch: int) -> bool:
    fence(tx, node_id, epoch, only_expired=False, only_idle=False)
    require_broker(tx, by_node_id, by_broker_epoch)
    claimed = tx.execute(
        update(brokers)
        .where(_is(node_id, epoch), brokers.c.state == FENCED, ~is_claimed(but_by=by_broker_epoch))
        .values(recoverer_epoch=by_broker_epoch)
    )
    return claimed.rowcount == 1


def is_claimed(*, but_by: int = 0) -> ColumnElement[bool]:
    """A broker that lives has claimed the recovery of this row of `brokers`; `but_by` (an epoch) does not count."""
    recoverer = brokers.alias("recoverer")
    return exists().where(
        recoverer.c.epoch == brokers.c.recoverer_epoch,
        recoverer.c.epoch != but_by,
        recoverer.c.state == ACTIVE,
        # one whose own log nobody can reach stays active for ever
        recoverer.c.lease_end_ms > NowMs(),
    )


def release_recovery(tx: Connection, node_id: int, epoch: int, by_node_id: int, by_broker_epoch: int) -> None:
    require_broker(tx, by_node_id, by_broker_epoch)
    tx.execute(
        update(brokers)
        .where(_is(node_id, epoch), brokers.c.recoverer_epoch == by_broker_epoch)
        .values(recoverer_epoch=None)
    )


def unrecovered(tx: Connection) -> list[BrokerInfo]:
    rows = tx.execute(select(*_COLUMNS).where(brokers.c.state == FENCED).order_by(brokers.c.node_id, brokers.c.epoch))
    return [_info(row) for row in rows]


def latest(tx: Connection) -> list[BrokerInfo]:
    return [_info(row) for row in tx.execute(select_latest().order_by(brokers.c.node_id))]


def select_latest() -> Select[tuple[object, ...]]:
    """The latest registration of every node id."""
    newest = select(brokers.c.node_id, func.max(brokers.c.epoch).label("epoch")).group_by(brokers.c.node_id).subquery()
    return select(*_COLUMNS).join(
        newest, and_(brokers.c.node_id == newest.c.node_id, brokers.c.epoch == newest.c.epoch)
    )


def _supersede(tx: Connection, former: Row[tuple[object, ...]]) -> None:
    """End a registration that a newer one replaces; its row stays only if its WAL has to be recovered."""
    if former.state == FENCED or (former.state == ACTIVE and _has_open_streams(tx, former.epoch)):
        tx.execute(update(brokers).where(_is(former.node_id, former.epoch)).values(state=FENCED, lease_end_ms=0))
    else:
        tx.execute(delete(brokers).where(_is(former.node_id, former.epoch)))


def _has_open_streams(tx: Connection, epoch: int) -> bool:
    found = tx.execute(select(streams.c.stream_id).where(streams.c.broker_epoch == epoch).limit(1)).scalar()
    return found is not None


def _is(node_id: int, epoch: int) -> ColumnElement[bool]:
    return and_(brokers.c.node_id == node_id, brokers.c.epoch == epoch)


def _info(row: Row[tuple[object, ...]]) -> BrokerInfo:
    return BrokerInfo(
        node_id=row.node_id,
        epoch=row.epoch,
        host=row.host,
        port=row.port,
        rack=row.rack,
        wal_url=row.wal_url,
        alive=row.state == ACTIVE and bool(row.leased),
        closed=row.state in (CLOSED, RECOVERED),
        fenced=row.state == FENCED,
        leaving=bool(row.leaving),
    )
