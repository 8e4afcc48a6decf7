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


@pytest.mark.parametrize("name", REDUNDANT)
def test_another_guard_stands_in_for_a_redundant_one(name: str) -> None:
    """The same history without both is among those above."""
    without_both = MUTATIONS[REDUNDANT[name][1]]
    assert without_both.script is not World.main
    mutation = MUTATIONS[name].applied()
    result = run_history(0, mutation, is_brief=True, focus=without_both.focus, script=without_both.script)
    assert result.violations == []
