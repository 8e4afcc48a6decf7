"""The in-memory image of topics, partitions, brokers and configs that all metadata is served from.

`MetadataImage` follows the catalog's change sequence. Its entities are immutable (`TopicInfo`, `BrokerInfo`) and are
replaced as a whole, so whoever holds one may keep it over an await and compares by identity to see whether it changed.

Invariants
----------
* Look-ups are synchronous, never touch the database and never see half of a change.
* `refresh()` returns once everything that was committed before the call is in the image; changes are applied in the
  order of their sequence.
* Subscribers are called on the loop's thread after the image has taken a change, with exactly that change.
* While the catalog cannot be reached the image stays as it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import TypeVar, cast
from uuid import UUID

import structlog

from broker.background import BackgroundTask
from broker.config.broker_config import BrokerConfig
from broker.config.topic_config import TopicConfig
from s3stream.catalog.api import DRAINING, BrokerInfo, Catalog, CatalogError, Changes, TopicInfo

log = structlog.get_logger()

FOLLOW_INTERVAL_S = 1.0
"""How often the follower asks the catalog for changes while there is no other broker, and who is alive."""
CLUSTER_FOLLOW_INTERVAL_S = 0.1
"""How often it asks for changes while there are others: what one does, all know after this time."""

Subscriber = Callable[[Changes], None]

T = TypeVar("T")

_NOTHING: Mapping[str, str] = {}


class MetadataImage:
    """See the module docstring. `config` is kept in step with the dynamic broker configs found in the catalog."""

    def __init__(
        self,
        catalog: Catalog,
        config: BrokerConfig,
        node_id: int,
        *,
        follow_interval_s: float = FOLLOW_INTERVAL_S,
        expects_others: bool = False,
    ) -> None:
        self.cluster_id = catalog.cluster_id
        self.node_id = node_id
        self.seq = 0
        self.generation = 0
        """Grows with every change of topics, brokers or configs: the key for whatever is derived from the image."""
        self._catalog = catalog
        self._config = config
        self._follow_interval_s = follow_interval_s
        self._expects_others = expects_others
        self._by_name: dict[str, TopicInfo] = {}
        self._by_id: dict[bytes, TopicInfo] = {}
        self._brokers: dict[int, BrokerInfo] = {}
        self._alive: list[BrokerInfo] = []
        self._absent: frozenset[int] = frozenset()
        self._configs: dict[tuple[str, str], Mapping[str, str]] = {}
        self._draining: frozenset[int] = frozenset()
        self._topic_configs: dict[str, TopicConfig] = {}
        self._derived: dict[Callable[..., object], dict[bytes, object]] = {}
        self._subscribers: list[Subscriber] = []
        self._refreshing = asyncio.Lock()
        self._follower = BackgroundTask(self._follow, "metadata-follower")
        self._on_failed: Callable[[Exception], None] = lambda error: None

    # -- look-ups ---------------------------------------------------------------------------------------------------
    def topic(self, name: str) -> TopicInfo | None:
        return self._by_name.get(name)

    def topic_by_id(self, topic_id: bytes) -> TopicInfo | None:
        """`topic_id`: the 16 bytes of the protocol."""
        return self._by_id.get(topic_id)

    def topics(self) -> Iterable[TopicInfo]:
        return self._by_name.values()

    def topic_config(self, name: str) -> TopicConfig:
        """Effective configs: the topic's own over the broker's defaults. An unknown topic has the defaults."""
        config = self._topic_configs.get(name)
        if config is None:
            topic = self._by_name.get(name)
            if topic is None:
                return TopicConfig.resolve(_NOTHING, self._config)
            config = self._topic_configs[name] = TopicConfig.resolve(topic.configs, self._config)
        return config

    def derived(self, topic: TopicInfo, build: Callable[[MetadataImage, TopicInfo], T]) -> T:
        """What `build` makes of a topic and the brokers, remembered until the topic or a broker changes."""
        key = topic.topic_id.bytes
        if self._by_id.get(key) is not topic:
            return build(self, topic)  # a former state of it: not to be remembered
        memory = self._derived.setdefault(build, {})
        if key not in memory:
            memory[key] = build(self, topic)
        return cast("T", memory[key])

    def brokers(self) -> list[BrokerInfo]:
        """The alive ones, by node id, without those that are absent. The list is not to be changed."""
        return self._alive

    def receivers(self) -> list[BrokerInfo]:
        """The alive ones that partitions may be given to: they are neither drained nor about to stop."""
        return [each for each in self._alive if not each.leaving and each.node_id not in self._draining]

    def registered_brokers(self) -> list[BrokerInfo]:
        """Alive or not, by node id."""
        return [self._brokers[node_id] for node_id in sorted(self._brokers)]

    def broker(self, node_id: int) -> BrokerInfo | None:
        """A registered broker, alive or not."""
        return self._brokers.get(node_id)

    def set_absent(self, epochs: frozenset[int]) -> None:
        """These registrations do not serve clients at present, as was seen from here, whatever their leases say."""
        if epochs != self._absent:
            self._absent = epochs
            self._list_alive()

    def _list_alive(self) -> None:
        alive = (each for each in self._brokers.values() if each.alive and each.epoch not in self._absent)
        self._alive = sorted(alive, key=lambda each: each.node_id)
        self._derived.clear()
        self.generation += 1

    @property
    def controller_id(self) -> int:
        """Every broker serves every admin request; clients are sent to the alive one with the smallest id."""
        return self._alive[0].node_id if self._alive else self.node_id

    def dynamic_configs(self, resource_type: str, name: str) -> Mapping[str, str]:
        """What is set on a "broker", "group" or "client-metrics" resource."""
        return self._configs.get((resource_type, name), _NOTHING)

    def draining(self) -> frozenset[int]:
        """Brokers that give away what they lead, and are given nothing."""
        return self._draining

    def config_resources(self, resource_type: str) -> list[str]:
        """Names that have something set."""
        return sorted(name for (kind, name), values in self._configs.items() if kind == resource_type and values)

    # -- following --------------------------------------------------------------------------------------------------
    def subscribe(self, callback: Subscriber) -> Callable[[], None]:
        """Be told of every change from now on; returns the function that ends it."""
        self._subscribers.append(callback)

        def unsubscribe() -> None:
            with suppress(ValueError):
                self._subscribers.remove(callback)

        return unsubscribe

    async def refresh(self) -> None:
        """Take in what was committed before this call. Raises CatalogUnreachable."""
        async with self._refreshing:
            self._apply(await self._catalog.load_changes(self.seq))

    async def start(self, on_failed: Callable[[Exception], None] = lambda error: None) -> None:
        """Load everything, then follow until `stop`. `on_failed` is told if following ended for a defect."""
        self._on_failed = on_failed
        await self.refresh()
        self._follower.start()

    async def stop(self) -> None:
        await self._follower.stop()

    async def _follow(self) -> None:
        reachable = True
        refreshed_at = asyncio.get_running_loop().time()
        while True:
            interval_s = self._follow_interval_s
            in_cluster = self._expects_others or len(self._brokers) > 1
            await asyncio.sleep(min(interval_s, CLUSTER_FOLLOW_INTERVAL_S) if in_cluster else interval_s)
            try:
                await self.refresh()
                if (now := asyncio.get_running_loop().time()) - refreshed_at >= interval_s:
                    refreshed_at = now
                    await self._refresh_brokers()
            except CatalogError as error:
                if reachable:
                    log.warning("metadata is not followed: catalog unreachable", error=str(error))
                reachable = False
            except Exception as error:
                # A broker that serves frozen metadata would go on for ever.
                log.exception("following the metadata has a defect")
                self._on_failed(error)
                return
            else:
                if not reachable:
                    log.info("metadata is followed again", seq=self.seq)
                reachable = True

    async def _refresh_brokers(self) -> None:
        """A lease that ran out may be renewed without a change being written, so that liveness is asked for."""
        async with self._refreshing:
            present: dict[int, BrokerInfo | None] = {each.node_id: each for each in await self._catalog.brokers()}
            for node_id in self._brokers.keys() - present.keys():
                present[node_id] = None
            self._apply(Changes(seq=self.seq, topics={}, brokers=present, configs={}))

    # -- applying ---------------------------------------------------------------------------------------------------
    def _apply(self, changes: Changes) -> None:
        self.seq = max(self.seq, changes.seq)
        # a broker whose lease ran out is reported every time until somebody fences it
        brokers = {key: each for key, each in changes.brokers.items() if self._brokers.get(key) != each}
        changes = replace(changes, brokers=brokers)
        if not (changes.topics or changes.brokers or changes.configs):
            return
        self.generation += 1
        for topic_id, topic in changes.topics.items():
            self._apply_topic(topic_id, topic)
        if changes.brokers:
            self._apply_brokers(changes.brokers)
        if changes.configs:
            self._apply_configs(changes.configs)
        for subscriber in tuple(self._subscribers):
            subscriber(changes)

    def _apply_topic(self, topic_id: UUID, topic: TopicInfo | None) -> None:
        key = topic_id.bytes
        former = self._by_id.pop(key, None)
        for memory in self._derived.values():
            memory.pop(key, None)
        if former is not None:
            self._topic_configs.pop(former.name, None)
            # a topic of the same name that was created since may already have taken the place
            if self._by_name.get(former.name) is former:
                del self._by_name[former.name]
        if topic is not None:
            self._topic_configs.pop(topic.name, None)
            self._by_id[key] = topic
            self._by_name[topic.name] = topic

    def _apply_brokers(self, brokers: Mapping[int, BrokerInfo | None]) -> None:
        for node_id, broker in brokers.items():
            if broker is None:
                self._brokers.pop(node_id, None)
            else:
                former = self._brokers.get(node_id)
                is_gone = not broker.alive and not broker.closed and node_id != self.node_id
                if is_gone and (former is None or former.alive):
                    log.warning("broker is not alive: the partitions that it leads are offline", node=node_id)
                self._brokers[node_id] = broker
        self._list_alive()

    def _apply_configs(self, configs: Mapping[tuple[str, str], Mapping[str, str]]) -> None:
        for resource, values in configs.items():
            if values:
                self._configs[resource] = values
            else:
                self._configs.pop(resource, None)
        if any(kind == "broker" for kind, _ in configs):
            self._draining = frozenset(
                int(name)
                for (kind, name), values in self._configs.items()
                if kind == "broker" and name and values.get(DRAINING, "").strip().lower() == "true"
            )
            self._config.set_dynamic(
                self.dynamic_configs("broker", ""), self.dynamic_configs("broker", str(self.node_id))
            )
            self._topic_configs.clear()
