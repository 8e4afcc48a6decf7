"""Brokers that are paused or cut off, for real: nobody acknowledges what the others do not have.

Three brokers under load, each behind proxies of its own on the way to the database, to the store, and to itself. In
each round one of them is paused or cut off, and comes back. What clients saw is judged at the end. By hand, ten rounds
of everything:

    python -m tests.integration.fencing_drill --rounds 10
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import socket
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from bench.broker_process import BrokerProcess
from bench.free_ports import free_port
from bench.history import check
from bench.postgres_process import PostgresServer
from bench.proxy import Proxy
from bench.seaweedfs_process import ENVIRONMENT, SeaweedFs
from protocol.api_keys import ApiKey
from protocol.codec import decode_response, encode_request
from protocol.messages.metadata import MetadataRequest, MetadataRequestTopic, MetadataResponse

from .load import (
    WatchedConsumer,
    WatchedProducer,
    history_of,
    read_log,
    wait_until_acknowledged,
    wait_until_drained,
)
from .raw_client import read_frame

TOPICS = {"t": 6}
NODES = (1, 2, 3)
LEASE_S = 3.0
WAIT_MAX_S = 40.0
"""Far above what it takes, for machines that are busy."""
WALS = ("file", "object")


@dataclass(frozen=True, slots=True)
class Servers:
    """What the cluster stands on."""

    postgres: PostgresServer
    store: SeaweedFs


class Member:
    """One broker and the three ways that can be cut: to the database, to the store, from others to it."""

    def __init__(
        self, stack: ExitStack, directory: Path, node_id: int, wal: str, servers: Servers, urls: tuple[str, str]
    ) -> None:
        self.node_id = node_id
        self.database = stack.enter_context(Proxy(servers.postgres.port))
        self.store = stack.enter_context(Proxy(urlsplit(servers.store.endpoint).port or 0))
        listen = free_port()
        self.front = stack.enter_context(Proxy(listen))
        metadata_url, objects_url = urls
        objects_url = objects_url.replace(servers.store.endpoint, f"http://127.0.0.1:{self.store.port}")
        args = ["--advertised", f"127.0.0.1:{self.front.port}", "--objects", objects_url]
        args += ["--metadata", metadata_url.replace(f":{servers.postgres.port}/", f":{self.database.port}/")]
        if wal == "object":
            bucket, _, query = objects_url.partition("?")
            args += ["--wal", f"{bucket}-wal{node_id}?{query}"]
        env = {"TAILRACE_LEASE_MS": str(int(LEASE_S * 1000)), "TAILRACE_STORAGE_UPLOAD_INTERVAL_MS": "3000"}
        self.process = BrokerProcess(directory / f"data{node_id}", node_id=node_id, port=listen, args=args, env=env)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.front.port}"

    def wait_until_it_ends(self) -> None:
        """It found itself fenced, and said so in one clear line."""
        deadline = time.monotonic() + WAIT_MAX_S
        while self.process.returncode is None:
            assert time.monotonic() < deadline, f"broker {self.node_id} was replaced and goes on"
            time.sleep(0.02)
        assert self.process.returncode == 1
        last_line = self.process.log().splitlines()[-1]
        assert last_line.startswith("tailrace: stopped: "), last_line
        assert "Traceback" not in self.process.log()


class Cluster:
    def __init__(self, stack: ExitStack, directory: Path, wal: str, servers: Servers) -> None:
        urls = servers.postgres.new_database(), servers.store.fresh_url()
        self.wal = wal
        self.members = {node_id: Member(stack, directory, node_id, wal, servers, urls) for node_id in NODES}
        for member in self.members.values():
            stack.enter_context(member.process)
        self.wait_until(lambda: all(self.brokers(node_id) == set(NODES) for node_id in NODES), "all know each other")
        admin = AdminClient({"bootstrap.servers": self.bootstrap})
        admin.create_topics([NewTopic("t", TOPICS["t"], 1)])["t"].result(20)
        self.producers = [WatchedProducer(self.bootstrap, TOPICS, f"p{number}", 300) for number in range(2)]
        self.consumer = WatchedConsumer(self.bootstrap, TOPICS, "g", "c0")
        for client in (*self.producers, self.consumer):
            client.start()
        self.get_on()

    @property
    def bootstrap(self) -> str:
        return ",".join(member.address for member in self.members.values())

    def brokers(self, asked: int) -> set[int]:
        """Those that this one tells clients of."""
        return {broker.node_id for broker in self._metadata(asked).brokers}

    def leaders(self, asked: int) -> set[int]:
        """As this broker says: client libraries ask whom they like."""
        (topic,) = self._metadata(asked).topics
        return {partition.leader_id for partition in topic.partitions}

    def _metadata(self, asked: int) -> MetadataResponse:
        request = MetadataRequest(topics=[MetadataRequestTopic(name="t")], allow_auto_topic_creation=False)
        with socket.create_connection(("127.0.0.1", self.members[asked].process.port), 5) as connection:
            connection.sendall(encode_request(ApiKey.METADATA, 9, 1, "drill", request))
            response: Any = decode_response(ApiKey.METADATA, 9, read_frame(connection))[1]
        assert isinstance(response, MetadataResponse)
        return response

    def wait_until(self, holds: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + WAIT_MAX_S
        while True:
            try:
                if holds():
                    return
            except OSError:
                pass
            assert time.monotonic() < deadline, f"not so: {what}"
            time.sleep(0.05)

    def get_on(self, more: int = 200) -> None:
        wait_until_acknowledged(self.producers, more, WAIT_MAX_S)

    def wait_until_replaced(self, victim: Member) -> None:
        others = set(NODES) - {victim.node_id}
        self.wait_until(lambda: all(self.leaders(each) <= others for each in others), f"{victim.node_id} is replaced")
        self.get_on()

    def come_back(self, victim: Member) -> None:
        """A supervisor starts it again; it leads something when others have left it something."""
        victim.process.start()
        self.get_on()

    def share(self, victim: Member) -> None:
        """Have the partitions shared anew, by a clean stop of the one that leads most."""
        asked = next(iter(set(NODES) - {victim.node_id}))
        if victim.node_id in self.leaders(asked):
            return
        for node_id in set(NODES) - {victim.node_id}:
            assert self.members[node_id].process.terminate(WAIT_MAX_S) == 0
            self.members[node_id].process.start()
        self.wait_until(lambda: victim.node_id in self.leaders(asked), f"{victim.node_id} leads")
        self.get_on()

    def prove(self) -> None:
        for producer in self.producers:
            producer.stop()
            assert producer.errors == []
        wait_until_drained(self.bootstrap, TOPICS, "g")
        self.consumer.stop()
        log = read_log(self.bootstrap, "t", TOPICS["t"])
        violations = check(history_of("t", self.producers, [self.consumer], log, drained=True))
        assert violations == [], violations[:5]


def pause(cluster: Cluster, victim: Member) -> None:
    """Beyond its lease, with requests waiting in its sockets; it is replaced meanwhile."""
    victim.process.pause()
    cluster.wait_until_replaced(victim)
    victim.process.resume()
    victim.wait_until_it_ends()
    cluster.come_back(victim)


def short_pause(cluster: Cluster, victim: Member) -> None:
    """Below the lease nothing happens."""
    victim.process.pause()
    time.sleep(LEASE_S / 3)
    victim.process.resume()
    stays(cluster, victim)


def database(cluster: Cluster, victim: Member) -> None:
    """Cut off from the database until it is replaced: it ends when it hears so."""
    victim.database.cut()
    cluster.wait_until_replaced(victim)
    victim.database.heal()
    victim.wait_until_it_ends()
    cluster.come_back(victim)


def database_for_good(cluster: Cluster, victim: Member) -> None:
    """Cut off from the database and not coming back: it hears from the others that it is replaced."""
    victim.database.cut()
    victim.wait_until_it_ends()
    cluster.wait_until_replaced(victim)
    victim.database.heal()
    cluster.come_back(victim)


def short_database(cluster: Cluster, victim: Member) -> None:
    victim.database.cut()
    time.sleep(LEASE_S / 3)
    victim.database.heal()
    stays(cluster, victim)


def store(cluster: Cluster, victim: Member) -> None:
    """Cut off from the store: it goes on leading, and acknowledges what its log takes."""
    victim.store.cut()
    if cluster.wal == "file":
        cluster.get_on(100)
    time.sleep(2 * LEASE_S)
    victim.store.heal()
    stays(cluster, victim)


def store_and_killed(cluster: Cluster, victim: Member) -> None:
    """What it acknowledged meanwhile is in its log, for the others to find."""
    victim.store.cut()
    if cluster.wal == "file":
        cluster.get_on(100)
    time.sleep(LEASE_S)
    victim.process.kill()
    if cluster.wal == "object":
        victim.store.heal()  # the address of its log leads through the same proxy, for the others too
    cluster.wait_until_replaced(victim)
    victim.store.heal()
    cluster.come_back(victim)


def unreachable(cluster: Cluster, victim: Member) -> None:
    """Neither brokers nor clients reach it, and it reaches the database: it stays the leader."""
    victim.front.cut()
    time.sleep(3 * LEASE_S)
    victim.front.heal()
    stays(cluster, victim)


def refused(cluster: Cluster, victim: Member) -> None:
    """Something on the way refuses connections for it. A log of objects is sealed then: it ends."""
    victim.front.refuse()
    if cluster.wal == "file":
        time.sleep(2 * LEASE_S)
        victim.front.heal()
        stays(cluster, victim)
        return
    cluster.wait_until_replaced(victim)
    victim.front.heal()
    victim.wait_until_it_ends()
    cluster.come_back(victim)


def stays(cluster: Cluster, victim: Member) -> None:
    cluster.get_on()
    for node_id in NODES:
        assert victim.node_id in cluster.leaders(node_id), f"{victim.node_id} was replaced"
    assert victim.process.returncode is None


SCENARIOS: dict[str, Callable[[Cluster, Member], None]] = {
    each.__name__: each
    for each in (
        pause,
        short_pause,
        database,
        database_for_good,
        short_database,
        store,
        store_and_killed,
        unreachable,
        refused,
    )
}


def run(scenarios: list[str], wal: str, rounds: int, directory: Path, servers: Servers, seed: int) -> None:
    """Every scenario `rounds` times on one cluster, each time on another victim; then the verdict."""
    chance = random.Random(seed)
    with ExitStack() as stack:
        cluster = Cluster(stack, directory, wal, servers)
        for number in range(rounds):
            for name in scenarios:
                victim = cluster.members[chance.choice(NODES)]
                cluster.share(victim)
                began = time.monotonic()
                SCENARIOS[name](cluster, victim)
                print(f"{wal} log, {name} {number + 1}: {time.monotonic() - began:.1f} s", flush=True)
        cluster.prove()
        for member in cluster.members.values():
            assert member.process.terminate(WAIT_MAX_S) == 0


def start_servers(stack: ExitStack, directory: Path) -> Servers:
    os.environ.update(ENVIRONMENT)
    servers = Servers(PostgresServer(directory / "postgres"), SeaweedFs(directory / "seaweedfs"))
    servers.postgres.start()
    stack.callback(servers.postgres.stop)
    servers.store.start()
    stack.callback(servers.store.stop)
    return servers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenarios", nargs="*", choices=[*SCENARIOS, []], help="default: all")
    parser.add_argument("--wal", choices=WALS, action="append", help="default: both")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--keep", type=Path, help="a directory for data and logs, which stays")
    options = parser.parse_args()
    print(f"seed {options.seed}")
    directory = options.keep or Path(tempfile.mkdtemp(prefix="fencing-drill-"))
    directory.chmod(0o711)  # run by root, PostgreSQL is another user
    try:
        with ExitStack() as stack:
            servers = start_servers(stack, directory)
            for wal in options.wal or WALS:
                names = options.scenarios or list(SCENARIOS)
                run(names, wal, options.rounds, directory / wal, servers, options.seed)
    finally:
        if options.keep is None:
            shutil.rmtree(directory, ignore_errors=True)
    print("all held")


if __name__ == "__main__":
    main()
