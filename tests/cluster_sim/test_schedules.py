"""Chosen histories: with the guards of the product all is well; without the one that keeps the promise it is broken."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.cluster_sim.mutations import MUTATIONS, REDUNDANT

SEEDS_MAX = 12

pytestmark = pytest.mark.filterwarnings("ignore")

_OF_SCRIPTS = {name: each for name, each in sorted(MUTATIONS.items()) if each.has_schedule}
_SCRIPTS = {each.script.__name__: each for each in _OF_SCRIPTS.values()}


@pytest.mark.parametrize("script", _SCRIPTS)
def test_the_product_keeps_its_promises(script: str) -> None:
    assert _SCRIPTS[script].run_whole(0).violations == []


@pytest.mark.parametrize("name", sorted(_OF_SCRIPTS.keys() - REDUNDANT.keys()))
def test_a_guard_that_is_taken_away_is_missed(name: str) -> None:
    assert any(MUTATIONS[name].run(seed).violations for seed in range(SEEDS_MAX))


@pytest.mark.parametrize("name", REDUNDANT)
def test_another_guard_stands_in_for_a_redundant_one(name: str) -> None:
    """The same history without both is among those above."""
    without_both = MUTATIONS[REDUNDANT[name][1]]
    assert without_both.has_schedule
    without_one = replace(without_both, changes=MUTATIONS[name].changes)
    assert without_one.run(0).violations == []
