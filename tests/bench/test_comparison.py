from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.__main__ import main
from bench.comparison import NotComparable, compare
from bench.figures import KAFKA, TAILRACE, Figure, Results, Target
from bench.report import as_json

from .test_figures import ABOUT

RATE = Figure("P1.x", "produce", "rec/s", Target(at_least=1.25))
SECONDS = Figure("P8.x", "gap", "s", Target(at_most=1.0, against=None))


def a_run(ratio: float, gap: float = 0.5, figures: tuple[Figure, ...] = (RATE, SECONDS)) -> dict[str, Any]:
    results = Results()
    results.declare(figures)
    for figure, ours, theirs in zip(figures, (ratio, gap), (1.0, 9.0), strict=False):
        results.add(figure.key, TAILRACE, ours)
        results.add(figure.key, KAFKA, theirs)
    told: dict[str, Any] = json.loads(as_json(results, ABOUT))
    return told


@pytest.mark.parametrize(
    ("first", "second", "agrees"), [(1.3, 1.3, True), (1.0, 1.149, True), (1.149, 1.0, True), (1.0, 1.16, False)]
)
def test_runs_agree_if_their_ratios_are_within_fifteen_percent(first: float, second: float, agrees: bool) -> None:
    compared = compare(a_run(first), a_run(second))
    assert compared.agrees is agrees
    assert ("DIFFERS" in compared.text) is not agrees


def test_figures_whose_target_is_no_ratio_do_not_decide() -> None:
    compared = compare(a_run(1.3, gap=0.2), a_run(1.3, gap=0.9))
    assert compared.agrees
    assert "P8.x" in compared.text


def test_a_ratio_that_only_one_run_has_is_no_agreement() -> None:
    other = a_run(0.4, figures=(Figure("P2.x", "CPU", "s", Target(at_most=0.45)),))
    both = a_run(1.3)
    both["figures"] += other["figures"]
    assert not compare(both, a_run(1.3)).agrees
    assert not compare(a_run(1.3), both).agrees


def test_another_machine_is_told() -> None:
    other = a_run(1.3)
    other["machine"]["cores"] = 16
    assert "note: cores is 2 and 16" in compare(a_run(1.3), other).text


@pytest.mark.parametrize("other", [{}, {"figures": [1], "machine": {}}, {"figures": [], "machine": {}}, []])
def test_what_is_no_result_is_refused(other: Any) -> None:
    with pytest.raises(NotComparable):
        compare(other, other)


@pytest.mark.parametrize(("second", "code"), [(a_run(1.3), 0), (a_run(1.6), 1), ({}, 2), (None, 2)])
def test_the_exit_code_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, second: dict[str, Any] | None, code: int
) -> None:
    one, two = tmp_path / "one.json", tmp_path / "two.json"
    one.write_text(json.dumps(a_run(1.3)))
    if second is not None:
        two.write_text(json.dumps(second))
    monkeypatch.setattr("sys.argv", ["bench", "--compare", str(one), str(two)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == code
