"""`python -m bench` as it is called: what is wrong is said in one line, and the exit code says whose mistake it is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bench.scenarios import ALL
from bench.stub_process import StubProcess


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "bench", *arguments], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--also", "klite"], "'klite' is not NAME=HOST:PORT"),
        (["--only", "nothing"], "invalid choice: 'nothing'"),
        (["--rounds", "0"], "'0' is not a number of rounds"),
        (["--kafka-libs", "/nowhere"], "jars"),
        (["--json", "/nowhere/run.json"], "cannot be written"),
    ],
)
def test_a_wrong_call_ends_with_code_2_and_says_why(arguments: list[str], said: str) -> None:
    done = bench(*arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert said in done.stderr or "java is not on the PATH" in done.stderr


def test_figures_are_declared_once() -> None:
    keys = [figure.key for scenario in ALL for figure in scenario.figures]
    assert len(keys) == len(set(keys))


def test_the_stub_serves_what_it_lists(tmp_path: Path) -> None:
    from broker.cli.client import Client

    with StubProcess() as stub:
        assert [part.leader_id for part in Client(stub.address).metadata(["any"]).topics[0].partitions] == [1] * 4
