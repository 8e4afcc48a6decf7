"""What handlers may use: one frozen bundle, put together by `broker.app` and by tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from broker.fetch_memory import FetchMemory
from s3stream.objectstore.meter import StoreMeter
from s3stream.settings import FETCH_MEMORY_MAX

if TYPE_CHECKING:
    from broker.balance.balancer import Balancer
    from broker.balance.load import LoadMeter
    from broker.cluster.image import MetadataImage
    from broker.cluster.topics import TopicAdmin
    from broker.config.broker_config import BrokerConfig
    from broker.coordinator.group.service import GroupService
    from broker.coordinator.transaction.service import TransactionService
    from broker.fetch_sessions import FetchSessions
    from broker.partitions import Partitions
    from broker.peers import Peers
    from broker.producer_ids import ProducerIds
    from broker.replica_reads import ReplicaReads
    from broker.verification import Verification
    from s3stream.api import Storage
    from s3stream.catalog.api import Catalog


@dataclass(frozen=True, slots=True)
class Services:
    """`now_ms` is wall-clock time in ms; everything else that measures time uses the loop's clock."""

    node_id: int
    config: BrokerConfig
    """Effective Kafka-named broker configs (static, then dynamic), typed getters; see broker.config."""
    catalog: Catalog
    image: MetadataImage
    """In-memory topics, partitions, brokers, configs. Never queries the database."""
    storage: Storage
    partitions: Partitions
    """The partitions led here."""
    topics: TopicAdmin
    """Creates, deletes, extends topics and alters configs: catalog transaction, image refresh, partitions opened."""
    groups: GroupService
    transactions: TransactionService
    fetch_sessions: FetchSessions
    producer_ids: ProducerIds
    peers: Peers
    """Requests to brokers by node id, to this one as well."""
    load_meter: LoadMeter
    balancer: Balancer
    verification: Verification
    """Of the partitions that producers write to in transactions."""
    now_ms: Callable[[], int]
    fetch_memory: FetchMemory = field(default_factory=lambda: FetchMemory(FETCH_MEMORY_MAX))
    store_meter: StoreMeter = field(default_factory=StoreMeter)
    """Requests to the object store, since the start."""
    replica_reads: ReplicaReads | None = None
    """Consumers read old records from a broker of their rack; None: from leaders only."""
