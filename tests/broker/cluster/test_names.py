from __future__ import annotations

import pytest

from broker.cluster.names import colliding, name_problem


@pytest.mark.parametrize("name", ["a", "A.b_c-9", "x" * 249, "...", "__consumer_offsets"])
def test_legal_names(name: str) -> None:
    assert name_problem(name) is None


@pytest.mark.parametrize("name", ["", ".", "..", "a b", "a/b", "ü", "a\n", "x" * 250, "a,b"])
def test_illegal_names(name: str) -> None:
    assert name_problem(name) is not None


def test_names_that_differ_in_dots_and_underscores_only_collide() -> None:
    existing = ["a.b", "c", "x_y.z"]
    assert colliding("a_b", existing) == "a.b"
    assert colliding("x.y_z", existing) == "x_y.z"
    assert colliding("a.b", existing) is None
    assert colliding("a-b", existing) is None
    assert colliding("c", existing) is None
