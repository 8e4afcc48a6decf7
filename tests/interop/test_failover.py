"""Client libraries with their defaults while brokers are killed and restarted: their applications hear of no error."""

from __future__ import annotations

from pathlib import Path

import pytest

from .failover_drill import CLIENTS, FAULTS, Plan, run

pytestmark = [pytest.mark.interop, pytest.mark.timeout(180)]


@pytest.mark.parametrize("client", CLIENTS)
def test_no_error_reaches_the_application_when_brokers_die_and_restart(client: str, tmp_path: Path) -> None:
    print(run(Plan(client, FAULTS, calm_s=0.2, rolled=1), tmp_path))
