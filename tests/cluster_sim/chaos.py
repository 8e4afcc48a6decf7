"""What goes wrong, chosen by the seed: when, to whom, for how long. Every fault is counted when it really happened.

Besides faults at random times there are **ambushes**: the next time that a chosen broker gets to a certain step (a
transaction of the catalog, a call of the store), it is killed, paused or cut off just there.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import TYPE_CHECKING

from s3stream.catalog.api import CatalogError
from tests.cluster_sim.kernel import Process
from tests.cluster_sim.services import at_once

if TYPE_CHECKING:
    from tests.cluster_sim.node import Node
    from tests.cluster_sim.world import World

STEPS = (
    "register_broker",
    "fence_broker",
    "claim_recovery",
    "recovered",
    "claim_partitions",
    "hand_over",
    "set_targets",
    "leave",
    "replace_objects",
    "renew_lease",
    "open_streams",
    "close_streams",
    "close_broker",
    "prepare_objects",
    "commit_objects",
    "live_page",
    "load",
    "put",
    "put_if_absent",
    "list",
    "get",
    "delete",
)
_MEAN_PAUSE_S = 0.7


class Chaos:
    def __init__(self, world: World) -> None:
        self.world = world
        self.rng = random.Random(world.rng.getrandbits(64))
        self.intensity = 1.5 if world.focus.faults else self.rng.choice((0.5, 1.5, 2.0, 3.0))
        self._ambushes: dict[tuple[int, str], Callable[[Node], None] | None] = {}
        """None: its answer gets lost."""
        self._undo: list[Callable[[], None]] = []
        self._is_over = self._is_draining = False
        self._faults: list[tuple[int, Callable[[], None]]] = [
            (14, self._kill),
            (12, self._pause),
            (4, self._kill_in_write),
            (5, self._stop),
            (12, self._partition),
            (3, self._isolate),
            (4, self._store_outage),
            (4, self._catalog_outage),
            (4, self._lossy),
            (6, self._slow_links),
            (3, self._slow_service),
            (4, self._slow_disk),
            (3, self._failing_disk),
            (5, self._reset),
            (24, self._ambush),
            (10, self._late_request),
            (2, self._new_node),
            (2, self._leave_for_good),
            (10, self._move),
            (4, self._drain),
        ]
        if world.plan.is_calm:
            self._faults = [(3, self._stop), (1, self._new_node), (8, self._move), (2, self._drain)]

    async def run(self, duration_s: float) -> None:
        end = self.world.kernel.now + duration_s
        weights = [weight * self.rng.choice((0, 1, 1, 3)) for weight, _ in self._faults]
        focus = self.world.focus
        if focus.faults:
            weights = [100 if fault.__name__[1:] in focus.faults else 2 for _, fault in self._faults]
        if not any(weights):
            weights = [weight for weight, _ in self._faults]
        while self.world.kernel.now < end and not self.world.violations:
            await asyncio.sleep(self.rng.expovariate(self.intensity / _MEAN_PAUSE_S))
            self.rng.choices([fault for _, fault in self._faults], weights)[0]()

    def heal(self) -> None:
        self._is_over = True
        self._ambushes.clear()
        self.world.holds.release_all()
        for undo in self._undo:
            undo()
        self._undo.clear()
        world = self.world
        world.network.unblock(*sorted(world.network.blocked))
        world.network.slow_s.clear()
        for service in (world.catalog, world.store):
            service.is_down, service.lost, service.slow_s = False, 0.0, 0.0
        for directory in world.disks.directories.values():
            directory.slow_s = directory.stall_share = 0.0
            directory.fails_next = False
            directory.on_write = None
        for node in world.nodes.values():
            if node.process is not None and node.process.is_paused:
                node.process.go_on()

    def count(self) -> None:
        """What was counted elsewhere, into the world's counters."""
        world = self.world
        counters = world.counters
        counters["message parked behind a partition"] = world.network.parked_count
        counters["message lost in a partition"] = world.network.lost_count
        counters["connection reset"] = world.network.reset_count
        for service in (world.catalog, world.store):
            for name, number in service.faults.items():
                counters[f"{service.host} {name}"] = number
            for name, number in service.calls.items():
                counters[f"{service.host}.{name}"] = number
        for directory in world.disks.directories.values():
            counters["write torn by a kill"] += directory.torn_count
            counters["sync failed"] += directory.failed_count
        counters["confirmation"] = world.observer.confirmed_count
        counters["confirmation withheld"] = world.observer.withheld_count

    # -- helpers ----------------------------------------------------------------------------------------------------
    def _happened(self, what: str, *detail: object) -> None:
        self.world.counters[what] += 1
        self.world.note("fault:", what, *detail)

    def _later(self, delay: float, undo: Callable[[], None]) -> None:
        """Undone after a while, or by the healing."""
        self._undo.append(undo)

        def when_due() -> None:
            if undo in self._undo:
                self._undo.remove(undo)
                undo()

        self.world.kernel.after(delay, when_due)

    @property
    def _is_stopping(self) -> bool:
        return any(node.is_stopping for node in self.world.nodes.values())

    def _running(self) -> Node | None:
        nodes = [node for node in self.world.nodes.values() if node.is_up]
        return self.rng.choice(nodes) if nodes else None

    def _duration(self) -> float:
        """Short, about a lease, or far beyond it."""
        lease_s = self.world.plan.lease_ms / 1000
        return self.rng.choice(
            (self.rng.uniform(0.01, 0.5), lease_s * self.rng.uniform(0.8, 1.3), self.rng.uniform(1, 8))
        )

    def _restart_later(self, node: Node) -> None:
        if node.is_gone:
            return

        def restart() -> None:
            if not node.is_up and not node.is_gone and not self._is_over:
                node.start()

        self.world.kernel.after(self.rng.choice((0.01, 0.3, 1.0, 5.0)) * self.rng.uniform(0.5, 1.5), restart)

    def ended(self, node: Node) -> None:
        """A supervisor starts again what ended by itself."""
        if self._is_over:
            if not self.world.is_stopping:
                self.world.kernel.after(0.5, lambda: None if node.is_up or self.world.is_stopping else node.start())
        else:
            self._restart_later(node)

    # -- processes --------------------------------------------------------------------------------------------------
    def _kill(self, node: Node | None = None) -> None:
        node = node or self._running()
        if node is None or not node.is_up:
            return
        power = self.rng.random() < 0.3
        self._happened("power lost" if power else "kill", node.host)
        node.kill(power)
        self._restart_later(node)

    def _kill_in_write(self) -> None:
        node = self._running()
        if node is not None and node.disk is not None:
            node.disk.on_write = lambda: self._kill_if_up(node)

    def _pause(self, node: Node | None = None) -> None:
        node = node or self._running()
        if node is None or node.process is None or not node.is_up or node.process.is_paused:
            return
        process, duration = node.process, self._duration()
        is_long = duration > self.world.plan.lease_ms / 1000
        self._happened("pause beyond the lease" if is_long else "pause", node.host, f"{duration:.2f}")
        process.pause()
        self._later(duration, lambda: process.go_on() if not process.is_dead else None)

    def _stop(self) -> None:
        node = self._running()
        if node is None:
            return
        others = [each for each in self.world.nodes.values() if each.is_up and each.running is not None]
        if self.world.plan.is_calm and (node not in others or len(others) < 3 or self._is_stopping):
            return
        self._happened("stop", node.host)
        node.stop()

    def _new_node(self) -> None:
        if len(self.world.nodes) < len(self.world.plan.wal_kinds):
            node = self.world.add_node()
            self._happened("new node", node.host)
            node.start()

    def _leave_for_good(self) -> None:
        """Its disk must be within reach of others; its host's replacement has another node id."""
        staying = [node for node in self.world.nodes.values() if not node.is_gone]
        leaving = [node for node in staying if node.wal_kind != "private"]
        if len(staying) < 3 or not leaving:
            return
        node = self.rng.choice(leaving)
        node.is_gone = True
        self._happened("gone for good", node.host)
        node.kill()

    # -- network ----------------------------------------------------------------------------------------------------
    def _partition(self, node: Node | None = None) -> None:
        node = node or self._running()
        if node is None:
            return
        others = [each.host for each in self.world.nodes.values() if each is not node]
        other = self.rng.choice(["catalog", "catalog", "store", "store", "client", *others])
        links = [(node.host, other), (other, node.host)]
        if self.rng.random() < 0.4:
            links = [self.rng.choice(links)]
        self._block(links, "partition one way" if len(links) == 1 else "partition")

    def _isolate(self) -> None:
        """From all but the clients, or from all."""
        node = self._running()
        if node is None:
            return
        hosts = ["catalog", "store", *(each.host for each in self.world.nodes.values() if each is not node)]
        if self.rng.random() < 0.5:
            hosts.append("client")
        self._block([link for host in hosts for link in ((node.host, host), (host, node.host))], "isolated")

    def _block(self, links: list[tuple[str, str]], what: str) -> None:
        duration = self._duration()
        self._happened(what, *links, f"{duration:.2f}")
        network = self.world.network
        network.block(*links)
        self._later(duration, lambda: network.unblock(*links))

    def _slow_links(self) -> None:
        node = self._running()
        if node is None:
            return
        network = self.world.network
        link = (node.host, self.rng.choice(("catalog", "catalog", "store", "client")))
        delay = self.rng.choice((0.05, 0.5, 2.0))
        self._happened("slow link", link, delay)
        for each in self.rng.choice(((link, link[::-1]), (link,), (link[::-1],))):
            network.slow_s[each] = delay

        def undo() -> None:
            network.slow_s.pop(link, None)
            network.slow_s.pop(link[::-1], None)

        self._later(self._duration(), undo)

    def _reset(self) -> None:
        node = self._running()
        if node is not None and node.process is not None:
            self._happened("connections reset", node.host)
            self.world.network.reset(node.process)

    # -- services ---------------------------------------------------------------------------------------------------
    def _store_outage(self) -> None:
        self._outage("store")

    def _catalog_outage(self) -> None:
        self._outage("catalog")

    def _outage(self, name: str) -> None:
        service = self.world.store if name == "store" else self.world.catalog
        duration = self._duration()
        self._happened(f"{name} outage", f"{duration:.2f}")
        service.is_down = True
        self._later(duration, lambda: setattr(service, "is_down", False))

    def _lossy(self) -> None:
        service = self.rng.choice((self.world.store, self.world.catalog))
        self._happened(f"lossy {service.host}")
        service.lost = self.rng.choice((0.05, 0.3))
        self._later(self._duration() * 2, lambda: setattr(service, "lost", 0.0))

    def _slow_service(self) -> None:
        service = self.rng.choice((self.world.store, self.world.catalog))
        self._happened(f"slow {service.host}")
        service.slow_s = self.rng.choice((0.05, 0.5, 2.0))
        self._later(self._duration(), lambda: setattr(service, "slow_s", 0.0))

    # -- disks ------------------------------------------------------------------------------------------------------
    def _slow_disk(self) -> None:
        node = self._running()
        if node is None or node.disk is None:
            return
        disk = node.disk
        self._happened("slow disk", node.host)
        disk.slow_s = self.rng.choice((0.002, 0.02, 0.3))
        disk.stall_share = self.rng.choice((0.0, 0.1))

        def undo() -> None:
            disk.slow_s = disk.stall_share = 0.0

        self._later(self._duration(), undo)

    def _failing_disk(self) -> None:
        node = self._running()
        if node is not None and node.disk is not None:
            self._happened("failing disk", node.host)
            node.disk.fails_next = True
            if self.rng.random() < 0.5:
                self.world.kernel.after(self.rng.uniform(0.02, 0.5), self._kill_if_up, node)

    def _kill_if_up(self, node: Node) -> None:
        if not self._is_over and node.is_up:
            self._kill(node)

    # -- leaders ----------------------------------------------------------------------------------------------------
    def _move(self) -> None:
        """What an operator or the balancer wants: partitions handed to others, or not any more."""
        world = self.world
        topic = world.topic()
        chosen = self.rng.sample(range(world.partition_count), self.rng.randint(1, world.partition_count))
        targets = {index: self.rng.choice([*world.nodes, *world.nodes, None]) for index in chosen}
        try:
            moved = at_once(world.metadata.set_targets({topic.topic_id: targets}))
        except CatalogError as error:
            world.note("no move:", error)
        else:
            self._happened("move planned", moved, targets)

    def _drain(self) -> None:
        """One at a time, for a while."""
        world = self.world
        if self._is_draining:
            return
        node_id = self.rng.choice(sorted(world.nodes))
        self._happened("drain", node_id)

        def set_draining(value: str | None) -> None:
            self._is_draining = value is not None
            at_once(world.metadata.alter_configs("broker", str(node_id), {"tailrace.draining": value}))

        set_draining("true")
        self._later(self._duration() * 2, lambda: set_draining(None))

    # -- ambushes ---------------------------------------------------------------------------------------------------
    def _ambush(self) -> None:
        node = self._running()
        if node is not None:
            action = self.rng.choice((self._kill, self._kill, self._pause, self._partition, None, None))
            self._ambushes[node.node_id, self.rng.choice(self.world.focus.steps or STEPS)] = action

    def _late_request(self) -> None:
        """It arrives at once, and is carried out much later."""
        node = self._running()
        if node is not None:
            step = self.rng.choice(self.world.focus.steps or STEPS)
            delay = self._duration()
            self.world.holds.delay_next(node, step, delay, lambda: self._happened(f"late {step}", node.host, delay))

    def on_step(self, process: Process, name: str) -> bool:
        """Whether the answer gets lost."""
        if not self._ambushes:
            return False
        node = next((node for node in self.world.nodes.values() if node.process is process), None)
        if node is None or (node.node_id, name) not in self._ambushes:
            return False
        action = self._ambushes.pop((node.node_id, name))
        self._happened(f"ambush at {name}", process.name, action.__name__ if action else "answer lost")
        if action is not None:
            self.world.kernel.after(self.rng.choice((0.0, 0.0, 0.002)), self._spring, node, process, action)
        return action is None

    def _spring(self, node: Node, process: Process, action: Callable[[Node], None]) -> None:
        if node.process is process and not process.is_dead and not self._is_over:
            action(node)
