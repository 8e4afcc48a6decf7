"""A lease is believed only as long as the catalog surely grants it."""

from __future__ import annotations

from typing import Any

from broker.lease import Lease
from s3stream.catalog.api import BrokerFenced, CatalogUnreachable
from tests.broker.server.harness import until

LEASE_MS = 60


class FakeCatalog:
    """Renews, or fails with what the test sets."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.renewals = 0

    async def renew_lease(self, node_id: int, broker_epoch: int, lease_ms: int) -> None:
        self.renewals += 1
        if self.error is not None:
            raise self.error


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def make_lease(catalog: Any, clock: Clock, fenced: list[Exception]) -> Lease:
    return Lease(catalog, 1, 7, LEASE_MS, clock.now, fenced.append, clock)


async def test_a_lease_ends_by_the_clock_even_if_nothing_ran_meanwhile() -> None:
    clock = Clock()
    lease = make_lease(FakeCatalog(), clock, [])
    assert lease.is_held()
    clock.now += LEASE_MS / 1000 * 0.9
    assert lease.is_held()
    clock.now += LEASE_MS / 1000 * 0.1
    assert not lease.is_held()


async def test_a_renewal_counts_from_before_it_was_sent() -> None:
    clock = Clock()

    class SlowCatalog(FakeCatalog):
        async def renew_lease(self, node_id: int, broker_epoch: int, lease_ms: int) -> None:
            clock.now += LEASE_MS / 1000 * 0.8

    lease = make_lease(SlowCatalog(), clock, [])
    await lease.renew()
    clock.now += LEASE_MS / 1000 * 0.19
    assert not lease.is_held()


async def test_a_lease_is_renewed_again_after_a_blip_of_the_database() -> None:
    catalog, clock, fenced = FakeCatalog(), Clock(), list[Exception]()
    catalog.error = CatalogUnreachable("away")
    lease = make_lease(catalog, clock, fenced)
    lease.start()
    await until(lambda: catalog.renewals >= 2)
    clock.now += 1
    assert not lease.is_held()
    catalog.error = None
    await until(lease.is_held)
    await lease.stop()
    assert fenced == []


async def test_a_fenced_broker_holds_nothing_and_says_so_once() -> None:
    catalog, clock, fenced = FakeCatalog(), Clock(), list[Exception]()
    catalog.error = BrokerFenced("somebody else")
    lease = make_lease(catalog, clock, fenced)
    lease.start()
    await until(lambda: bool(fenced))
    assert not lease.is_held()
    await lease.stop()
    assert len(fenced) == 1
    assert catalog.renewals == 1


async def test_a_lease_that_cannot_be_renewed_for_a_defect_is_lost_and_says_so() -> None:
    catalog, clock, lost = FakeCatalog(), Clock(), list[Exception]()
    catalog.error = RuntimeError("a defect")
    lease = make_lease(catalog, clock, lost)
    lease.start()
    await until(lambda: bool(lost))
    assert not lease.is_held()
    await lease.stop()
    assert lost == [catalog.error]
