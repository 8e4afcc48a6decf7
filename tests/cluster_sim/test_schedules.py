"""One guard is all that keeps a promise in each of these histories: with it all is well, without it that is noticed."""

from __future__ import annotations

import pytest

from tests.cluster_sim.mutations import MUTATIONS
from tests.cluster_sim.world import World, run_history

SEEDS_MAX = 3

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("name", sorted(name for name, each in MUTATIONS.items() if each.script is not World.main))
def test_a_guard_keeps_its_promise_and_is_missed_where_it_is_not(name: str) -> None:
    mutation = MUTATIONS[name]
    whole = run_history(0, is_brief=True, focus=mutation.focus, script=mutation.script)
    assert whole.violations == []
    assert any(
        run_history(seed, mutation.applied(), is_brief=True, focus=mutation.focus, script=mutation.script).violations
        for seed in range(SEEDS_MAX)
    )
