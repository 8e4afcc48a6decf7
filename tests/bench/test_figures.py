from __future__ import annotations

import json

import pytest

from bench.figures import KAFKA, STUB, TAILRACE, Figure, Results, Target, Verdict
from bench.html_report import html_page
from bench.report import Machine, as_json, number, table, verdicts

ABOUT = Machine(
    date="2026-01-01 00:00 UTC",
    minutes=1.0,
    rounds=3,
    quick=False,
    cores=2,
    memory_gib=24.0,
    system="Linux",
    python="3.11",
    tailrace="0.1",
    kafka="4.3.1",
    java="17",
)
RATE = Figure("P1.x", "produce", "rec/s", Target(at_least=1.25))


def results(figure: Figure, **samples: list[float]) -> Results:
    found = Results()
    found.declare([figure])
    for system, values in samples.items():
        for value in values:
            found.add(figure.key, system, value)
    return found


def test_a_ratio_is_of_medians_so_that_one_odd_round_does_not_decide() -> None:
    (row,) = results(RATE, tailrace=[100.0, 130.0, 900.0], kafka=[100.0, 1.0, 100.0]).rows()
    assert (row.ratio, row.verdict) == (1.3, Verdict.MET)
    assert row.spreads[TAILRACE] == pytest.approx(800 / 130)


@pytest.mark.parametrize(
    ("target", "ours", "verdict"),
    [
        (Target(at_least=1.25), 124.0, Verdict.MISSED),
        (Target(at_least=1.25), 125.0, Verdict.MET),
        (Target(at_most=0.45), 45.0, Verdict.MET),
        (Target(at_most=0.45), 46.0, Verdict.MISSED),
        (Target(at_most=90.0, against=None), 90.0, Verdict.MET),
        (Target(at_most=90.0, against=None), 91.0, Verdict.MISSED),
        (None, 91.0, Verdict.UNKNOWN),
    ],
)
def test_targets_are_ratios_to_kafka_or_plain_bounds(target: Target | None, ours: float, verdict: Verdict) -> None:
    (row,) = results(Figure("P1.x", "x", "s", target), tailrace=[ours], kafka=[100.0]).rows()
    assert row.verdict is verdict


def test_a_target_may_be_against_another_system_or_another_figure() -> None:
    found = results(Figure("P13", "stub", "rec/s", Target(at_least=0.8, against=STUB)), tailrace=[90.0], stub=[100.0])
    found.declare([Figure("P6", "with", "ms", Target(at_most=1.3, against=f"{TAILRACE}/P13"))])
    found.add("P6", TAILRACE, 120.0)
    assert [row.verdict for row in found.rows()] == [Verdict.MET, Verdict.MISSED]


def test_nothing_is_claimed_where_there_is_nothing_to_compare_with() -> None:
    (row,) = results(RATE, tailrace=[100.0]).rows()
    assert (row.ratio, row.verdict) == (None, Verdict.UNKNOWN)
    (row,) = results(RATE, kafka=[100.0]).rows()
    assert (row.ratio, row.verdict) == (None, Verdict.UNKNOWN)


def test_what_a_system_does_not_have_is_no_sample() -> None:
    found = results(RATE, tailrace=[1.0])
    found.add(RATE.key, "klite", None)
    assert "klite" not in found.samples[RATE.key]
    with pytest.raises(KeyError, match="P9"):
        found.add("P9", TAILRACE, 1.0)


def test_the_report_says_of_every_target_whether_it_is_met() -> None:
    found = results(RATE, tailrace=[132.0, 132.0], kafka=[100.0, 110.0])
    found.declare(
        [Figure("P7", "start", "s", Target(at_most=1.0, against=None)), Figure("P8", "gap", "s", Target(1.0))]
    )
    found.add("P7", TAILRACE, 2.0)
    assert verdicts(found) == [
        "1 targets met, 1 not met, 1 not measured",
        "  met      P1.x           1.26 x (target >= 1.25x; spread tailrace 0%, kafka 10%)",
        "  NOT MET  P7             2 s (target <= 1; spread unknown)",
        "  ?        P8             not measured (target >= 1x)",
    ]


def test_the_table_names_what_was_missed_and_what_was_not_measured() -> None:
    found = results(RATE, tailrace=[100.0], kafka=[100.0], klite=[50.0])
    found.notes.append("failover: not run, it needs Java and Apache Kafka's tools")
    text = table(found, ABOUT)
    assert "NOT MET  P1.x" in text
    assert "note: failover: not run" in text
    assert "klite" in text


def test_json_has_every_sample_and_the_machine() -> None:
    told = json.loads(as_json(results(RATE, tailrace=[100.0, 120.0], kafka=[100.0]), ABOUT))
    assert told["machine"]["kafka"] == "4.3.1"
    assert told["figures"][0]["samples"] == {TAILRACE: [100.0, 120.0], KAFKA: [100.0]}


def test_the_page_is_one_file_and_escapes_what_it_shows() -> None:
    page = html_page(results(Figure("W", "a <b> title", "ms"), tailrace=[0.0], kafka=[3.0]), ABOUT)
    assert "a &lt;b&gt; title" in page
    assert "http" not in page
    assert "<script" not in page


@pytest.mark.parametrize(("value", "text"), [(None, "-"), (0.0813, "0.0813"), (99.96, "100"), (123456.7, "123,457")])
def test_numbers_have_three_digits_that_count(value: float | None, text: str) -> None:
    assert number(value) == text
