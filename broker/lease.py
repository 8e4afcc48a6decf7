"""This broker's lease in the catalog: renewed every third of it, and checked here without asking the catalog.

Invariant: `is_held()` is true only while the catalog's own clock has not reached the end of the lease. The end is
reckoned from before each renewal was sent, less a margin for clocks that run at different rates; the catalog
reckons it from when the renewal arrived. So a broker that was paused finds its lease over when it goes on, whatever it
was about to acknowledge.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import structlog

from broker.background import BackgroundTask
from s3stream.catalog.api import BrokerFenced, Catalog, CatalogError

log = structlog.get_logger()

MARGIN = 0.05
"""Part of the lease that is not used."""
RETRY_PART = 0.05
"""Part of the lease between two tries when the catalog does not answer."""


def lease_clock() -> float:
    """Seconds that also count while the machine sleeps, where there is such a clock."""
    return time.clock_gettime(_CLOCK)


_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class Lease:
    """Held from a registration that was sent at `registered_at`. `start`, then `stop`."""

    def __init__(
        self,
        catalog: Catalog,
        node_id: int,
        broker_epoch: int,
        lease_ms: int,
        registered_at: float,
        on_lost: Callable[[Exception], None],
        clock: Callable[[], float] = lease_clock,
    ) -> None:
        self._catalog = catalog
        self._node_id = node_id
        self._broker_epoch = broker_epoch
        self._lease_ms = lease_ms
        self._clock = clock
        self.on_lost = on_lost
        """Called once, with why the lease will never be renewed again: fenced, or a defect."""
        self._usable_s = lease_ms / 1000 * (1 - MARGIN)
        self._held_until = registered_at + self._usable_s
        self._is_lost = False
        self._task = BackgroundTask(self._run, "lease")

    def is_held(self) -> bool:
        return self._clock() < self._held_until

    def start(self) -> None:
        self._task.start()

    async def stop(self) -> None:
        """Renew no more. The lease ends with the broker's registration, or runs out."""
        await self._task.stop()

    async def renew(self) -> None:
        """Once. Raises BrokerFenced, CatalogUnreachable."""
        asked_at = self._clock()
        async with asyncio.timeout(self._usable_s / 2):
            await self._catalog.renew_lease(self._node_id, self._broker_epoch, self._lease_ms)
        if not self._is_lost:
            self._held_until = max(self._held_until, asked_at + self._usable_s)

    async def _run(self) -> None:
        interval_s = self._lease_ms / 3000
        renewed = True
        while True:
            await asyncio.sleep(interval_s if renewed else interval_s * RETRY_PART * 3)
            try:
                await self.renew()
            except BrokerFenced as error:
                self._lose(error)
                return
            except (CatalogError, TimeoutError) as error:
                if renewed:
                    log.warning("lease is not renewed: metadata database unreachable", error=str(error) or "no answer")
                renewed = False
            except Exception as error:
                log.exception("the lease has a defect")
                self._lose(error)
                return
            else:
                if not renewed:
                    log.info("lease is renewed again")
                renewed = True

    def lose(self, error: Exception) -> None:
        """It is known from elsewhere that it will never be renewed again."""
        self._task.cancel()
        self._lose(error)

    def _lose(self, error: Exception) -> None:
        self._held_until = self._clock()
        self._is_lost = True
        self.on_lost(error)
