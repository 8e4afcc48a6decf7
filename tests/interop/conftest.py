"""One tailrace process for all interop tests of a run, or the broker that $TAILRACE_INTEROP_BOOTSTRAP names.

Pointing that variable at Apache Kafka shows whether a test asks for what Kafka itself does.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator

import pytest

from .clients import CLIENTS, Client


@pytest.fixture(scope="session")
def bootstrap(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    given = os.environ.get("TAILRACE_INTEROP_BOOTSTRAP")
    if given:
        yield given
        return
    from bench.broker_process import BrokerProcess

    # new groups do not wait for more members: three seconds for each group of these tests
    quick = {"TAILRACE_BROKER_GROUP_INITIAL_REBALANCE_DELAY_MS": "0"}
    with BrokerProcess(tmp_path_factory.mktemp("interop"), env=quick) as broker:
        yield broker.address
        assert broker.terminate() == 0
    complaints = [line for line in broker.log().splitlines() if "level=info" not in line]
    assert complaints == [], "the broker complained about well-behaved clients"


@pytest.fixture
def topic() -> str:
    return f"t-{uuid.uuid4().hex[:12]}"


@pytest.fixture(params=CLIENTS, ids=lambda client: client.name)
def client(request: pytest.FixtureRequest) -> Client:
    chosen: Client = request.param
    chosen.driver()
    return chosen
