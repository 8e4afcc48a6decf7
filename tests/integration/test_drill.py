"""A drill as a user runs it: real brokers, one of them killed, a verdict, and what it leaves behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

pytestmark = pytest.mark.integration


def drill(*arguments: str, directory: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "broker.cli", "drill", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(directory)},
    )


@pytest.mark.timeout(120)
def test_nothing_is_lost_when_a_leader_is_killed_and_the_drill_says_so(tmp_path: Path) -> None:
    told, picture = tmp_path / "run.json", tmp_path / "run.svg"
    files = ("--json", str(told), "--picture", str(picture))
    running = drill("run", "leader-kill", "--seed", "5", "--pace", "0.2", *files, directory=tmp_path)
    output, errors = running.communicate(timeout=100)
    (run,) = json.loads(told.read_text())["runs"]
    promises = {promise["text"].partition(" (")[0]: promise for promise in run["promises"]}
    kept = {text: promise["kept"] for text, promise in promises.items()}
    # How long it takes is for a quiet machine to say.
    in_time = kept.pop("longest time without an acknowledgement")
    assert all(kept.values()), output + errors
    assert len(kept) == 4
    assert run["failure"] is None
    assert running.returncode == (0 if in_time else 1)
    assert [phase["name"] for phase in run["phases"]] == ["before", "killed", "started again"]
    assert any("is killed (SIGKILL)" in event["text"] for event in run["events"])
    assert run["acknowledged"] > 500
    ElementTree.parse(picture)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []


@pytest.mark.timeout(60)
def test_an_interrupted_drill_leaves_nothing(tmp_path: Path) -> None:
    running = drill("run", "leader-kill", directory=tmp_path)
    assert running.stdout is not None
    for line in running.stdout:
        if "all serve" in line:
            break
    running.send_signal(signal.SIGINT)
    _, errors = running.communicate(timeout=30)
    assert running.returncode == 130
    assert errors == "tailrace: interrupted\n"
    assert list(tmp_path.iterdir()) == []
    assert not [path for path in Path("/proc").glob("[0-9]*/cmdline") if str(tmp_path) in read(path)]


def read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""  # that process has ended
