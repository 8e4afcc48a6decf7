"""Chosen histories: with the guards of the product all is well; without the one that keeps the promise it is broken."""

from __future__ import annotations

import pytest

from tests.cluster_sim.mutations import MUTATIONS, REDUNDANT
from tests.cluster_sim.world import Script, World, run_history

SEEDS_MAX = 3

pytestmark = pytest.mark.filterwarnings("ignore")

_OF_SCRIPTS = {name: each for name, each in sorted(MUTATIONS.items()) if each.script is not World.main}
_SCRIPTS = {each.script: each for each in _OF_SCRIPTS.values()}


@pytest.mark.parametrize("script", _SCRIPTS, ids=lambda script: script.__name__)
def test_the_product_keeps_its_promises(script: Script) -> None:
    assert run_history(0, is_brief=True, focus=_SCRIPTS[script].focus, script=script).violations == []


@pytest.mark.parametrize("name", sorted(_OF_SCRIPTS.keys() - REDUNDANT.keys()))
def test_a_guard_that_is_taken_away_is_missed(name: str) -> None:
    mutation = MUTATIONS[name]
    assert any(
        run_history(seed, mutation.applied(), is_brief=True, focus=mutation.focus, script=mutation.script).violations
        for seed in range(SEEDS_MAX)
    )


def test_what_stands_in_for_a_redundant_guard_is_known() -> None:
    for _, without_both in REDUNDANT.values():
        assert without_both in MUTATIONS
        assert without_both not in REDUNDANT
