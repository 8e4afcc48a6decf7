"""Whatever goes wrong, in whatever order: what was confirmed is read back byte for byte.

`TAILRACE_SIM_SEEDS=5000` runs more histories; `TAILRACE_SIM_SEED=17` one of them.
"""

from __future__ import annotations

import os

import pytest
from structlog.testing import capture_logs

from tests.s3stream.sim.virtual_loop import run_virtual
from tests.s3stream.sim.world import run_history

SEEDS_PER_TEST = 25


@pytest.fixture(autouse=True)
def _yield_between_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if blocks had many streams: their preparation and their commit let others run in between."""
    monkeypatch.setattr("s3stream.uploader._STREAMS_PER_TURN", 1)


STEP_COUNT = 120


def chosen_seeds() -> range:
    if "TAILRACE_SIM_SEED" in os.environ:
        first = int(os.environ["TAILRACE_SIM_SEED"])
        return range(first, first + 1)
    return range(int(os.environ.get("TAILRACE_SIM_SEEDS", "200")))


@pytest.mark.parametrize("first", chosen_seeds()[::SEEDS_PER_TEST])
def test_nothing_confirmed_is_lost_whatever_fails(first: int) -> None:
    seeds = chosen_seeds()
    for seed in range(first, min(first + SEEDS_PER_TEST, seeds.stop)):
        with capture_logs():
            try:
                run_virtual(run_history(seed, STEP_COUNT))
            except BaseException as error:
                error.add_note(f"replay with TAILRACE_SIM_SEED={seed}")
                raise


def test_a_seed_is_a_history() -> None:
    with capture_logs():
        assert run_virtual(run_history(7, 200)) == run_virtual(run_history(7, 200))
