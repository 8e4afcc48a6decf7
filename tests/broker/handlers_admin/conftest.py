from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.broker.cluster.cluster import Cluster, cluster


@pytest.fixture
async def node() -> AsyncIterator[Cluster]:
    async with cluster() as made:
        yield made
