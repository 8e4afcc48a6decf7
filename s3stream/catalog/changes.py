"""The change sequence, as followers read it."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import Connection, bindparam, func, or_, select, tuple_

from s3stream.catalog import topics as topic_transactions
from s3stream.catalog.api import Changes
from s3stream.catalog.brokers import latest
from s3stream.catalog.locks import chunks
from s3stream.catalog.schema import (
    ACTIVE,
    BROKER_CHANGED,
    CONFIG_CHANGED,
    TOPIC_CHANGED,
    NowMs,
    brokers,
    changes,
    configs,
)

_EXPIRED = select(brokers.c.node_id).where(brokers.c.state == ACTIVE, brokers.c.lease_end_ms <= NowMs())
# asked for many times a second by every broker
_CHANGED = select(changes.c.kind, changes.c.entity, changes.c.seq).where(changes.c.seq > bindparam("after"))


def load(tx: Connection, after: int) -> Changes:
    """Sequence numbers become visible in order, so the largest one seen is where to go on."""
    if after == 0:
        # not the counter: what took a number and changed nothing is told to nobody, so others are not behind
        newest = tx.execute(select(func.max(changes.c.seq))).scalar()
        return Changes(
            seq=newest or 0,
            topics=dict(topic_transactions.load(tx)),
            brokers={broker.node_id: broker for broker in latest(tx)},
            configs=_configs(tx, None),
        )
    rows = tx.execute(_CHANGED, {"after": after}).all()
    topic_ids = [UUID(row.entity) for row in rows if row.kind == TOPIC_CHANGED]
    node_ids = {int(row.entity) for row in rows if row.kind == BROKER_CHANGED}
    node_ids.update(tx.execute(_EXPIRED).scalars())
    resources = [_resource(row.entity) for row in rows if row.kind == CONFIG_CHANGED]
    found = topic_transactions.load(tx, topic_ids) if topic_ids else {}
    present = {broker.node_id: broker for broker in latest(tx)} if node_ids else {}
    return Changes(
        seq=max((row.seq for row in rows), default=after),
        topics={topic_id: found.get(topic_id) for topic_id in topic_ids},
        brokers={node_id: present.get(node_id) for node_id in sorted(node_ids)},
        configs=_configs(tx, resources) if resources else {},
    )


def _configs(tx: Connection, resources: Sequence[tuple[str, str]] | None) -> dict[tuple[str, str], dict[str, str]]:
    """What is set for these resources ({} if nothing is), or for all but topics."""
    rows = select(configs)
    key = tuple_(configs.c.resource_type, configs.c.resource_name)
    found: dict[tuple[str, str], dict[str, str]] = {resource: {} for resource in resources or ()}
    statements = (
        [rows.where(configs.c.resource_type != topic_transactions.TOPIC)]
        if resources is None
        else [rows.where(or_(key.in_(part))) for part in chunks(resources)]
    )
    for statement in statements:
        for resource_type, name, config_key, value in tx.execute(statement):
            found.setdefault((resource_type, name), {})[config_key] = value
    return found


def _resource(entity: str) -> tuple[str, str]:
    resource_type, _, name = entity.partition(":")
    return resource_type, name
